"""Inputs that people's bug reports describe, made by the generators in ../shared/cases: each gives what is right."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from tests.vla.data.recordings import write_v2
from vla.__main__ import main
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.normalize import INPUTS, Normalizer
from vla.settings import DataConfig

CAMERA = "observation.images.front"


@pytest.fixture
def made(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the input of a case."""
    monkeypatch.syspath_prepend(shared / "cases")

    def make(name: str) -> Path:
        load(shared / "cases" / f"{name}.py").make(tmp_path / name)
        return tmp_path / name

    return make


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened(root: Path, **config: object) -> Dataset:
    return open_dataset(DataConfig(roots=(str(root),), horizon=4, workers=0, **config), 0)


def frame_codes(data: Dataset) -> dict[tuple[str, int], int]:
    """The number that the frame of each training sample says, by episode and row."""
    making = sys.modules.get("making") or importlib.import_module("making")
    found = {}
    for index in range(len(data.everything)):
        image = data.everything[index].images[0]
        assert isinstance(image, np.ndarray)
        found[data.everything.locate(index)] = making.frame_code(image)
    return found


@pytest.mark.parametrize(
    ("case", "frame"),
    [
        ("video_at_camera_rate", lambda place, row: 90 * place + 3 * row),
        ("gaps_to_the_last_frame", lambda place, row: 60 * place + row),
        ("image_column_as_plain_bytes", lambda place, row: 40 * place + row),
        ("macos_companions", lambda place, row: 40 * place + row),
        ("default_columns_not_listed", lambda place, row: 40 * place + row),
    ],
)
def test_each_row_has_its_frame(made: Callable[[str], Path], case: str, frame: Callable[[int, int], int]) -> None:
    codes = frame_codes(opened(made(case)))
    assert codes
    for (episode, row), code in codes.items():
        assert code == frame(int(episode[-6:]), row), (episode, row)


def test_a_task_that_is_one_text(made: Callable[[str], Path]) -> None:
    data = opened(made("task_as_text"))
    assert {data.train[position].instruction for position in range(8)} == {"pick up the cube"}


def test_an_import_names_the_columns_that_it_leaves_out(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made("further_columns")
    assert main(["import", "lerobot", str(root), str(tmp_path / "copy")]) == 0
    unread = "next.reward, next.done, subtask_index, observation.environment_state"
    assert f"{root}: not read: {unread}" in capsys.readouterr().err


def test_a_detectors_confidence_is_no_weight(made: Callable[[str], Path]) -> None:
    root = made("confidence_of_a_detector")
    data = opened(root)
    assert {data.train[position].weight for position in range(12)} == {1.0}
    assert f"{root}: not read: confidence" in data.table()


def test_what_is_commanded_is_no_sensor(made: Callable[[str], Path]) -> None:
    root = made("commanded_wrench")
    data = opened(root)
    assert data.contract.streams == {}
    assert f"{root}: not read: action.wrench" in data.table()
    assert list(opened(root, sensor=("action.wrench",)).contract.streams) == ["sensor"], "who asks for it is given it"


@pytest.mark.parametrize(
    "mark", [("info", "is_depth_map"), ("info", "video.is_depth_map"), ("video_info", "is_depth_map")]
)
def test_a_depth_camera_is_left_out_however_it_is_marked(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: tuple[str, str]
) -> None:
    monkeypatch.syspath_prepend(shared / "cases")
    load(shared / "cases" / "depth_marked_as_lerobot_marks_it.py").make(tmp_path / "set", *mark)
    data = opened(tmp_path / "set")
    assert data.contract.cameras == (CAMERA,)
    assert f"{tmp_path / 'set'}: {CAMERA}_depth left out: depth is no colour" in data.table()
    with pytest.raises(ValueError, match=r"has depth in observation\.images\.front_depth, which is no colour"):
        opened(tmp_path / "set", cameras=("front_depth",))


def test_depth_without_a_mark_is_refused_and_never_clipped(made: Callable[[str], Path]) -> None:
    root = made("depth_png_16_bit")
    with pytest.raises(ValueError, match=r"observation\.images\.depth has pixels of more than 8 bits \(I;16\)"):
        opened(root)
    assert opened(root, cameras=("front",)).contract.cameras == (CAMERA,)


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "gray16le"), ("libx264", "gray10le")])
def test_a_video_of_wide_grey_pixels_is_refused(tmp_path: Path, codec: str, pixels: str) -> None:
    root = write_v2(tmp_path / "set", lengths=(6, 6))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["shape"] = [64, 96, 1]
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in root.rglob("*.mp4"):
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=20)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
            for number in range(6):
                depth = np.full((64, 96), 5000 * number, np.uint16)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(depth, format="gray16le").reformat(format=pixels)))
            file.mux(stream.encode(None))
    read = {"gray10le": "yuv420p10le"}.get(pixels, pixels)
    with pytest.raises(ValueError, match=rf"one channel of more than 8 bits \({read}\), as depth has"):
        opened(root)


def test_a_video_that_runs_away_from_its_table(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many frames as rows, of a camera of 29.7 Hz: nothing is trained on until somebody says how to pair."""
    monkeypatch.syspath_prepend(shared / "cases")
    making = importlib.import_module("making")
    root, count = tmp_path / "drift", 80
    episodes = making.plain_episodes((count, 40), fps=30)
    video = {(0, CAMERA): (np.arange(count), np.arange(count) * 1.01 / 30)}
    making.write_v30(root, episodes, fps=30, video=video)
    sentence = r"episode_000000, .*at 30 Hz, and the frames, at 29\.703 Hz, run apart by \+26 ms over 80 rows"
    with pytest.raises(ValueError, match=sentence):
        opened(root)
    (report,) = examine([root]).roots
    assert any("--data.pairing number" in problem for problem in report.problems)
    assert report.episodes == 1
    codes = frame_codes(opened(root, pairing="number", validation_share=0.0))
    assert all(code == row for (episode, row), code in codes.items() if episode.endswith("000000"))
    timed = frame_codes(opened(root, pairing="time", validation_share=0.0))
    late = [row for (episode, row), code in timed.items() if episode.endswith("000000") and code != row]
    assert late == list(range(51, count)), "from half a period on the frame before is nearer"


def test_a_camera_with_a_clock_of_its_own_is_served_by_its_newest_frame(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(shared / "cases")
    making = importlib.import_module("making")
    root = tmp_path / "slow"
    episodes = making.plain_episodes((100, 100, 100), fps=100)
    video = {(place, CAMERA): (np.arange(30) + 30 * place, np.arange(30) / 30) for place in range(3)}
    making.write_v30(root, episodes, fps=100, video=video)
    data = opened(root)
    codes = frame_codes(data)
    assert {row: code % 30 for (_, row), code in codes.items()} == {row: int(row * 0.3 + 1e-9) for row in range(100)}
    assert data.table()[-1] == f"{CAMERA} has a clock of its own: its frames are up to 30 ms old"
    (report,) = examine([root]).roots
    assert report.oldest_frames_s[CAMERA] == pytest.approx(0.03)
    assert any(line.startswith("  cameras with a clock of their own") for line in report.lines())


def test_a_glitch_is_named_and_counts_for_no_scale(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = made("one_glitch_in_the_actions")
    data = opened(root)
    assert [
        line for line in data.table() if line.startswith("actions[2] motor_2: 1 stray value between -1.2 and 1e+06")
    ]
    values = np.concatenate(
        [episode.actions.values[:, 2] for (episodes) in data.everything.episodes() for episode in episodes]
    )
    sound = values[np.abs(values) < 10]
    assert len(sound) == len(values) - 1
    assert data.statistics["actions"].q99[2] == np.quantile(sound.astype(np.float64), 0.99)
    assert main(["doctor", str(root)]) == 0
    assert "action[2] motor_2" in (printed := capsys.readouterr().out)
    assert "1 stray" in printed


def test_coordinates_of_a_map_keep_their_motion(made: Callable[[str], Path]) -> None:
    data = opened(made("state_of_map_coordinates"))
    statistics = data.statistics["state"]
    assert statistics.std[:2] == pytest.approx(0.07, abs=0.01)
    states = np.stack([data.everything[index].state for index in range(40)])
    expected = 4649776.1 + 0.1 * np.sin(np.arange(40) / 6)
    assert np.abs(states[:, 0] - expected).max() < 1e-8
    unitless = Normalizer.of(statistics, "quantile", INPUTS).apply(torch.from_numpy(states))
    low, high = statistics.q01[0], statistics.q99[0]
    np.testing.assert_allclose(unitless[:, 0].numpy(), (expected - (low + high) / 2) / ((high - low) / 2), atol=1e-5)
