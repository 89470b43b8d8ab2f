"""What is found by reading large files once is kept on disk, and holds as long as the files are what they were.

A file is taken for unchanged when its path, bytes, times of modification and of status change, and inode are the same,
and so are 64 blocks of it and, of a parquet table, its footer: a thousandth of a large file is read instead of all.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

LAYOUT = 1
"""Of what is kept. Raise it when the same files would give other numbers, or the numbers would be written otherwise."""
BLOCKS, BLOCK = 64, 4096
"""Number and bytes of the blocks of a file that are compared."""
THREADS = 8
"""Files looked at together: on network storage each look is a wait."""

log = logging.getLogger(__name__)


def folder() -> Path:
    """The user's cache folder of this project (XDG_CACHE_HOME, else ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "touchstone"


def folder_of(*roots: Path, base: Path | None = None) -> Path:
    """Where what was read of these folders is kept, below `base` or the cache folder."""
    names = "\n".join(sorted(str(root.resolve()) for root in roots))
    return (base or folder() / "read") / hashlib.sha256(names.encode()).hexdigest()[:32]


def stamp(files: Iterable[Path]) -> str:
    """SHA-256 of what tells whether files are what they were. OSError where one cannot be read."""
    paths = sorted({file.resolve() for file in files})
    with ThreadPoolExecutor(THREADS) as threads:
        lines = list(threads.map(_line, paths)) if len(paths) > 1 else [_line(path) for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(path: Path) -> str:
    status = path.stat()
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{path} {numbers} {_sampled(path, BLOCKS, *numbers)}"


def content(path: Path, blocks: int = BLOCKS) -> str:
    """What a file holds, wherever it lies: its size and so many of its blocks. OSError where it cannot be read."""
    status = path.stat()
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{status.st_size} {_sampled(path, blocks, *numbers)}"


@functools.cache
def _sampled(path: Path, blocks: int, size: int, *_times_and_inode: int) -> str:
    """SHA-256 of blocks spread evenly over a file, its first and last among them, and of a parquet table's footer."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        if size <= blocks * BLOCK:
            return hashlib.sha256(file.read()).hexdigest()
        descriptor = file.fileno()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # a block is not to bring its neighbours
        for number in range(blocks):
            digest.update(os.pread(descriptor, BLOCK, (size - BLOCK) * number // max(1, blocks - 1) // BLOCK * BLOCK))
        tail = os.pread(descriptor, BLOCK, size - BLOCK)
        footer = int.from_bytes(tail[-8:-4], "little") if tail.endswith(b"PAR1") else 0
        digest.update(tail if footer <= BLOCK else os.pread(descriptor, footer + 8, max(0, size - footer - 8)))
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Facts (JSON values) about the files of some folders, for one purpose."""

    purpose: str
    """What the facts are, and all they depend on beside the files."""
    stamps: Mapping[Path, str]
    """Of the files read, by folder; facts of other stamps do not hold."""

    @property
    def path(self) -> Path:
        """Where the facts are kept."""
        return folder_of(*self.stamps) / f"{hashlib.sha256(self.purpose.encode()).hexdigest()[:32]}.json"

    def recall(self) -> Any:
        """The facts; None where there are none that hold, of which the reason is logged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            layout, stamps, facts = content["layout"], content["stamps"], content["facts"]
            whole = content["digest"] == _digest(stamps, facts)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be used (%s): what it held is read anew", self.path, error)
            return None
        if layout != LAYOUT:
            log.warning("%s is of layout %s, expected %s: what it held is read anew", self.path, layout, LAYOUT)
        elif not whole:
            log.warning("%s is damaged: what it held is read anew", self.path)
        elif stamps != self._stamps():
            for root, now in self._stamps().items():
                if stamps.get(root) != now:
                    _say_changed(root, stamps.get(root), now)
        else:
            return facts
        return None

    def keep(self, facts: Any) -> None:
        """Write the facts, beside and renamed; a folder that cannot be written is logged."""
        stamps = self._stamps()
        content = {"layout": LAYOUT, "stamps": stamps, "facts": facts, "digest": _digest(stamps, facts)}
        write_file(self.path, lambda file: file.write(json.dumps(content).encode()))

    def _stamps(self) -> dict[str, str]:
        return {str(root.resolve()): stamp for root, stamp in self.stamps.items()}  # as `path` and `stamp` know it


def _digest(stamps: Mapping[str, str], facts: Any) -> str:
    return hashlib.sha256(json.dumps([stamps, facts]).encode()).hexdigest()


@functools.cache
def _say_changed(root: str, _before: str | None, _now: str) -> None:
    """Once, however many facts of the folder do not hold any more."""
    log.warning("%s has changed since it was read: it is read anew", root)


@functools.cache
def _say_unwritable(place: Path, reason: str, instead: str) -> None:
    log.warning(
        "the cache %s cannot be written (%s): %s; set XDG_CACHE_HOME to a folder that can be written",
        place,
        reason,
        instead,
    )


def write_file(
    path: Path,
    write: Callable[[Any], object],
    *,
    instead: str = "each process reads and holds all numbers itself",
) -> bool:
    """Write a file beside and rename it, so that several processes may; whether that could be done.

    Where not, it is logged with what is done `instead`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            Path(beside).replace(path)
        finally:
            Path(beside).unlink(missing_ok=True)  # it is gone where it has become the file
    except OSError as error:
        _say_unwritable(folder(), error.strerror or str(error), instead)
        return False
    return True


def stored_array(
    root: Path, sources: Sequence[Path], purpose: str, build: Callable[[], Float[np.ndarray, "N *C"]]
) -> Float[np.ndarray, "N *C"]:
    """The array that `build` computes from files of a folder, as a read-only memory map.

    It is kept under the stamp of the files. Where the cache cannot be written, the array is in memory.
    """
    path = _stored_at(root, sources, purpose, ".npy")
    try:
        return _mapped(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): what it held is read anew", path, error)
    values = np.ascontiguousarray(build())
    written = write_file(path, lambda file: np.lib.format.write_array(file, values, allow_pickle=False))
    return _mapped(path) if written else values


def stored_file(root: Path, sources: Sequence[Path], purpose: str, write: Callable[[Any], object]) -> Path | None:
    """The file that `write` makes of files of a folder, kept under their stamp; None where it cannot be written.

    A file that is there was written to its end.
    """
    path = _stored_at(root, sources, purpose, ".bin")
    return path if path.is_file() or write_file(path, write) else None


def _stored_at(root: Path, sources: Sequence[Path], purpose: str, ending: str) -> Path:
    """Where something is kept that follows from files of a folder; what followed from them before is removed."""
    place = folder_of(root) / folder_of(*sources).name / stamp(sources)[:32]
    if not place.exists():
        remove_outdated(place)
    return place / f"{hashlib.sha256(f'{LAYOUT} {purpose}'.encode()).hexdigest()[:32]}{ending}"


def _mapped(path: Path) -> Float[np.ndarray, "N *C"]:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def remove_outdated(place: Path) -> None:
    """Remove what lies beside the folder of the newest stamp: it would only take up room."""
    for outdated in set(place.parent.glob("*")) - {place}:
        shutil.rmtree(outdated, ignore_errors=True)  # another process may hold or remove it


def built(name: str, write: Callable[[Path], None]) -> Path:
    """A folder of the cache that follows from its name alone: `write` fills it at the first call.

    Any number of processes may call it at once: each writes beside the folder, the first one to rename wins.

    Raises:
        ValueError: the cache folder cannot be written.
    """
    place = folder() / name
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=place.parent, prefix=f"{name}."))
    except OSError as error:
        raise ValueError(
            f"{name} is built once below {place.parent}, which cannot be written ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can"
        ) from error
    try:
        write(beside)
        beside.chmod(0o755)
        beside.rename(place)
    except OSError:
        if not place.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def forget(*roots: Path, base: Path | None = None) -> None:
    """Remove what is kept of these folders together. ValueError where it stays."""
    place = folder_of(*roots, base=base)
    try:
        shutil.rmtree(place)
    except FileNotFoundError:
        pass  # there is none, or another process removes it, too
    except OSError as error:
        raise ValueError(
            f"{place}, which is kept of earlier starts, cannot be removed ({error.strerror}): remove it by hand"
        ) from error
