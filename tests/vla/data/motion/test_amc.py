"""Acclaim's files, written here from their description and from real poses, against scipy's rotations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from tests.vla.data.motion.clips import by_name, course_deg, files_of, poses, read
from vla.data.formats.motion.files import KINDS, kind_of
from vla.errors import CorruptData, ForeignLayout
from vla.motion.clip import Poses

SKELETON = """# made here
:version 1.10
:name TEST
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
  units of the world
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name hips
    direction 0 1 0
    length 0.9
    axis 0 0 0 XYZ
  end
  begin
    id 2
    name arm
    direction 1 0 0
    length 1.8
    axis 10 20 30 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
    id 3
    name hand
    direction 0 0 1
    length 0.45
    axis 0 90 0 ZXY
    dof rz rx
  end
:hierarchy
  begin
    root hips
    hips arm
    arm hand
  end
"""
MOTION = """#!OML:ASF test
:FULLY-SPECIFIED
:DEGREES
1
root 1 2 3 10 20 30
arm 11 12 13
hand 50 60
2
root 4 5 6 -10 0 0
arm -11 0 13
hand -50 160
"""
ASKED: dict[str, Any] = {"source_rate_hz": 120.0, "up": "y"}
INCH = 0.0254


def written(folder: Path, motion: str = MOTION, skeleton: str = SKELETON, name: str = "07.asf") -> Path:
    (folder / name).write_text(skeleton)
    path = folder / "07_01.amc"
    path.write_text(motion)
    return path


def test_bones_turn_about_axes_of_their_own(tmp_path: Path) -> None:
    clip = read(written(tmp_path), **ASKED)
    assert isinstance(clip.body, Poses)
    assert (clip.name, clip.rate_hz) == ("07_01", 120.0)
    assert clip.remarks == ("lengths are inches times 0.45, as CMU's are",)
    at = by_name(clip.body)
    assert [*at] == ["root", "hips", "arm", "hand", "hand_end"]
    root = Rotation.from_euler("xyz", [[10, 20, 30], [-10, 0, 0]], degrees=True)
    frame = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    arm = root * frame * Rotation.from_euler("xyz", [[11, 12, 13], [-11, 0, 13]], degrees=True) * frame.inv()
    frame = Rotation.from_euler("zxy", [0, 90, 0], degrees=True)
    hand = arm * frame * Rotation.from_euler("zx", [[50, 60], [-50, 160]], degrees=True) * frame.inv()
    np.testing.assert_allclose(at["root"], np.array([[1, 2, 3], [4, 5, 6]]) * INCH / 0.45, atol=1e-12)
    np.testing.assert_allclose(at["hips"], at["root"], atol=1e-12)
    np.testing.assert_allclose(at["arm"], at["hips"] + root.apply([0, 2 * INCH, 0]), atol=1e-12)
    np.testing.assert_allclose(at["hand"], at["arm"] + arm.apply([4 * INCH, 0, 0]), atol=1e-12)
    np.testing.assert_allclose(at["hand_end"], at["hand"] + hand.apply([0, 0, INCH]), atol=1e-12)


def as_acclaim(clip_file: Path, folder: Path, seed: int = 0) -> tuple[Path, Poses]:
    """Real poses as ASF and AMC, each bone with a frame of its own drawn at random; and the poses."""
    clip = read(clip_file)
    assert isinstance(clip.body, Poses)
    body, skeleton = clip.body, clip.body.skeleton
    rng = np.random.default_rng(seed)
    unit = INCH / 0.45
    bones, hierarchy, lines = [], [], {}
    for joint, name in enumerate(skeleton.names[1:], start=1):
        axis = rng.uniform(-180, 180, 3)
        frame = Rotation.from_euler("xyz", axis, degrees=True)
        children = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
        way = skeleton.offsets[children[0]] / unit if children else np.zeros(3)
        assert all(np.allclose(skeleton.offsets[child], skeleton.offsets[children[0]]) for child in children)
        length = np.linalg.norm(way)
        direction = way / length if length else np.zeros(3)
        bones.append(
            f"begin\nname {name}\ndirection {' '.join(map(repr, direction.tolist()))}\nlength {float(length)!r}\n"
            f"axis {' '.join(map(repr, axis.tolist()))} XYZ\ndof rx ry rz\nend"
        )
        hierarchy.append(f"{skeleton.names[skeleton.parents[joint]]} {name}")
        own = frame.inv() * Rotation.from_quat(body.turns[:, joint]) * frame
        lines[name] = own.as_euler("xyz", degrees=True)
    lines["root"] = np.hstack([body.root / unit, Rotation.from_quat(body.turns[:, 0]).as_euler("xyz", degrees=True)])
    head = SKELETON.partition(":bonedata")[0]
    (folder / "all.asf").write_text(
        "\n".join([f"{head}:bonedata", *bones, ":hierarchy", "begin", *hierarchy, "end"]) + "\n"
    )
    frames = [
        "\n".join(
            [str(number + 1), *(f"{name} {' '.join(map(repr, rows[number].tolist()))}" for name, rows in lines.items())]
        )
        for number in range(len(body))
    ]
    path = folder / f"{clip_file.stem}.amc"
    path.write_text("\n".join([":FULLY-SPECIFIED", ":DEGREES", *frames]) + "\n")
    return path, body


def test_real_walks_come_through(shared: Path, tmp_path: Path) -> None:
    """A walk of CMU written in frames of our choice is read where it was, and faces where it goes."""
    path, body = as_acclaim(files_of(shared, "cmu_walks", ".npz")[0], tmp_path)
    clip = read(path, source_rate_hz=60.0)
    assert isinstance(clip.body, Poses)
    for name, places in by_name(body).items():
        np.testing.assert_allclose(by_name(clip.body)[name], places, atol=1e-9)
    assert abs(course_deg(clip)) < 10


@pytest.mark.deep
def test_every_real_walk_comes_through(shared: Path, tmp_path: Path) -> None:
    for file in files_of(shared, "cmu_walks", ".npz"):
        path, body = as_acclaim(file, tmp_path)
        own = by_name(poses(path, source_rate_hz=60.0))
        assert max(np.abs(own[name] - places).max() for name, places in by_name(body).items()) < 1e-9


@pytest.mark.parametrize(
    ("before", "after", "asked", "said"),
    [
        ("", "", {"source_rate_hz": None}, r"--data\.motion\.source-rate-hz 120"),
        ("length 0.45\n  angle", "length 1.0\n  angle", {}, r"--data\.motion\.unit in"),
        ("  angle deg\n", "", {}, r"--data\.motion\.angles deg, or rad"),
    ],
)
def test_what_no_file_says_is_asked_for(
    tmp_path: Path, before: str, after: str, asked: dict[str, Any], said: str
) -> None:
    skeleton = SKELETON.replace(before, after) if before else SKELETON
    with pytest.raises(ValueError, match=said):
        read(written(tmp_path, MOTION.replace(":DEGREES\n", ""), skeleton), **ASKED | asked)


def test_units_that_are_given(tmp_path: Path) -> None:
    plain = poses(written(tmp_path), **ASKED)
    others = SKELETON.replace("length 0.45\n  angle", "length 2.0\n  angle").replace("  angle deg\n", "")
    path = written(tmp_path, MOTION.replace(":DEGREES\n", ""), others)
    given = poses(path, **ASKED, unit="cm", angles="deg")
    np.testing.assert_allclose(given.root / 0.005, plain.root / (INCH / 0.45), atol=1e-9)
    np.testing.assert_allclose(given.turns, plain.turns, atol=1e-12)


def test_radians(tmp_path: Path) -> None:
    """As the skeleton says, its own frames and the motion; a motion that says the other unit is refused."""
    in_radians = SKELETON.replace("angle deg", "angle rad")
    with pytest.raises(CorruptData, match="angles in one unit"):
        read(written(tmp_path, MOTION, in_radians), **ASKED)
    motion = MOTION.replace(":DEGREES", ":RADIANS")
    first = poses(written(tmp_path, motion, in_radians), **ASKED).turns[:, 0]
    expected = Rotation.from_euler("xyz", [[10, 20, 30], [-10, 0, 0]]).as_quat()
    np.testing.assert_allclose(np.abs((first * expected).sum(axis=-1)), 1.0, atol=1e-12)


def test_the_skeleton_is_found_by_its_subject(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "08.asf").write_text("another")
    assert KINDS["AMC"].beside(path) == (tmp_path / "07.asf",)
    (tmp_path / "07.asf").unlink()
    assert KINDS["AMC"].beside(path) == (tmp_path / "08.asf",), "the only one there is"
    (tmp_path / "09.asf").write_text("a third")
    with pytest.raises(ValueError, match=r"put 07\.asf beside it"):
        read(path, **ASKED)
    assert kind_of(tmp_path / "09.asf") is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("2\nroot", "3\nroot", "frame 3 follows frame 1"),
        ("2\nroot", "1\nroot", "frame 1 follows frame 1"),
        ("2\nroot", "root", "root not once"),
        ("arm -11 0 13\n", "", "frame 2 has arm not once"),
        ("arm -11 0 13", "arm -11 0", "2 numbers of arm"),
        ("arm -11 0 13", "leg -11 0 13", "numbers of leg"),
        ("arm -11 0 13", "arm -11 0 x", "cannot be read"),
        ("hand -50 160\n", "", "frame 2 has hand not once"),
        (MOTION.partition("1\n")[2], "", "not once|no frame"),
    ],
)
def test_a_damaged_motion_is_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert MOTION.count(before) == 1
    with pytest.raises(CorruptData, match=said):
        read(written(tmp_path, MOTION.replace(before, after)), **ASKED)


@pytest.mark.parametrize(
    ("before", "after", "error", "said"),
    [
        ("  arm hand\n", "", CorruptData, "bone hand is"),
        ("  arm hand\n", "  arm foot\n", CorruptData, "bone foot is"),
        ("  hips arm\n", "  hand arm\n", CorruptData, "hangs on no root"),
        ("axis 10 20 30 XYZ", "axis 10 20 XYZ", CorruptData, "no frame of a bone"),
        ("axis 10 20 30 XYZ", "", CorruptData, "axis"),
        (":hierarchy", ":other", CorruptData, "hierarchy"),
        ("direction 1 0 0", "direction 1 0", CorruptData, "no frame of a bone"),
        ("dof rz rx", "dof rz l", ForeignLayout, "hand that gets longer"),
        ("position 0 0 0", "position 0 1 0", ForeignLayout, "does not begin in the origin"),
    ],
)
def test_a_skeleton_that_does_not_fit_is_refused(
    tmp_path: Path, before: str, after: str, error: type[ValueError], said: str
) -> None:
    assert SKELETON.count(before) == 1
    with pytest.raises(error, match=said):
        read(written(tmp_path, MOTION, SKELETON.replace(before, after)), **ASKED)


def test_frames_that_are_not_numbers_were_not_measured(tmp_path: Path) -> None:
    clip = read(written(tmp_path, MOTION.replace("arm -11 0 13", "arm nan nan nan")), **ASKED)
    assert clip.valid is not None
    assert clip.valid.tolist() == [True, False]
