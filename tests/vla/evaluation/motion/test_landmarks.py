"""Which joints are what: by name, in pairs, and mirrored."""

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, NAMES, PAIRS, PARENTS, TOED, UPRIGHT
from vla.evaluation.motion.landmarks import Landmarks


def test_joints_are_found_by_name_left_before_right() -> None:
    assert BODY.ankles == (14, 11)
    assert BODY.legs == (10, 11, 13, 14)
    assert BODY.tips == BODY.ankles
    assert BODY.feet == ((14, 14), (11, 11))
    assert TOED.tips == (16, 15)
    assert TOED.feet == ((14, 16), (11, 15))
    assert TOED.legs == (10, 11, 13, 14, 15, 16)


def test_a_wrong_name_is_refused_with_the_nearest_one() -> None:
    pairs = PAIRS | {"ankles": ("left ankle", "right ancle")}
    with pytest.raises(ValueError, match="no joint right ancle; did you mean right ankle"):
        Landmarks.named(NAMES, PARENTS, pelvis="pelvis", **pairs)


def test_a_skeleton_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="15 names were given for 14 joints"):
        Landmarks.named(NAMES, PARENTS[:-1], pelvis="pelvis", **PAIRS)
    with pytest.raises(ValueError, match="chest comes before the joint that carries it"):
        Landmarks.named(NAMES, (-1, 2, *PARENTS[2:]), pelvis="pelvis", **PAIRS)


@pytest.mark.parametrize("body", [BODY, TOED])
def test_the_mirror_swaps_left_and_right_by_their_names(body: Landmarks) -> None:
    swapped = {"left": "right", "right": "left"}
    for place, name in enumerate(body.names):
        side, _, joint = name.partition(" ")
        expected = f"{swapped[side]} {joint}" if side in swapped else name
        assert body.names[body.mirrored[place]] == expected


def test_the_mirror_reaches_joints_that_no_pair_names() -> None:
    """Clavicles above the shoulders, thumbs and fingers below them; a tail is nobody's like."""
    names = ("root", "lclav", "rclav", "lsho", "rsho", "lthumb", "lfinger", "rthumb", "rfinger", "tail",
             "lhip", "lknee", "lank", "rhip", "rknee", "rank")  # fmt: skip
    parents = (-1, 0, 0, 1, 2, 3, 3, 4, 4, 0, 0, 10, 11, 0, 13, 14)
    body = Landmarks(
        names=names, parents=parents, pelvis=0, shoulders=(3, 4), hips=(10, 13), knees=(11, 14), ankles=(12, 15)
    )
    assert body.mirrored == (0, 2, 1, 4, 3, 7, 8, 5, 6, 9, 13, 14, 15, 10, 11, 12)


def test_bones_are_as_long_as_they_are() -> None:
    lengths = BODY.bones(np.stack([UPRIGHT, 2 * UPRIGHT]))
    assert lengths.shape == (2, 14)
    assert lengths[0, 0] == pytest.approx(0.4)
    assert lengths[1] == pytest.approx(2 * lengths[0])
    assert lengths[0, 9] == pytest.approx(np.hypot(0.4, 0.02)), "hip to knee"
