"""Skeletons and the numbers of a motion, against scipy's rotations and closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla.data.formats.motion.files import KINDS
from vla.motion import bodies, representation, resampling, rotations
from vla.motion.body import Body
from vla.motion.clip import Poses
from vla.motion.skeleton import Skeleton, sorted_joints
from vla.motion_settings import MotionConfig
from vla.normalize import Normalizer
from vla.statistics import fit

CMU_ACTIONS = (
    "chest=j15", "neck=j17", "left_hip=j2", "left_knee=j3", "left_ankle=j4", "right_hip=j8", "right_knee=j9",
    "right_ankle=j10", "left_shoulder=j21", "left_elbow=j22", "left_wrist=j23", "right_shoulder=j30",
    "right_elbow=j31", "right_wrist=j32",
)  # fmt: skip
"""Which nodes of cmu_actions are joints of the common body, as its SOURCE.md says."""
REAL = {
    "cmu_walks/02_01.npz": (),
    "cmu_actions/test_jumping_1.npz": CMU_ACTIONS,
    "amp_cmu_motions/amp_humanoid_cartwheel.npz": (),
}


def independent(poses: Poses) -> np.ndarray:
    """Forward kinematics by scipy, joint by joint."""
    places, turned = np.zeros((len(poses), len(poses.skeleton), 3)), []
    for joint, parent in enumerate(poses.skeleton.parents):
        own = Rotation.from_quat(poses.turns[:, joint])
        turned.append(own if parent < 0 else turned[parent] * own)
        above = poses.root if parent < 0 else places[:, parent] + turned[parent].apply(poses.skeleton.offsets[joint])
        places[:, joint] = above
    return places


def real(shared: Path, name: str) -> tuple[Poses, float, MotionConfig]:
    file = shared / "data" / name
    asked = MotionConfig(joints=REAL[name])
    (clip,) = KINDS["skeleton npz"].read(file, asked)
    assert isinstance(clip.body, Poses)
    return clip.body, clip.rate_hz, asked


@pytest.mark.parametrize("name", REAL)
def test_joints_are_where_another_library_puts_them(shared: Path, name: str) -> None:
    poses, _, _ = real(shared, name)
    np.testing.assert_allclose(poses.positions(), independent(poses), atol=1e-9)


@pytest.mark.parametrize("name", REAL)
def test_numbers_of_a_motion_give_it_back(shared: Path, name: str) -> None:
    """Up to where it stands and faces at first: rows say neither."""
    poses, rate_hz, _ = real(shared, name)
    own = bodies.own(poses).poses
    body = Body(kind="rotations", joints=own.skeleton.names, parents=own.skeleton.parents)
    turns = rotations.matrices(torch.from_numpy(own.turns))
    contacts = torch.zeros(len(own), 0, dtype=torch.bool)
    rows = representation.encode_rotations(torch.from_numpy(own.root), turns, contacts, rate_hz)
    assert rows.shape[1] == len(body.names)
    back = representation.decode(body, rows, torch.from_numpy(own.skeleton.offsets), rate_hz)
    places = independent(poses)
    start = places[0, 0] * [1, 0, 1]
    facing = Rotation.from_matrix(turns[0, 0].numpy()).as_quat()
    turn = Rotation.from_euler("y", -2 * np.arctan2(facing[1], facing[3]))
    expected = turn.apply((places - start).reshape(-1, 3)).reshape(places.shape)
    np.testing.assert_allclose(back.positions.numpy(), expected, atol=1e-9)


def distances(places: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)


@pytest.mark.parametrize("name", REAL)
def test_places_of_joints_give_a_motion_back(shared: Path, name: str) -> None:
    """All distances within a frame, and the path along the ground."""
    poses, rate_hz, asked = real(shared, name)
    own = bodies.common(poses, dict(word.split("=") for word in asked.joints)).poses
    names, places = own.skeleton.names, independent(own)
    rows = representation.encode_positions(names, torch.from_numpy(places), rate_hz)
    body = Body(kind="positions", joints=names, parents=own.skeleton.parents)
    assert rows.shape[1] == len(body.names) == len(body.units)
    back = representation.decode(body, rows, None, rate_hz).positions.numpy()
    np.testing.assert_allclose(distances(back), distances(places), atol=1e-9)
    step = np.linalg.norm(np.diff(places[:, 0], axis=0), axis=-1)
    np.testing.assert_allclose(np.linalg.norm(np.diff(back[:, 0], axis=0), axis=-1), step, atol=1e-9)


@pytest.mark.parametrize("name", REAL)
def test_the_common_body_keeps_places_and_lengths(shared: Path, name: str) -> None:
    poses, _, asked = real(shared, name)
    given_names = dict(word.split("=") for word in asked.joints)
    reduced = bodies.common(poses, given_names)
    found = independent(reduced.poses)
    lengths = np.linalg.norm(found[:, 1:] - found[:, list(reduced.poses.skeleton.parents[1:])], axis=-1)
    assert np.ptp(lengths, axis=0).max() < 1e-9
    wrist = dict(word.split("=") for word in asked.joints).get("left_wrist")
    called = next(joint for joint in (wrist, "lwrist", "left_hand") if joint in poses.skeleton.names)
    was = independent(poses)[:, poses.skeleton.names.index(called)]
    moved = np.linalg.norm(found[:, reduced.poses.skeleton.names.index("left_wrist")] - was, axis=-1)
    assert moved.max() <= reduced.moved_m + 1e-9 < 0.06


def test_skeletons_at_rest_differ_and_the_body_does_not() -> None:
    """One pose of two skeletons, one at rest with hanging arms and z up, the other with stretched ones."""
    names = (
        "pelvis",
        "chest",
        "neck",
        *(
            f"{side}_{joint}"
            for side in ("left", "right")
            for joint in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
        ),
    )
    parents = (-1, 0, 1, 0, 3, 4, 1, 6, 7, 0, 9, 10, 1, 12, 13)
    arm = np.array([[0.2, 0.2, 0.0], [0.3, 0.0, 0.0], [0.25, 0.0, 0.0]])
    leg = np.array([[0.1, 0.0, 0.0], [0.0, -0.4, 0.0], [0.0, -0.4, 0.0]])
    mirror = np.array([-1.0, 1.0, 1.0])
    stretched = np.concatenate([np.zeros((1, 3)), [[0, 0.25, 0], [0, 0.25, 0]], leg, arm, leg * mirror, arm * mirror])
    hanging = stretched.copy()
    hanging[[7, 8, 13, 14]] = [[0, -0.3, 0], [0, -0.25, 0], [0, -0.3, 0], [0, -0.25, 0]]
    to_z = Rotation.from_euler("x", 90, degrees=True)
    down = {6: -90, 12: 90}
    turns = np.tile([0.0, 0.0, 0.0, 1.0], (1, 15, 1))
    for joint, angle in down.items():  # hanging arms lifted sideways
        turns[0, joint] = Rotation.from_euler("z", -angle, degrees=True).as_quat()
    lifted = Poses(skeleton=Skeleton(names=names, parents=parents, offsets=hanging), root=np.ones((1, 3)), turns=turns)
    plain = Poses(
        skeleton=Skeleton(names=names, parents=parents, offsets=to_z.apply(stretched)),
        root=np.ones((1, 3)),
        turns=np.concatenate(
            [np.tile(to_z.inv().as_quat(), (1, 1, 1)), np.tile([0.0, 0.0, 0.0, 1.0], (1, 14, 1))], axis=1
        ),
    )
    np.testing.assert_allclose(independent(lifted), independent(plain), atol=1e-12)
    first, second = bodies.common(lifted).poses, bodies.common(plain).poses
    np.testing.assert_allclose(first.skeleton.offsets, second.skeleton.offsets, atol=1e-12)
    np.testing.assert_allclose(np.abs((first.turns * second.turns).sum(axis=-1)), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.abs(first.turns[..., 3]), 1.0, atol=1e-12)


@given(st.floats(20, 2000), st.floats(10, 200), st.integers(2, 400), st.floats(-1e3, 1e3), st.floats(-10, 10))
def test_resampling_keeps_constants_and_lines(
    rate: float, target: float, frames: int, level: float, slope: float
) -> None:
    """From the first sample to the last, at any pair of rates."""
    line = level + slope * np.arange(frames) / rate
    found = resampling.numbers(line, rate, target)
    expected = level + slope * resampling.times(frames, rate, target)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_resampling_takes_what_a_lower_rate_cannot_show() -> None:
    times = np.arange(600) / 120
    slow, fast = np.sin(2 * np.pi * 1.0 * times), np.sin(2 * np.pi * 17.0 * times)
    found = resampling.numbers(slow + fast, 120.0, 20.0)
    at = resampling.times(600, 120.0, 20.0)
    inside = slice(5, -5)
    np.testing.assert_allclose(found[inside], np.sin(2 * np.pi * at)[inside], atol=0.02)


def test_turns_go_the_short_way_and_stay_rotations() -> None:
    angles = np.linspace(0, 4 * np.pi, 200)
    turns = (
        Rotation.from_euler("y", angles[:, None]).as_quat()[:, None]
        * np.where(np.arange(200) % 3, 1, -1)[:, None, None]
    )
    found = resampling.turns(turns, 50.0, 77.0)
    at = resampling.times(200, 50.0, 77.0) * 50
    expected = Rotation.from_euler("y", np.interp(at, np.arange(200), angles)[:, None])
    assert (expected.inv() * Rotation.from_quat(found[:, 0])).magnitude().max() < 1e-9


def test_a_skeleton_that_is_no_tree_is_refused() -> None:
    zeros = np.zeros((3, 3))
    with pytest.raises(ValueError, match="hangs on no root"):
        sorted_joints(["a", "b", "c"], [-1, 2, 1], zeros)
    with pytest.raises(ValueError, match="two joints of the name a"):
        Skeleton(names=("a", "b", "a"), parents=(-1, 0, 1), offsets=zeros)
    skeleton, order = sorted_joints(["hand", "root", "arm"], [2, -1, 1], np.arange(9.0).reshape(3, 3))
    assert (skeleton.names, skeleton.parents, order) == (("root", "arm", "hand"), (-1, 0, 1), [1, 2, 0])
    np.testing.assert_array_equal(skeleton.offsets, [[0, 0, 0], [6, 7, 8], [0, 1, 2]])


def test_noise_that_is_no_motion_is_not_scaled_to_one() -> None:
    """A joint that never turns but for rounding stays near its rest, whatever a policy says of it."""
    body = Body(kind="rotations", joints=("pelvis", "left_ankle"), parents=(-1, 0), feet=("left_ankle",))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, len(body.names)))
    rows[:, 10] = 1e-9 * rows[:, 10]
    made = Normalizer.of(fit(rows, (0.0,) * len(body.names)), "z-score", finest=body.finest)
    assert len(body.finest) == len(body.names)
    assert made.scale[10] == 0.01
    assert made.apply(torch.from_numpy(rows))[:, 10].abs().max() < 1e-6
    np.testing.assert_allclose(np.delete(made.scale.numpy(), 10), np.delete(rows.std(axis=0), 10), rtol=0.1)
