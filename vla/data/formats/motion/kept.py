"""Rows computed from files once and kept in the cache: one clip at a time is in memory, however many there are.

The file holds the rows of all clips behind one another, float32, then the facts as JSON, then the length of these.
What is wrong with a clip is kept like its rows: else it would be told once, and left out in silence from then on.
"""

import json
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import TypeAdapter

from vla import cache
from vla.documents import to_json
from vla.errors import CorruptData

Facts = TypeVar("Facts")
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Kept(Generic[Facts]):
    """Facts of some clips and, on disk, their rows."""

    facts: Sequence[Facts]
    problems: Sequence[ValueError]
    """Of clips that cannot be read."""
    values: Float32[np.ndarray, " N"]
    """A memory map of all numbers."""
    shapes: Sequence[tuple[int, int]]
    """Of the rows of each clip."""

    def rows(self, index: int) -> Float32[np.ndarray, "T A"]:
        """Those of a clip."""
        start = sum(rows * width for rows, width in self.shapes[:index])
        rows, width = self.shapes[index]
        return self.values[start : start + rows * width].reshape(rows, width)


def keep(
    root: Path,
    sources: Sequence[Path],
    purpose: str,
    kind: type[Facts],
    build: Callable[[], Iterable[tuple[Facts, Float32[np.ndarray, "T A"]] | ValueError]],
) -> Kept[Facts]:
    """What `build` gives of some files, computed unless it is known; in a temporary file where no cache can be.

    `build` gives of each clip its facts and rows, or what is wrong with it.
    """

    def write(file: BinaryIO) -> None:
        facts: list[Any] = []
        shapes: list[tuple[int, ...]] = []
        problems: list[tuple[bool, str]] = []
        for found in build():
            if isinstance(found, ValueError):
                problems.append((isinstance(found, CorruptData), str(found)))
                continue
            fact, rows = found
            file.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            facts.append(to_json(fact))
            shapes.append(rows.shape)
        told = json.dumps({"facts": facts, "shapes": shapes, "problems": problems}).encode()
        file.write(told + LENGTH.pack(len(told)))

    if (path := cache.stored_file(root, sources, purpose, write)) is not None:
        with path.open("rb") as kept:
            return _read(kept, kind)
    with tempfile.TemporaryFile() as beside:
        write(beside)
        return _read(beside, kind)


def _read(file: BinaryIO, kind: type[Facts]) -> Kept[Facts]:
    """What a file holds; its map outlives the open file."""
    adapter = TypeAdapter(kind)
    end = file.seek(-LENGTH.size, 2)
    (length,) = LENGTH.unpack(file.read())
    file.seek(end - length)
    told = json.loads(file.read(length))
    numbers = (end - length) // 4
    values: np.ndarray = np.zeros(0, np.float32)
    if numbers:
        values = np.memmap(file, dtype="<f4", mode="r", shape=(numbers,))
    return Kept(
        facts=[adapter.validate_python(fact) for fact in told["facts"]],
        problems=[CorruptData(text) if corrupt else ValueError(text) for corrupt, text in told["problems"]],
        values=values,
        shapes=[(rows, width) for rows, width in told["shapes"]],
    )
