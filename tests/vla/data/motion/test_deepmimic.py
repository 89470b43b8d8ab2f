"""DeepMimic's clips: the body of its character file, hinges that bend as knees and elbows do, clocks that stumble."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.vla.data.motion.clips import by_name, course_deg, files_of, placed, poses, read
from vla.data.formats.motion import deepmimic
from vla.data.formats.motion.files import kind_of
from vla.errors import CorruptData
from vla.motion.clip import Poses

WALKS = ("walk", "jog", "run", "stealthy_walk", "zombie_walk")


def motion(shared: Path, name: str) -> Path:
    return next(path for path in files_of(shared, "deepmimic_motions", ".txt") if path.stem == f"humanoid3d_{name}")


def standing(frames: int = 4, span_s: float = 0.1) -> np.ndarray:
    """Rows of a body that stands still."""
    rows = np.zeros((frames, deepmimic.WIDTH))
    rows[:, 0] = span_s
    at = 4
    for joint in deepmimic.JOINTS.values():
        rows[:, at : at + 1] = 1.0 if joint.numbers == deepmimic.BALL else rows[:, at : at + 1]
        at += joint.numbers
    rows[:, -1] = 0.0
    return rows


def written(folder: Path, rows: Any, **others: Any) -> Path:
    path = folder / "clip.txt"
    content = {"Loop": "wrap", **others, "Frames": rows.tolist() if isinstance(rows, np.ndarray) else rows}
    path.write_text(json.dumps(content))
    return path


def test_the_body_is_that_of_the_character_file(shared: Path) -> None:
    told = json.loads((shared / "data/deepmimic_motions/humanoid3d_character.txt").read_text())["Skeleton"]["Joints"]
    numbers = {"none": deepmimic.BALL, "spherical": deepmimic.BALL, "revolute": deepmimic.HINGE, "fixed": 0}
    for (name, joint), other in zip(deepmimic.JOINTS.items(), told, strict=True):
        assert (name, joint.parent, joint.numbers) == (other["Name"], other["Parent"], numbers[other["Type"]])
        assert joint.offset == (other["AttachX"], other["AttachY"], other["AttachZ"])
        assert not any(other[f"AttachTheta{axis}"] for axis in "XYZ"), "no joint is turned at rest"


def independent(path: Path, body: Poses) -> dict[str, np.ndarray]:
    """Places of joints from the numbers of a file, by scipy."""
    rows = np.array(json.loads(path.read_text())["Frames"])
    turns, at = {}, 4
    for name, joint in deepmimic.JOINTS.items():
        own = rows[:, at : at + joint.numbers]
        at += joint.numbers
        if joint.numbers == deepmimic.BALL:
            turns[name] = Rotation.from_quat(own, scalar_first=True)
        else:
            turns[name] = Rotation.from_euler("z", own if joint.numbers else np.zeros((len(rows), 1)))
    return placed(body.skeleton, rows[:, 1:4], turns)


@pytest.mark.parametrize("name", ["walk", "kick"])
def test_joints_are_where_scipy_puts_them(shared: Path, name: str) -> None:
    check_places(motion(shared, name))


@pytest.mark.deep
def test_joints_are_where_scipy_puts_them_in_every_clip(shared: Path) -> None:
    for path in files_of(shared, "deepmimic_motions", ".txt"):
        if "roll" not in path.name:  # its clock is uneven
            check_places(path)


def check_places(path: Path) -> None:
    body = poses(path)
    for name, places in independent(path, body).items():
        np.testing.assert_allclose(by_name(body)[name], places, atol=1e-9, err_msg=f"{path.name} {name}")


@pytest.mark.parametrize("name", WALKS)
def test_a_body_faces_where_it_walks_and_its_knees_and_elbows_bend_as_ours(shared: Path, name: str) -> None:
    clip = read(motion(shared, name))
    assert abs(course_deg(clip)) < 12
    assert isinstance(clip.body, Poses)
    at = by_name(clip.body)
    across = at["left_hip"] - at["right_hip"]
    ahead = np.cross(across, [0, 1, 0]) / np.linalg.norm(across, axis=-1, keepdims=True)
    for side in ("left", "right"):
        knee = at[f"{side}_knee"] - (at[f"{side}_hip"] + at[f"{side}_ankle"]) / 2
        elbow = at[f"{side}_elbow"] - (at[f"{side}_shoulder"] + at[f"{side}_wrist"]) / 2
        assert (knee * ahead).sum(axis=-1).mean() > 0.02, "a knee stands before the line from hip to ankle"
        assert (elbow * ahead).sum(axis=-1).mean() < 0.01, "an elbow does not stand before that from shoulder to wrist"
        assert at[f"{side}_ankle"][:, 1].min() == pytest.approx(0.05, abs=0.06), "feet are at the ground"
    assert (at["neck"] - at["root"])[:, 1].min() > 0.3, "upright"


def test_facts_and_rates(shared: Path) -> None:
    assert (read(motion(shared, "walk")).rate_hz, read(motion(shared, "stealthy_walk")).rate_hz) == (30.0, 24.0)
    assert read(motion(shared, "kick")).facts == {"loop": "none"}
    kick, walk = read(motion(shared, "kick")), read(motion(shared, "walk"))
    assert any("length 1" in remark for remark in kick.remarks)
    assert not walk.remarks


def test_what_the_last_frame_lasts_says_nothing(tmp_path: Path) -> None:
    rows = standing()
    rows[-1, 0] = 0.0
    assert read(written(tmp_path, rows)).rate_hz == 10.0


@settings(max_examples=25)
@given(st.lists(st.integers(2, 3), max_size=9).flatmap(lambda longer: st.permutations([1] * 12 + longer)))
def test_a_clock_that_stumbles_is_made_even(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    """A body that goes and turns steadily does so whatever frames are missing."""
    times = np.concatenate([[0], np.cumsum(steps)]) * 0.05
    rows = standing(len(times))
    rows[:-1, 0] = np.diff(times)
    rows[:, 1] = 2.0 * times
    rows[:, 4:8] = Rotation.from_euler("y", 0.7 * times[:, None]).as_quat(scalar_first=True).reshape(-1, 4)
    clip = read(written(tmp_path_factory.mktemp("clips"), rows))
    assert isinstance(clip.body, Poses)
    assert clip.rate_hz == 20.0
    even = np.arange(len(clip.body)) / 20.0
    assert even[-1] == pytest.approx(times[-1])
    np.testing.assert_allclose(clip.body.root[:, 0], 2.0 * even, atol=1e-9)
    turned = Rotation.from_quat(clip.body.turns[:, 0]) * Rotation.from_euler("y", 0.7 * even[:, None]).inv()
    assert turned.magnitude().max() < 1e-9
    assert bool(clip.remarks) == (max(steps) > 1)


def test_a_real_clock_that_stumbles(shared: Path) -> None:
    clip = read(motion(shared, "roll"))
    assert clip.rate_hz == 60.0
    assert any("resampled" in remark for remark in clip.remarks)


def changed(place: tuple[int, int], value: float) -> np.ndarray:
    rows = standing()
    rows[place] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "two or more"),
        (standing(1), "two or more"),
        (standing()[:, :-1], r"shape \(4, 43\)"),
        ([[1.0, 2.0], [1.0]], "cannot be read"),
        ("none", "cannot be read"),
        (changed((1, 0), -0.1), "frame 1 lasts -0.1 s"),
        (changed((1, 0), 0.0), "frame 1 lasts 0 s"),
        (changed((1, 0), np.nan), "frame 1 lasts nan s"),
        (changed((1, 0), 5.0), "frame 1 lasts 5 s"),
        (changed((2, 4), 0.0), "turns nothing"),
    ],
)
def test_what_is_no_motion_of_this_body_is_refused(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(CorruptData, match=said):
        read(written(tmp_path, rows))


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path, standing())
    whole = path.read_bytes()
    for end in range(whole.index(b"Frames") + 10, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptData, match="cannot be read"):
            read(path)


def test_frames_that_are_not_numbers_were_not_measured(tmp_path: Path) -> None:
    clip = read(written(tmp_path, changed((2, 5), np.nan)))
    assert clip.valid is not None
    assert clip.valid.tolist() == [True, True, False, True]


def test_other_texts_are_none(shared: Path, tmp_path: Path) -> None:
    assert kind_of(shared / "data/deepmimic_motions/humanoid3d_character.txt") is None
    (tmp_path / "LICENSE.txt").write_text("The Frames of this licence")
    (tmp_path / "empty.txt").write_bytes(b"")
    assert kind_of(tmp_path / "LICENSE.txt") is None
    assert kind_of(tmp_path / "empty.txt") is None
