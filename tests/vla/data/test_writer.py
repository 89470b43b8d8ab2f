"""What is written is a LeRobot v3.0 dataset like the one lerobot wrote, and reads back as what it was."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.vla.data.recordings import CAMERA, number_of, write_v2, write_video
from tests.vla.data.test_insertion import time_of, write_robot, write_streams, write_windows
from vla.contract import StreamContract
from vla.data.containers import read_frame_index
from vla.data.episode import Episode, Layout, Reader, Stream
from vla.data.formats.insertion.reader import SENSOR, open_insertion
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.selection import Selection
from vla.data.writing import statistics as lerobot_statistics
from vla.data.writing import videos as video_writer
from vla.data.writing import writer
from vla.data.writing.statistics import Collected, count_pixels, of_pixels
from vla.data.writing.writer import write_lerobot


class Given:
    """A reader of given episodes."""

    sources = ()

    def __init__(self, layout: Layout, episodes: list[Episode]) -> None:
        self.layout, self.episodes = layout, episodes


def assert_same_numbers(first: Reader, second: Reader) -> None:
    names = ("cameras", "fps", "state_dim", "action_dim", "state_names", "action_names", "action_periods")
    names += ("streams",)
    for name in names:
        assert getattr(first.layout, name) == getattr(second.layout, name), name
    for a, b in zip(first.episodes, second.episodes, strict=True):
        assert list(a.instructions) == list(b.instructions)
        np.testing.assert_array_equal(a.confidence, b.confidence)
        assert np.array_equal(a.timestamps, b.timestamps)
        assert a.streams.keys() == b.streams.keys()
        pairs = [(a.streams[key], b.streams[key]) for key in a.streams]
        for one, other in ((a.actions, b.actions), (a.state, b.state), *pairs):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert np.array_equal(one.timestamps, other.timestamps)
                assert np.array_equal(one.values, other.values)


def frame_error(first: Reader, second: Reader) -> float:
    """The worst mean absolute difference of the frames, in grey values."""
    worst = 0.0
    for a, b in zip(first.episodes, second.episodes, strict=True):
        assert list(a.cameras) == list(b.cameras)
        for key, frames in a.cameras.items():
            indices = range(0, len(a.timestamps), 4)
            for one, other in zip(frames.read(indices), b.cameras[key].read(indices), strict=True):
                worst = max(worst, float(np.abs(one.astype(float) - other).mean()))
    return worst


@pytest.fixture(scope="module")
def copy(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("copy") / "needle"
    totals = write_lerobot(open_lerobot(needle), destination)
    assert totals == {"episodes": 12, "frames": 243, "tasks": 3}
    return destination


def test_a_dataset_of_lerobot_comes_back(needle: Path, copy: Path) -> None:
    assert_same_numbers(open_lerobot(needle), open_lerobot(copy))
    assert frame_error(open_lerobot(needle), open_lerobot(copy)) < 4


def test_the_files_are_those_of_lerobot(needle: Path, copy: Path) -> None:
    def files(root: Path) -> set[str]:
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        return {name for name in found if "/" in name}

    assert files(needle) == files(copy)
    theirs, ours = (json.loads((root / "meta/info.json").read_text()) for root in (needle, copy))
    for info in (theirs, ours):
        info.pop("robot_type")
        info["features"].pop("observation.ft_valid", None)
        for feature in info["features"].values():
            feature.get("info", {}).pop("video.codec", None)
        info["features"]["observation.ft"].pop("info", None)
    assert ours == theirs


def test_tables_have_the_types_and_values_of_lerobot(needle: Path, copy: Path) -> None:
    theirs, ours = (pq.read_table(root / "data/chunk-000/file-000.parquet") for root in (needle, copy))
    for field in theirs.schema:
        assert ours.schema.field(field.name).type == field.type
        assert ours[field.name].to_pylist() == theirs[field.name].to_pylist()
    assert pq.ParquetFile(copy / "data/chunk-000/file-000.parquet").num_row_groups == 12
    theirs, ours = (pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet") for root in (needle, copy))
    assert {name for name in ours.column_names if "ft_valid" not in name} == set(theirs.column_names)
    for field in theirs.schema:
        assert ours.schema.field(field.name).type == field.type, field.name
        if not field.name.startswith("stats/") and field.name != "tasks":
            assert ours[field.name].to_pylist() == pytest.approx(theirs[field.name].to_pylist())
    assert ours["tasks"].to_pylist() == theirs["tasks"].to_pylist()
    tasks = pq.read_table(copy / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
    assert tasks.to_pydict() == pq.read_table(needle / "meta/tasks.parquet").to_pydict()


def test_statistics_are_those_of_the_values(needle: Path, copy: Path) -> None:
    theirs, ours = (json.loads((root / "meta/stats.json").read_text()) for root in (needle, copy))
    assert set(theirs) == set(ours) - {"observation.ft_valid"}
    for key, stats in theirs.items():
        for name, value in stats.items():
            assert np.shape(value) == np.shape(ours[key][name]), (key, name)
            # lerobot takes the deviation of frames' averages for that of pixels, and averages quantiles.
            if name in ("min", "max", "mean", "count"):
                assert np.allclose(value, ours[key][name], atol=0.04 if "images" in key else 1e-6), (key, name)
    values = np.concatenate([episode.actions.values for episode in open_lerobot(needle).episodes])
    for name, quantile in lerobot_statistics.QUANTILES.items():
        assert np.allclose(ours["action"][name], np.quantile(values, quantile, axis=0), atol=1e-6)
    assert np.allclose(ours["action"]["std"], values.std(axis=0), atol=1e-6)


def test_older_versions(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old", version="v2.0"))
    write_lerobot(source, tmp_path / "new")
    copied = open_lerobot(tmp_path / "new")
    assert_same_numbers(source, copied)
    for episode in copied.episodes:
        frames = episode.cameras[CAMERA].read(range(len(episode.timestamps)))
        assert [number_of(frame) for frame in frames] == [10 * episode.index + i for i in range(len(frames))]


def test_large_data_go_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_writer, "FILE_BYTES", 1000)
    monkeypatch.setattr(video_writer, "FILES_PER_CHUNK", 2)
    monkeypatch.setattr(writer, "FILES_PER_CHUNK", 2)
    monkeypatch.setattr(writer, "DATA_FILE_BYTES", 1)
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(60, 60, 60)))
    write_lerobot(source, tmp_path / "new")
    assert len(list((tmp_path / "new/data").rglob("*.parquet"))) == 3
    videos = sorted((tmp_path / "new/videos").rglob("*.mp4"))
    assert len(videos) > 1
    assert videos[-1].parent.name == "chunk-001"
    assert sum(len(read_frame_index(path).ticks) for path in videos) == 180
    copied = open_lerobot(tmp_path / "new")
    assert_same_numbers(source, copied)
    assert number_of(copied.episodes[2].cameras[CAMERA].read([58])[0]) == 78


def packet_sizes(file: Path) -> list[int]:
    with av.open(str(file)) as container:
        return [packet.size for packet in container.demux(video=0)]


def test_videos_are_the_same_bytes_again(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))
    for name in ("first", "second"):
        write_lerobot(source, tmp_path / name)
    files = [sorted((tmp_path / name / "videos").rglob("*.mp4")) for name in ("first", "second")]
    # Pictures and sizes first: should the bytes differ, these say whether it is the decoder's doing or the encoder's.
    pictures = [
        [
            sha256(image.tobytes()).hexdigest()
            for episode in source.episodes
            for image in episode.cameras[CAMERA].read(range(5))
        ]
        for _ in range(2)
    ]
    assert pictures[0] == pictures[1]
    assert packet_sizes(files[0][0]) == packet_sizes(files[1][0])
    assert [sha256(file.read_bytes()).hexdigest() for file in files[0]] == [
        sha256(file.read_bytes()).hexdigest() for file in files[1]
    ]
    with av.open(str(files[0][0])) as container:
        described = json.loads((tmp_path / "first/meta/info.json").read_text())["features"][CAMERA]["info"]
        stream = container.streams.video[0]
        assert stream.codec.canonical_name == described["video.codec"] == "h264"
        assert (stream.pix_fmt, stream.average_rate) == (described["video.pix_fmt"], described["video.fps"])


def test_recordings_of_the_insertion_recorder(tmp_path: Path) -> None:
    """Every stream of the recordings says its time: the copy must say the same at its frames."""
    source = open_insertion(write_windows(tmp_path / "source"))
    write_lerobot(source, tmp_path / "copy")
    (before,), (after,) = source.episodes, open_lerobot(tmp_path / "copy").episodes
    start = before.timestamps[2]  # the first two frames are older than the first image
    assert before.cameras["observation.images.view2"].timestamps[0] == pytest.approx(0.11, abs=1e-3)
    assert np.allclose(after.timestamps, before.timestamps[2:] - start)
    assert np.allclose(after.actions.values, before.actions.values[2:])
    assert after.state is not None
    assert np.allclose(after.state.values[:, 6] / 10, after.timestamps + start, atol=1e-4)
    was, now = before.streams[SENSOR], after.streams[SENSOR]
    assert np.allclose(now.values[:, 0] - start, now.timestamps, atol=1e-5)
    kept = (was.timestamps > start - 0.1) & (was.timestamps <= before.timestamps[-1])
    assert np.array_equal(now.values, was.values[kept])
    for key, frames in after.cameras.items():
        shown = np.array([time_of(frame) for frame in frames.read(range(len(after.timestamps)))])
        age = after.timestamps + start - shown
        assert age.min() > -0.03, key
        assert age.max() < 0.2 + 0.03, key
    layout = open_lerobot(tmp_path / "copy").layout
    assert (layout.streams[SENSOR].rate_hz, layout.streams[SENSOR].samples) == (650.0, 650)
    assert layout.action_names == source.layout.action_names


def test_a_missing_camera_and_sensor_stay_missing(tmp_path: Path) -> None:
    write_streams(tmp_path / "source", sensor=False)
    write_windows(tmp_path / "source")
    source = open_insertion(tmp_path / "source", Selection(missing_cameras="mask", cameras=("view1", "view5")))
    write_lerobot(source, tmp_path / "copy")
    copied = open_lerobot(tmp_path / "copy", Selection(missing_cameras="mask"))
    assert [sorted(episode.cameras) for episode in copied.episodes] == [
        ["observation.images.view1"],
        ["observation.images.view5"],
    ]
    assert [not episode.streams for episode in copied.episodes] == [False, True]


def test_a_gap_makes_two_episodes(tmp_path: Path) -> None:
    root = write_streams(tmp_path / "source")
    times = np.arange(0, 3.005, 0.01)
    write_robot(next(root.rglob("robot_state*.csv")), times[(times < 0.995) | (times > 1.345)])
    write_lerobot(open_insertion(root, Selection(cameras=("view5",))), tmp_path / "copy")
    first, second = open_lerobot(tmp_path / "copy").episodes
    assert (len(first.timestamps), len(second.timestamps)) == (8, 16)
    assert first.state is not None
    assert second.state is not None
    assert first.state.values[0, 6] == pytest.approx(1.0, abs=1e-3)
    assert second.state.values[0, 6] == pytest.approx(14.0, abs=1e-3)


def test_confidence_is_kept(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))
    frames = [np.arange(1.0, 1 + len(episode.timestamps)) for episode in source.episodes]
    episodes = [
        replace(episode, confidence=0.5 * (episode.index + 1) * own)
        for episode, own in zip(source.episodes, frames, strict=True)
    ]
    write_lerobot(Given(source.layout, episodes), tmp_path / "new")
    for episode, own in zip(open_lerobot(tmp_path / "new").episodes, frames, strict=True):
        assert episode.confidence.tolist() == (0.5 * (episode.index + 1) * own).tolist()


def test_columns_are_kept_and_are_no_sensor(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))
    given = [
        replace(
            episode,
            columns={
                "phase": np.arange(len(episode.timestamps), dtype=np.float32)[:, None] // 2,
                "contact_force": episode.actions.values[:, :2] / 7,
                **({"in_one_only": np.zeros((len(episode.timestamps), 1), np.float32)} if episode.index == 1 else {}),
            },
        )
        for episode in source.episodes
    ]
    write_lerobot(Given(source.layout, given), tmp_path / "new")
    features = json.loads((tmp_path / "new/meta/info.json").read_text())["features"]
    assert list(features)[-2:] == ["phase", "contact_force"]
    assert [features[key]["shape"] for key in ("phase", "contact_force")] == [[1], [2]]
    plain = open_lerobot(tmp_path / "new")
    assert plain.layout.streams == {}
    assert not any(episode.columns for episode in plain.episodes)
    copied = open_lerobot(tmp_path / "new", Selection(columns=("phase", "contact_force", "action")))
    for before, after in zip(given, copied.episodes, strict=True):
        assert list(after.columns) == ["phase", "contact_force", "action"]
        assert np.array_equal(after.columns["phase"], before.columns["phase"])
        assert np.array_equal(after.columns["contact_force"], before.columns["contact_force"])
        assert np.array_equal(after.columns["action"], before.actions.values)
    force = open_lerobot(tmp_path / "new", Selection(sensor=("contact_force",))).layout.streams["contact_force"]
    assert force.channels == 2


def test_columns_are_resampled_with_the_frames(tmp_path: Path) -> None:
    """On a clock of 20 Hz, a column of 12.5 Hz shows the row within half a period or else the newest, as state does."""
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(20,)))
    times = np.arange(0, 0.95, 0.08)
    seconds = times.astype(np.float32)[:, None]
    clocked = {"timestamps": times, "confidence": np.ones(len(times))}
    episode = replace(source.episodes[0], **clocked, columns={"seconds": seconds}, state=None)
    episode = replace(episode, state=Stream(timestamps=times, values=np.concatenate([seconds, seconds], axis=1)))
    write_lerobot(Given(source.layout, [episode]), tmp_path / "new")
    (copied,) = open_lerobot(tmp_path / "new", Selection(columns=("seconds",))).episodes
    assert len(copied.timestamps) > len(times)
    assert copied.state is not None
    assert np.array_equal(copied.columns["seconds"], copied.state.values[:, :1])
    age = copied.timestamps - copied.columns["seconds"][:, 0]
    assert age.min() > -0.025
    assert age.max() < 0.08 + 1e-6


@pytest.mark.parametrize("fps", [29.97, 30.0])
def test_rows_off_the_clock_stay_whole(tmp_path: Path, fps: float) -> None:
    """Rows that jitter by some milliseconds, or come a little slower than the clock: what is in one row stays there."""
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(40,), fps=30))
    jitter = np.random.default_rng(0).uniform(-0.008, 0.008, 40)
    times = np.arange(40) / 29.97 if fps != 30 else np.arange(40) / 30 + jitter - jitter[0]
    number = np.arange(40, dtype=np.float32)[:, None]
    rows = Stream(timestamps=times, values=number)
    force = StreamContract(key="observation.force", channels=1, samples=1, rate_hz=fps)
    old = source.episodes[0]
    episode = replace(
        old,
        timestamps=times,
        confidence=1 + number[:, 0].astype(float),
        actions=rows,
        state=rows,
        streams={force.key: rows},
        columns={"number": number},
        cameras={key: replace(frames, timestamps=times) for key, frames in old.cameras.items()},
    )
    layout = replace(
        source.layout, fps=fps, state_dim=1, state_names=(), action_dim=1, action_names=(), action_periods=(0.0,)
    )
    said: list[str] = []
    given = Given(replace(layout, streams={force.key: force}), [episode])
    write_lerobot(given, tmp_path / "new", remark=said.append)
    assert said == ([] if fps == 30 else ["29.97 frames a second are written as 30"])
    (copied,) = open_lerobot(tmp_path / "new", Selection(columns=("number",), sensor=(force.key,))).episodes
    assert np.array_equal(copied.actions.values, number)
    assert copied.state is not None
    assert np.array_equal(copied.state.values, number)
    assert np.array_equal(copied.columns["number"], number)
    assert np.array_equal(copied.confidence, 1 + number[:, 0])
    assert np.array_equal(copied.streams[force.key].values, number)
    np.testing.assert_allclose(copied.streams[force.key].timestamps, np.arange(40) / 30, atol=1e-6)
    before, after = (one.cameras[CAMERA].read(range(40)) for one in (old, copied))
    assert [number_of(image) for image in after] == [number_of(image) for image in before]


def test_it_is_said_what_the_clock_changes(tmp_path: Path) -> None:
    """Rows 0 to 9 and 13 to 19 are a period apart, and row 19 stands 0.1 of a period behind row 18."""
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(20, 20)))
    times = np.concatenate([np.arange(10), np.arange(13, 22), [21.1]]) / 20
    widths = {"actions": 3, "state": 2}
    rows = {key: Stream(timestamps=times, values=np.zeros((20, width), np.float32)) for key, width in widths.items()}
    episode = replace(source.episodes[0], timestamps=times, **rows)
    said: list[str] = []
    write_lerobot(Given(source.layout, [episode, source.episodes[1]]), tmp_path / "new", remark=said.append)
    cut, counted = said
    assert cut.startswith("1 of 2 episodes are cut into 2: where a row, an action, a state or a picture is missing")
    assert counted == "1 rows left out and 0 repeated: a copy has one row every 1/20 s"


def test_columns_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))

    def given(key: str, *widths: int) -> Given:
        episodes = [
            replace(episode, columns={key: np.zeros((len(episode.timestamps), width), np.float32)})
            for episode, width in zip(source.episodes, widths, strict=True)
        ]
        return Given(source.layout, episodes)

    with pytest.raises(ValueError, match="column action, which is the name of another feature"):
        write_lerobot(given("action", 3, 3, 3), tmp_path / "new")
    with pytest.raises(ValueError, match=r"episode_000002 has 2 values in column phase, .*episode_000000 has 1"):
        write_lerobot(given("phase", 1, 1, 2), tmp_path / "new")


def test_an_irregular_sensor_keeps_its_times(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(20,)))
    times = np.sort(np.random.default_rng(0).uniform(-0.04, 0.94, 100))
    values = np.stack([times, -times], axis=1).astype(np.float32)
    episode = replace(source.episodes[0], streams={"observation.force": Stream(timestamps=times, values=values)})
    force = StreamContract(key="observation.force", channels=2, samples=50, rate_hz=100.0)
    layout = replace(source.layout, streams={force.key: force})
    write_lerobot(Given(layout, [episode]), tmp_path / "new")
    sensor = open_lerobot(tmp_path / "new").episodes[0].streams[force.key]
    assert np.allclose(sensor.timestamps, times)
    assert np.array_equal(sensor.values, values)


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists"):
        write_lerobot(source, tmp_path / "there")
    path = next((tmp_path / "old").rglob("episode_000002.mp4"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="episode_000002"):
        write_lerobot(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "there"]


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    source = open_lerobot(write_v2(tmp_path / "old"))
    big = open_lerobot(write_v2(tmp_path / "big"))
    for path in (tmp_path / "big").rglob("*.mp4"):
        write_video(path, range(20), size=(128, 64))
    with pytest.raises(ValueError, match="import the episodes apart|frames of several sizes"):
        write_lerobot(Given(source.layout, [source.episodes[0], big.episodes[1]]), tmp_path / "new")


def test_pixels_are_counted() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    stats = of_pixels(count_pixels(image), 1)
    seen = image[:, ::4, ::4].reshape(3, -1) / 255
    assert np.allclose(stats["mean"].reshape(3), seen.mean(axis=1))
    assert np.allclose(stats["std"].reshape(3), seen.std(axis=1))
    assert np.allclose(stats["q50"].reshape(3), np.quantile(seen, 0.5, axis=1, method="inverted_cdf"))
    assert np.allclose(stats["min"].reshape(3), seen.min(axis=1))


def test_statistics_of_many_rows_stay_exact_but_for_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_statistics, "MAX_ROWS", 500)
    collected = Collected()
    values = np.random.default_rng(0).normal(size=(4000, 3))
    for part in np.split(values, 8):
        collected.add_values("action", part, len(part))
    stats = collected.stats()["action"]
    assert stats["count"] == [4000]
    assert np.allclose(stats["mean"], values.mean(axis=0))
    assert np.allclose(stats["std"], values.std(axis=0))
    assert np.array_equal(stats["max"], values.max(axis=0))
    assert np.allclose(stats["q50"], np.quantile(values, 0.5, axis=0), atol=0.15)


def test_each_sensor_stream_keeps_its_samples(tmp_path: Path) -> None:
    """A wrench at 1 kHz, a tactile array at 60 Hz that the first episode lacks, and a gauge on a clock of its own."""
    source = open_lerobot(write_v2(tmp_path / "old", lengths=(20, 20)))
    clocks = {
        StreamContract(key="observation.wrench", channels=6, samples=50, rate_hz=1000.0, names=tuple("abcdef")): (
            np.arange(-49, 951) / 1000
        ),
        StreamContract(key="observation.tactile", channels=16, samples=12, rate_hz=60.0): np.arange(-2, 58) / 60,
        StreamContract(key="gauge", channels=1, samples=20, rate_hz=100.0): (
            np.sort(np.random.default_rng(0).uniform(-0.04, 0.94, 90))
        ),
    }
    streams = {
        contract.key: Stream(
            timestamps=times, values=times[:, None].astype(np.float32) + np.arange(contract.channels, dtype=np.float32)
        )
        for contract, times in clocks.items()
    }
    lacking = {key: stream for key, stream in streams.items() if key != "observation.tactile"}
    episodes = [replace(source.episodes[0], streams=lacking), replace(source.episodes[1], streams=streams)]
    layout = replace(source.layout, streams={contract.key: contract for contract in clocks})
    write_lerobot(Given(layout, episodes), tmp_path / "new")
    with pytest.raises(ValueError, match=r"may be sensors: observation\.wrench, observation\.tactile, gauge; name one"):
        open_lerobot(tmp_path / "new")
    copied = open_lerobot(tmp_path / "new", Selection(sensor=("gauge", "tactile", "wrench")))
    assert list(copied.layout.streams) == ["gauge", "observation.tactile", "observation.wrench"]
    assert copied.layout.streams == layout.streams
    assert [set(episode.streams) for episode in copied.episodes] == [set(lacking), set(streams)]
    for episode in copied.episodes:
        for key, stream in episode.streams.items():
            np.testing.assert_array_equal(stream.values, streams[key].values)
            np.testing.assert_allclose(stream.timestamps, streams[key].timestamps, atol=1e-6)


def test_a_stream_called_like_the_marks_of_another_is_refused(needle: Path, tmp_path: Path) -> None:
    source, key = open_lerobot(needle), "observation.ft"
    stream, values = source.layout.streams[key], source.episodes[0].streams[key]
    streams = {key: stream, f"{key}_valid": replace(stream, key=f"{key}_valid")}
    episode = replace(source.episodes[0], streams=dict.fromkeys(streams, values))
    with pytest.raises(ValueError, match=r"has a sensor stream observation\.ft_valid, as marks or times of another"):
        write_lerobot(Given(replace(source.layout, streams=streams), [episode]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_channels_of_a_sensor_keep_their_names(needle: Path, tmp_path: Path) -> None:
    """Also where there are two: a list of two names would be that of the two axes, time and channel."""
    source = open_lerobot(needle)
    for number, names in enumerate((tuple("abcdef"), ("left", "right"))):
        width = len(names)
        episode, key = source.episodes[0], "observation.ft"
        sensor = replace(episode.streams[key], values=episode.streams[key].values[:, :width])
        stream = replace(source.layout.streams[key], channels=width, names=names)
        out = tmp_path / str(number)
        write_lerobot(
            Given(replace(source.layout, streams={key: stream}), [replace(episode, streams={key: sensor})]), out
        )
        assert open_lerobot(out).layout.streams[key].names == names
        info = out / "meta" / "info.json"
        content = json.loads(info.read_text())
        content["features"]["observation.ft"]["names"] = ["time", "channel"]
        info.write_text(json.dumps(content))
        assert open_lerobot(out).layout.streams[key].names == ()
