"""Files that survive: written under another name, synchronised, renamed, and read back; on any shared file system.

    write      .shard.safetensors.3f9c.tmp -> fsync -> shard.safetensors     absent, old, or whole; never half
    move       .staging-step-7 -> step-7                                     the same for a folder
    remove     a tree, whoever else still has files open in it

Network volumes fail in three ways, told apart here: an error that passes (EIO, ESTALE, ...) is tried three times, each
time with a new name; full storage (ENOSPC, and EDQUOT where a quota ends) and refusals (EROFS, EACCES, EPERM) are
raised at once. Free space as the file system reports it is never believed: a network volume shows the whole cluster.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeVar

from training import faults
from vla.errors import FULL, UNANSWERED
from vla.run_folder import StoredFile

CHUNK = 4 * 2**20
PROBE = 2 * CHUNK
"""Bytes a probe really writes."""
RESERVE = 16 * 2**20
"""Bytes a probe reserves at once."""
RESERVE_SECONDS = 10.0
"""A file system that cannot reserve is written to block by block instead; after this long a probe has seen enough."""
DELAYS = (0.25, 1.0)
"""Seconds before the second and the third attempt."""
TEMPORARY = ".*.tmp"
"""Pattern of the names of files that are being written; they stay behind when a process is killed."""

TRANSIENT = UNANSWERED | {errno.EAGAIN}
"""Errors after which the same operation may succeed a moment later."""
CHANGING = TRANSIENT | {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
"""What deleting a tree meets while others change it, or still have its files open."""
UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
REFUSALS = MappingProxyType(
    {
        errno.EROFS: "is on a read-only file system; mount it for writing",
        errno.EACCES: "may not be written by this user; change its permissions",
        errno.EPERM: "may not be written by this user; change its permissions",
        errno.EEXIST: "is a file; move it away",
        errno.ENOTDIR: "lies under a file; move that away",
    }
)

Result = TypeVar("Result")


def is_transient(error: OSError) -> bool:
    """Whether the same operation may succeed a moment later."""
    return error.errno in TRANSIENT


def write(path: Path, parts: Sequence[bytes | memoryview]) -> StoredFile:
    """Write a file through to the disk, replacing what has its name, and return its entry in a manifest.

    The entry of its folder is not synchronised: `synchronize` does that once for all files.

    Raises:
        OSError: the storage is full, refuses, or failed three times; the file is absent or the old one, as before.
    """
    return _retried(lambda: _write_once(path, parts))


def _write_once(path: Path, parts: Sequence[bytes | memoryview]) -> StoredFile:
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            size, sha256 = _stream(file, parts)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is gone where it has become the file
            temporary.unlink()
    return StoredFile(name=path.name, bytes=size, sha256=sha256)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _stream(file: BinaryIO, parts: Sequence[bytes | memoryview]) -> tuple[int, str]:
    """Write, hash and synchronise; hashing and writing let other threads run."""
    sha256, size = hashlib.sha256(), 0
    for chunk in _chunks(parts):
        faults.hit("storage.chunk")
        for piece in chunk:
            sha256.update(piece)
            file.write(piece)
            size += piece.nbytes
    file.flush()
    os.fsync(file.fileno())
    return size, sha256.hexdigest()


def _chunks(parts: Sequence[bytes | memoryview]) -> Iterator[list[memoryview]]:
    """The content as groups of views of 4 MiB each (the last one smaller), nothing copied."""
    chunk: list[memoryview] = []
    room = CHUNK
    for part in parts:
        view = memoryview(part)
        if view.nbytes == 0:  # cannot be cast
            continue
        view = view.cast("B")
        while view.nbytes:
            chunk.append(view[:room])
            view = view[room:]
            room -= chunk[-1].nbytes
            if room == 0:
                yield chunk
                chunk, room = [], CHUNK
    if chunk:
        yield chunk


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: the file is missing, or could not be read three times.
    """
    return _retried(lambda: _digest_once(path))


def _digest_once(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reread(entry: StoredFile, folder: Path) -> bool:
    """Whether the disk, not the page cache, gives back the file that `write` returned this entry for.

    Raises:
        OSError: reading is refused (EACCES, EPERM).
    """
    path = folder / entry.name
    try:
        return _retried(lambda: _matches(path, entry))
    except FileNotFoundError:
        return False
    except OSError as error:
        if is_transient(error):
            return False
        raise


def _matches(path: Path, entry: StoredFile) -> bool:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != entry.bytes:
            return False
        with contextlib.suppress(OSError):  # advice, which a file system may not take
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def synchronize(folder: Path) -> None:
    """Write a directory's entries through to the disk, where the file system can.

    Raises:
        OSError: the directory is missing, or failed three times.
    """
    _retried(lambda: _synchronize_once(folder))


def _synchronize_once(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder and synchronise the entries of both its folders.

    Raises:
        OSError: the source is missing, the target is a folder with content, or the storage refuses or failed three
            times.
    """
    identity = _retried(lambda: _identity(source))

    def rename() -> None:
        try:
            source.rename(target)
        except OSError:
            # The reply to a rename that was done can be lost; the second request then finds no source.
            if identity is None or _identity(target) != identity or _identity(source) is not None:
                raise

    _retried(rename)
    for folder in dict.fromkeys((target.parent, source.parent)):
        synchronize(folder)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove(path: Path) -> bool:
    """Delete a file or a tree, never through a link; whether it is gone.

    Entries that vanish, appear or are held open by others meanwhile are tried again, three times in all.

    Raises:
        OSError: the storage refuses (EROFS, EACCES, EPERM).
    """
    for delay in (*DELAYS, None):
        if _sweep(path):
            return True
        if delay is not None:
            time.sleep(delay)
    return False


def _sweep(path: Path) -> bool:
    """Delete what can be deleted now; whether nothing is left."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return True
        for entry in list(path.iterdir()):
            _sweep(entry)
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in CHANGING:
            raise
        return False
    return True


def settled(
    path: Path,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait up to `seconds` for an entry that exists elsewhere to be listed and to open here; whether it is."""
    end, pause = clock() + seconds, 0.01
    while not _visible(path):
        left = end - clock()
        if left <= 0:
            return False
        sleep(min(pause, left))
        pause = min(2 * pause, 0.5)
    return True


def _visible(path: Path) -> bool:
    try:
        with os.scandir(path.parent) as entries:
            if path.name not in {entry.name for entry in entries}:
                return False
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        if error.errno in CHANGING:
            return False
        raise
    return True


def probe(folder: Path, size: int) -> float:
    """Make sure that `size` more bytes fit into a folder, made if missing; the rate of writing, in bytes per second.

    Space is reserved and up to 8 MiB are really written; nothing of it is left.

    Raises:
        ValueError: the folder is full, read-only, forbidden, or no folder.
        OSError: the storage failed three times.
    """
    try:
        return _retried(lambda: _probe_once(folder, size))
    except OSError as error:
        if error.errno in FULL:
            limit = "quota" if error.errno == errno.EDQUOT else "file system"
            raise ValueError(
                f"{folder} has no room for the {size} bytes ({size / 1e9:.2f} GB) that are needed; its {limit} is "
                "full: delete something there, enlarge it, or use another folder"
            ) from error
        if advice := REFUSALS.get(error.errno or 0):
            raise ValueError(f"{folder} {advice} or use another folder") from error
        raise


def _probe_once(folder: Path, size: int) -> float:
    folder.mkdir(parents=True, exist_ok=True)
    path = _temporary(folder / "probe")
    try:
        with path.open("xb") as file:
            _reserve(file.fileno(), size)
            content = os.urandom(max(1, min(size, PROBE)))  # a file system that compresses makes zeros look fast
            start = time.perf_counter()
            _stream(file, [content])
            return len(content) / max(time.perf_counter() - start, 1e-9)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _reserve(handle: int, size: int) -> None:
    """Take up `size` bytes of disk, as far as the file system can reserve."""
    start = time.perf_counter()
    for offset in range(0, size, RESERVE):
        try:
            os.posix_fallocate(handle, offset, min(RESERVE, size - offset))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return
        if time.perf_counter() - start > RESERVE_SECONDS:
            return


def _retried(operation: Callable[[], Result]) -> Result:
    """The result of the first attempt of three that does not fail transiently."""
    for delay in DELAYS:
        try:
            return operation()
        except OSError as error:
            if not is_transient(error):
                raise
        time.sleep(delay)
    return operation()
