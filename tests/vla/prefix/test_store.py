"""A store of the prefix cache: what is torn, full, in use or of something else."""

import errno
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.errors import CorruptData, StorageFault
from vla.prefix import store as stores
from vla.prefix.store import Manifest, Store

SIZE, COUNT = 40, 5


def manifest(**changes: Any) -> Manifest:
    content: dict[str, Any] = {
        "format": stores.FORMAT,
        "door": "vision",
        "records": COUNT,
        "record_bytes": SIZE,
        "decides": {"backbone": "a", "precision": "bf16"},
        "said": "5 pictures",
    }
    return Manifest(**content | changes)


def record(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SIZE, np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store.begin(tmp_path, manifest())
    for number in (0, 3):
        found.write(number, record(number))
    return found


def test_records_are_read_as_they_were_written(store: Store) -> None:
    for opened in (store, Store.at(store.folder), pickle.loads(pickle.dumps(store))):
        assert opened.there().tolist() == [0, 3]
        assert all(np.array_equal(opened.read(number), record(number)) for number in (0, 3))
    again = Store.begin(store.folder.parent, manifest())
    assert again.folder == store.folder
    assert again.there().tolist() == [0, 3], "what is there is gone on with"


def test_the_checksums_are_those_that_others_compute(store: Store) -> None:
    stored = np.fromfile(store.folder / "checks.bin", "<u4")
    assert stored.tolist() == [zlib.crc32(record(0).tobytes()), 0, 0, zlib.crc32(record(3).tobytes()), 0]


@pytest.mark.parametrize("what", ["torn", "missing"])
def test_a_record_that_is_not_whole_is_refused_and_made_again(store: Store, what: str) -> None:
    number = 3 if what == "torn" else 1
    with (store.folder / "records.bin").open("r+b") as file:
        file.seek(3 * SIZE + 7)
        file.write(b"\0\1\2")
    with pytest.raises(
        CorruptData, match=rf"record {number} of .* is {'damaged' if what == 'torn' else 'missing'}: run"
    ):
        store.read(number)
    assert list(store.check()) == [(0, True), (3, False)]
    store.drop(3)
    assert Store.at(store.folder).there().tolist() == [0]
    store.write(3, record(3))
    assert np.array_equal(store.read(3), record(3))


CHANGES: list[dict[str, Any]] = [
    {"format": stores.FORMAT + 1},
    {"door": "context"},
    {"decides": {"backbone": "b", "precision": "bf16"}},
    {"decides": {"backbone": "a", "precision": "int8"}},
    {"records": COUNT + 1},
]


@pytest.mark.parametrize("change", CHANGES, ids=[str(change) for change in CHANGES])
def test_records_of_something_else_lie_elsewhere(store: Store, change: dict[str, Any]) -> None:
    other = Store.begin(store.folder.parent, manifest(**change))
    assert other.folder != store.folder
    assert not len(other.there())


def test_what_is_only_said_of_it_decides_nothing(store: Store) -> None:
    assert manifest(said="other words").key == manifest().key


def test_a_disk_that_is_too_small_is_refused_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"needs 1000000\d*\.00 GB and .* GB free: free some"):
        Store.begin(tmp_path, manifest(records=10**9, record_bytes=10**9 + 1))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="GB free: free some, give another --cache.path"):
        Store.begin(tmp_path, manifest())
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_in_the_middle_is_a_fault_of_storage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFault, match=r"records\.bin takes no more \(No space left on device\)"):
        store.write(1, record(1))
    monkeypatch.undo()
    assert Store.at(store.folder).there().tolist() == [0, 3]


def test_one_builds_and_nobody_prunes_what_is_in_use(store: Store) -> None:
    other = Store.at(store.folder)
    with store.building(), pytest.raises(ValueError, match="is being built by another process: wait"), other.building():
        pass
    with store.using(), other.using(), pytest.raises(ValueError, match="in use by a training: wait"), other.alone():
        pass
    with store.alone():
        with pytest.raises(ValueError, match="is being pruned: start again"), other.using():
            pass
        store.remove()
    assert not store.folder.exists()


def test_a_store_whose_files_do_not_fit_is_refused(store: Store) -> None:
    os.truncate(store.folder / "records.bin", SIZE)
    with pytest.raises(CorruptData, match=rf"records\.bin is not of {COUNT * SIZE} bytes.* remove"):
        Store.begin(store.folder.parent, manifest())


def test_rates_are_measured(store: Store) -> None:
    assert store.computed() is None
    store.note_rate(12.5)
    assert Store.at(store.folder).computed() == 12.5
    assert json.loads((store.folder / "rate.json").read_text()) == 12.5
    assert store.readable(64) > 0
