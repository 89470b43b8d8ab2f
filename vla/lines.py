"""JSON lines: a file of objects, one a line, that a process may be writing, or may have died writing.

A line is whole once it ends in a newline; no other character ends it. What follows the last newline is torn: readers
leave it out, and the next writer removes it.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vla.errors import CorruptData


def read_lines(path: Path, *, finished: bool = False) -> Iterator[dict[str, Any]]:
    """The whole objects of a file; no file, no objects. In a `finished` one the end of the file ends a line, too.

    Raises:
        CorruptData: a line holds no object; names it.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not (finished or line.endswith(b"\n")):
                return
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise CorruptData(
                    f"{path} is damaged: line {number} is not valid JSON ({error}); restore it"
                ) from error
            if not isinstance(value, dict):
                raise CorruptData(f"{path} is damaged: line {number} holds no object; restore it")
            yield value


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole object of a file; None where there is none."""
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return None
    last: dict[str, Any] | None = json.loads(whole.rpartition(b"\n")[2] or b"null")
    return last


def append(path: Path, text: str) -> None:
    """Add whole lines to a file in the place of a torn one; where that fails half-way, nothing of them is left."""
    path.touch()
    size = _whole_bytes(path)
    os.truncate(path, size)
    try:
        with path.open("ab") as file:
            file.write(text.encode())
    except OSError:
        os.truncate(path, size)
        raise


def _whole_bytes(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return 0
        file.seek(size - 1)
        if file.read() == b"\n":
            return size
        file.seek(0)
        return file.read().rfind(b"\n") + 1
