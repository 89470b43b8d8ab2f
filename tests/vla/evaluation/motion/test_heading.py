"""Features: those of the body itself, wherever it goes and faces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vla.evaluation.motion.bodies import BODY, NAMES, UPRIGHT, clip, standing, walker
from vla.evaluation.motion.clips import stack
from vla.evaluation.motion.heading import Scale, features, heading, level, local, turn, window_features


@pytest.mark.parametrize(("angle", "ahead"), [(0.0, (0, 0, 1)), (np.pi / 2, (1, 0, 0)), (-np.pi / 2, (-1, 0, 0))])
def test_heading_is_where_the_body_faces(angle: float, ahead: tuple[int, int, int]) -> None:
    """The body faces z as it is written; turned, its wrists, which are held before it, lie where it faces."""
    turned = turn(UPRIGHT[None], np.array([angle]))
    assert heading(turned, BODY)[0] == pytest.approx(angle)
    wrists = turned[0, [NAMES.index("left wrist"), NAMES.index("right wrist")]].mean(axis=0)
    assert wrists == pytest.approx(np.array(ahead) * 0.05 + np.array((0, 0.75, 0)))


@given(st.floats(-3.1, 3.1), st.floats(-9.0, 9.0), st.floats(-9.0, 9.0))
def test_features_do_not_say_where_and_whereto_the_body_goes(angle: float, x: float, z: float) -> None:
    positions = walker(1.0, 20.0)
    moved = turn(positions, np.full(len(positions), angle)) + np.array((x, 0.0, z))
    assert features(moved, BODY, 20.0) == pytest.approx(features(positions, BODY, 20.0), abs=1e-9)


def test_features_are_places_and_velocities_along_the_heading() -> None:
    positions = turn(walker(1.0, 20.0, amplitude_m=0.0, speed_mps=1.5), np.full(21, 0.7))
    places, velocities = np.split(features(positions, BODY, 20.0).reshape(21, 2, 15, 3), 2, axis=1)
    assert places[0, 0, NAMES.index("left shoulder")] == pytest.approx((0.2, 1.3, 0.0), abs=1e-9)
    assert velocities[:, 0, 0] == pytest.approx(np.tile((0.0, 0.0, 1.5), (21, 1)), abs=1e-9)


def test_a_body_is_put_together_again() -> None:
    positions = turn(walker(1.0, 20.0), np.full(21, 0.7)) + np.array((3.0, 0.0, -2.0))
    together = turn(local(positions, BODY), heading(positions, BODY)) + level(positions, BODY)[:, None]
    assert together == pytest.approx(positions)


def test_features_are_scaled_by_what_they_vary_block_by_block() -> None:
    clips = [clip(walker(1.0, 20.0, phase=phase), 20.0) for phase in (0.0, 1.0, 2.0)]
    clips.append(clip(standing(0.5, 20.0), 20.0))
    windows = stack(clips)
    scale = Scale.of([stack(clips[:1]), stack(clips[1:])], BODY)
    own = window_features(windows, BODY)[windows.valid]
    assert scale.mean == pytest.approx(own.mean(axis=0))
    assert scale.spread == pytest.approx(np.maximum(own.std(axis=0), 0.05))
    normalised = scale.normalised(windows, BODY)
    assert normalised[windows.valid] == pytest.approx((own - own.mean(axis=0)) / scale.spread)
    assert not normalised[~windows.valid].any()
