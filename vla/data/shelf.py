"""Where the records of a root's samples lie in a store of the prefix cache, and what they become in a sample.

Behind the doors `frames` and `vision` a record is of a picture: those of a camera follow each other, episode by
episode, after one of the black frame. Behind `layer` and `context` it is of a sample, episode by episode.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from vla.batch import Prefix
from vla.data.episode import Episode
from vla.frames import Area, Features, Look, Picture, Size, resize
from vla.packed import Packing
from vla.prefix.store import Store

Shown = UInt8[np.ndarray, "..."]
BLACK = -1
"""Place of the frame that a camera shows where it is missing."""
COUNT_BYTES, POSITION_BYTES = 4, 12
"""Before the tokens of a sample: how many there are; of each whether it is visible, and three int32 positions."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Records of a picture: the frame in a size, or its features."""

    size: Size
    """In which it was looked at."""
    shapes: Mapping[str, tuple[int, int]]
    """By camera: height and width of its frames in the size."""
    packing: Packing | None = None
    """Of the features, a row a token; None: the record is the frame."""

    def look(self, camera: str) -> Look:
        """What a camera's records are given as."""
        if self.packing is None:
            return self.size
        height, width = self.shapes[camera]
        return Features(height=height, width=width, packing=self.packing)

    def shape(self, camera: str) -> tuple[int, ...]:
        """That of a camera's records, in bytes."""
        height, width = self.shapes[camera]
        if self.packing is None:
            return 3, height, width
        assert isinstance(self.size, Area), "a vision tower cuts a frame into tokens"
        return height * width // self.size.unit**2, self.packing.row_bytes

    @property
    def record_bytes(self) -> int:
        """Of a record: the largest of those of all cameras."""
        return max(math.prod(self.shape(camera)) for camera in self.shapes)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Records of a sample: the rows that a layer reads, or the context."""

    packing: Packing
    layer: int | None
    """None: the context."""
    longest: int
    """Tokens that a record has room for."""

    @property
    def record_bytes(self) -> int:
        """Of a record."""
        return COUNT_BYTES + self.longest * (1 + POSITION_BYTES + self.packing.row_bytes)

    def written(self, prefix: Prefix) -> UInt8[np.ndarray, " _"]:
        """The record of a sample."""
        count = len(prefix.rows)
        assert count <= self.longest, f"{count} tokens in a record of {self.longest}"
        record = np.zeros(self.record_bytes, np.uint8)
        record[:COUNT_BYTES] = np.array([count], "<u4").view(np.uint8)
        for part, values in zip(self._parts(record), (prefix.visible, prefix.positions, prefix.rows), strict=True):
            part[:count] = np.ascontiguousarray(values).view(np.uint8).reshape(count, -1)
        return record

    def read(self, record: UInt8[np.ndarray, " _"]) -> Prefix:
        """What a record says of a sample."""
        count = int(record[:COUNT_BYTES].view("<u4")[0])
        visible, positions, rows = (np.ascontiguousarray(part[:count]) for part in self._parts(record))
        return Prefix(
            rows=rows,
            visible=visible[:, 0].view(np.bool_),
            positions=positions.view("<i4"),
            packing=self.packing,
            layer=self.layer,
        )

    def nothing(self) -> Prefix:
        """Of a sample that cannot be read: one token of zeros, since something must be visible."""
        return Prefix(
            rows=np.zeros((1, self.packing.row_bytes), np.uint8),
            visible=np.ones(1, np.bool_),
            positions=np.zeros((1, 3), np.int32),
            packing=self.packing,
            layer=self.layer,
        )

    def _parts(self, record: UInt8[np.ndarray, " _"]) -> Iterator[UInt8[np.ndarray, "longest _"]]:
        """The views of a record, a row a token: visible, positions, packed rows."""
        start = COUNT_BYTES
        for width in (1, POSITION_BYTES, self.packing.row_bytes):
            yield record[start : start + self.longest * width].reshape(self.longest, width)
            start += self.longest * width


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The records of a root."""

    store: Store
    kind: Pictures | Tokens
    starts: Mapping[str, Mapping[int, int]]
    """By camera (empty: of samples) and index of the episode, the record of its first picture or frame; of a camera's
    black frame by `BLACK`."""
    sizes: tuple[Size, ...] = ()
    """Of the frames that other parts look at."""

    def images(
        self, cameras: Sequence[str], whole: Sequence[Picture], records: Sequence[int] | None
    ) -> tuple[Mapping[Look, Shown], ...]:
        """What is shown of some cameras: `whole` frames in the sizes that are asked for, and the records; None: zeros.

        Raises:
            CorruptData, StorageFault: as `Store.read`.
        """
        shown: list[dict[Look, Shown]] = [{} for _ in cameras]
        if self.sizes:
            for own, frame in zip(shown, whole, strict=True):
                own |= {size: resize(torch.from_numpy(frame), size).numpy() for size in self.sizes}
        if isinstance(self.kind, Pictures):
            for number, (own, camera) in enumerate(zip(shown, cameras, strict=True)):
                shape = self.kind.shape(camera)
                if records is None:
                    own[self.kind.look(camera)] = np.zeros(shape, np.uint8)
                else:
                    own[self.kind.look(camera)] = self.store.read(records[number])[: math.prod(shape)].reshape(shape)
        return tuple(shown)

    def prefix(self, episode: Episode, frame: int) -> Prefix | None:
        """What the backbone made of a sample; None where the records are of pictures. Errors as `images`."""
        if isinstance(self.kind, Pictures):
            return None
        return self.kind.read(self.store.read(self.record(episode, "", frame)))

    def nothing(self) -> Prefix | None:
        """As `prefix`, of a sample that cannot be read."""
        return None if isinstance(self.kind, Pictures) else self.kind.nothing()

    def record(self, episode: Episode, camera: str, place: int) -> int:
        """The number of a record."""
        starts = self.starts[camera]
        return starts[BLACK] if place == BLACK else starts[episode.index] + place
