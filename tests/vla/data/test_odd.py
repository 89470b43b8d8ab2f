"""Inputs of which it may be debated what is right: what is done with each is done, and said (docs/data.md)."""

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vla.data.recordings import CAMERA, actions_of, number_of, numbered_frame, write_v2, write_v3
from vla.data.containers import read_frame_index
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.data.tables import float_rows, integer_column
from vla.errors import CorruptData
from vla.settings import DataConfig


def opened(root: Path, **config: Any) -> Dataset:
    return open_dataset(DataConfig(roots=(str(root),), **{"horizon": 4, "workers": 0, **config}), 0)


def blind(root: Path, times: Callable[[int], np.ndarray], lengths: tuple[int, ...] = (60, 60), **more: Any) -> Path:
    """Episodes at 20 Hz without a camera, whose rows stand at these times."""
    stamps = {"timestamp": lambda length: pa.array(times(length))}
    write_v2(root, lengths, camera="image", columns=stamps | more.pop("columns", {}), **more)
    edit(root, lambda info: info["features"].pop(CAMERA))
    return root


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def uneven(times: np.ndarray, horizon: int, fps: float) -> int:
    """Chunks that are not rows one after the other, found one at a time."""
    count = 0
    for now in times:
        steps = [now + step / fps for step in range(horizon)]
        places = [min(range(len(times)), key=lambda row: abs(times[row] - step)) for step in steps]
        there = [place for place, step in zip(places, steps, strict=True) if abs(times[place] - step) <= 0.5 / fps]
        count += any(later != earlier + 1 for earlier, later in pairwise(there))
    return count


CLOCKS: dict[str, Callable[[int], np.ndarray]] = {
    "jitter": lambda n: np.cumsum(np.random.default_rng(n).uniform(0.02, 0.08, n)),
    "bursts": lambda n: np.arange(n) // 3 * 0.15 + np.arange(n) % 3 * 0.001,
    "rows too fast": lambda n: np.arange(n) / 33,
    "even": lambda n: np.arange(n) / 20,
    "a little slow": lambda n: np.arange(n) / 19.97,
    "rows dropped": lambda n: np.delete(np.arange(n + 3) / 20, [7, 8, 30]),
    "little jitter": lambda n: (np.arange(n) + np.random.default_rng(0).uniform(-0.2, 0.2, n)) / 20,
}


@pytest.mark.parametrize("clock", CLOCKS)
def test_chunks_that_skip_or_repeat_a_row_are_counted(tmp_path: Path, clock: str) -> None:
    root = blind(tmp_path / "set", CLOCKS[clock])
    expected = 2 * uneven(CLOCKS[clock](60), 4, 20)
    assert (expected > 0) == (clock in ("jitter", "bursts", "rows too fast"))
    found = [line for line in opened(root).remarks if "skip or repeat a row" in line]
    assert len(found) == (expected > 0)
    if expected:
        assert f"{root}: {expected} of 120 chunks skip or repeat a row" in found[0]
        (report,) = examine([root], horizon=4).roots
        assert any(remark.startswith(f"{expected} of 120 chunks") for remark in report.remarks)


def test_unix_seconds_begin_at_the_first_row(tmp_path: Path) -> None:
    started = 1760000001.3
    stamps = {"timestamp": lambda length: pa.array(started + np.arange(length) / 20)}
    root = write_v2(tmp_path / "set", (8, 9), columns=stamps)
    data = opened(root, validation_share=0.0)
    for index in range(len(data.everything)):
        episode, row = data.everything.locate(index)
        assert number_of(np.asarray(data.everything[index].images[0])) == 10 * int(episode[-6:]) + row
    assert any("timestamp is unix seconds: the first row of each episode" in line for line in data.remarks)
    (report,) = examine([root]).roots
    assert (report.problems, report.gaps) == ((), ())
    windows = {"observation.force": {"dtype": "float32", "shape": [2, 1], "names": None, "info": {"sensor_hz": 40}}}
    windows["observation.force_timestamp"] = {"dtype": "float64", "shape": [2], "names": None}

    def clock(length: int) -> np.ndarray:
        return started + np.arange(length)[:, None] / 20 + np.array([-0.025, 0.0])

    columns = {
        "observation.force": lambda length: pa.array(np.arange(2.0 * length).reshape(length, 2, 1).tolist()),
        "observation.force_timestamp": lambda length: pa.array(clock(length).tolist()),
    }
    felt = opened(blind(tmp_path / "felt", lambda n: clock(n)[:, 1], columns=columns, extra=windows))
    reading = felt.everything[5].streams["sensor"]
    assert reading.valid.all()
    assert reading.values[:, 0].tolist() == [10.0, 11.0]
    narrow = blind(tmp_path / "narrow", lambda n: (started + np.arange(n) / 20).astype(np.float32))
    with pytest.raises(CorruptData, match="its time stamps are unix seconds in 32 bits, .*: write seconds since"):
        opened(narrow)


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_what_the_metadata_say_beside_the_data_is_said(tmp_path: Path, write: Callable[..., Path]) -> None:
    root = write(tmp_path / "set", (6, 9, 5))

    def change(info: dict[str, Any]) -> None:
        info |= {"splits": {"train": "0:2", "test": "2:3", "val": "later"}, "total_frames": 25, "total_episodes": 3}

    edit(root, change)
    lines = opened(root).remarks
    assert f"{root}: meta/info.json counts 25 frames, the episode list 20: the list counts" in lines
    apart = "meta/info.json keeps episodes 2 apart as `test`, and they are read like all others"
    assert any(apart in line for line in lines)
    assert any(apart in remark for remark in examine([root]).roots[0].remarks)
    assert not any("apart as" in line for line in opened(root, episodes=(0, 1)).remarks)
    edit(root, lambda info: info.update(splits={"train": "0:3"}, total_frames=20))
    assert not any("meta/info.json" in line for line in opened(root).remarks)


@pytest.mark.parametrize("same", [True, False])
def test_an_episode_that_is_listed_twice(tmp_path: Path, same: bool) -> None:
    root = write_v2(tmp_path / "set")
    path = root / "meta/episodes.jsonl"
    lines = path.read_text().splitlines()
    earlier = json.loads(lines[1]) | ({} if same else {"length": 4})
    path.write_text("\n".join([json.dumps(earlier), *lines]))
    data = opened(root)
    assert f"{root}: episode 1 listed more than once in meta: the last row of each counts" in data.remarks
    assert len(data.train.locate(0)[0]) > 0
    assert sum(map(len, (data.everything, data.validation))) == 20
    path.write_text("\n".join([*lines, json.dumps(earlier | {"length": 4})]))
    with pytest.raises(CorruptData, match="episode 1 has 9 rows, its metadata says 4; restore"):
        opened(root)


def test_without_instructions_a_task_may_be_empty(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", (6, 6, 6, 6))
    tasks = root / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().replace("push the box", ""))
    sentence = "has an empty instruction; write .* into the task list, or withhold .* with --data.withhold instruction"
    with pytest.raises(ValueError, match=sentence):
        opened(root)
    assert not opened(root, withhold=("instruction",)).contract.instructed


def nulled(length: int, *, row: int | None = None, dimension: int | None = None) -> pa.Array:
    actions: list[Any] = actions_of(0, length).tolist()
    if dimension is None:
        actions[row or 0] = None
    else:
        actions[row or 0][dimension] = None
    return pa.array(actions, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("empty", "place"), [({"row": 3, "dimension": 1}, "row 3, dimension 1"), ({"row": 4}, "row 4, dimension 0")]
)
def test_an_empty_value_is_no_number_and_may_be_quarantined(tmp_path: Path, empty: dict[str, int], place: str) -> None:
    root = blind(
        tmp_path / "set", lambda n: np.arange(n) / 20, (6, 6), columns={"action": lambda n: nulled(n, **empty)}
    )
    with pytest.raises(CorruptData, match=rf"episode_00000\d has nan in actions, {place}: repair the data"):
        opened(root)
    data = opened(root, quarantine=50, validation_share=0.5)
    assert {data.everything[index].weight for index in range(6)} == {0.0, 1.0}
    (report,) = examine([root]).roots
    assert [dimension.not_finite for dimension in report.dimensions[:3]] == ([0, 2, 0] if len(empty) > 1 else [2] * 3)


def test_an_empty_value_where_a_number_must_be_is_refused_with_its_row(tmp_path: Path) -> None:
    root = blind(tmp_path / "times", lambda n: np.arange(n) / 20)
    path = min(root.rglob("*.parquet"))
    table = pq.read_table(path)
    stamps = table["timestamp"].to_pylist()
    stamps[7] = None
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(stamps)), path)
    with pytest.raises(CorruptData, match="episode_000000: row 7 has no time stamp"):
        opened(root)
    with pytest.raises(CorruptData, match="task holds no number in row 2; record it again"):
        integer_column(pa.chunked_array([[1, 1, None]], pa.int64()), "task")
    windows = pa.chunked_array([[[[1.0], [None]], None]], pa.list_(pa.list_(pa.float32())))
    np.testing.assert_array_equal(
        float_rows(windows, (2, 1), "windows")[..., 0], np.array([[1, np.nan], [np.nan, np.nan]], np.float32)
    )
    flags = pa.chunked_array([[[True, None], [False, True]]], pa.list_(pa.bool_()))
    np.testing.assert_array_equal(float_rows(flags, (2,), "flags"), [[1, np.nan], [0, 1]])


@pytest.mark.parametrize(("codec", "reordered"), [("mpeg4", 2), ("libx264", 3), ("mpeg4", 0), ("mjpeg", 0)])
def test_avi_with_frames_out_of_order_is_refused(tmp_path: Path, codec: str, reordered: int) -> None:
    path = tmp_path / "video.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=20, options={"bf": str(reordered), "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    if not reordered:
        assert len(read_frame_index(path).ticks) == 24
        return
    with pytest.raises(CorruptData, match=r"video\.avi is AVI with frames out of order \(B-frames\), and AVI stores"):
        read_frame_index(path)


@pytest.mark.parametrize("unit", [["rad", "rad"], 5, {"x": "rad", "y": "rad"}])
def test_units_that_fit_no_dimension_are_said(tmp_path: Path, unit: Any) -> None:
    root = blind(tmp_path / "set", CLOCKS["even"])
    edit(root, lambda info: info["features"]["action"].update(unit=unit))
    said = " ".join(" ".join(opened(root).table()).split())
    assert f"{root}: units of action are not one for all, nor one each as texts: taken for unsaid" in said
    edit(root, lambda info: info["features"]["action"].update(unit="rad"))
    assert "taken for unsaid" not in " ".join(opened(root).table())
