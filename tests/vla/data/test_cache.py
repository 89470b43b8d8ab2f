"""A start knows what an earlier one has found in the same files, and reads everything where they are not the same."""

import gc
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.start_cost import write_wrench
from tests.vla.data.recordings import actions_of, write_v2, write_v3
from tests.vla.data.test_insertion import write_streams, write_windows
from vla import cache
from vla.data import checks, numbers, tables
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.errors import CorruptData
from vla.settings import DataConfig

WINDOWS = {"observation.wrench": {"dtype": "float32", "shape": [4, 2], "names": None, "info": {"sensor_hz": 80.0}}}


def windows(length: int) -> list[list[list[float]]]:
    return np.random.default_rng(length).normal(size=(length, 4, 2)).astype(np.float32).tolist()


def stamps(length: int) -> list[list[float]]:
    """Irregular, each window before the next."""
    early = np.random.default_rng(length).uniform(0, 0.005, (length, 4))
    return (np.arange(length)[:, None] / 20 + np.arange(-3, 1) / 80 - early).tolist()


def write_clocked(root: Path) -> Path:
    """A LeRobot data set whose sensor has a clock of its own."""
    extra = WINDOWS | {"observation.wrench_timestamp": {"dtype": "float64", "shape": [4], "names": None}}
    columns = {"observation.wrench": windows, "observation.wrench_timestamp": stamps}
    return write_v2(root, (12, 15, 11, 14), columns=columns, extra=extra)


def config(root: Path, **changes: object) -> DataConfig:
    return replace(DataConfig(roots=(str(root),), horizon=4, validation_share=0.3), **changes)  # type: ignore[arg-type]


def opened(root: Path, **changes: object) -> Dataset:
    return open_dataset(config(root, **changes), 0)


def assert_same(first: Dataset, second: Dataset) -> None:
    """Every number, bit for bit."""
    assert first.contract == second.contract
    assert first.train.fingerprint() == second.train.fingerprint()
    for kind, statistics in first.statistics.items():
        for name, value in vars(statistics).items():
            other = vars(second.statistics[kind])[name]
            assert np.asarray(value).tobytes() == np.asarray(other).tobytes(), (kind, name)
            assert np.asarray(value).dtype == np.asarray(other).dtype
    for ours, theirs in zip(first.everything.episodes()[0], second.everything.episodes()[0], strict=True):
        for kind, stream in checks.streams(ours, first.contract).items():
            other = checks.streams(theirs, second.contract)[kind]
            np.testing.assert_array_equal(stream.values, other.values)
            np.testing.assert_array_equal(stream.timestamps, other.timestamps)
    for position in (0, 5):
        np.testing.assert_equal(asdict(second.train[position]), asdict(first.train[position]))


def kept_facts() -> list[Path]:
    return sorted(cache.folder().glob("read/*/*.json"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams whose values were gone over."""
    found = []

    def counted(*arguments: object, **named: object) -> object:
        found.append(arguments[1])
        return finite_chunks(*arguments, **named)  # type: ignore[arg-type]

    finite_chunks = checks.finite_chunks
    monkeypatch.setattr(checks, "finite_chunks", counted)
    monkeypatch.setattr(numbers, "finite_chunks", counted)
    return found


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a clock of its own": write_clocked,
    "v3.0": lambda root: write_v3(root, (12, 15, 11)),
    "samples": lambda root: [write_streams(root / name) for name in "abc"] and root,
    "windows": lambda root: [write_windows(root / name, compressed=name == "c") for name in "abc"] and root,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("changes", [{}, {"quarantine": 5, "compand": ("actions",), "withhold": ("state",)}])
def test_the_second_start_has_the_same_numbers_and_reads_none(
    tmp_path: Path, passes: list[str], kind: str, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    root = WRITERS[kind](tmp_path / "set")
    first = opened(root, **changes)
    assert passes and not first.recalled
    passes.clear()
    second = opened(root, **changes)
    assert second.recalled and not passes
    assert_same(first, second)
    assert_same(first, opened(root, **changes, verify=True))
    assert passes, "to verify is to read"
    assert not caplog.records
    assert not list((tmp_path / "set").rglob("*.json")) or kind != "samples", "nothing is written beside the data"


def test_the_second_start_reads_little(tmp_path: Path) -> None:
    """By read() and through memory maps. The system maps 16 pages round each one looked at, all of which count here.

    A hundredth of 1 GB, measured on the disk, is shown by tests/benchmarks/start_cost.py.
    """
    root = tmp_path / "set"
    write_wrench(root, 50_000_000, files=1)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    first = opened(root, validation_share=0.0)
    assert bytes_read() > size
    statistics = first.statistics["sensor"]
    del first
    gc.collect()
    cache._sampled.cache_clear()  # as in a process of its own
    before = bytes_read()
    second = opened(root, validation_share=0.0)
    read = bytes_read() - before
    assert second.recalled
    np.testing.assert_array_equal(second.statistics["sensor"].mean, statistics.mean)
    assert read < 0.05 * size, f"{read:,} of {size:,} bytes"


LOOKED: list[int] = []
"""Bytes of each look at the maps of this process: as many megabytes as it has libraries."""


def bytes_read() -> int:
    """By this process with read(), but for what is read here, and of files mapped into its memory as they are."""
    maps = Path("/proc/self/smaps").read_text()
    LOOKED.append(len(maps))
    asked = int(Path("/proc/self/io").read_text().split()[1]) - sum(LOOKED)
    mapped, counts = 0, False
    for line in maps.splitlines():
        if line.startswith("Rss:") and counts:
            mapped += 1024 * int(line.split()[1])
        elif "-" in line.split(" ", 1)[0]:
            counts = line.endswith((".npy", ".npz", ".arrow"))
    return asked + mapped


@pytest.mark.parametrize("sampled", [True, False])
def test_other_content_behind_the_same_size_and_times_is_read(
    tmp_path: Path, sampled: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value changes in place: the table has the same path, bytes, inode and time of modification.

    Where no sampled block has changed, its time of status change tells.
    """
    if not sampled:
        monkeypatch.setattr(cache, "_sampled", lambda *_: "the same")
    root = write_v3(tmp_path / "set", (12, 15, 11))
    assert opened(root, validation_share=0.0).statistics["actions"].minimum[0] == 0
    (path,) = (root / "data").rglob("*.parquet")
    status = path.stat()
    content = path.read_bytes()
    value = actions_of(2, 11)[7].tobytes()
    assert content.count(value) == 1, "the writer stores it as it is"
    with path.open("r+b") as file:
        file.seek(content.index(value))
        file.write(np.array([-5000, 5000, 0], dtype=np.float32).tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = path.stat()
    assert (changed.st_size, changed.st_mtime_ns, changed.st_ino) == (status.st_size, status.st_mtime_ns, status.st_ino)
    after = opened(root, validation_share=0.0)
    assert not after.recalled
    assert after.statistics["actions"].minimum[0] == -5000
    assert [record.getMessage() for record in caplog.records] == [
        f"{root} has changed since it was read: it is read anew"
    ]
    assert_same(after, opened(root, validation_share=0.0, verify=True))
    assert opened(root, validation_share=0.0).recalled


def test_the_sampled_blocks_tell_where_the_system_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network storage whose inodes and times mean nothing."""
    path = tmp_path / "file"
    content = bytearray(os.urandom(cache.BLOCKS * cache.BLOCK * 4))
    path.write_bytes(content)
    digest = cache._sampled(path, cache.BLOCKS, len(content), 1)
    same, first, last, between = bytearray(content), bytearray(content), bytearray(content), bytearray(content)
    first[0] ^= 1
    last[-1] ^= 1
    between[cache.BLOCK + 5] ^= 1
    digests = []
    for number, changed in enumerate((same, first, last, between)):
        path.write_bytes(changed)
        digests.append(cache._sampled(path, cache.BLOCKS, len(content), 2 + number))
    assert [found == digest for found in digests] == [True, False, False, True], "a sample is not the whole"


def test_a_parquet_footer_is_part_of_the_stamp(tmp_path: Path) -> None:
    """One of many row groups lies between the samples for the most part."""
    path = tmp_path / "table.parquet"
    table = pa.table({"x": np.random.default_rng(0).normal(size=400_000)})
    pq.write_table(table, path, row_group_size=200)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    sampled = {(len(content) - cache.BLOCK) * i // (cache.BLOCKS - 1) // cache.BLOCK for i in range(cache.BLOCKS)}
    at = next(
        place
        for place in range(len(content) - footer, len(content) - cache.BLOCK)
        if place // cache.BLOCK not in sampled
    )
    digest = cache._sampled(path, cache.BLOCKS, len(content), 1)
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    assert cache._sampled(path, len(content), 2) != digest


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def edited(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": {}}))


def of_another_layout(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": cache.LAYOUT + 1}))


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize("damage", [truncated, emptied, edited, of_another_layout, a_list])
def test_facts_that_cannot_be_used_are_found_anew(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    root = write_clocked(tmp_path / "set")
    first = opened(root)
    facts = kept_facts()
    assert len(facts) == 2
    for path in facts:
        damage(path)
    second = opened(root)
    assert not second.recalled
    assert_same(first, second)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(any(str(path) in sentence and "read anew" in sentence for sentence in said) for path in facts)
    assert ("of layout 2, expected 1" in said[0]) == (damage is of_another_layout)
    assert opened(root).recalled, "they are mended"


def test_an_array_that_is_cut_off_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_clocked(tmp_path / "set")
    first = opened(root)
    arrays = sorted(cache.folder().rglob("*.npy"))
    assert len(arrays) == 4
    del first
    gc.collect()
    for path in arrays:
        truncated(path)
    assert_same(opened(root), opened(root, verify=True))
    assert len(caplog.records) == len(arrays)


def test_a_folder_is_the_same_by_another_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    by_name, by_link = (
        cache.Entry(purpose="a test", stamps={root: cache.stamp([root / "file"])})
        for root in (tmp_path / "data", tmp_path / "link")
    )
    by_name.keep(7)
    assert by_link.recall() == 7
    assert not caplog.records


def test_what_was_kept_of_former_content_is_removed(tmp_path: Path) -> None:
    root = write_clocked(tmp_path / "set")
    opened(root)
    kept = [{path.name for path in cache.folder().rglob("*.npy")}, len(list(tables.kept_tables().rglob("*.arrow")))]
    for path in root.rglob("*.parquet"):
        os.utime(path, ns=(0, 0))
    opened(root)
    assert kept == [
        {path.name for path in cache.folder().rglob("*.npy")},
        len(list(tables.kept_tables().rglob("*.arrow"))),
    ]
    assert len(list(cache.folder().rglob("*.npy"))) == len(kept[0])


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_clocked(tmp_path / "set")
    expected = opened(root)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        found = opened(root)
        assert not found.recalled
        assert_same(found, expected)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the cache {tmp_path}/file/touchstone cannot be written (Not a directory): each process reads and holds all "
        "numbers itself; set XDG_CACHE_HOME to a folder that can be written"
    )


def test_several_starts_at_once(tmp_path: Path) -> None:
    root = write_clocked(tmp_path / "set")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: opened(root), range(8)))
    for each in found[1:]:
        assert_same(found[0], each)
    assert opened(root).recalled
    assert not list(cache.folder().rglob("*.part"))


def test_what_is_known_depends_on_the_split_and_on_what_is_withheld(tmp_path: Path) -> None:
    root = write_clocked(tmp_path / "set")
    opened(root)
    assert opened(root, horizon=3, sensor_weight=1.0).recalled, "says nothing of the numbers"
    for change in (
        {"validation_share": 0.0},
        {"withhold": ("state",)},
        {"compand": ("actions",)},
        {"sensor": ("none",)},
        {"episodes": (0, 1)},
        {"quarantine": 1},
    ):
        assert not opened(root, **change).recalled, change
        assert opened(root, **change).recalled, change
    assert not open_dataset(config(root), 1).recalled


@pytest.mark.parametrize("quarantine", [0, 5])
def test_refused_data_are_refused_each_time(tmp_path: Path, quarantine: int) -> None:
    """What is not finite; a quarantine keeps such rows out of the statistics, known ones too."""
    values = np.random.default_rng(0).normal(size=(12, 4, 2)).astype(np.float32)
    values[5, 1, 0] = np.nan
    root = write_v2(
        tmp_path / "set", (12, 12), columns={"observation.wrench": lambda _: values.tolist()}, extra=WINDOWS
    )
    for number in range(2):
        if quarantine:
            found = opened(root, quarantine=quarantine)
            assert found.recalled == (number == 1)
            assert found.statistics["sensor"].count < 48
        else:
            with pytest.raises(CorruptData, match="has nan in sensor, row 21, dimension 0"):
                opened(root)


def test_doctor_believes_nothing(tmp_path: Path) -> None:
    root = write_clocked(tmp_path / "set")
    opened(root)
    facts = kept_facts()
    before = time.time_ns()
    examine([root])
    assert all(not path.exists() or path.stat().st_mtime_ns > before for path in facts)
    assert not opened(root).recalled
