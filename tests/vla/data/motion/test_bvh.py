"""BVH, against pybvh where that reads it and against rotations by scipy where it does not; and back out."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.vla.data.motion.clips import angle_deg, body_of_sticks, by_name, poses, read, some_motion, tree
from vla.data.formats.motion.bvh import write_bvh
from vla.data.formats.motion.files import kind_of
from vla.errors import CorruptData, MissingPackage
from vla.motion.clip import Poses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that pybvh can draw with
    import pybvh

PLAIN = """HIERARCHY
ROOT Hips
{
    OFFSET 1 2 3
    CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
    JOINT Left Arm {
        OFFSET 0 10 0
        CHANNELS 3 Yrotation Xrotation Zrotation
        End Site
        {
            OFFSET 0 5 0
        }
    }
    JOINT Nose
    {
        OFFSET 1 0 0
        CHANNELS 3 Xrotation Yrotation Zrotation
        End Site
        {
            OFFSET 0 0 0
        }
    }
}
MOTION
Frames: 2
Frame Time: 0.033333
1 2 3 10 20 30 40 50 60 0 0 0
4 5 6 -10 0 0 0 90 0 1 2 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "clip.bvh"
    path.write_text(text)
    return path


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    clip = read(written(tmp_path, PLAIN), unit="cm", up="y")
    assert isinstance(clip.body, Poses)
    assert (clip.name, clip.rate_hz, clip.remarks) == ("clip", 30.0, ())
    assert clip.body.skeleton.names == ("Hips", "Left Arm", "Nose", "Left Arm_end")
    at = by_name(clip.body)
    root = Rotation.from_euler("ZXY", [[10, 20, 30], [-10, 0, 0]], degrees=True)
    arm = root * Rotation.from_euler("YXZ", [[40, 50, 60], [0, 90, 0]], degrees=True)
    np.testing.assert_allclose(at["Hips"], [[0.01, 0.02, 0.03], [0.04, 0.05, 0.06]], atol=1e-12)
    np.testing.assert_allclose(at["Left Arm"] - at["Hips"], root.apply([0, 0.1, 0]), atol=1e-12)
    np.testing.assert_allclose(at["Left Arm_end"] - at["Left Arm"], arm.apply([0, 0.05, 0]), atol=1e-12)


ORDERS = ("XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX")


@st.composite
def hierarchies(draw: st.DrawFn) -> str:
    """Any tree, orders of channels, and numbers."""
    numbers = st.floats(-200, 200).map(lambda value: round(value, 4))
    count = draw(st.integers(1, 6))
    parents = [-1, *(draw(st.integers(0, joint - 1)) for joint in range(1, count))]

    def joint(place: int) -> str:
        order = draw(st.sampled_from(ORDERS))
        kind = "ROOT" if place == 0 else "JOINT"
        channels = [f"{axis}rotation" for axis in order]
        if place == 0:
            channels = draw(
                st.sampled_from(
                    [
                        ["Xposition", "Yposition", "Zposition", *channels],
                        [*channels, "Xposition", "Yposition", "Zposition"],
                    ]
                )
            )
        children = [joint(child) for child, parent in enumerate(parents) if parent == place]
        offset = " ".join(str(draw(numbers)) for _ in range(3))
        inner = "\n".join(children) or "End Site\n{\nOFFSET 1 2 3\n}"
        return f"{kind} j{place}\n{{\nOFFSET {offset}\nCHANNELS {len(channels)} {' '.join(channels)}\n{inner}\n}}"

    frames = draw(st.integers(1, 3))
    text = joint(0)
    rows = [" ".join(str(draw(numbers)) for _ in range(3 + 3 * count)) for _ in range(frames)]
    return "\n".join(["HIERARCHY", text, "MOTION", f"Frames: {frames}", "Frame Time: 0.01", *rows]) + "\n"


@settings(max_examples=40)
@given(hierarchies())
def test_joints_are_where_pybvh_puts_them(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.mktemp("files"), text)
    told = pybvh.read_bvh_file(path, world_up="+y")
    places = dict(zip((node.name for node in told.nodes), told.node_positions().transpose(1, 0, 2), strict=True))
    body = poses(path, unit="m", up="y")
    for name, own in by_name(body).items():
        theirs = places[f"EndSite{name.removesuffix('_end')}" if name.endswith("_end") else name]
        np.testing.assert_allclose(own, theirs, atol=1e-9)
    assert len(body.skeleton) == len(told.nodes)


MOVING = """HIERARCHY
ROOT Hips
{
  OFFSET 7 8 9
  CHANNELS 4 Yrotation Zposition Xrotation Xposition
  JOINT Spine
  {
    OFFSET 0 1 0
    CHANNELS 6 Zrotation Xposition Yposition Zposition Yrotation Xrotation
    JOINT Head
    {
      OFFSET 0 2 0
      CHANNELS 1 Zrotation
      JOINT Hat
      {
        OFFSET 0 0.5 0
        CHANNELS 0
      }
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.0416667
10 1 20 2 30 0 1.5 0 40 50 60
11 3 21 4 31 0 1.5 0 41 51 61
12 5 22 6 32 0 1.5 0 42 52 62
"""


def test_positions_of_inner_joints_take_the_place_of_offsets(tmp_path: Path) -> None:
    """Fewer channels and others in between too, which pybvh refuses; the hand calculation is scipy's."""
    clip = read(written(tmp_path, MOVING), unit="m", up="y")
    assert isinstance(clip.body, Poses)
    assert (clip.rate_hz, clip.remarks) == (24.0, ())
    at = by_name(clip.body)
    np.testing.assert_allclose(at["Hips"], [[2, 8, 1], [4, 8, 3], [6, 8, 5]])
    root = Rotation.from_euler("YX", [[10, 20], [11, 21], [12, 22]], degrees=True)
    spine = root * Rotation.from_euler("ZYX", [[30, 40, 50], [31, 41, 51], [32, 42, 52]], degrees=True)
    head = spine * Rotation.from_euler("Z", [[60], [61], [62]], degrees=True)
    np.testing.assert_allclose(at["Spine"], at["Hips"] + root.apply([0, 1.5, 0]), atol=1e-12)
    np.testing.assert_allclose(at["Head"], at["Spine"] + spine.apply([0, 2, 0]), atol=1e-12)
    np.testing.assert_allclose(at["Hat"], at["Head"] + head.apply([0, 0.5, 0]), atol=1e-12)


def test_joints_that_move_along_their_bones_are_said(tmp_path: Path) -> None:
    clip = read(written(tmp_path, MOVING.replace("31 0 1.5 0", "31 0 1.7 0")), unit="m", up="y")
    assert isinstance(clip.body, Poses)
    assert clip.body.skeleton.offsets[1].tolist() == [0.0, 1.5, 0.0]
    assert clip.remarks == ("joints move along bones by 10 cm and more: bones keep their median length",)


@pytest.mark.parametrize(
    ("frame_time", "rate_hz"),
    [("0.033333", 30.0), ("0.008333", 120.0), ("0.0416667", 24.0), ("0.01668335", 59.94), ("0.04170833", 23.976)],
)
def test_frame_times_that_were_rounded(tmp_path: Path, frame_time: str, rate_hz: float) -> None:
    clip = read(written(tmp_path, PLAIN.replace("0.033333", frame_time)), unit="cm", up="y")
    assert clip.rate_hz == pytest.approx(rate_hz, rel=1e-5 if rate_hz % 1 else 0)


def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unit of its lengths.*15.*--data\.motion\.unit cm"):
        read(written(tmp_path, PLAIN), up="y")
    with pytest.raises(ValueError, match=r"--data\.motion\.up"):
        read(written(tmp_path, PLAIN), unit="cm")


def test_frames_that_are_not_numbers_were_not_measured(tmp_path: Path) -> None:
    clip = read(written(tmp_path, PLAIN.replace("4 5 6 -10", "4 5 6 nan")), unit="cm", up="y")
    assert clip.valid is not None
    assert clip.valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("Nose", "Left Arm", "two joints of the name Left Arm"),
        ("Frames: 2", "Frames: 3", "announces 3 frames and has 2"),
        ("Frames: 2\n", "", "does not say its frames"),
        ("Frames: 2", "Frames: two", "cannot be read"),
        ("Frame Time: 0.033333", "Frame Time: 0", "no period"),
        ("Frame Time: 0.033333", "Frame Time: -0.01", "no period"),
        ("1 2 3 10 20", "1 2 3 10", "cannot be read"),
        (" 60 0 0 0\n", " 60 0 0\n", "cannot be read"),
        ("CHANNELS 3 Yrotation", "CHANNELS 3 Wrotation", "no channel Wrotation"),
        ("CHANNELS 3 Yrotation Xrotation Zrotation", "CHANNELS 2 Yrotation Xrotation", "12 numbers, and its joints 11"),
        ("OFFSET 0 10 0", "OFFSET 0 10", "cannot be read"),
        ("OFFSET 0 10 0", "", "not complete"),
        ("OFFSET 0 10 0", "OFFSET 0 nan 0", "not finite"),
        ("MOTION\n", "", "ends before MOTION"),
        ("JOINT Nose", "ROOT Nose", "ROOT stands within"),
        ("ROOT Hips", "JOINT Hips", "JOINT stands outside"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert PLAIN.count(before) == 1 or before == "OFFSET 0 10 0"
    with pytest.raises(CorruptData, match=said):
        read(written(tmp_path, PLAIN.replace(before, after)), unit="cm", up="y")


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    for end in range(0, len(PLAIN) - 3, 7):
        path.write_text(PLAIN[:end])
        with pytest.raises(CorruptData):
            read(path, unit="cm", up="y")


def test_no_motion_is_no_frames(tmp_path: Path) -> None:
    empty = PLAIN.replace("Frames: 2", "Frames: 0").rpartition("1 2 3 10")[0]
    assert len(poses(written(tmp_path, empty), unit="cm", up="y")) == 0


# Out again.


def there_and_back(body: Poses, folder: Path, rate_hz: float = 30.0) -> Poses:
    path = folder / "out.bvh"
    write_bvh(path, body, rate_hz)
    clip = read(path, unit="cm", up="y")
    assert clip.rate_hz == pytest.approx(rate_hz, rel=1e-9)
    assert isinstance(clip.body, Poses)
    return clip.body


@pytest.mark.parametrize("seed", range(5))
def test_any_turns_come_back(tmp_path: Path, seed: int) -> None:
    body = some_motion(body_of_sticks(), frames=20, seed=seed)
    back = there_and_back(body, tmp_path)
    assert np.radians(angle_deg(body, back)) < 1e-6
    for name, places in by_name(body).items():
        np.testing.assert_allclose(by_name(back)[name], places, atol=1e-6)
    assert sorted(back.skeleton.names) == sorted(body.skeleton.names)


@pytest.mark.parametrize("off", [0.0, 1e-12, 1e-9, 1e-7, 1e-4])
def test_turns_beside_a_quarter_about_y_come_back(tmp_path: Path, off: float) -> None:
    """Where angles about z and x say the same, so that formulas divide by nothing."""
    skeleton = tree(["root", "arm"], [-1, 0], [[0, 0, 0], [1, 0, 0]])
    angles = [[z, sign * (90 - np.degrees(off)), x] for z in (0, 33, 170) for x in (0, -60, 179) for sign in (1, -1)]
    turns = Rotation.from_euler("ZYX", angles, degrees=True).as_quat()
    body = Poses(skeleton=skeleton, root=np.zeros((len(turns), 3)), turns=np.stack([turns, turns], axis=1))
    assert np.radians(angle_deg(body, there_and_back(body, tmp_path))) < 1e-6


def test_ends_of_bones_come_back_as_such(tmp_path: Path) -> None:
    first = poses(written(tmp_path, PLAIN.replace("Left Arm", "Arm")), unit="cm", up="y")
    back = there_and_back(first, tmp_path)
    text = (tmp_path / "out.bvh").read_text()
    assert (text.count("JOINT"), text.count("End Site")) == (2, 2)
    assert sorted(back.skeleton.names) == sorted(first.skeleton.names) == ["Arm", "Arm_end", "Hips", "Nose"]


def test_what_bvh_cannot_hold_is_refused(tmp_path: Path) -> None:
    skeleton = tree(["root", "left arm"], [-1, 0], [[0, 0, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="'left arm'"):
        write_bvh(tmp_path / "out.bvh", some_motion(skeleton), 30.0)
    body = some_motion(tree(["root", "arm"], [-1, 0], [[0, 0, 0], [1, 0, 0]]))
    body.root[2, 1] = np.nan
    with pytest.raises(ValueError, match="not measured"):
        write_bvh(tmp_path / "out.bvh", body, 30.0)
    assert not (tmp_path / "out.bvh").exists()


def test_without_the_package_the_sentence_has_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybvh", None)
    with pytest.raises(
        MissingPackage, match=r"pybvh, which is not installed; give `pip install 'touchstone-vla\[motion\]'`"
    ):
        write_bvh(tmp_path / "out.bvh", some_motion(body_of_sticks()), 30.0)


def test_endings_are_read_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "CLIP.BVH"
    path.write_text(PLAIN)
    assert kind_of(path) == "BVH"
