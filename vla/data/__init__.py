"""The data: `open_dataset` turns folders into training and validation samples."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64

from vla.batch import DataContract, Sample
from vla.data import insertion, lerobot
from vla.data.checks import check_episode, check_selected, finite_chunks, fit_statistics
from vla.data.episode import Episode, Reader
from vla.data.mixture import DataConfig, agree, check_config, split
from vla.data.order import SampleOrder, derive
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
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some episodes of one root, as one row of samples."""

    reader: Reader
    window: Window
    places: tuple[int, ...]
    """Of the episodes, in the reader."""
    frames: tuple[range | Int64[np.ndarray, " _"], ...]
    """Per episode: where a sample can stand."""
    ends: Int64[np.ndarray, " N"]
    """Per episode: the number of samples up to its end."""

    @staticmethod
    def of(reader: Reader, window: Window, places: tuple[int, ...]) -> "_Part":
        frames = tuple(window.frames(reader.episodes[place]) for place in places)
        return _Part(
            reader=reader,
            window=window,
            places=places,
            frames=frames,
            ends=np.cumsum([len(usable) for usable in frames], dtype=np.int64),
        )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """The place of the episode in the reader, and the frame in the episode, of a sample."""
        row = int(np.searchsorted(self.ends, index, side="right"))
        frame = self.frames[row][index - int(self.ends[row])]
        return self.places[row], int(frame)

    def read(self, index: int, position: int, randomness: np.random.Generator) -> Sample:
        place, frame = self.locate(index)
        contract = self.window.contract
        # float32, because a time drawn in float64 can round up to 1.
        return self.window.cut(
            self.reader.episodes[place],
            frame,
            position=position,
            time=float(randomness.random(dtype=np.float32)),
            noise=randomness.standard_normal((contract.horizon, contract.action_dim), dtype=np.float32),
        )


class TrainSamples(torch.utils.data.Dataset[Sample]):
    """The endless shuffled stream: position -> Sample, a pure function of (data, configuration, seed, position)."""

    def __init__(self, parts: Sequence[_Part], order: SampleOrder, seed: int) -> None:
        self._parts, self._order, self._seed = tuple(parts), order, seed

    @property
    def num_samples(self) -> int:
        """Samples of all roots: the length of an epoch without weights."""
        return sum(len(part) for part in self._parts)

    def locate(self, position: int) -> tuple[str, int]:
        """Name of the episode and index of the frame that stand at a position."""
        root, index = self._order(position)
        place, frame = self._parts[root].locate(index)
        return self._parts[root].reader.episodes[place].name, frame

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position >= 0, with its diffusion time and noise."""
        root, index = self._order(position)
        return self._parts[root].read(index, position, derive(self._seed, "noise", position))


class ValidationSamples(torch.utils.data.Dataset[Sample]):
    """Every frame of the held-out episodes, in order, each with a fixed diffusion time and noise."""

    def __init__(self, parts: Sequence[_Part], seed: int) -> None:
        self._parts, self._seed = tuple(parts), seed
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index. IndexError past the end, which ends a for loop."""
        root, inside = self._find(index)
        return self._parts[root].read(inside, index, derive(self._seed, "validation", index))

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the episode and index of the frame of a sample."""
        root, inside = self._find(index)
        place, frame = self._parts[root].locate(inside)
        return self._parts[root].reader.episodes[place].name, frame

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"validation sample {index} of {len(self)}")
        root = int(np.searchsorted(self._ends, index, side="right"))
        return root, index - int(self._ends[root]) + len(self._parts[root])


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

    All numbers are read once, frames are not. ValueError is what the user can fix, CorruptData damaged data.
    """
    check_config(config)
    readers = [open_reader(Path(root), config) for root in config.roots]
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
    statistics = fit_statistics(_episodes(readers, kept), contract)
    for kind in statistics:
        for _ in finite_chunks(_episodes(readers, held_out), kind):
            pass  # refuses what is not finite
    sizes = _black_frames(readers, contract)
    windows = [
        Window(
            contract=contract,
            sensor_period_s=1 / reader.layout.sensor_rate_hz if reader.layout.sensor is not None else 0.0,
            sensor_weight=config.sensor_weight,
            frame_sizes=sizes,
        )
        for reader in readers
    ]
    train = [_Part.of(*of) for of in zip(readers, windows, kept, strict=True)]
    validation = [_Part.of(*of) for of in zip(readers, windows, held_out, strict=True)]
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


def _check_usable(part: _Part) -> None:
    for place, frames in zip(part.places, part.frames, strict=True):
        if not len(frames):
            raise ValueError(
                f"{part.reader.episodes[place].name} has no frame with an action near it and a state before it, so "
                "its clocks do not match: leave it out with --data.episodes"
            )


def _black_frames(readers: Sequence[Reader], contract: DataContract) -> dict[str, tuple[int, int]]:
    """The usual (height, width) of each camera that is missing in an episode or starts after its first frame."""
    sizes: dict[str, tuple[int, int]] = {}
    episodes = _episodes(readers, [tuple(range(len(reader.episodes))) for reader in readers])
    for camera in contract.cameras:
        having = [episode for episode in episodes if camera in episode.cameras]
        if not having:
            raise ValueError(f"no episode has the camera {camera}: choose others with --data.cameras")
        late = any(episode.cameras[camera].timestamps[0] > episode.timestamps[0] for episode in having)
        if late or len(having) < len(episodes):
            height, width = having[0].cameras[camera].read([0])[0].shape[1:]
            sizes[camera] = (height, width)
    return sizes


def _rows(train: Sequence[_Part], validation: Sequence[_Part], shares: Sequence[float]) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = [("root", "format", "episodes", "held out", "samples", "held out", "share")]
    for kept, held_out, share in zip(train, validation, shares, strict=True):
        layout = kept.reader.layout
        counts = (len(kept.places), len(held_out.places), len(kept), len(held_out))
        rows.append((layout.root, layout.format, *(f"{count:,}" for count in counts), f"{100 * share:.1f} %"))
    return tuple(rows)
