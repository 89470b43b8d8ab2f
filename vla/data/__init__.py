"""The data: `open_dataset` turns folders into training and validation samples."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vla.batch import DataContract
from vla.data import insertion, lerobot
from vla.data.checks import check_episode, check_selected, finite_chunks, fit_statistics
from vla.data.episode import CorruptData, Episode, Reader
from vla.data.mixture import DataConfig, agree, check_config, split
from vla.data.order import SampleOrder
from vla.data.reading import read_again
from vla.data.samples import Part, TrainSamples, ValidationSamples
from vla.data.window import Window
from vla.normalize import Statistics

__all__ = ["DataConfig", "Dataset", "TrainSamples", "ValidationSamples", "detect", "open_dataset", "open_root"]


def detect(root: Path) -> Literal["lerobot", "insertion"]:
    """The format of a folder. ValueError when there is no such folder or it holds neither."""
    if not root.is_dir():
        siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        nearest = difflib.get_close_matches(root.name, siblings, 1)
        hint = f"did you mean {root.parent / nearest[0]}?" if nearest else "check --data.roots"
        raise ValueError(f"{root} is not a folder: {hint}")
    if lerobot.is_lerobot(root):
        return "lerobot"
    if insertion.is_insertion(root):
        return "insertion"
    raise ValueError(
        f"{root} holds no data that can be read, expected a LeRobot dataset (meta/info.json) or recordings of the "
        "insertion recorder: check --data.roots"
    )


def open_root(root: Path, config: DataConfig) -> Reader:
    """The reader of one folder, whatever its format."""
    open_it: dict[str, Callable[..., Reader]] = {
        "lerobot": lerobot.open_lerobot,
        "insertion": insertion.open_insertion,
    }
    return open_it[detect(root)](
        root,
        episodes=config.episodes,
        sensor=config.sensor,
        missing_cameras=config.missing_cameras,
        cameras=config.cameras,
        keep_damaged=config.quarantine > 0,
    )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a configuration opens."""

    contract: DataContract
    train: TrainSamples
    validation: ValidationSamples
    statistics: dict[str, Statistics]
    """Of `actions`, `state` and `sensor`, on the training episodes; of width 0 where there is none."""
    rows: tuple[tuple[str, ...], ...]
    """The table, with its head."""

    def table(self) -> list[str]:
        """One line a root: format, episodes, samples, share of the stream."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in self.rows
        ]


def open_dataset(
    config: DataConfig, seed: int, open_reader: Callable[[Path, DataConfig], Reader] = open_root
) -> Dataset:
    """Open the roots, check every episode, split by episode, and fit the statistics.

    All numbers are read once, frames are not. ValueError is what the user can fix, CorruptData damaged data,
    StorageFault storage that does not answer. With a quarantine, damage that concerns single samples (rows that are
    not finite, videos) is none of these: those samples are void.
    """
    check_config(config)
    quarantine = config.quarantine > 0
    readers = [read_again(partial(open_reader, Path(root), config), partial(str, root)) for root in config.roots]
    for reader in readers:
        check_selected(reader.layout, reader.episodes, config.episodes)
    contract = agree([reader.layout for reader in readers], config)
    for reader in readers:
        for episode in reader.episodes:
            check_episode(episode, reader.layout, contract, config.missing_cameras)
    held_out = split([len(reader.episodes) for reader in readers], config.validation_share, seed)
    kept = [
        tuple(place for place in range(len(reader.episodes)) if place not in set(places))
        for reader, places in zip(readers, held_out, strict=True)
    ]
    statistics = fit_statistics(_episodes(readers, kept), contract, keep_damaged=quarantine)
    for kind in statistics:
        for _ in finite_chunks(_episodes(readers, held_out), kind, keep_damaged=quarantine):
            pass  # refuses what is not finite
    black = partial(_black_frames, readers, contract, quarantine=quarantine)
    sizes = read_again(black, lambda: "the first frame of an episode")
    windows = [
        Window(
            contract=contract,
            sensor_period_s=1 / reader.layout.sensor_rate_hz if reader.layout.sensor is not None else 0.0,
            sensor_weight=config.sensor_weight,
            frame_sizes=sizes,
        )
        for reader in readers
    ]
    train = [Part.of(*of, quarantine=quarantine) for of in zip(readers, windows, kept, strict=True)]
    validation = [Part.of(*of, quarantine=quarantine) for of in zip(readers, windows, held_out, strict=True)]
    for part in (*train, *validation):
        _check_usable(part)
    order = SampleOrder([len(part) for part in train], config.weights, seed)
    return Dataset(
        contract=contract,
        train=TrainSamples(train, order, seed),
        validation=ValidationSamples(validation, seed),
        statistics=statistics,
        rows=_rows(train, validation, order.shares),
    )


def _episodes(readers: Sequence[Reader], places: Sequence[tuple[int, ...]]) -> list[Episode]:
    return [reader.episodes[place] for reader, chosen in zip(readers, places, strict=True) for place in chosen]


def _check_usable(part: Part) -> None:
    for place, frames in zip(part.places, part.frames, strict=True):
        if not len(frames):
            raise ValueError(
                f"{part.reader.episodes[place].name} has no frame with an action near it and a state before it, so "
                "its clocks do not match: leave it out with --data.episodes"
            )


def _black_frames(readers: Sequence[Reader], contract: DataContract, *, quarantine: bool) -> dict[str, tuple[int, int]]:
    """The usual (height, width) of each camera that is missing in an episode or starts after its first frame.

    With a quarantine every camera may be missing in a sample, and the first frame that can be read tells.
    """
    sizes: dict[str, tuple[int, int]] = {}
    episodes = _episodes(readers, [tuple(range(len(reader.episodes))) for reader in readers])
    for camera in contract.cameras:
        having = [episode for episode in episodes if camera in episode.cameras]
        if not having:
            raise ValueError(f"no episode has the camera {camera}: choose others with --data.cameras")
        late = any(episode.cameras[camera].timestamps[0] > episode.timestamps[0] for episode in having)
        if quarantine or late or len(having) < len(episodes):
            sizes[camera] = _frame_size(having if quarantine else having[:1], camera)
    return sizes


def _frame_size(episodes: Sequence[Episode], camera: str) -> tuple[int, int]:
    """(height, width) of the first frame that can be read, of the first of these episodes where one can."""
    problems: list[CorruptData] = []
    for episode in episodes:
        try:
            height, width = episode.cameras[camera].read([0])[0].shape[1:]
        except CorruptData as problem:
            problems.append(problem)
        else:
            return height, width
    raise problems[0]


def _rows(train: Sequence[Part], validation: Sequence[Part], shares: Sequence[float]) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = [("root", "format", "episodes", "held out", "samples", "held out", "share")]
    for kept, held_out, share in zip(train, validation, shares, strict=True):
        layout = kept.reader.layout
        counts = (len(kept.places), len(held_out.places), len(kept), len(held_out))
        rows.append((layout.root, layout.format, *(f"{count:,}" for count in counts), f"{100 * share:.1f} %"))
    return tuple(rows)
