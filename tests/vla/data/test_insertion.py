"""The three layouts of the insertion recorder: every stream says its own time, so that alignment can be measured."""

import csv
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pytest

from vla.__main__ import main
from vla.contract import StreamContract
from vla.data.episode import Episode, Frames
from vla.data.formats.insertion.reader import SENSOR, InsertionReader, is_insertion, open_insertion
from vla.data.formats.insertion.recordings import find_recordings
from vla.data.formats.lerobot.metadata import is_lerobot
from vla.data.selection import Selection
from vla.errors import CorruptData

START = 1761551500.0
"""Unix time at which the robot starts; every clock below is shifted by a fraction of its period against it."""
DURATION = 3.0
CHANNELS = 9


def says(time: float) -> np.ndarray:
    """An image whose grey value is the time in units of 20 ms."""
    return np.full((16, 24, 3), round(time * 50), np.uint8)


def time_of(image: np.ndarray) -> float:
    return float(image.mean()) / 50


def robot_times() -> np.ndarray:
    return np.arange(0, DURATION + 0.005, 0.01)


def pose(time: np.ndarray) -> np.ndarray:
    """x says the time; the last angle crosses +-180 degrees at 1.5 s, 20 degrees a second."""
    angle = (180 + 20 * (time - 1.5) + 180) % 360 - 180
    zero = np.zeros_like(time)
    return np.stack([10 * time, zero, -time, zero + 90, zero, angle], axis=-1)


def write_robot(path: Path, times: np.ndarray | None = None) -> None:
    times = robot_times() if times is None else times
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        joints, poses = [f"joint_{i}" for i in range(1, 7)], [f"pose_{axis}" for axis in "xyzabr"]
        writer.writerow(["recv_timestamp", "origin_timestamp", "send_timestamp", "force_placeholder", *joints, *poses])
        for time, row in zip(times, pose(times), strict=True):
            # The clock of the robot itself is wrong by an hour, as it may be: the time of receipt counts.
            writer.writerow([f"{START + time:.6f}", time, time, 0.0, *[time] * 6, *row])


def write_images(folder: Path, name: str, period: float, shift: float) -> None:
    folder.mkdir(parents=True)
    for time in np.arange(shift, DURATION, period):
        PIL.Image.fromarray(says(time)).save(folder / name.format(f"{START + time:.3f}"), quality=95)


def write_streams(root: Path, forces: str = "forces", alines: str = "alines", sensor: bool = True) -> Path:
    """The old layout: a folder a view, single sensor samples at 650 Hz."""
    folder = root / "needle_insertion/recv_all_20251027_100000"
    folder.mkdir(parents=True)
    write_robot(folder / "robot_state_20251027_100000.csv")
    write_images(folder / "View1/left", "zed_41182735_left_{}.jpg", 0.5, 0.13)
    write_images(folder / "View5", "oak_{}.jpg", 1.0, 0.02)
    if sensor:
        times = np.arange(0.0007, DURATION, 1 / 650)
        arrays = {forces: times, alines: np.tile(-times[:, None], (1, CHANNELS - 1))}
        np.savez(folder / "sensor_data_20251027_100000.npz", timestamps=START + times, **arrays)
    return root


def write_windows(root: Path, order: list[str] | None = None, compressed: bool = False) -> Path:
    """The new layout: windows of one second at 5 Hz, ending at their time stamp."""
    folder = root / "needle_insertion/episode_20251101_120000"
    folder.mkdir(parents=True)
    write_robot(folder / "robot_states.csv")
    write_images(folder / "images/View1", "{}.jpg", 0.2, 0.07)
    write_images(folder / "images/View2", "{}.jpg", 0.2, 0.11)
    (folder / "images/View3").mkdir()
    ends = np.arange(0.05, DURATION, 0.2)
    times = ends[:, None] - np.arange(649, -1, -1) / 650
    force, aline = times[..., None], np.tile(-times[..., None], (1, 1, CHANNELS - 1))
    data = np.concatenate([force, aline] if order is None or order[0] == "force" else [aline, force], axis=-1)
    save: Callable[..., None] = np.savez_compressed if compressed else np.savez
    save(folder / "sensor_data.npz", timestamps=START + ends, data=data.astype(np.float32))
    metadata = {"episode_name": folder.name, "sensor_hz": 650, "robot_hz": 100, "instruction": "insert the needle"}
    if order is not None:
        metadata["channel_order"] = order
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return root


def write_hdf5(root: Path, compressed: bool = False) -> Path:
    """The layout of one HDF5 file an episode, at 15 Hz."""
    root.mkdir(parents=True, exist_ok=True)
    times = np.arange(0, DURATION, 1 / 15)
    with h5py.File(root / "episode_0001.h5", "w") as file:
        file["timestamp"] = START + times
        file["action"] = np.tile(times[:, None], (1, 6)).astype(np.float32)
        file["observations/qpos"] = np.tile(times[:, None], (1, 6)).astype(np.float32)
        file["observations/ee_pose"] = pose(times).astype(np.float32)
        for camera in ("camera1", "camera2"):
            file[f"observations/images/{camera}"] = np.stack([says(time) for time in times])
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "streams": write_streams,
    "windows": write_windows,
    "windows, compressed": lambda root: write_windows(root, compressed=True),
    "HDF5": write_hdf5,
}


@pytest.fixture(params=list(WRITERS))
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> InsertionReader:
    root = WRITERS[request.param](tmp_path / "recordings")
    assert is_insertion(root)
    assert not is_lerobot(root)
    return open_insertion(root)


def spoken_by(frames: Frames, index: int) -> float:
    return time_of(frames.read([index])[0])


def newest(timestamps: np.ndarray, now: float) -> int:
    return int(np.searchsorted(timestamps, now, side="right")) - 1


def test_every_stream_is_aligned_and_nothing_is_later_than_now(reader: InsertionReader) -> None:
    """What is in force at `now` says a time <= now, and less than one period of its own clock before it."""
    (episode,) = reader.episodes
    state, sensor = episode.state, episode.streams.get(SENSOR)
    assert state is not None
    streams: dict[str, tuple[np.ndarray, Callable[[int], float]]] = {
        "state": (state.timestamps, lambda index: float(state.values[index, 6] / 10))
    }
    for key, frames in episode.cameras.items():
        streams[key] = (frames.timestamps, partial(spoken_by, frames))
    if sensor is not None:
        streams["sensor"] = (sensor.timestamps, lambda index: float(sensor.values[index, 0]))
    for name, (timestamps, spoken) in streams.items():
        period = float(np.median(np.diff(timestamps)))
        resolution = 0.0105 if "images" in name else 1e-4
        for now in episode.timestamps:
            index = newest(timestamps, now)
            if index < 0:
                assert now < period
                continue
            assert abs(spoken(index) - timestamps[index]) < min(resolution, period / 2)
            assert spoken(index) <= now + resolution
            assert now - spoken(index) < period + resolution or index == len(timestamps) - 1


def test_sensor_samples_come_once_in_order_force_first(tmp_path: Path) -> None:
    for order in (None, ["force", "aline"], ["aline", "force"]):
        reader = open_insertion(write_windows(tmp_path / str(order), order))
        sensor = reader.episodes[0].streams[SENSOR]
        assert np.allclose(np.diff(sensor.timestamps), 1 / 650, atol=1e-6)
        assert len(sensor.timestamps) == 650 + 14 * 130
        assert np.allclose(sensor.values[:, 0], sensor.timestamps, atol=1e-5)
        assert np.allclose(sensor.values[:, 1:], -sensor.timestamps[:, None], atol=1e-5)
        assert isinstance(sensor.values, np.memmap)
    layout = reader.layout
    window = StreamContract(key=SENSOR, channels=CHANNELS, samples=650, rate_hz=650.0)
    assert layout.streams == {SENSOR: window}


@pytest.mark.parametrize("keys", [("forces", "alines"), ("force", "aline")])
def test_both_spellings_of_the_sensor(tmp_path: Path, keys: tuple[str, str]) -> None:
    reader = open_insertion(write_streams(tmp_path / "set", *keys))
    sensor = reader.episodes[0].streams[SENSOR]
    assert np.allclose(sensor.values[:, 0], sensor.timestamps, atol=1e-5)
    assert np.allclose(sensor.values[:, 5], -sensor.timestamps, atol=1e-5)
    assert reader.layout.streams[SENSOR].rate_hz == pytest.approx(650, rel=1e-3)


def test_actions_are_differences_of_pose_the_short_way_round(tmp_path: Path) -> None:
    (episode,) = open_insertion(write_streams(tmp_path / "set")).episodes
    values = episode.actions.values
    assert values.shape == (30, 7)
    assert np.allclose(values[:, 0], 1.0, atol=1e-4), "10 mm a second, over 0.1 s"
    assert np.allclose(values[:, 2], -0.1, atol=1e-5)
    assert np.allclose(values[:, 5], 2.0, atol=1e-4), "20 degrees a second through +-180"
    assert (values[:, 6] == 1.0).all()
    assert np.allclose(episode.timestamps, np.arange(30) / 10)
    assert np.array_equal(episode.actions.timestamps, episode.timestamps)


def test_steps_in_a_gap_of_the_robot_have_no_action(tmp_path: Path) -> None:
    root = write_streams(tmp_path / "set")
    times = robot_times()
    write_robot(next(root.rglob("robot_state*.csv")), times[(times < 0.995) | (times > 1.345)])
    (episode,) = open_insertion(root).episodes
    missing = set(np.round(episode.timestamps, 1)) - set(np.round(episode.actions.timestamps, 1))
    assert missing == {0.9, 1.0, 1.1, 1.2, 1.3}
    assert np.allclose(episode.actions.values[:, 5], 2.0, atol=1e-3)


def test_hdf5_keeps_its_actions_and_frame_clock(tmp_path: Path) -> None:
    reader = open_insertion(write_hdf5(tmp_path / "set"))
    (episode,) = reader.episodes
    assert reader.layout.fps == 15.0
    assert reader.layout.cameras == ("observation.images.camera1", "observation.images.camera2")
    assert np.allclose(episode.actions.values[:, 0], episode.timestamps, atol=1e-6)
    assert reader.layout.streams == {}


def test_hdf5_with_compressed_images(tmp_path: Path) -> None:
    root = write_hdf5(tmp_path / "set")
    path = tmp_path / "image.jpg"
    PIL.Image.fromarray(says(1.0)).save(path, quality=95)
    with h5py.File(next(root.glob("*.h5")), "a") as file:
        data = file.create_dataset("observations/images/camera3", (45,), h5py.vlen_dtype(np.uint8))
        for index in range(45):
            data[index] = np.frombuffer(path.read_bytes(), np.uint8)
    image = open_insertion(root).episodes[0].cameras["observation.images.camera3"].read([44])[0]
    assert time_of(image) == pytest.approx(1.0, abs=0.03)


def test_instructions_and_names(tmp_path: Path) -> None:
    old = open_insertion(write_streams(tmp_path / "old"))
    new = open_insertion(write_windows(tmp_path / "new"))
    assert old.episodes[0].instructions[0] == "Perform needle insertion task"
    assert new.episodes[0].instructions[0] == "insert the needle"
    assert old.episodes[0].name == "old/recv_all_20251027_100000"
    assert old.layout.cameras == ("observation.images.view1_left", "observation.images.view5")
    assert new.layout.cameras == ("observation.images.view1", "observation.images.view2")
    assert old.layout.action_names[-2:] == ("dr_deg", "gripper")
    again = pickle.loads(pickle.dumps(new))
    assert again.layout == new.layout


def test_a_recording_that_is_left_out_may_be_damaged(tmp_path: Path) -> None:
    root = write_windows(tmp_path / "set")
    broken = root / "task" / "recv_all_20300101_000000"
    broken.mkdir(parents=True)
    (broken / "robot_states.csv").write_text("recv_timestamp\n")
    indices = {path.name: place for place, path in enumerate(find_recordings(root))}
    with pytest.raises(CorruptData, match="has no column"):
        open_insertion(root)
    lost = indices[broken.name]
    reader = open_insertion(root, Selection(without=(lost, 99)))
    assert len(reader.episodes) == len(indices) - 1
    assert reader.layout.left_out == (lost,)
    assert f"episodes left out: {lost}" in reader.layout.remarks
    with pytest.raises(ValueError, match="no recording that is not left out: correct --data.without"):
        open_insertion(root, Selection(without=tuple(indices.values())))


def test_columns_that_nobody_reads_are_named(tmp_path: Path) -> None:
    unread = "not read: origin_timestamp, send_timestamp, force_placeholder"
    assert open_insertion(write_streams(tmp_path / "old")).layout.remarks == (unread,)
    root = write_hdf5(tmp_path / "hdf5")
    with h5py.File(next(root.glob("*.h5")), "a") as file:
        file["observations/qvel"] = np.zeros((45, 6))
    assert open_insertion(root).layout.remarks == ("not read: observations/qvel",)


def test_recordings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = write_windows(tmp_path)
    shutil.copytree(first / "needle_insertion", first / "second")
    second, third = (episode.name for episode in open_insertion(tmp_path).episodes)
    assert second == f"{tmp_path.name}/needle_insertion/episode_20251101_120000"
    assert third == f"{tmp_path.name}/second/episode_20251101_120000"
    assert open_insertion(tmp_path, Selection(episodes=(1,))).episodes[0].name == third


def test_both_folder_layouts_in_one_root(tmp_path: Path) -> None:
    write_streams(tmp_path, sensor=False)
    write_windows(tmp_path)
    with pytest.raises(ValueError, match=r"4 cameras have no image .*`--data\.missing-cameras mask`"):
        open_insertion(tmp_path)
    reader = open_insertion(tmp_path, Selection(missing_cameras="mask"))
    assert [not episode.streams for episode in reader.episodes] == [False, True]
    assert len(open_insertion(tmp_path, Selection(episodes=(1,))).episodes) == 1
    only = open_insertion(tmp_path, Selection(episodes=(0,), cameras=("view2",), sensor=("none",)))
    assert only.layout.cameras == ("observation.images.view2",)
    assert only.layout.streams == {}
    write_hdf5(tmp_path)
    with pytest.raises(ValueError, match="mixes HDF5"):
        open_insertion(tmp_path, Selection(missing_cameras="mask"))


def damage_robot(root: Path) -> None:
    path = next(root.rglob("robot_state*.csv"))
    path.write_bytes(path.read_bytes()[:-30])


def damage_sensor(root: Path) -> None:
    path = next(root.rglob("sensor_data*.npz"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickle_sensor(root: Path) -> None:
    np.savez(next(root.rglob("sensor_data*.npz")), timestamps=np.array([{}, {}], dtype=object))


def shift_sensor(root: Path) -> None:
    path = next(root.rglob("sensor_data*.npz"))
    with np.load(path) as arrays:
        content = dict(arrays)
    content["timestamps"] = content["timestamps"] - 3600
    np.savez(path, **content)


def drop_robot(root: Path) -> None:
    next(root.rglob("robot_state*.csv")).unlink()


def only_cache(root: Path) -> None:
    folder = next(root.rglob("recv_all*"))
    drop_robot(root)
    (folder / "data.pkl").write_bytes(b"\x80\x04.")


def wrong_order(root: Path) -> None:
    next(root.rglob("recv_all*")).joinpath("metadata.json").write_text('{"channel_order": ["force", "torque"]}')


@pytest.mark.parametrize(
    ("damage", "sentence", "kind"),
    [
        (damage_robot, r"robot_state.*\.csv, line \d+ is incomplete", CorruptData),
        (damage_sensor, r"sensor_data.*\.npz is not a complete NPZ file", CorruptData),
        (pickle_sensor, r"sensor_data.*\.npz is not a complete NPZ file of numbers", CorruptData),
        (shift_sensor, "their clocks differ", CorruptData),
        (drop_robot, r"has no robot_state_\*\.csv", CorruptData),
        (only_cache, r"holds only data\.pkl.*give the recording it was made from", ValueError),
        (wrong_order, r"channel_order .*force and aline are expected", ValueError),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, damage: Callable[[Path], None], sentence: str, kind: Any) -> None:
    root = write_streams(tmp_path / "set")
    damage(root)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_insertion(root)
    assert type(caught.value) is kind


@pytest.mark.parametrize("keys", [("action", "observations/qpos"), ("data/demo_0/actions",), ()])
def test_hdf5_of_another_program_is_foreign_and_not_corrupt(
    keys: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ALOHA and robomimic write it, and nothing at all."""
    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        for key in keys:
            file[key] = np.zeros((20, 7))
    assert main(["doctor", str(tmp_path)]) == 78
    said = " ".join(capsys.readouterr().out.split())
    assert "is HDF5 of another layout" in said
    assert "convert it to LeRobot v3.0" in said
    assert "restore" not in said


def test_a_truncated_hdf5_file_and_image(tmp_path: Path) -> None:
    root = write_hdf5(tmp_path / "h5")
    path = next(root.glob("*.h5"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptData, match=r"episode_0001\.h5 is not a complete HDF5 file"):
        open_insertion(root)
    reader = open_insertion(write_streams(tmp_path / "set"))
    image = next((tmp_path / "set").rglob("View5/*.jpg"))
    image.write_bytes(b"\xff\xd8")
    episode: Episode = reader.episodes[0]
    with pytest.raises(CorruptData, match=rf"{image.name} is not a complete image"):
        episode.cameras["observation.images.view5"].read(range(3))


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    assert not is_insertion(tmp_path)
    assert not is_insertion(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no recordings"):
        open_insertion(tmp_path)
    write_streams(tmp_path)
    with pytest.raises(ValueError, match=r"no episode 3; it has 0 to 0"):
        open_insertion(tmp_path, Selection(episodes=(3,)))
