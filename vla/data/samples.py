"""Positions as samples: what stands in the endless training stream and among the held-out frames.

A sample that cannot be read is an error, or void where the configuration has a quarantine: it keeps its place in the
stream, so that every other position stays what it was, and its weight is 0, so that nothing is learned from it.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from vla.batch import Sample
from vla.data.checks import check_finite
from vla.data.episode import Episode, Reader
from vla.data.labels import label_of
from vla.data.order import SampleOrder
from vla.data.reading import read_again
from vla.data.shelf import Shelf
from vla.data.style import style_of
from vla.data.texts import Texts
from vla.data.window import Window
from vla.errors import CorruptData
from vla.frames import Size


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some episodes of one root, as one row of samples."""

    reader: Reader
    window: Window
    places: tuple[int, ...]
    """Of the episodes, in the reader."""
    frames: tuple[range | Int64[np.ndarray, " _"], ...]
    """Per episode: where a sample can stand."""
    ends: Int64[np.ndarray, " N"]
    """Per episode: the number of samples up to its end."""
    quarantine: bool
    """Whether a sample that cannot be read is void instead of an error."""
    preserved: frozenset[int] = frozenset()
    """Places in the reader of the episodes that are not learned but preserved."""
    text: str = ""
    """Instruction of the learned episodes in place of their own; empty: their own."""
    renamed: tuple[str, ...] = ()
    """Instructions of all samples in place of their own, which take turns; none: their own."""

    @staticmethod
    def of(
        reader: Reader,
        window: Window,
        places: tuple[int, ...],
        *,
        quarantine: bool,
        preserved: frozenset[int] = frozenset(),
        text: str = "",
    ) -> "Part":
        """Those at these places of a reader."""
        frames = tuple(window.frames(reader.episodes[place]) for place in places)
        return Part(
            reader=reader,
            window=window,
            places=places,
            frames=frames,
            ends=ends_of(frames),
            quarantine=quarantine,
            preserved=preserved,
            text=text,
        )

    def divide(
        self, holds: Callable[[Episode], Bool[np.ndarray, " N"]], episodes: Sequence[Episode]
    ) -> tuple["Part", "Part"]:
        """The samples at the frames of which something holds, and the others; `episodes` are the reader's, whole."""
        marks = [
            holds(episodes[place])[np.asarray(usable)] for place, usable in zip(self.places, self.frames, strict=True)
        ]

        def those(wanted: bool) -> Part:
            frames = tuple(
                np.asarray(usable, dtype=np.int64)[mark == wanted]
                for usable, mark in zip(self.frames, marks, strict=True)
            )
            return replace(self, frames=frames, ends=ends_of(frames))

        return those(True), those(False)

    def only(self, names: Collection[str]) -> "Part":
        """The samples of the episodes of these names."""
        return self.at({place for place in self.places if self.reader.episodes[place].name in names})

    def on(self, shelves: Mapping[str, Shelf]) -> "Part":
        """The same samples with what is kept of them, by root."""
        return replace(self, window=replace(self.window, shelf=shelves[self.reader.layout.root]))

    def at(self, places: Collection[int]) -> "Part":
        """The samples of the episodes at these places of the reader."""
        rows = [row for row, place in enumerate(self.places) if place in places]
        frames = tuple(self.frames[row] for row in rows)
        return replace(self, places=tuple(self.places[row] for row in rows), frames=frames, ends=ends_of(frames))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, index: int) -> tuple[int, int]:
        """The place of the episode in the reader, and the frame in the episode, of a sample."""
        row = int(np.searchsorted(self.ends, index, side="right"))
        frame = self.frames[row][index - int(self.ends[row])]
        return self.places[row], int(frame)

    def instruction(self, index: int) -> str:
        """What the robot is asked to do in a sample."""
        place, frame = self.locate(index)
        return self.said(place)[frame]

    def said(self, place: int) -> Texts:
        """What the robot is asked to do at each frame of an episode."""
        own = self.reader.episodes[place].instructions
        return Texts.throughout(self.text, len(own)) if self.text and place not in self.preserved else own

    def read(self, index: int, position: int) -> Sample:
        """A sample, or a void one. CorruptData where its content is damaged and may not be."""
        place, frame = self.locate(index)
        episode = self.reader.episodes[place]
        try:
            sample = self._cut(episode, frame, position)
        except CorruptData:
            if not self.quarantine:
                raise
            sample = self.window.void(episode, frame, position)
        instruction = self.renamed[position % len(self.renamed)] if self.renamed else self.said(place)[frame]
        return replace(sample, instruction=instruction, preserved=place in self.preserved)

    def fault(self, index: int) -> str | None:
        """Why a sample is void; None where it can be read."""
        place, frame = self.locate(index)
        try:
            self._cut(self.reader.episodes[place], frame, 0)
        except CorruptData as error:
            return str(error)
        return None

    def _cut(self, episode: Episode, frame: int, position: int) -> Sample:
        cut = partial(self.window.cut, episode, frame, position)
        sample = read_again(cut, lambda: f"{episode.name}, frame {frame}")
        if self.quarantine:
            check_finite(sample, f"{episode.name}, frame {frame}")
        return sample


def ends_of(frames: Sequence[range | Int64[np.ndarray, " _"]]) -> Int64[np.ndarray, " N"]:
    """Per episode: the number of samples up to its end."""
    return np.cumsum([len(usable) for usable in frames], dtype=np.int64)


class TrainSamples(torch.utils.data.Dataset[Sample]):
    """The endless shuffled stream: position -> Sample, a pure function of (data, configuration, seed, position)."""

    def __init__(
        self,
        parts: Sequence[Part],
        order: SampleOrder,
        sizes: Sequence[Size] | None = None,
        changes: Sequence[Callable[[Sample], Sample]] = (),
    ) -> None:
        """Frames come in these sizes, and whole where none are given; `changes` follow from a sample alone."""
        self._parts, self._order, self._sizes, self._changes = tuple(parts), order, sizes, tuple(changes)

    def resized(self, sizes: Sequence[Size]) -> "TrainSamples":
        """The same stream with its frames in these sizes, those that a policy looks at."""
        return TrainSamples(self._parts, self._order, sizes, self._changes)

    def on(self, shelves: Mapping[str, Shelf]) -> "TrainSamples":
        """The same stream with what is kept of it, by root; frames come in the sizes that the shelves say."""
        return TrainSamples([part.on(shelves) for part in self._parts], self._order, None, self._changes)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its pools."""
        return self._parts

    @property
    def num_samples(self) -> int:
        """Samples of all roots: the positions of an epoch. Where no shares are given each stands in it once."""
        return sum(len(part) for part in self._parts)

    def fingerprint(self) -> str:
        """SHA-256 of what stands where: the frames of each pool, and what is said of each, with confidence and role.

        Of a motion also when its pictures stand, whose folder may have moved.
        """
        digest = hashlib.sha256()
        for part in self._parts:
            for place, frames in zip(part.places, part.frames, strict=True):
                episode, said = part.reader.episodes[place], part.said(place)
                one = len(said.different) == 1
                digest.update(json.dumps([said.different[0] if one else said.different, len(frames)]).encode())
                if not one:
                    digest.update(np.asarray(said.places, dtype="<i8").tobytes())
                digest.update(np.asarray(frames, dtype="<i8").tobytes())
                digest.update(np.asarray(episode.confidence, dtype="<f8").tobytes())
                if part.window.contract.body is not None:
                    for camera, shown in sorted(episode.cameras.items()):
                        digest.update(camera.encode() + np.asarray(shown.timestamps, dtype="<f8").tobytes())
                for name in part.window.contract.labels:
                    digest.update(np.asarray(label_of(episode, name).values, dtype="<f8").tobytes())
                digest.update(style_of(episode, part.window.contract.style).astype("<f4").tobytes())
                if place in part.preserved:
                    digest.update(b"preserved")
            if part.renamed:
                digest.update(json.dumps(part.renamed).encode())
            digest.update(b";")
        return digest.hexdigest()

    def locate(self, position: int) -> tuple[str, int]:
        """Name of the episode and index of the frame that stand at a position."""
        pool, index = self._order(position)
        place, frame = self._parts[pool].locate(index)
        return self._parts[pool].reader.episodes[place].name, frame

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position >= 0.

        One that cannot be read is void where the configuration has a quarantine: it keeps its place, weight 0.

        Raises:
            CorruptData: it cannot be read, and there is no quarantine.
            StorageFault: the storage does not give it.
            UnsuitableFrame: a frame cannot be resized.
        """
        pool, index = self._order(position)
        sample = self._parts[pool].read(index, position)
        for change in self._changes:
            sample = change(sample)
        return sample if self._sizes is None else sample.resized(self._sizes)

    def fault(self, position: int) -> str | None:
        """Why the sample at a position is void, read anew; None where it can be read."""
        pool, index = self._order(position)
        return self._parts[pool].fault(index)


class ValidationSamples(torch.utils.data.Dataset[Sample]):
    """Every frame of the held-out episodes, or of others, in order."""

    def __init__(self, parts: Sequence[Part], sizes: Sequence[Size] | None = None) -> None:
        """Frames come in these sizes, and whole where none are given."""
        self._parts, self._sizes = tuple(parts), sizes
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """The sample at an index, void as in training. IndexError past the end, which ends a for loop."""
        root, inside = self._find(index)
        sample = self._parts[root].read(inside, index)
        return sample if self._sizes is None else sample.resized(self._sizes)

    def locate(self, index: int) -> tuple[str, int]:
        """Name of the episode and index of the frame of a sample."""
        root, inside = self._find(index)
        place, frame = self._parts[root].locate(inside)
        return self._parts[root].reader.episodes[place].name, frame

    def instruction(self, index: int) -> str:
        """What the robot is asked to do in a sample."""
        root, inside = self._find(index)
        return self._parts[root].instruction(inside)

    def last_actions(self, indices: Sequence[int]) -> Float[np.ndarray, "N A"]:
        """The action recorded one frame before each of some samples; NaN where there is none."""
        found = []
        for root, inside in map(self._find, indices):
            part = self._parts[root]
            place, frame = part.locate(inside)
            found.append(part.window.action_before(part.reader.episodes[place], frame))
        return np.stack(found)

    def episodes(self) -> tuple[tuple[Episode, ...], ...]:
        """Of each root, the episodes whose frames they are."""
        return tuple(tuple(part.reader.episodes[place] for place in part.places) for part in self._parts)

    def only(self, names: Collection[str]) -> "ValidationSamples":
        """The frames of the episodes of these names."""
        return ValidationSamples([part.only(names) for part in self._parts], self._sizes)

    def resized(self, sizes: Sequence[Size]) -> "ValidationSamples":
        """The same samples with their frames in these sizes, those that a policy looks at."""
        return ValidationSamples(self._parts, sizes)

    def on(self, shelves: Mapping[str, Shelf]) -> "ValidationSamples":
        """As those of training."""
        return ValidationSamples([part.on(shelves) for part in self._parts])

    @property
    def parts(self) -> tuple[Part, ...]:
        """One a root."""
        return self._parts

    def fault(self, index: int) -> str | None:
        """Why a sample is void, read anew; None where it can be read."""
        root, inside = self._find(index)
        return self._parts[root].fault(inside)

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"validation sample {index} of {len(self)}")
        root = int(np.searchsorted(self._ends, index, side="right"))
        return root, index - int(self._ends[root]) + len(self._parts[root])
