"""The data: `open_dataset` turns folders into training and validation samples."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vla.contract import DataContract
from vla.data.cameras import first_picture, oldest_frames, pictures
from vla.data.checks import check_episode, check_lengths, check_selected
from vla.data.emphasis import parse_condition
from vla.data.episode import Episode, Reader
from vla.data.formats import open_folder
from vla.data.labels import check_labels, sizes_of_labels
from vla.data.mixture import agree, check_config, split, split_by
from vla.data.named import distinguish
from vla.data.numbers import episodes_at, read_numbers
from vla.data.pools import percent, rows_of_pools, stream_of
from vla.data.reading import read_again
from vla.data.remarks import on_chunks, on_episodes, on_strays
from vla.data.retargeting import Retargeting, Skeletons
from vla.data.roles import Cast, cast, check_trained
from vla.data.samples import Part, TrainSamples, ValidationSamples
from vla.data.selection import Selection, check_left_out
from vla.data.style import Untold, check_style, on_style
from vla.data.tables import forget_numbers
from vla.data.window import Window
from vla.data.withheld import WithoutState
from vla.errors import CorruptData
from vla.provenance import Source, source
from vla.settings import DataConfig
from vla.statistics import Statistics

WIDTH = 80
__all__ = ["Dataset", "TrainSamples", "ValidationSamples", "open_dataset", "open_root"]


def open_root(root: Path, config: DataConfig) -> Reader:
    """The reader of one folder, whatever its format."""
    return open_folder(
        root,
        Selection(
            episodes=config.episodes,
            without=config.without,
            cameras=config.cameras,
            depth=config.depth,
            missing_cameras=config.missing_cameras,
            sensor=config.sensor,
            columns=parse_condition(config.emphasis).columns if config.emphasis else (),
            state_key=config.state_key,
            action_key=config.action_key,
            dims=config.dims,
            angles=config.angles,
            pairing=config.pairing,
            motion=config.motion,
            withhold_state="state" in config.withhold,
            keep_damaged=config.quarantine > 0,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a configuration opens."""

    contract: DataContract
    train: TrainSamples
    validation: ValidationSamples
    everything: ValidationSamples
    """Every frame of the training episodes once, in order."""
    statistics: Mapping[str, Statistics]
    """Of `actions`, `state` and each sensor stream, on the training episodes; of width 0 without a state."""
    recalled: bool
    """Whether the statistics, and that the numbers are sound, are known from an earlier start on the same files."""
    rows: tuple[tuple[str, ...], ...]
    """The table, with its head; below a root, its pools that have a name."""
    oldest_frames_s: Mapping[str, float]
    """By camera with a clock of its own: how old the frame of a sample is at most."""
    remarks: tuple[str, ...]
    """What was chosen by itself in each root and what is not read."""

    def sources(self) -> tuple[Source, ...]:
        """What was trained on, by root, without where it lies."""
        return tuple(
            source(root, Path(root), f"{kind}, {episodes} episodes and {held_out} held out, {samples} samples")
            for root, kind, episodes, held_out, samples, *_ in self.rows[1:]
            if root
        )

    def table(self) -> list[str]:
        """The roots, with format, episodes, samples, share of the stream; then what there is to say of them."""
        said = [*self.remarks, *on_strays(self.statistics, self.contract)]
        said += [
            f"{camera} has a clock of its own: its frames are up to {1000 * age_s:.0f} ms old"
            for camera, age_s in self.oldest_frames_s.items()
        ]
        # A path is not broken: people copy it.
        wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        wrapped = (wrap.wrap(sentence) for sentence in said)
        return [*aligned(self.rows), *(line for lines in wrapped for line in lines)]


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns; the first cell has a line of its own where a row would have more than 80 columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    beside = sum(widths) + 2 * (len(widths) - 1) <= WIDTH
    lines = []
    for row in rows:
        if not beside and row[0]:
            lines.append(row[0])
        cells = zip(row[not beside :], widths[not beside :], strict=True)
        lines.append(("" if beside else "  ") + "  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    return lines


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """Readers that can be trained on together, as far as that shows without their numbers and frames."""

    whole: Sequence[Reader]
    readers: Sequence[Reader]
    """What a policy is given of them: without their state where that is withheld."""
    contract: DataContract
    held_out: Sequence[tuple[int, ...]]
    """Of each reader, the places of the episodes for validation."""
    kept: Sequence[tuple[int, ...]]
    """And of those to train on; what is in neither is not read."""
    cast: Cast
    """What each episode is for."""
    remarks: tuple[str, ...]
    """What became of the settings that say so, and of the split."""

    def read(self) -> list[list[Episode]]:
        """Of each reader, the episodes that are read, in order."""
        return [
            [reader.episodes[place] for place in sorted((*kept, *held_out))]
            for reader, kept, held_out in zip(self.readers, self.kept, self.held_out, strict=True)
        ]


def agree_on_readers(config: DataConfig, seed: int, open_reader: Callable[[Path, DataConfig], Reader]) -> Agreed:
    """Open the roots, check what their metadata and clocks say, and split them by episode. Errors as `open_dataset`.

    What they have in common is that of all their episodes, so that a policy suits those of some of them too.
    """
    whole = [read_again(partial(open_reader, Path(root), config), partial(str, root)) for root in config.roots]
    whole = distinguish(config.roots, whole)
    readers = [WithoutState(reader) for reader in whole] if "state" in config.withhold else whole
    for reader in readers:
        check_selected(reader.layout, reader.episodes, config.episodes)
    check_left_out({reader.layout.root: reader.layout.left_out for reader in readers}, config.without)
    layouts = [reader.layout for reader in readers]
    check_labels(layouts, config.labels)
    episodes = [episode for reader in readers for episode in reader.episodes]
    check_style(layouts, episodes, config.style, config.style_dropout)
    contract = replace(agree(layouts, config), labels=sizes_of_labels(episodes, config.labels), style=config.style)
    roles = cast(readers, config)
    places, remarks = divide(readers, roles, config, seed)
    read = roles.read()
    held_out = [tuple(sorted(set(own) & set(places))) for own, places in zip(places, read, strict=True)]
    kept = [tuple(place for place in own if place not in set(out)) for own, out in zip(read, held_out, strict=True)]
    remarks = (*roles.remarks, *remarks, *check_trained(roles, kept, held_out, config))
    agreed = Agreed(
        whole=whole, readers=readers, contract=contract, held_out=held_out, kept=kept, cast=roles, remarks=remarks
    )
    for own in agreed.read():
        for episode in own:
            check_episode(episode, contract, config.missing_cameras)
    check_lengths(episodes_at(readers, kept), contract.horizon)
    return agreed


def divide(
    readers: Sequence[Reader], roles: Cast, config: DataConfig, seed: int
) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Of each reader, the places that are held out for validation, and what is said of that. Errors as `split`.

    Where some episodes are preserved, all are divided, as without roles: what a policy did not see before, it does not
    see now. Otherwise those that are read.
    """
    places = [tuple(range(len(reader.episodes))) for reader in readers] if config.preserve else roles.read()
    if config.split_by:
        episodes = [episodes_at([reader], [own]) for reader, own in zip(readers, places, strict=True)]
        found, said = split_by(episodes, config.split_by, config.validation_share, seed)
        remarks: tuple[str, ...] = (said,)
    else:
        found, remarks = split([len(own) for own in places], config.validation_share, seed), ()
    return [tuple(own[place] for place in out) for own, out in zip(places, found, strict=True)], remarks


def open_dataset(
    config: DataConfig, seed: int, open_reader: Callable[[Path, DataConfig], Reader] = open_root
) -> Dataset:
    """Open the roots, check every episode, split by episode, and fit the statistics.

    All numbers are read once, frames are not; the next start on the same files knows what was found, unless it is to
    verify. ValueError is what the user can fix, CorruptData damaged data, StorageFault storage that does not answer.
    With a quarantine, damage that concerns single samples (rows that are not finite, videos) is none of these: those
    samples are void.
    """
    check_config(config)
    quarantine = config.quarantine > 0
    if config.verify:
        forget_numbers(list(map(Path, config.roots)))
    agreed = agree_on_readers(config, seed, open_reader)
    whole, readers, contract, held_out = agreed.whole, agreed.readers, agreed.contract, agreed.held_out
    numbers = read_numbers(readers, agreed.kept, held_out, contract, keep_damaged=quarantine, compand=config.compand)
    black = partial(_black_frames, readers, contract, quarantine=quarantine)
    sizes = read_again(black, lambda: "the first frame of an episode")
    windows = [
        Window(
            contract=contract,
            periods_s={key: 1 / stream.rate_hz for key, stream in reader.layout.streams.items()},
            sensor_weight=config.sensor_weight,
            frame_sizes=sizes,
        )
        for reader in readers
    ]
    train, validation = (
        [
            Part.of(reader, window, own, quarantine=quarantine, preserved=preserved, text=config.text)
            for reader, window, own, preserved in zip(readers, windows, places, agreed.cast.preserved, strict=True)
        ]
        for places in (agreed.kept, held_out)
    )
    for part in (*train, *validation):
        _check_usable(part)
    pools, order = stream_of(train, whole, agreed.cast, config, seed)
    parts = [pool.part for pool in pools]
    retargeting = retargeted(config, contract, episodes_at(readers, agreed.kept), seed)
    untold = Untold(share=config.style_dropout, seed=seed) if config.style and config.style_dropout else None
    return Dataset(
        contract=contract,
        train=TrainSamples(parts, order, changes=[change for change in (retargeting, untold) if change is not None]),
        validation=ValidationSamples(validation),
        everything=ValidationSamples(train),
        statistics=numbers.statistics,
        recalled=numbers.recalled,
        rows=rows_of_pools(train, validation, pools, order.shares),
        remarks=agreed.remarks
        + on_retargeting(config, contract, retargeting)
        + on_style(episodes_at(readers, agreed.kept), contract.style)
        + tuple(
            f"{reader.layout.root}: {remark}"
            for reader, episodes in zip(readers, agreed.read(), strict=True)
            for remark in (
                *reader.layout.remarks,
                *on_episodes(episodes, contract.horizon, motion=contract.body is not None),
                *on_chunks(episodes, contract.fps, contract.horizon),
            )
        ),
        oldest_frames_s=oldest_frames(
            [episode for episodes in agreed.read() for episode in episodes], contract.cameras, contract.fps
        ),
    )


def retargeted(
    config: DataConfig, contract: DataContract, episodes: Sequence[Episode], seed: int
) -> Retargeting | None:
    """What shows samples on other skeletons; None where that is not asked for, or there is but one, or none.

    ValueError where labels are told of the body that was recorded, or pictures show it.
    """
    body = contract.body
    if not config.retarget or body is None or body.kind != "rotations" or "state" in config.withhold:
        return None
    if "physics" in config.labels:
        raise ValueError(
            "--data.labels physics is measured of the body that moved, and --data.retarget shows samples on others: "
            "give --data.retarget 0, or leave that label out"
        )
    skeletons = Skeletons.of(episodes, body)
    if len(skeletons) < 2:
        return None
    if contract.cameras:
        raise ValueError(
            "pictures show the body that was recorded, and --data.retarget shows samples on others: give "
            "--data.retarget 0, or data without pictures"
        )
    return Retargeting(skeletons=skeletons, share=config.retarget, seed=seed)


def on_retargeting(config: DataConfig, contract: DataContract, retargeting: Retargeting | None) -> tuple[str, ...]:
    """How many samples are shown on other skeletons, and on how many; or that none is, though it was asked for."""
    if not config.retarget or contract.body is None:
        return ()
    if retargeting is None:
        return (f"--data.retarget {config.retarget:g} changes nothing: there are no two skeletons",)
    told = f"{percent(config.retarget)} of the samples are shown on one of the {len(retargeting.skeletons)} skeletons"
    return (f"{told} of the data, lengths scaled to its legs (--data.retarget)",)


def _check_usable(part: Part) -> None:
    for place, frames in zip(part.places, part.frames, strict=True):
        if not len(frames):
            raise ValueError(
                f"{part.reader.episodes[place].name} has no frame with an action near it and a state before it, so "
                f"its clocks do not match: leave it out with `--data.without {part.reader.episodes[place].index}`"
            )


def _black_frames(readers: Sequence[Reader], contract: DataContract, *, quarantine: bool) -> dict[str, tuple[int, int]]:
    """The usual (height, width) of each camera that is missing in an episode or starts after its first frame.

    With a quarantine every camera may be missing in a sample, and the first frame that can be read tells.
    """
    sizes: dict[str, tuple[int, int]] = {}
    episodes = episodes_at(readers, [tuple(range(len(reader.episodes))) for reader in readers])
    for camera in contract.cameras:
        having = [episode for episode in episodes if camera in episode.cameras]
        if not having:
            raise ValueError(f"no episode has the camera {camera}: choose others with --data.cameras")
        blind = any((pictures(episode, camera, contract.fps) < 0).any() for episode in episodes)
        if quarantine or blind:
            sizes[camera] = _frame_size(having if quarantine else having[:1], camera, contract.fps)
    return sizes


def _frame_size(episodes: Sequence[Episode], camera: str, fps: float) -> tuple[int, int]:
    """(height, width) of the first frame that can be read, of the first of these episodes where one can."""
    problems: list[CorruptData] = []
    for episode in episodes:
        try:
            first = first_picture(episode, camera, fps)
            height, width = episode.cameras[camera].read([first])[0].shape[1:]
        except CorruptData as problem:
            problems.append(problem)
        else:
            return height, width
    raise problems[0]
