"""Faults that were put in are found where they were put, and nothing is found where there are none."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from tests.vla.data.recordings import CAMERA, write_v2
from vla import errors
from vla.__main__ import main
from vla.contract import StreamContract
from vla.data.dataset import open_dataset
from vla.data.doctor import examine, examine_reader, horizon_advice
from vla.data.episode import Episode, Layout, Stream
from vla.data.texts import Texts
from vla.settings import DataConfig

NOISE = default_rng(0).normal(size=(3, 200, 4)).astype(np.float32)


class Made:
    """A reader of episodes made of normal noise at 20 Hz, with a force at 100 Hz."""

    sources = ()

    def __init__(self) -> None:
        self.layout = Layout(
            root="made",
            format="made up",
            fps=20.0,
            cameras=(),
            state_dim=4,
            action_dim=4,
            state_names=(),
            action_names=("x", "y", "z", "gripper"),
            action_periods=(0.0,) * 4,
            streams={"force": StreamContract(key="force", channels=2, samples=100, rate_hz=100.0)},
        )
        self.episodes = [self.episode(index) for index in range(3)]

    @staticmethod
    def episode(index: int) -> Episode:
        times = np.arange(200) / 20
        sensor_times = np.arange(1000) / 100
        sensor = np.random.default_rng(index).normal(size=(1000, 2)).astype(np.float32)
        return Episode(
            name=f"made/{index}",
            index=index,
            timestamps=times,
            instructions=Texts.throughout("move", len(times)),
            confidence=np.ones(len(times)),
            actions=Stream(timestamps=times, values=NOISE[index].copy()),
            state=Stream(timestamps=times, values=NOISE[index][::-1].copy()),
            streams={"force": Stream(timestamps=sensor_times, values=sensor)},
            cameras={},
        )


def test_sound_data_give_no_finding() -> None:
    report = examine([Made()])
    (root,) = report.roots
    assert (root.episodes, root.samples, root.duration_s) == (3, 600, pytest.approx(30.0))
    assert root.problems == root.gaps == root.short_episodes == ()
    assert all(dimension.sound for dimension in root.dimensions)
    assert [dimension.stream for dimension in root.dimensions] == ["action"] * 4 + ["state"] * 4 + ["sensor"] * 2
    assert root.modalities == {"state": 1.0, "sensor": 1.0}
    assert "nothing to report" in str(report)


def test_an_orientation_that_jumps_and_has_no_unit_is_named() -> None:
    made = Made()
    made.layout = replace(made.layout, action_names=("x", "yaw", "z", "gripper"))
    for episode in made.episodes:
        turned = np.arange(len(episode.timestamps)) / 50 + 3  # from 3 to 7 rad, written as -pi to pi
        episode.actions.values[:, 1] = (turned + np.pi) % (2 * np.pi) - np.pi
    report = examine_reader(made)
    _, yaw, _, _ = report.dimensions[:4]
    assert (yaw.jumps, yaw.sound) == (3, False)
    assert any("yaw" in line and "3 jumps: angle?" in line for line in report.lines())
    made.episodes[0].actions.values[20, 1] = 1e6
    glitched = examine_reader(made).dimensions[1]
    assert (glitched.jumps, glitched.strays) == (3, 1), "a glitch hides no jump, and is none"


def test_values() -> None:
    made = Made()
    actions = made.episodes[0].actions.values
    actions[50, 1] = 1e4
    actions[51, 2] = np.nan
    for episode in made.episodes:
        episode.actions.values[:, 3] = 1.0
    dimensions = examine_reader(made).dimensions
    _, y, z, gripper = dimensions[:4]
    assert y.outlier_share == pytest.approx(1 / 600)
    assert y.worst_z > 1000
    assert z.not_finite == 1
    assert np.isfinite(z.median)
    assert gripper.constant
    assert gripper.name == "gripper"
    assert [d.index for d in dimensions if not d.sound] == [1, 2, 3]


def test_a_gripper_with_two_values_has_no_outliers() -> None:
    made = Made()
    for episode in made.episodes:
        episode.actions.values[:, 3] = (np.arange(200) > 150) * 0.08
    assert examine_reader(made).dimensions[3].sound


def test_clocks() -> None:
    made = Made()
    first = made.episodes[0]
    late = first.timestamps + np.where(np.arange(200) >= 80, 0.5, 0.0)
    sensor = first.streams["force"]
    holes = np.ones(1000, bool)
    holes[300:340] = False
    made.episodes[0] = replace(
        first,
        timestamps=late,
        confidence=np.ones(len(late)),
        streams={"force": Stream(timestamps=sensor.timestamps[holes], values=sensor.values[holes])},
    )
    made.episodes[1] = replace(made.episodes[1], streams={})
    short = made.episodes[2]
    made.episodes[2] = replace(short, timestamps=short.timestamps[:5], confidence=short.confidence[:5])
    report = examine_reader(made)
    frames, force = report.gaps
    assert (frames.stream, frames.episode, frames.count) == ("frames", "made/0", 1)
    assert (frames.longest_s, frames.at_s) == (pytest.approx(0.55), pytest.approx(3.95))
    assert (force.stream, force.count, force.longest_s) == ("sensor", 1, pytest.approx(0.41))
    assert report.short_episodes == ("made/2: 5 frames, a chunk has 8 steps",)
    assert report.modalities["sensor"] == pytest.approx(205 / 405)


def break_table(root: Path) -> str:
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    return "episode_000001.parquet"


def cut_table(root: Path) -> str:
    path = root / "data/chunk-000/episode_000001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    return "is not a complete parquet file"


def break_video(root: Path) -> str:
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    return "videos are not there"


def garble_video(root: Path) -> str:
    path = root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + len(content) // 2] = b"\x17" * (len(content) // 2)
    path.write_bytes(content)
    return "cannot be decoded"


def break_info(root: Path) -> str:
    (root / "meta/info.json").write_text("{")
    return "is not valid JSON"


@pytest.mark.parametrize("damage", [break_table, cut_table, break_video, garble_video, break_info])
def test_a_broken_root_is_reported_and_the_rest_examined(tmp_path: Path, damage: Callable[[Path], str]) -> None:
    root = write_v2(tmp_path / "set", lengths=(12, 9, 10))
    sentence = damage(root)
    report = examine([root, write_v2(tmp_path / "sound", lengths=(8, 8, 8))])
    broken, sound = report.roots
    assert any(sentence in problem for problem in broken.problems)
    assert sound.problems == ()
    assert sound.episodes == 3
    if damage is break_table:
        assert broken.missing_files == (str(root / "data/chunk-000/episode_000001.parquet"),)
    if damage is not break_info:
        assert broken.samples == (22 if damage in (break_table, cut_table) else 31)
        share = broken.modalities[CAMERA]
        assert share == pytest.approx(22 / 31 if damage is break_video else 1.0)
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["roots"][1]["episodes"] == 3


@pytest.mark.parametrize(
    ("damage", "code"),
    [(None, 0), (break_table, 78), (cut_table, 65), (break_video, 78), (garble_video, 65), (break_info, 65)],
)
def test_the_exit_code_is_that_of_a_training(
    damage: Callable[[Path], str] | None, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_v2(tmp_path / "set", lengths=(12, 9, 10))
    sentence = "" if damage is None else damage(root)
    assert main(["doctor", str(root), "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == code
    assert (told["refusal"] is None) == (damage is None)
    if damage not in (None, garble_video):  # frames are not read before the first step
        with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
            open_dataset(DataConfig(roots=(str(root),)), seed=0)
        assert (str(refused.value), errors.told(refused.value)[0]) == (told["refusal"], code)
    assert sentence in (told["refusal"] or "")
    assert main(["doctor", str(root)]) == code
    said = " ".join(capsys.readouterr().out.split())
    assert ("training takes these data" if code == 0 else f"training refuses these data with exit code {code}") in said


def test_what_only_two_roots_together_are_refused_for_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(write_v2(tmp_path / name, lengths=(9, 9), fps=fps)) for name, fps in (("one", 20), ("two", 10))]
    assert [main(["doctor", root]) for root in roots] == [0, 0]
    assert main(["doctor", *roots]) == 78
    assert "training refuses these data with exit code 78" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("horizon", "fps", "lengths", "told"),
    [
        (8, 20.0, [100], "a chunk of 8 steps lasts 0.4 s at 20 frames a second"),
        (8, 50.0, [100], "where 0.4 to 2 s are usual: try --data.horizon 50"),
        (8, 50.0, [100, 30], "where 0.4 to 2 s are usual: try --data.horizon 30"),
        (50, 10.0, [100], "lasts 5 s at 10 frames a second, where 0.4 to 2 s are usual: try --data.horizon 10"),
        (8, 30.0, [8], "a chunk of 8 steps lasts 0.27 s at 30 frames a second"),
    ],
)  # fmt: skip
def test_the_horizon_follows_the_frame_rate(horizon: int, fps: float, lengths: list[int], told: str) -> None:
    assert horizon_advice(horizon, fps, lengths).endswith(told)


def test_a_frame_that_no_backbone_takes_is_a_problem() -> None:
    class Strip:
        timestamps = np.arange(200) / 20

        def read(self, indices: list[int]) -> list[np.ndarray]:
            return [np.zeros((3, 2, 500), dtype=np.uint8) for _ in indices]

    made = Made()
    made.episodes[1] = replace(made.episodes[1], cameras={CAMERA: Strip()})  # type: ignore[dict-item]
    report = examine_reader(made)
    assert report.exit_code == 78
    assert "may be at most 200 times the shortest" in report.problems[0]


def test_an_empty_instruction_is_a_problem(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    tasks = root / "meta/tasks.jsonl"
    tasks.write_text(tasks.read_text().replace("push the box", ""))
    (report,) = examine([root]).roots
    assert report.problems == (
        "set/episode_000001 has an empty instruction; write what is asked for into the task list",
    )


def test_real_data_name_what_is_missing(shared: Path) -> None:
    (report,) = examine([shared / "data/g1_pick_bottle"]).roots
    assert len(report.missing_files) == 95
    assert report.episodes == 5
    assert len(report.problems) == 1


def test_a_quaternion_whose_sign_flips_is_named() -> None:
    made = Made()
    angle = np.linspace(0, 3, 200)
    turning = np.stack([np.zeros(200), np.sin(angle / 2), np.zeros(200), np.cos(angle / 2)], axis=1)
    flipped = turning * np.where((np.arange(200) >= 50) & (np.arange(200) < 80), -1, 1)[:, None]

    def states(*values: np.ndarray) -> list[Episode]:
        return [
            replace(episode, state=Stream(timestamps=episode.timestamps, values=own.astype(np.float32)))
            for episode, own in zip(made.episodes, values, strict=True)
        ]

    made.episodes = states(turning, flipped, turning)
    (root,) = examine([made]).roots
    assert [dimension.flips for dimension in root.dimensions if dimension.stream == "state"] == [2] * 4
    assert "  2 sign flips" in str(examine([made]))
    for sound in (states(turning, turning, -turning), states(*(2 * turning * sign for sign in (1, 1, -1)))):
        made.episodes = sound
        assert not any(dimension.flips for dimension in examine([made]).roots[0].dimensions)
    wide = np.concatenate([NOISE[0][:, :3], flipped], axis=1)
    made.episodes = states(wide, wide, wide)
    flips = [dimension.flips for dimension in examine([made]).roots[0].dimensions if dimension.stream == "state"]
    assert flips == [0, 0, 0, 6, 6, 6, 6]
