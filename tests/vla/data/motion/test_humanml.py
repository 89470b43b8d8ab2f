"""HumanML3D's files, written from real walks by formulas of the test's own, and read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.data.formats.motion.files import KINDS
from vla.data.formats.motion.humanml import JOINTS
from vla.data.formats.motion.reader import open_motion
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion.clip import Clip, Points, Poses
from vla.motion.resampling import numbers
from vla.motion_settings import MotionConfig

SIDES = ("left", "right")


def read(file: Path) -> list[Clip]:
    kind = next(kind for kind in KINDS.values() if kind.found(file))
    return list(kind.read(file, MotionConfig()))


def real_walk(shared: Path) -> np.ndarray:
    """(T, 22, 3) at 20 Hz of a real walk: joints of SMPL by name; those it lacks lie between their neighbours."""
    (clip,) = read(shared / "data/cmu_walks/02_01.npz")
    assert isinstance(clip.body, Poses)
    places = numbers(clip.body.positions(), clip.rate_hz, 20.0)
    at = {name: places[:, place] for place, name in enumerate(clip.body.skeleton.names)}
    found: dict[str, np.ndarray] = {
        "pelvis": at["root"], "spine1": at["lowerback"], "spine2": at["upperback"], "spine3": at["thorax"],
        "neck": at["lowerneck"], "head": at["head"],
    }  # fmt: skip
    for side in SIDES:
        initial = side[0]
        found |= {
            f"{side}_hip": at[f"{initial}femur"], f"{side}_knee": at[f"{initial}tibia"],
            f"{side}_ankle": at[f"{initial}foot"], f"{side}_foot": at[f"{initial}toes"],
            f"{side}_shoulder": at[f"{initial}humerus"], f"{side}_elbow": at[f"{initial}radius"],
            f"{side}_wrist": at[f"{initial}wrist"],
        }  # fmt: skip
        found[f"{side}_collar"] = (found["spine3"] + found[f"{side}_shoulder"]) / 2
    return np.stack([found[name] for name in JOINTS], axis=1)


def heading(places: np.ndarray) -> np.ndarray:
    """rad about y: the way across hips and shoulders, turned by a quarter."""
    names = list(JOINTS)
    across = sum(
        places[:, names.index(f"left_{joint}")] - places[:, names.index(f"right_{joint}")]
        for joint in ("hip", "shoulder")
    )
    forward = np.cross(across, [0.0, 1.0, 0.0])
    return np.arctan2(forward[:, 0], forward[:, 2])


def vectors_of(places: np.ndarray) -> np.ndarray:
    """263 numbers a frame by the definition of the format; what lies behind the first 67 is noise here."""
    facing = heading(places)
    onto_z = Rotation.from_rotvec(-facing[:, None] * [0.0, 1.0, 0.0])  # turns the body to +Z
    between = onto_z[1:] * onto_z[:-1].inv()
    turning = np.arcsin(between.as_quat(canonical=True)[:, 1])
    speed = onto_z[1:].apply(np.diff(places[:, 0], axis=0))
    beside = places - places[:, :1] * [1.0, 0.0, 1.0]
    beside = np.stack([onto_z.apply(beside[:, joint]) for joint in range(1, 22)], axis=1)
    first = np.concatenate(
        [turning[:, None], speed[:, [0, 2]], places[:-1, 0, 1:2], beside[:-1].reshape(len(places) - 1, 63)], axis=1
    )
    noise = np.random.default_rng(0).normal(size=(len(first), 196))
    return np.concatenate([first, noise], axis=1)


def written(root: Path, places: np.ndarray, texts: str | None, *, vectors: bool = False, name: str = "000001") -> Path:
    folder = root / ("new_joint_vecs" if vectors else "new_joints")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.npy"
    np.save(file, (vectors_of(places) if vectors else places).astype(np.float32))
    if texts is not None:
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"{name}.txt").write_text(texts)
    return file


LINES = "a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0\nsomeone goes ahead#x/Y#0.0#0.0\nhe starts#x/Y#0.5#1.5\n"


def test_joints_of_a_real_walk_come_back(shared: Path, tmp_path: Path) -> None:
    places = real_walk(shared)
    (whole, span) = read(written(tmp_path, places, LINES))
    assert isinstance(whole.body, Points) and isinstance(span.body, Points)
    np.testing.assert_array_equal(whole.body.values, places.astype(np.float32))
    np.testing.assert_array_equal(span.body.values, places.astype(np.float32)[10:30])
    assert whole.texts == ("a person walks.", "someone goes ahead") and span.texts == ("he starts",)
    assert (whole.name, span.name, whole.rate_hz) == ("000001", "0.5-1.5s", 20.0)


def test_the_first_numbers_of_vectors_put_the_joints_where_they_were(shared: Path, tmp_path: Path) -> None:
    """Up to where the walk began and faced; the numbers behind them change nothing."""
    places = real_walk(shared)
    assert np.ptp(heading(places)) > 0.05, "it turns"
    (clip,) = read(written(tmp_path, places, None, vectors=True))
    assert isinstance(clip.body, Points)
    start = Rotation.from_euler("y", -heading(places)[0])
    origin = places[0, 0] * [1.0, 0.0, 1.0]
    expected = start.apply((places - origin).reshape(-1, 3)).reshape(places.shape)[:-1]
    np.testing.assert_allclose(clip.body.values, expected, rtol=0, atol=2e-5)
    assert clip.texts == ()


def test_both_kinds_become_the_same_rows(shared: Path, tmp_path: Path) -> None:
    """Root velocity, turning and joints are told from the body's own heading, so where it began is in neither."""
    places = real_walk(shared)
    written(tmp_path / "one", places[:-1], LINES)
    written(tmp_path / "other", places, LINES, vectors=True)
    one, other = (open_motion(tmp_path / name) for name in ("one", "other"))
    assert one.layout.body == other.layout.body and one.layout.action_dim == 69
    assert [episode.name.partition("/")[2] for episode in one.episodes] == [
        "new_joints/000001", "new_joints/000001/0.5-1.5s",
    ]  # fmt: skip
    for a, b in zip(one.episodes, other.episodes, strict=True):
        np.testing.assert_allclose(a.actions.values, b.actions.values, rtol=0, atol=1e-3)
        assert a.instructions.different == b.instructions.different


def test_where_both_kinds_lie_the_places_are_read(shared: Path, tmp_path: Path) -> None:
    places = real_walk(shared)
    written(tmp_path, places, LINES, vectors=True)
    written(tmp_path, places, LINES, vectors=True, name="000002")
    written(tmp_path, places, LINES)
    names = [episode.name.partition("/")[2] for episode in open_motion(tmp_path).episodes]
    assert names == [
        "new_joint_vecs/000002", "new_joint_vecs/000002/0.5-1.5s", "new_joints/000001", "new_joints/000001/0.5-1.5s",
    ]  # fmt: skip


def test_a_caption_that_changes_is_read_anew(shared: Path, tmp_path: Path) -> None:
    file = written(tmp_path, real_walk(shared), LINES)
    assert "someone goes ahead" in open_motion(file).episodes[0].instructions.different
    (tmp_path / "texts/000001.txt").write_text("other#x#nan#nan\n")
    (episode,) = open_motion(file).episodes
    assert episode.instructions.different == ("other",)


CAPTIONS = {
    "columns": ("a person walks.\n", CorruptData, "line 1, is not written `caption#tokens#from#to`"),
    "numbers": ("a#b#0.0#0.0\na person walks#x#0.0#end\n", CorruptData, "line 2, is not written"),
    "late": ("a#b#90.0#95.0\n", CorruptData, "has a caption of 90 to 95 s, where"),
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_bad_captions_are_refused_in_one_sentence(shared: Path, tmp_path: Path, kind: str) -> None:
    text, error, words = CAPTIONS[kind]
    written(tmp_path, real_walk(shared), text)
    with pytest.raises(error, match=words) as raised:
        open_motion(tmp_path)
    assert "000001.txt" in str(raised.value) and "\n" not in str(raised.value)


def test_an_empty_caption_is_said(shared: Path, tmp_path: Path) -> None:
    written(tmp_path, real_walk(shared), " #x/Y#0.0#0.0\n")
    reader = open_motion(tmp_path)
    said = "\n".join(reader.layout.remarks)
    assert "lines without a caption are passed over" in said and "1 of 1 clips have no caption" in said
    assert reader.episodes[0].instructions.different == ("",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((30, 21, 3)), r"shape \(30, 21, 3\), expected \(frames, 22, 3\) or \(frames, 263\)"),
        (np.zeros((30, 251)), r"shape \(30, 251\), expected"),
    ],
)
def test_numbers_of_another_shape_are_refused(tmp_path: Path, values: Any, words: str) -> None:
    (tmp_path / "new_joints").mkdir()
    np.save(tmp_path / "new_joints/a.npy", values)
    with pytest.raises(CorruptData, match=words) as raised:
        open_motion(tmp_path)
    assert "a.npy" in str(raised.value) and "\n" not in str(raised.value)


def test_frames_that_are_not_finite_are_masked(shared: Path, tmp_path: Path) -> None:
    places = real_walk(shared)
    places[4:6, 3] = np.nan
    written(tmp_path, places, LINES)
    whole, span = open_motion(tmp_path, Selection(motion=MotionConfig())).episodes
    assert len(whole.timestamps) == len(places) - 2 and len(span.timestamps) == 20
