"""A folder of records of one size, each with a checksum, that many processes read and some write.

STORE/manifest.json     what the records are, how many, and of how many bytes; the folder is named after its digest
STORE/records.bin       one record behind the other; room for all is taken when the store begins
STORE/checks.bin        a CRC-32 each (uint32, little-endian), 0 where there is no record yet
STORE/rate.json         records that a process computed in a second, when it last did
STORE/using             locked by those who read, so that nobody prunes what is in use
STORE/building          locked by the one who has records written

A record is written before its checksum, so one that was torn has none, or one that does not fit; it is made again.
Records are read by `pread`: a map of them would be two to three times slower, by page faults.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from vla.documents import from_json, to_bytes
from vla.errors import CorruptData, StorageFault

FORMAT = 1
"""Raise it when the same backbone and data would give other records: a test keeps golden ones."""
MANIFEST, RECORDS, CHECKS, RATE = "manifest.json", "records.bin", "checks.bin", "rate.json"
USING, BUILDING = "using", "building"
EMPTY = 0
"""The checksum of a record that is not there; that of one whose CRC-32 is 0 is 1."""
KEY_DIGITS = 24


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the records of a store are."""

    format: int
    door: str
    """Behind which they lie, as --cache.door and the layer say."""
    records: int
    record_bytes: int
    decides: Mapping[str, Any]
    """All that a record depends on, by name: JSON values."""
    said: str
    """For people: of which data and backbone."""

    @property
    def key(self) -> str:
        """What the folder is called."""
        content = [self.format, self.door, self.records, self.record_bytes, self.decides]
        return f"{self.door}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]}"


@dataclass(frozen=True)
class Store:
    """An opened store; it pickles as its folder, and opens its files where it is used."""

    folder: Path
    manifest: Manifest

    @staticmethod
    def at(folder: Path) -> "Store":
        """That of a folder.

        Raises:
            CorruptData: its files do not fit each other, or its manifest cannot be read.
        """
        manifest = from_json(Manifest, (folder / MANIFEST).read_bytes(), folder / MANIFEST, exact=True)
        store = Store(folder, manifest)
        for name, size in (
            (RECORDS, manifest.records * manifest.record_bytes),
            (CHECKS, manifest.records * np.dtype("<u4").itemsize),
        ):
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                raise CorruptData(f"{file} is not of {size} bytes, as {MANIFEST} beside it says: remove {folder}")
        return store

    @staticmethod
    def begin(place: Path, manifest: Manifest) -> "Store":
        """The store of a manifest below a folder: the one that is there, or a new one without records.

        Raises:
            ValueError: there is not room enough, or the folder cannot be written; nothing stays behind.
            CorruptData: the one that is there is damaged.
        """
        folder = place / manifest.key
        if folder.is_dir():
            return Store.at(folder)
        needed = manifest.records * manifest.record_bytes
        try:
            place.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(place).free
            if needed > free:
                raise ValueError(no_room(place, needed, free))
            beside = Path(tempfile.mkdtemp(dir=place, prefix=f".{manifest.door}."))
        except OSError as error:
            raise ValueError(
                f"{place} cannot hold a prefix cache ({error.strerror}): give another folder with --cache.path"
            ) from error
        try:
            for name, size in ((RECORDS, needed), (CHECKS, manifest.records * np.dtype("<u4").itemsize)):
                with (beside / name).open("wb") as file:
                    take_room(file.fileno(), size)
            for name in (USING, BUILDING):
                (beside / name).touch()
            (beside / MANIFEST).write_bytes(to_bytes(manifest))
            beside.chmod(0o755)
            beside.rename(folder)
        except OSError as error:
            if folder.is_dir():  # another process was first
                return Store.at(folder)
            if error.errno == errno.ENOSPC:
                raise ValueError(no_room(place, needed, shutil.disk_usage(place).free)) from error
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return Store.at(folder)

    def read(self, record: int) -> UInt8[np.ndarray, " _"]:
        """A record.

        Raises:
            CorruptData: it is not there, or damaged.
            StorageFault: the storage does not give it.
        """
        size = self.manifest.record_bytes
        content = np.empty(size, np.uint8)
        try:
            count = os.preadv(self._records, [content.data], record * size)
        except OSError as error:
            raise StorageFault(error.errno or errno.EIO, f"{self.folder / RECORDS}: {error.strerror}") from error
        if count != size or check_of(content) != self._checks[record]:
            what = "is missing" if self._checks[record] == EMPTY else "is damaged"
            raise CorruptData(
                f"record {record} of {self.folder} {what}: run `vla cache verify {self.folder.parent}`, and start "
                "again, which makes it anew"
            )
        return content

    def write(self, record: int, content: UInt8[np.ndarray, " _"]) -> None:
        """Keep a record.

        Raises:
            StorageFault: the storage does not take it; the store stays as it was.
        """
        size = self.manifest.record_bytes
        assert content.nbytes == size, f"a record of {content.nbytes} bytes in a store of {size}"
        try:
            written(self._writable[0], content.tobytes(), record * size)
            check = np.array([check_of(content)], "<u4")
            written(self._writable[1], check.tobytes(), record * check.itemsize)
        except OSError as error:
            raise StorageFault(
                error.errno or errno.EIO, f"{self.folder / RECORDS} takes no more ({error.strerror})"
            ) from error

    def flush(self) -> None:
        """Have the storage keep what was written."""
        for descriptor in self._writable:
            os.fsync(descriptor)

    def note_rate(self, per_second: float) -> None:
        """Remember how fast one process computed records."""
        (self.folder / RATE).write_text(json.dumps(per_second))

    def computed(self) -> float | None:
        """Records that one process computed in a second when it last did; None where none is known."""
        file = self.folder / RATE
        return float(json.loads(file.read_text())) if file.is_file() else None

    def readable(self, count: int) -> float:
        """Records that this process reads in a second, of so many spread over the store and not in memory."""
        there = self.there()
        chosen = np.unique(there[np.linspace(0, len(there) - 1, count).astype(int)]).tolist()
        size = self.manifest.record_bytes
        for record in chosen:
            os.posix_fadvise(self._records, record * size, size, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        for record in chosen:
            self.read(record)
        return len(chosen) / (time.perf_counter() - began)

    def drop(self, record: int) -> None:
        """Forget a record."""
        written(self._writable[1], np.array([EMPTY], "<u4").tobytes(), record * np.dtype("<u4").itemsize)

    def there(self) -> Int64[np.ndarray, " _"]:
        """The records that are there."""
        return np.flatnonzero(np.fromfile(self.folder / CHECKS, "<u4") != EMPTY)

    def check(self) -> Iterator[tuple[int, bool]]:
        """Each record that is there, and whether its bytes are those that were written."""
        for record in self.there().tolist():
            try:
                self.read(record)
            except CorruptData:
                yield record, False
            else:
                yield record, True

    def remove(self) -> None:
        """Remove the store; within `alone`."""
        shutil.rmtree(self.folder)

    @contextmanager
    def using(self) -> Iterator[None]:
        """Within it nobody prunes the store."""
        with locked(self.folder / USING, fcntl.LOCK_SH, f"{self.folder} is being pruned: start again after that"):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it nobody uses the store (ValueError where somebody does)."""
        with locked(
            self.folder / USING,
            fcntl.LOCK_EX,
            f"{self.folder} is in use by a training: wait for its end, or give a greater --older-than",
        ):
            yield

    @contextmanager
    def building(self) -> Iterator[None]:
        """Within it no other has records written (ValueError where one does)."""
        with locked(
            self.folder / BUILDING,
            fcntl.LOCK_EX,
            f"{self.folder} is being built by another process: wait for it, or give another --cache.path",
        ):
            yield

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    @cached_property
    def _records(self) -> int:
        return os.open(self.folder / RECORDS, os.O_RDONLY)

    @cached_property
    def _checks(self) -> np.ndarray:
        checks: np.ndarray = np.memmap(self.folder / CHECKS, "<u4", "r")
        return checks

    @cached_property
    def _writable(self) -> tuple[int, int]:
        return os.open(self.folder / RECORDS, os.O_WRONLY), os.open(self.folder / CHECKS, os.O_WRONLY)


def check_of(content: UInt8[np.ndarray, " _"]) -> int:
    """The checksum of a record."""
    return zlib.crc32(content.data) or 1


def written(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of some bytes at a place."""
    while content:
        count = os.pwrite(descriptor, content, offset)
        content, offset = content[count:], offset + count


def take_room(descriptor: int, size: int) -> None:
    """Make a file so long, with room on the disk where the file system can promise it."""
    try:
        os.posix_fallocate(descriptor, 0, max(1, size))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    os.truncate(descriptor, size)


def no_room(place: Path, needed: int, free: int) -> str:
    """What to say of a disk that is too small."""
    return (
        f"the prefix cache needs {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free: free some, give "
        "another --cache.path, or keep less with --cache.precision int8"
    )


@contextmanager
def locked(file: Path, kind: int, refusal: str) -> Iterator[None]:
    """Hold a lock on a file; ValueError where another holds one against it, or the file system has no locks."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(refusal) from error
        except OSError as error:
            raise ValueError(
                f"{file.parent} lies where files cannot be locked ({error.strerror}): give a local folder with "
                "--cache.path"
            ) from error
        if kind == fcntl.LOCK_SH:
            os.utime(file)
        yield
    finally:
        os.close(descriptor)
