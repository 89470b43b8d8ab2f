"""PyTorch's own files: tensors, containers, texts and numbers, and nothing of a file is executed.

That format can run code where it is loaded. Here it is loaded with `weights_only`, which looks up the names of its list
alone and refuses all others, and mapped, so that tensors are in memory only while they are used. Classes of another
program, of which a file keeps objects, are named beside that list: a `Record` stands for each, which holds the values
of the attributes and does nothing.
"""

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vla.data.formats.motion.arrays_only import NotPlain
from vla.errors import CorruptData

UNREADABLE = (
    RuntimeError, OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, OverflowError, MemoryError,
    AssertionError, struct.error,
)  # fmt: skip
"""What loading a damaged file ends with."""
LONGEST = 200
"""Characters of what is told of a file's content."""
POINTER = b"version https://git-lfs"
"""What a repository has in the place of a large file, until it is fetched."""


class Record:
    """What stands for an object of another program: the values of its attributes."""

    __slots__ = ("values",)
    values: dict[str, Any]

    def __init__(self) -> None:
        self.values = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError(f"an object's attributes are a {type(state).__name__}")
        self.values = state


def load_archive(file: Path, *, again: str, alone: str, stand_ins: Mapping[str, type] | None = None) -> Any:
    """What a file holds, its tensors mapped.

    `stand_ins` are harmless classes by the full names that others have in the file. `again` says how to make a file of
    today's format of it, `alone` what to save in place of what is refused, for the sentences.

    Raises:
        CorruptData: it cannot be read.
        ValueError: it is of PyTorch's old format, or names what is not allowed; says what.
    """
    if not file.is_file():
        raise ValueError(f"{file} is no file: give one that torch.save wrote")
    with file.open("rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS in place of the file: fetch it with `git lfs pull`")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is no archive of torch.save since PyTorch 1.6, or cut short: {again}")
    allowed: list[Any] = [(kind, name) for name, kind in (stand_ins or {}).items()]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except NotPlain as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{file} holds what is no data ({quoted(name[1]) if name else 'an object'}), which is not loaded: {alone}"
        ) from error
    except UNREADABLE as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise CorruptData(f"{file} cannot be read ({quoted(said[0])}): copy it again") from error


def quoted(text: object) -> str:
    """What a file says, for a sentence: on one line, without what a terminal would obey, and not endless."""
    told = str(text)
    told = told if told.isprintable() else ascii(told)
    return told if len(told) <= LONGEST else f"{told[:LONGEST]}..."
