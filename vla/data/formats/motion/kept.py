"""Numbers computed from files once and kept in the cache: one clip at a time is in memory, however many there are.

The file holds the arrays of all clips behind one another, float32, then the facts as JSON, then the length of these.
What is wrong with a clip is kept like its numbers: else it would be told once, and left out in silence from then on.
"""

import itertools
import json
import math
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from jaxtyping import Float32

from vla import cache
from vla.documents import to_json
from vla.errors import CorruptData

Facts = TypeVar("Facts")
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[Facts]):
    """Facts of some clips and, on disk, their arrays."""

    facts: Sequence[Facts]
    problems: Sequence[ValueError]
    """Of clips that cannot be read."""
    values: Float32[np.ndarray, " N"]
    """A memory map of all numbers."""
    shapes: Sequence[Sequence[tuple[int, ...]]]
    """Of the arrays of each clip."""
    starts: Sequence[int]
    """Where the first array of each clip begins."""

    def arrays(self, index: int) -> list[Float32[np.ndarray, "..."]]:
        """Those of a clip, without a copy."""
        shapes = self.shapes[index]
        edges = itertools.pairwise(itertools.accumulate(map(math.prod, shapes), initial=self.starts[index]))
        return [self.values[start:end].reshape(shape) for (start, end), shape in zip(edges, shapes, strict=True)]


def keep(
    root: Path,
    sources: Sequence[Path],
    purpose: str,
    parse: Callable[[Any], Facts],
    build: Callable[[], Iterable[tuple[Facts, Sequence[Float32[np.ndarray, "..."]]] | ValueError]],
) -> Kept[Facts]:
    """What `build` gives of some files, computed unless it is known; in a temporary file where no cache can be.

    `build` gives of each clip its facts and arrays, or what is wrong with it; `parse` makes facts of their JSON.
    """

    def write(file: BinaryIO) -> None:
        facts: list[Any] = []
        shapes: list[list[tuple[int, ...]]] = []
        problems: list[tuple[bool, str]] = []
        for found in build():
            if isinstance(found, ValueError):
                problems.append((isinstance(found, CorruptData), str(found)))
                continue
            fact, arrays = found
            file.writelines(np.ascontiguousarray(array, dtype="<f4").data for array in arrays)
            facts.append(to_json(fact))
            shapes.append([array.shape for array in arrays])
        told = json.dumps({"facts": facts, "shapes": shapes, "problems": problems}).encode()
        file.write(told + LENGTH.pack(len(told)))

    if (path := cache.stored_file(root, sources, purpose, write)) is not None:
        with path.open("rb") as kept:
            return _read(kept, parse)
    with tempfile.TemporaryFile() as beside:
        write(beside)
        return _read(beside, parse)


def _read(file: BinaryIO, parse: Callable[[Any], Facts]) -> Kept[Facts]:
    """What a file holds; its map outlives the open file."""
    end = file.seek(-LENGTH.size, 2)
    (length,) = LENGTH.unpack(file.read())
    file.seek(end - length)
    told = json.loads(file.read(length))
    numbers = (end - length) // 4
    values: np.ndarray = np.zeros(0, np.float32)
    if numbers:
        values = np.memmap(file, dtype="<f4", mode="r", shape=(numbers,))
    shapes = [[tuple(shape) for shape in of_clip] for of_clip in told["shapes"]]
    sizes = (sum(map(math.prod, of_clip)) for of_clip in shapes)
    return Kept(
        facts=[parse(fact) for fact in told["facts"]],
        problems=[CorruptData(text) if corrupt else ValueError(text) for corrupt, text in told["problems"]],
        values=values,
        shapes=shapes,
        starts=list(itertools.accumulate(sizes, initial=0)),
    )
