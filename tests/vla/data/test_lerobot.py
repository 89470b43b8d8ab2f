"""Three versions of the format give the same episodes, and what is wrong is said in one sentence at open."""

import json
import math
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vla.data.recordings import CAMERA, TASKS, actions_of, number_of, numbered_frame, write_v2, write_v3
from vla.data.angles import named_period
from vla.data.dataset import open_dataset
from vla.data.formats.lerobot.metadata import is_lerobot
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.settings import DataConfig

G1_EPISODES = (29, 30, 31, 59, 82)


@pytest.fixture(params=["v2.0", "v2.1", "v3.0"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "v3.0":
        return write_v3(tmp_path / "set")
    return write_v2(tmp_path / "set", version=request.param)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_version_gives_the_same_episodes(root: Path) -> None:
    reader = open_lerobot(root)
    assert is_lerobot(root)
    assert reader.layout.cameras == (CAMERA,)
    assert reader.layout.action_names == ("x", "y", "yaw_deg")
    assert reader.layout.state_names == ("shoulder", "elbow")
    assert (reader.layout.state_dim, reader.layout.action_dim, reader.layout.fps) == (2, 3, 20.0)
    assert [len(episode.timestamps) for episode in reader.episodes] == [6, 9, 5]
    for index, episode in enumerate(reader.episodes):
        length = len(episode.timestamps)
        assert episode.name == f"set/episode_{index:06d}"
        assert episode.index == index
        assert set(episode.instructions) == {TASKS[index % 2]}
        assert np.array_equal(episode.timestamps, np.arange(length) / 20)
        assert np.array_equal(episode.actions.values, actions_of(index, length))
        assert episode.state is not None
        assert np.array_equal(episode.state.values, actions_of(index, length)[:, :2])
        frames = episode.cameras[CAMERA].read(range(length))
        assert [number_of(frame) for frame in frames] == [10 * index + i for i in range(length)]


def test_episodes_are_chosen_by_index(root: Path) -> None:
    reader = open_lerobot(root, Selection(episodes=(2, 1)))
    assert [episode.index for episode in reader.episodes] == [1, 2]
    assert np.array_equal(reader.episodes[1].actions.values, actions_of(2, 5))
    with pytest.raises(ValueError, match=r"has no episode 7; it has 3, from 0 to 2"):
        open_lerobot(root, Selection(episodes=(1, 7)))


def test_a_folder_with_brackets_in_its_name(tmp_path: Path) -> None:
    assert len(open_lerobot(write_v3(tmp_path / "run [1] *")).episodes) == 3


def test_tables_are_mapped_not_copied(root: Path) -> None:
    actions = open_lerobot(root).episodes[0].actions.values
    assert not actions.flags.owndata
    assert not actions.flags.writeable


def test_a_reader_pickles_as_its_path(root: Path) -> None:
    reader = open_lerobot(root, Selection(episodes=(0, 2)))
    content = pickle.dumps(reader)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert again.layout == reader.layout
    assert np.array_equal(again.episodes[1].actions.values, reader.episodes[1].actions.values)


def sum_of_actions(root: Path) -> float:
    return float(sum(episode.actions.values.sum() for episode in open_lerobot(root).episodes))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_open_the_same_root_at_once(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    expected = sum(actions_of(i, n).sum() for i, n in enumerate((6, 9, 5)))
    with multiprocessing.get_context("fork").Pool(4) as ranks:
        assert ranks.map(sum_of_actions, [root] * 8) == [float(expected)] * 8


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    assert open_lerobot(root).episodes[0].actions.values[0, 0] == 0
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    actions = (actions_of(0, 6) + 5).tolist()
    pq.write_table(table.set_column(table.column_names.index("action"), "action", pa.array(actions)), path)
    assert open_lerobot(root).episodes[0].actions.values[0, 0] == 5


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(ValueError, match="set HF_DATASETS_CACHE") as caught:
        open_lerobot(write_v3(tmp_path / "set"))
    assert not isinstance(caught.value, CorruptData)


def test_real_episodes_are_the_same_in_both_versions(shared: Path) -> None:
    new = open_lerobot(shared / "data/g1_pick_bottle_v30")
    old = open_lerobot(shared / "data/g1_pick_bottle", Selection(episodes=G1_EPISODES))
    assert [episode.index for episode in old.episodes] == list(G1_EPISODES)
    assert new.layout.action_names[0] == "kLeftShoulderPitch"
    assert new.layout.action_names == old.layout.action_names
    assert not any(new.layout.action_periods), "joint angles do not wrap"
    for a, b in zip(new.episodes, old.episodes, strict=True):
        assert a.instructions[0] == b.instructions[0] == "Pick up the yellow bottle on the table."
        assert np.array_equal(a.timestamps, b.timestamps)
        assert np.array_equal(a.actions.values, b.actions.values)
        assert a.state is not None
        assert b.state is not None
        assert np.array_equal(a.state.values, b.state.values)
        (camera,) = new.layout.cameras
        some = [0, 1, 2, 3, 57, 58, len(a.timestamps) - 2, len(a.timestamps) - 1]
        for first, second in zip(a.cameras[camera].read(some), b.cameras[camera].read(some), strict=True):
            assert np.array_equal(first, second)


def test_windows_of_a_sensor_become_one_stream(needle: Path) -> None:
    reader = open_lerobot(needle)
    layout = reader.layout
    ((key, stream),) = layout.streams.items()
    assert (key, stream.channels, stream.samples, stream.rate_hz) == ("observation.ft", 6, 50, 1000.0)
    table = pq.read_table(needle / "data/chunk-000/file-000.parquet").slice(0, 17)
    sensor = reader.episodes[0].streams["observation.ft"]
    assert np.array_equal(sensor.values, np.array(table["observation.ft"].to_pylist(), np.float32).reshape(-1, 6))
    assert np.allclose(np.diff(sensor.timestamps), 0.001)
    for frame, now in enumerate(reader.episodes[0].timestamps):
        window = sensor.values[np.searchsorted(sensor.timestamps, now, side="right") - 50 :][:50]
        assert np.array_equal(window, np.array(table["observation.ft"][frame].as_py(), np.float32))
    assert open_lerobot(needle, Selection(sensor=("none",))).layout.streams == {}


def test_overlapping_windows_give_each_sample_once(tmp_path: Path) -> None:
    """Five frames a second, each with the last second of a 100 Hz signal that says its own time."""

    def windows(length: int) -> Any:
        times = np.arange(length)[:, None] / 5 - np.arange(99, -1, -1) / 100
        return np.stack([times, -times], axis=-1).astype(np.float32).tolist()

    extra = {"observation.force": {"dtype": "float32", "shape": [100, 2], "info": {"sensor_hz": 100}}}
    root = write_v2(tmp_path / "set", fps=5, columns={"observation.force": windows}, extra=extra)
    reader = open_lerobot(root)
    assert reader.layout.streams["observation.force"].rate_hz == 100.0
    for episode in reader.episodes:
        force = episode.streams["observation.force"]
        assert len(force.timestamps) == 100 + 20 * (len(episode.timestamps) - 1)
        assert np.allclose(force.values[:, 0], force.timestamps, atol=1e-6)
        assert np.allclose(np.diff(force.timestamps), 0.01)


def test_a_sensor_slower_than_the_frames_shows_its_newest_reading(tmp_path: Path) -> None:
    """A reading at 3 Hz that each of ten frames a second stores anew; and two readings a frame, of one at 5 Hz."""
    extra = {
        "observation.slow": {"dtype": "float32", "shape": [1], "info": {"sensor_hz": 3}},
        "observation.pair": {"dtype": "float32", "shape": [2, 1], "info": {"sensor_hz": 5}},
    }
    columns = {
        "observation.slow": lambda length: np.arange(length, dtype=np.float32).tolist(),
        "observation.pair": lambda length: [[[frame - 2.0], [float(frame)]] for frame in range(length)],
    }
    root = write_v2(tmp_path / "set", fps=10, columns=columns, extra=extra)
    config = DataConfig(roots=(str(root),), sensor=("slow", "pair"), horizon=4, workers=0, validation_share=0.0)
    samples = open_dataset(config, 0).everything
    for index in range(len(samples)):
        frame, streams = samples.locate(index)[1], samples[index].streams
        for reading in streams.values():
            assert (reading.values[-1], reading.valid[-1]) == (frame, True)
        held = [place for back in (2, 1, 0) if (place := math.floor(frame - 10 * back / 3)) >= 0]
        assert streams["sensor/slow"].values[streams["sensor/slow"].valid, 0].tolist() == held


def test_samples_that_are_not_valid_are_left_out(tmp_path: Path) -> None:
    def windows(length: int) -> Any:
        return np.arange(length * 8, dtype=np.float32).reshape(length, 4, 2).tolist()

    def valid(length: int) -> Any:
        flags = np.ones((length, 4), bool)
        flags[1, 2:] = flags[3] = False
        return (flags if length != 5 else np.zeros((5, 4), bool)).tolist()

    extra = {
        "observation.touch": {"dtype": "float32", "shape": [4, 2]},
        "observation.touch_valid": {"dtype": "bool", "shape": [4]},
    }
    columns = {"observation.touch": windows, "observation.touch_valid": valid}
    reader = open_lerobot(write_v2(tmp_path / "set", columns=columns, extra=extra))
    sensor = reader.episodes[0].streams["observation.touch"]
    kept = [row for row in range(24) if row not in (6, 7, 12, 13, 14, 15)]
    assert sensor.values[:, 0].tolist() == [2.0 * row for row in kept]
    assert np.allclose(sensor.timestamps, [(row - 3) / 80 for row in kept])
    assert reader.episodes[2].streams == {}


def test_several_sensors_ask_for_a_choice(tmp_path: Path) -> None:
    def make(length: int) -> Any:
        return np.ones((length, 4), np.float32).tolist()

    keys = ("observation.effort", "observation.left_wrench", "observation.velocity")
    extra = {key: {"dtype": "float32", "shape": [4]} for key in keys}
    root = write_v2(tmp_path / "set", columns=dict.fromkeys(keys, make), extra=extra)
    with pytest.raises(ValueError, match=r"observation\.effort, observation\.left_wrench; name one or more"):
        open_lerobot(root)
    for asked in (("observation.effort",), ("effort",), ("left_wrench", "effort")):
        streams = open_lerobot(root, Selection(sensor=asked)).layout.streams
        assert [key.rpartition(".")[2] for key in streams] == [key.rpartition(".")[2] for key in asked]
        effort = streams["observation.effort"]
        assert (effort.rate_hz, effort.samples, effort.channels) == (20.0, 20, 4)
    with pytest.raises(
        ValueError,
        match=r"no sensor stream observation\.efort .*: did you mean observation\.effort",
    ):
        open_lerobot(root, Selection(sensor=("observation.efort",)))
    with pytest.raises(ValueError, match=r"--data\.sensor names observation\.effort of .* twice"):
        open_lerobot(root, Selection(sensor=("effort", "observation.effort")))


def test_columns_are_read_when_asked_for(tmp_path: Path) -> None:
    columns = {
        "phase": lambda length: list(range(length)),
        "observation.contact": lambda length: np.arange(2.0 * length).reshape(-1, 2).tolist(),
        "next.done": lambda length: [False] * (length - 1) + [True],
        "observation.ft": lambda length: np.zeros((length, 6)).reshape(length, 3, 2).tolist(),
    }
    extra = {
        "phase": {"dtype": "int64", "shape": [1]},
        "observation.contact": {"dtype": "float64", "shape": [2]},
        "next.done": {"dtype": "bool", "shape": [1]},
        "observation.ft": {"dtype": "float32", "shape": [3, 2]},
    }
    root = write_v2(tmp_path / "set", columns=columns, extra=extra)
    assert open_lerobot(root).episodes[0].columns == {}
    reader = open_lerobot(root, Selection(columns=("phase", "observation.contact", "next.done")))
    for episode in reader.episodes:
        length = len(episode.timestamps)
        assert episode.columns["phase"].dtype == np.float64  # an int64 may need its digits
        assert episode.columns["phase"][:, 0].tolist() == list(range(length))
        assert episode.columns["observation.contact"].tolist() == np.arange(2.0 * length).reshape(-1, 2).tolist()
        assert episode.columns["next.done"][:, 0].tolist() == [0.0] * (length - 1) + [1.0]
    with pytest.raises(ValueError, match=r"set has no column phasse \(nearest: phase\): choose among .*next\.done"):
        open_lerobot(root, Selection(columns=("phasse",)))
    with pytest.raises(ValueError, match=r"float32 of shape \(3, 2\) in observation\.ft, a column is numbers of shape"):
        open_lerobot(root, Selection(columns=("observation.ft",)))
    with pytest.raises(ValueError, match=r"video of shape \(64, 96, 3\) in observation\.images\.front"):
        open_lerobot(root, Selection(columns=("observation.images.front",)))


def test_images_stored_in_the_table(tmp_path: Path) -> None:
    def images(length: int) -> Any:
        rows = []
        for number in range(length):
            content = BytesIO()
            PIL.Image.fromarray(numbered_frame(number)).save(content, "PNG")
            rows.append({"bytes": content.getvalue(), "path": None})
        return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    reader = open_lerobot(write_v2(tmp_path / "set", columns={CAMERA: images}, camera="image"))
    frames = reader.episodes[1].cameras[CAMERA].read([8, 0, 3])
    assert [number_of(frame) for frame in frames] == [8, 0, 3]
    assert np.array_equal(frames[2], numbered_frame(3).transpose(2, 0, 1))


def test_angles_are_found_by_name_and_unit() -> None:
    assert named_period("yaw_deg", "") == 360.0
    assert named_period("ee_roll", "rad") == pytest.approx(2 * np.pi)
    assert named_period("rz", "") == -1.0
    for name in ("kLeftWristYaw", "left_wrist_roll", "delta_yaw", "gripper", "x", "shoulder_pan.pos", "d_roll", ""):
        assert named_period(name, "rad") == 0.0


def test_an_angle_without_a_unit_is_periodic_where_somebody_says_so(tmp_path: Path) -> None:
    """Never by the size of its values: those of the actions here lie below 2 pi in the first episode, and above."""

    def named(root: Path, name: str) -> Path:
        info = json.loads((root / "meta/info.json").read_text())
        info["features"]["action"]["names"] = ["x", name, "gripper"]
        (root / "meta/info.json").write_text(json.dumps(info))
        return root

    def periods(root: Path, *angles: str) -> tuple[float, ...]:
        return open_lerobot(root, Selection(episodes=(0,), angles=angles)).layout.action_periods

    plain, told = named(write_v2(tmp_path / "plain"), "yaw"), named(write_v2(tmp_path / "told"), "yaw_deg")
    assert periods(plain) == (0.0, 0.0, 0.0)
    assert periods(told) == (0.0, 360.0, 0.0)
    assert periods(plain, "yaw=deg") == periods(plain, "1=deg") == (0.0, 360.0, 0.0)
    assert periods(told, "yaw_deg=deg", "gripper=deg") == (0.0, 360.0, 360.0)
    for words, message in (
        (("yow=rad",), r"has no action dimension yow; it has 0 to 2 \(nearest: yaw\): correct --data\.angles"),
        (("yaw=turns",), r"--data\.angles has 'yaw=turns', expected dimensions .* with rad or deg"),
        (("yaw=rad", "1=deg"), r"--data\.angles names action dimension 1 of .* twice"),
    ):
        with pytest.raises(ValueError, match=message):
            periods(plain, *words)


def test_an_angle_that_was_unwrapped_has_no_period(tmp_path: Path) -> None:
    reader = open_lerobot(write_v2(tmp_path / "short"), Selection(episodes=(0,)))
    assert reader.layout.action_periods == (0.0, 0.0, 360.0)
    assert open_lerobot(write_v2(tmp_path / "long")).layout.action_periods == (0.0, 0.0, 0.0)


def test_a_glitch_is_no_turn_that_somebody_counted(tmp_path: Path) -> None:
    def actions(length: int) -> list[list[float]]:
        values = np.stack([np.arange(length), np.zeros(length), 170 + np.arange(length) % 20], axis=1) * 1.0
        values[:, 2] = (values[:, 2] + 180) % 360 - 180
        values[17:18, 2] += 1e6 * (length == 61)
        rows: list[list[float]] = values.tolist()
        return rows

    root = write_v2(tmp_path / "set", (60, 61), columns={"action": actions})
    assert open_lerobot(root).layout.action_periods == (0.0, 0.0, 360.0)
    data = open_dataset(DataConfig(roots=(str(root),), horizon=4, validation_share=0.0), seed=0)
    said = " ".join(" ".join(data.table()).split())
    assert "actions[2] yaw_deg: 1 stray value beyond a turn of the others" in said


def test_metadata_that_lists_more_than_is_there(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"95 of 100 .*episode_000000\.parquet.*--data\.episodes 29 30 31 59 82`"):
        open_lerobot(shared / "data/g1_pick_bottle")
    root = write_v2(tmp_path / "set")
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 episodes are not there \(episode 1: .*`--data\.without 1`"):
        open_lerobot(root)
    assert [episode.index for episode in open_lerobot(root, Selection(episodes=(0, 2))).episodes] == [0, 2]
    assert [episode.index for episode in open_lerobot(root, Selection(without=(1,))).episodes] == [0, 2]
    with pytest.raises(ValueError, match=r"leave them out with `--data\.without 1`"):
        open_lerobot(root, Selection(episodes=(0, 1)))


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    path = root / "data/chunk-000/file-000.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 15), path)
    with pytest.raises(ValueError, match=r"1 of 3 episodes are not there \(episode 2"):
        open_lerobot(root)
    assert len(open_lerobot(root, Selection(episodes=(0, 1))).episodes) == 2
    pq.write_table(whole.slice(0, 14), path)
    with pytest.raises(CorruptData, match=r"episode 1 has 8 rows, its metadata says 9"):
        open_lerobot(root, Selection(episodes=(0, 1)))


def test_a_camera_missing_in_one_episode(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    with pytest.raises(ValueError, match=r"1 videos are not there \(episode 1: .*`--data\.missing-cameras mask`"):
        open_lerobot(root)
    reader = open_lerobot(root, Selection(missing_cameras="mask"))
    assert [list(episode.cameras) for episode in reader.episodes] == [[CAMERA], [], [CAMERA]]
    shutil.rmtree(root / "videos")
    with pytest.raises(ValueError, match=r"no episode has a readable video of camera observation\.images\.front"):
        open_lerobot(root, Selection(missing_cameras="mask"))


def test_a_camera_that_does_not_exist(root: Path) -> None:
    assert open_lerobot(root, Selection(cameras=("front",))).layout.cameras == (CAMERA,)
    with pytest.raises(ValueError, match=r"no camera frnt: did you mean front"):
        open_lerobot(root, Selection(cameras=("frnt",)))


def test_truncated_tables_are_corrupt(root: Path) -> None:
    path = min(root.rglob("data/**/*.parquet"))
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptData, match=rf"{path.name} is not a complete parquet file"):
            open_lerobot(root)


def test_a_table_damaged_inside_names_its_file(root: Path) -> None:
    path = max(root.rglob("data/**/*.parquet"))
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(CorruptData, match=path.name):
        open_lerobot(root)


def test_truncated_videos_are_corrupt(root: Path) -> None:
    path = min(root.rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(CorruptData, match=rf"{path.name} is cut off after 900 bytes"):
        open_lerobot(root)


def test_a_video_shorter_than_its_table_is_corrupt(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    folder = root / f"videos/chunk-000/{CAMERA}"
    shutil.copy(folder / "episode_000000.mp4", folder / "episode_000001.mp4")
    with pytest.raises(CorruptData, match=r"episode_000001\.mp4: 3 of 9 rows have no frame, the first at 0\.300 s"):
        open_lerobot(root)


def test_damaged_metadata_is_corrupt(root: Path) -> None:
    info = root / "meta/info.json"
    whole = info.read_text()
    info.write_text(whole[: len(whole) // 2])
    with pytest.raises(CorruptData, match=r"info\.json is not valid JSON"):
        open_lerobot(root)
    info.write_text(whole)
    edit(info, lambda content: content.pop("features"))
    with pytest.raises(CorruptData, match=r"info\.json has no `features`"):
        open_lerobot(root)
    info.write_text(whole)
    for path in (root / "meta").iterdir():
        if path.name.startswith("tasks"):
            path.unlink()
    with pytest.raises(CorruptData, match=r"tasks\.(parquet|jsonl) is not there"):
        open_lerobot(root)


def test_a_folder_called_like_a_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF datasets would put the variable's value in its place; one that is not set stays."""
    monkeypatch.setenv("TOUCHSTONE_FOLDER", "elsewhere")
    with pytest.raises(ValueError, match=r"\$TOUCHSTONE_FOLDER/.* reads like a variable.*rename the folder") as error:
        open_lerobot(write_v3(tmp_path / "$TOUCHSTONE_FOLDER"))
    assert not isinstance(error.value, CorruptData)
    assert len(open_lerobot(write_v3(tmp_path / "$TOUCHSTONE_UNSET")).episodes) == 3


def test_wrong_configuration_is_not_corruption(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    cases = {
        tmp_path / "nowhere": "does not exist",
        tmp_path / "empty": "is empty",
        tmp_path / "file": "is a file",
        tmp_path: "did you mean .*/set",
        root / "data": "did you mean .*/set",
    }
    for path, sentence in cases.items():
        with pytest.raises(ValueError, match=sentence) as caught:
            open_lerobot(path)
        assert not isinstance(caught.value, CorruptData)
    edit(root / "meta/info.json", lambda info: info.update(codebase_version="v1.6"))
    with pytest.raises(ValueError, match=r"version v1\.6; v3\.0, v2\.1, v2\.0 are read"):
        open_lerobot(root)
    edit(root / "meta/info.json", lambda info: info.update(codebase_version="v3.0", features={"actions": {}}))
    with pytest.raises(ValueError, match=r"actions"):
        open_lerobot(root)
