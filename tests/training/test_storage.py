"""Files that survive: errors that pass are tried again, others are raised at once, and no kill leaves half a file."""

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from training import faults
from training.checkpoints import storage
from vla.errors import FULL
from vla.run_folder import StoredFile

ROOT = Path(__file__).parents[2]
MIB = 2**20


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without sleeping."""
    slept: list[float] = []
    # A time of the module's own: others, like subprocess, sleep too.
    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=slept.append, perf_counter=time.perf_counter))
    return slept


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 8 MiB."""
    path = tmp_path_factory.mktemp("mounted")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True, text=True, timeout=240
    )
    if mount.returncode != 0:
        pytest.skip(f"needs to mount a tmpfs, which root may outside of most containers: {mount.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=240)


def failing(function: Callable[..., Any], *errors: int | None, done: bool = False) -> Callable[..., Any]:
    """The function with the first calls failing (None: not); `done`: each is done, but its success is not reported."""
    left = list(errors)

    def call(*args: Any, **kwargs: Any) -> Any:
        code = left.pop(0) if left else None
        if code is None or done:
            result = function(*args, **kwargs)
        if code is not None:
            raise OSError(code, os.strerror(code))
        return result

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# write


@settings(max_examples=60)
@given(parts=strategies.lists(strategies.binary(max_size=40), max_size=6), room=strategies.integers(1, 40))
def test_what_is_written_is_the_parts_in_pieces(
    parts: list[bytes], room: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("write") / "file"
    content = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        hits: list[str] = []
        patch.setattr(storage, "CHUNK", room)
        patch.setattr("training.checkpoints.storage.faults.hit", hits.append)
        entry = storage.write(path, [memoryview(part) if index % 2 else part for index, part in enumerate(parts)])
    assert path.read_bytes() == content
    assert entry == StoredFile(name="file", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    assert hits == ["storage.chunk"] * -(-len(content) // room)
    assert storage.digest(path) == entry.sha256
    assert names(path.parent) == ["file"]


def test_views_of_numbers_are_written_as_their_bytes(tmp_path: Path) -> None:
    import torch

    tensors = [torch.arange(12.0).view(3, 4), torch.zeros(0, 5), torch.tensor(7.0)]
    entry = storage.write(tmp_path / "file", [memoryview(tensor.numpy()) for tensor in tensors])
    assert entry.bytes == 52
    assert (tmp_path / "file").read_bytes() == b"".join(tensor.numpy().tobytes() for tensor in tensors)


def test_the_file_is_synchronised_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        order.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def note_replace(path: Path, target: Path) -> Path:
        order.append(("replace", path.parent, target))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    storage.write(tmp_path / "file", [b"0123456789"])
    assert order == [("fsync", 10), ("replace", tmp_path, tmp_path / "file")]


@pytest.mark.parametrize("code", sorted(storage.TRANSIENT))
@pytest.mark.parametrize("where", ["open", "chunk", "fsync", "replace"])
def test_what_passes_is_tried_again_with_a_new_name(
    where: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    path, seen = tmp_path / "file", set()
    path.write_bytes(b"old")
    monkeypatch.setattr(storage, "CHUNK", 4)
    temporary = storage._temporary
    monkeypatch.setattr(storage, "_temporary", lambda path: seen.add(new := temporary(path)) or new)
    match where:
        case "open":
            monkeypatch.setattr(Path, "open", failing(Path.open, code, code))
        case "chunk":
            monkeypatch.setattr("training.checkpoints.storage.faults.hit", failing(lambda _: None, None, code, code))
        case "fsync":
            monkeypatch.setattr(os, "fsync", failing(os.fsync, code, code))
        case _:
            monkeypatch.setattr(Path, "replace", failing(Path.replace, code, code))
    entry = storage.write(path, [b"content"])
    assert path.read_bytes() == b"content"
    assert entry.sha256 == hashlib.sha256(b"content").hexdigest()
    assert len(seen) == 3
    assert pauses == [0.25, 1.0]
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EBUSY", "EAGAIN", "EINTR", "ETIMEDOUT"])
def test_what_does_not_pass_fails_after_three_attempts(name: str, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with faults.armed(f"storage.chunk:raise={name}"), pytest.raises(OSError, match="fault") as caught:
        storage.write(tmp_path / "file", [b"new"])
    assert caught.value.errno == getattr(errno, name)
    assert storage.is_transient(caught.value)
    assert caught.value.errno not in FULL
    assert pauses == [0.25, 1.0]
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
    with faults.armed(f"storage.chunk:raise={name}@1"):
        storage.write(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "EINVAL"])
def test_what_cannot_pass_is_raised_at_once(name: str, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with faults.armed(f"storage.chunk:raise={name}@2"), pytest.raises(OSError, match="fault") as caught:
        storage.write(tmp_path / "file", [b"new" * 2 * MIB])
    assert not storage.is_transient(caught.value)
    assert (caught.value.errno in FULL) == (name in {"ENOSPC", "EDQUOT"})
    assert pauses == []
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with faults.armed("storage.chunk:interrupt@2"), pytest.raises(KeyboardInterrupt):
        storage.write(tmp_path / "file", [b"new" * 2 * MIB])
    assert names(tmp_path) == []


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'numpy', 'accelerate', 'pydantic'}"
    code = f"import sys, training.checkpoints.storage; print(*{heavy} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr


@pytest.mark.parametrize("old", [None, b"old" * 1000])
def test_a_kill_leaves_the_old_file_or_none(old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a name, mit Ümlaut"
    code = f"""
from pathlib import Path
from training.checkpoints import storage
storage.write(Path({str(path)!r}), [bytes([part]) * 3 * 2**20 for part in range(6)])
"""
    for chunk in range(1, 6):  # of 18 MiB in pieces of 4
        if old is not None:
            path.write_bytes(old)
        killed = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"TOUCHSTONE_FAULTS": f"storage.chunk:kill@{chunk}"},
            cwd=ROOT,
            timeout=240,
        )
        assert killed.returncode == -signal.SIGKILL
        assert (path.read_bytes() if path.exists() else None) == old
        [left] = tmp_path.glob(storage.TEMPORARY)
        assert left.stat().st_size <= (chunk - 1) * 4 * MIB
        assert left.stat().st_size > (chunk - 1) * 4 * MIB - MIB
        left.unlink()
        path.unlink(missing_ok=True)
        assert names(tmp_path) == []


# full and read-only file systems, real ones


def test_a_full_file_system_keeps_the_old_file(small: Path, pauses: list[float]) -> None:
    storage.write(small / "file", [b"old" * MIB])
    with pytest.raises(OSError, match="No space left") as caught:
        storage.write(small / "file", [b"new" * 2 * MIB])
    assert caught.value.errno in FULL
    assert pauses == []
    assert names(small) == ["file"]
    assert (small / "file").read_bytes() == b"old" * MIB
    storage.write(small / "file", [b"now" * MIB])
    assert (small / "file").read_bytes() == b"now" * MIB


def test_a_probe_of_a_real_file_system_believes_only_what_fits(small: Path) -> None:
    assert storage.probe(small / "a" / "b", 7 * MIB) > 0
    assert names(small / "a" / "b") == []
    with pytest.raises(ValueError, match=rf"has no room for the {100 * MIB} bytes \(0\.10 GB\).*file system is full"):
        storage.probe(small, 100 * MIB)
    assert names(small) == ["a"]
    assert storage.probe(small, 7 * MIB) > 0
    assert storage.remove(small / "a")


def test_a_read_only_file_system_is_told_at_once(small: Path, pauses: list[float]) -> None:
    storage.write(small / "file", [b"old"])
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=240)
    operations: list[Callable[[], Any]] = [
        lambda: storage.write(small / "file", [b"new"]),
        lambda: storage.move(small / "file", small / "moved"),
        lambda: storage.remove(small / "file"),
    ]
    for operation in operations:
        with pytest.raises(OSError, match="Read-only file system"):
            operation()
    with pytest.raises(ValueError, match="is on a read-only file system; mount it for writing or use another folder"):
        storage.probe(small, 1)
    with pytest.raises(ValueError, match="read-only"):
        storage.probe(small / "new", 1)
    assert pauses == []
    assert (small / "file").read_bytes() == b"old"


# probe


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (errno.EDQUOT, r"for the 5000000000 bytes \(5\.00 GB\) that are needed; its quota is full"),
        (errno.ENOSPC, r"for the 5000000000 bytes \(5\.00 GB\) that are needed; its file system is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "may not be written by this user"),
        (errno.EPERM, "may not be written by this user"),
    ],
)
@pytest.mark.parametrize("where", ["mkdir", "open", "fallocate", "chunk", "fsync"])
def test_a_probe_says_what_to_do(
    where: str, code: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: pytest.fail("a network volume shows the whole cluster"))
    monkeypatch.setattr(os, "statvfs", lambda _: pytest.fail("a network volume shows the whole cluster"))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    match where:
        case "mkdir":
            monkeypatch.setattr(Path, "mkdir", failing(Path.mkdir, code))
        case "open":
            monkeypatch.setattr(Path, "open", failing(Path.open, code))
        case "fallocate":
            monkeypatch.setattr(os, "posix_fallocate", failing(lambda *_: None, None, None, code))
        case "chunk":
            monkeypatch.setattr("training.checkpoints.storage.faults.hit", failing(lambda _: None, None, code))
        case _:
            monkeypatch.setattr(os, "fsync", failing(os.fsync, code))
    with pytest.raises(ValueError, match=complaint) as caught:
        storage.probe(tmp_path, 5 * 10**9)
    assert str(tmp_path) in str(caught.value)
    assert names(tmp_path) == []


def test_a_probe_reserves_every_byte_and_writes_8_mib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[tuple[int, int]] = []
    hits: list[str] = []
    monkeypatch.setattr(os, "posix_fallocate", lambda _, offset, length: reserved.append((offset, length)))
    monkeypatch.setattr("training.checkpoints.storage.faults.hit", hits.append)
    size = 5 * storage.RESERVE + 1
    assert storage.probe(tmp_path, size) > 0
    ends = [offset + length for offset, length in reserved]
    assert [offset for offset, _ in reserved] == [0, *ends[:-1]]
    assert ends[-1] == size
    assert len(hits) == 2
    storage.probe(tmp_path, 5)
    assert (reserved[-1], len(hits)) == ((0, 5), 3)
    storage.probe(tmp_path, 0)
    assert len(reserved) == 7


@pytest.mark.parametrize("code", sorted(storage.UNSUPPORTED))
def test_a_probe_does_without_reserving(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(lambda *_: pytest.fail("asked again"), code))
    assert storage.probe(tmp_path, 10**9) > 0
    assert names(tmp_path) == []


def test_a_probe_ends_where_reserving_means_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []
    clock = [0.0]

    def slow(_: int, offset: int, length: int) -> None:
        reserved.append(offset)
        clock[0] += 4

    monkeypatch.setattr(os, "posix_fallocate", slow)
    monkeypatch.setattr(storage, "time", SimpleNamespace(sleep=pytest.fail, perf_counter=lambda: clock[0]))
    storage.probe(tmp_path, 10**12)
    assert len(reserved) == 3


def test_a_probe_measures_the_writer_that_saves(tmp_path: Path) -> None:
    for pause_s in (0.05, 0.2):
        with faults.armed(f"storage.chunk:sleep={pause_s}"):
            assert 0 < storage.probe(tmp_path, 10**9) <= storage.CHUNK / pause_s


def test_a_probe_tries_again_what_passes(tmp_path: Path, pauses: list[float]) -> None:
    with faults.armed("storage.chunk:raise=EIO@1"):
        assert storage.probe(tmp_path, 10) > 0
    assert pauses == [0.25]
    with faults.armed("storage.chunk:raise=EIO"), pytest.raises(OSError, match="fault"):
        storage.probe(tmp_path, 10)
    assert names(tmp_path) == []


def test_a_probe_of_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(ValueError, match="file is a file; move it away or use another folder"):
        storage.probe(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="lies under a file"):
        storage.probe(tmp_path / "file" / "run", 1)
    assert (tmp_path / "file").read_bytes() == b"kept"


# reread, synchronize, move


def test_reading_back_finds_every_change(tmp_path: Path, pauses: list[float]) -> None:
    path = tmp_path / "file"
    entry = storage.write(path, [b"content"])
    assert storage.reread(entry, tmp_path)
    for changed in (b"contenu", b"conten", b"contentt", b""):
        path.write_bytes(changed)
        assert not storage.reread(entry, tmp_path)
    path.unlink()
    assert not storage.reread(entry, tmp_path)
    assert pauses == []


def test_reading_back_goes_past_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = storage.write(tmp_path / "file", [b"content" * 100_000])
    file_digest = hashlib.file_digest
    cached = []

    def is_cached(handle: int) -> bool:
        # mincore only looks; a read that must not wait (RWF_NOWAIT) starts a read-ahead, which a fast disk has
        # finished before the read looks.
        with mmap.mmap(handle, 0, prot=mmap.PROT_READ) as mapped:
            pages = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
            address = np.frombuffer(mapped, np.uint8).ctypes.data
            library = ctypes.CDLL(None, use_errno=True)
            if library.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), pages.ctypes) != 0:
                pytest.skip(f"this file system does not tell what is cached: {os.strerror(ctypes.get_errno())}")
        return bool(pages.any())

    def watched(file: Any, name: str) -> Any:
        cached.append(is_cached(file.fileno()))
        return file_digest(file, name)

    with (tmp_path / "file").open("rb") as file:
        if not is_cached(file.fileno()):
            pytest.skip("this file system keeps nothing of what was written in the page cache")
    monkeypatch.setattr(hashlib, "file_digest", watched)
    assert storage.reread(entry, tmp_path)
    if subprocess.run(["stat", "-fc", "%T", tmp_path], capture_output=True, text=True, timeout=240).stdout == "tmpfs\n":
        pytest.skip("a tmpfs is nothing but page cache")
    assert cached == [False]


def test_a_file_that_cannot_be_read_back_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    entry = storage.write(tmp_path / "file", [b"content"])
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", failing(hashlib.file_digest, errno.EIO, errno.ESTALE))
        assert storage.reread(entry, tmp_path)
    assert pauses == [0.25, 1.0]
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", failing(hashlib.file_digest, *[errno.EIO] * 3))
        assert not storage.reread(entry, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing(Path.open, errno.EACCES))
        with pytest.raises(PermissionError):
            storage.reread(entry, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fadvise", failing(os.posix_fadvise, errno.EINVAL))
        assert storage.reread(entry, tmp_path)


def test_a_digest_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    entry = storage.write(tmp_path / "file", [b"content"])
    monkeypatch.setattr(Path, "open", failing(Path.open, errno.EIO))
    assert storage.digest(tmp_path / "file") == entry.sha256
    with pytest.raises(FileNotFoundError):
        storage.digest(tmp_path / "missing")
    assert pauses == [0.25]


def test_directories_are_synchronised_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    fsync, handles = os.fsync, len(list(Path("/proc/self/fd").iterdir()))
    for codes, slept in (((errno.EINVAL,), 0), ((errno.EOPNOTSUPP,), 0), ((errno.EIO, errno.ESTALE), 2)):
        pauses.clear()
        monkeypatch.setattr(os, "fsync", failing(fsync, *codes))
        storage.synchronize(tmp_path)
        assert len(pauses) == slept
    monkeypatch.setattr(os, "fsync", failing(fsync, *[errno.EIO] * 3))
    with pytest.raises(OSError, match="Input/output error"):
        storage.synchronize(tmp_path)
    with pytest.raises(FileNotFoundError):
        storage.synchronize(tmp_path / "missing")
    assert len(list(Path("/proc/self/fd").iterdir())) == handles


def test_a_folder_is_moved_and_both_places_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from" / "tree").mkdir(parents=True)
    (tmp_path / "to").mkdir()
    synchronised: list[Path] = []
    monkeypatch.setattr(storage, "synchronize", synchronised.append)
    storage.move(tmp_path / "from" / "tree", tmp_path / "to" / "tree")
    assert set(synchronised) == {tmp_path / "to", tmp_path / "from"}
    storage.move(tmp_path / "to" / "tree", tmp_path / "to" / "other")
    assert synchronised[2:] == [tmp_path / "to"]
    assert names(tmp_path / "to") == ["other"]


@pytest.mark.parametrize("done", [False, True])
def test_a_move_is_tried_again_even_when_only_its_reply_was_lost(
    done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    monkeypatch.setattr(Path, "rename", failing(Path.rename, errno.EIO, errno.ESTALE, done=done))
    storage.move(source, target)
    assert names(tmp_path) == ["target"]
    assert pauses == ([] if done else [0.25, 1.0])


def test_a_move_that_cannot_be_done_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with pytest.raises(FileNotFoundError):
        storage.move(tmp_path / "missing", tmp_path / "new")
    with pytest.raises(FileNotFoundError):
        storage.move(tmp_path / "missing", tmp_path / "target")
    with pytest.raises(OSError, match="not empty"):
        storage.move(tmp_path / "source", tmp_path / "target")
    assert pauses == []
    monkeypatch.setattr(Path, "rename", failing(Path.rename, *[errno.EBUSY] * 3))
    with pytest.raises(OSError, match="busy"):
        storage.move(tmp_path / "source", tmp_path / "new")
    assert pauses == [0.25, 1.0]
    assert names(tmp_path) == ["source", "target"]


# remove


def tree(path: Path) -> Path:
    (path / "a" / "b").mkdir(parents=True)
    for place in (path, path / "a", path / "a" / "b"):
        (place / "file").write_bytes(b"content")
    return path


def test_trees_files_links_and_nothing_are_removed(tmp_path: Path, pauses: list[float]) -> None:
    outside = tree(tmp_path / "outside")
    doomed = tree(tmp_path / "doomed")
    (doomed / "a" / "folder").symlink_to(outside)
    (doomed / "a" / "dangling").symlink_to(tmp_path / "nowhere")
    assert storage.remove(doomed)
    (tmp_path / "link").symlink_to(outside)
    assert storage.remove(tmp_path / "link")
    (tmp_path / "file").touch()
    assert storage.remove(tmp_path / "file")
    assert storage.remove(tmp_path / "nothing")
    assert names(tmp_path) == ["outside"]
    assert len(list(outside.rglob("file"))) == 3
    assert pauses == []


def test_a_file_held_open_elsewhere_stays_until_it_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    doomed = tree(tmp_path / "doomed")
    held = doomed / "a" / ".nfs0000000000000001"  # what a client of NFS makes of a deleted file that is open
    held.touch()
    with monkeypatch.context() as patch:
        unlink = Path.unlink
        patch.setattr(Path, "unlink", lambda path: unlink(path) if path != held else failing(unlink, errno.EBUSY)(path))
        assert not storage.remove(doomed)
    assert pauses == [0.25, 1.0]
    assert [path for path in doomed.rglob("*") if path.is_file()] == [held]
    assert storage.remove(doomed)
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ESTALE, errno.EIO, errno.ENOTDIR])
def test_a_removal_is_tried_again(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    doomed = tree(tmp_path / "doomed")
    monkeypatch.setattr(Path, "rmdir", failing(Path.rmdir, code))
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink, None, code))
    assert storage.remove(doomed)
    assert names(tmp_path) == []
    assert len(pauses) == 1


def test_entries_may_vanish_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    doomed = tree(tmp_path / "doomed")
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [*listed(path), path / "listed but gone"])
    assert storage.remove(doomed)
    assert pauses == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refused_removal_is_raised(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    doomed = tree(tmp_path / "doomed")
    monkeypatch.setattr(Path, "unlink", failing(Path.unlink, code))
    with pytest.raises(OSError, match=os.strerror(code)):
        storage.remove(doomed)
    assert pauses == []


def test_a_writer_that_goes_on_is_no_error(tmp_path: Path) -> None:
    doomed = tree(tmp_path / "doomed")
    stop, started = threading.Event(), threading.Event()

    def keep_writing() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            place = doomed / "a" / str(count % 7)
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / str(count)).write_bytes(b"content")
            except OSError:  # its folder is being deleted
                continue
            started.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        assert started.wait(timeout=240)
        end = time.monotonic() + 1.5
        outcomes = set()
        while time.monotonic() < end:
            outcomes.add(storage.remove(doomed))
    finally:
        stop.set()
        writer.join(timeout=240)
    assert outcomes <= {True, False}
    assert storage.remove(doomed)
    assert not doomed.exists()


# settled


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.5
        self.now += seconds


def test_an_entry_that_is_hidden_for_two_seconds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-1").mkdir()
    clock, scandir = Time(), os.scandir

    @contextlib.contextmanager
    def listed(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            yield [entry for entry in entries if clock.now >= 1002 or entry.name != "step-1"]

    monkeypatch.setattr(os, "scandir", listed)
    assert storage.settled(tmp_path / "step-1", 5, sleep=clock.sleep, clock=clock)
    assert 1002 <= clock.now <= 1002.5


def test_an_entry_that_is_listed_but_does_not_open_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    clock = Time()
    monkeypatch.setattr(os, "open", failing(os.open, errno.ENOENT, errno.ESTALE, errno.EIO))
    assert storage.settled(tmp_path / "file", 5, sleep=clock.sleep, clock=clock)
    assert clock.now == pytest.approx(1000.07)
    monkeypatch.setattr(os, "open", failing(os.open, errno.EACCES))
    with pytest.raises(PermissionError):
        storage.settled(tmp_path / "file", 5, sleep=clock.sleep, clock=clock)


def test_what_does_not_come_is_waited_for_no_longer(tmp_path: Path) -> None:
    clock = Time()
    for path in (tmp_path / "never", tmp_path / "never" / "inside"):
        start = clock.now
        assert not storage.settled(path, 3, sleep=clock.sleep, clock=clock)
        assert clock.now - start == pytest.approx(3)
    assert not storage.settled(tmp_path / "never", 0, sleep=lambda _: pytest.fail("slept"))
    assert storage.settled(tmp_path, 0, sleep=lambda _: pytest.fail("slept"))
