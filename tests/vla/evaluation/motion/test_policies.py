"""What a judge of a policy's motions is taught: clips at several paces, mirrored, and by bodies of other builds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.data.motion.clips import body_of_sticks, some_motion
from vla.data.formats import open_folder
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.evaluation.motion.clips import PACES, VARIATIONS
from vla.evaluation.motion.policies import clips_of, landmarks_of, lessons_of
from vla.motion_settings import MotionConfig

SIZES = (1.0, 1.3)


@pytest.mark.parametrize("representation", ["rotations", "positions"])
def test_lessons_are_of_bodies_of_several_builds(tmp_path: Path, representation: str) -> None:
    """Half of them on a skeleton of another clip, where clips have one; what was done by whom cannot be told then."""
    for place in range(8):
        skeleton = body_of_sticks()
        moving = some_motion(replace(skeleton, offsets=SIZES[place % 2] * skeleton.offsets), frames=20, seed=place)
        write_npz(tmp_path / f"{place}.npz", moving, 20.0, action=f"action {place}")
    reader = open_folder(tmp_path, Selection(motion=MotionConfig(representation=representation)))
    body = reader.layout.body
    assert body is not None
    seen, landmarks = landmarks_of(body)
    own, lessons = clips_of([reader], seen), lessons_of([reader], seen, landmarks, seed=0)
    assert len(own) == 8 and len(lessons) == 8 * VARIATIONS == 48
    assert [lesson.label for lesson in lessons] == [f"action {place}" for place in range(8) for _ in range(VARIATIONS)]
    assert {lesson.rate_hz for lesson in lessons} == {20.0 * pace for pace in PACES}
    sizes = [landmarks.bones(clip.positions).sum(axis=1).mean() for clip in own]
    ratio = [
        landmarks.bones(lesson.positions).sum(axis=1).mean() / sizes[place // VARIATIONS]
        for place, lesson in enumerate(lessons)
    ]
    others = np.array(ratio).round(3) != 1.0
    if representation == "positions":
        assert not others.any()
        return
    assert {round(float(some), 2) for some in ratio} == {1.0, 1.3, round(1 / 1.3, 2)}
    assert 0.1 < others.mean() < 0.4, "a half of those that are shown on another one keep their size by chance"
    again = lessons_of([reader], seen, landmarks, seed=0)
    assert all((one.positions == other.positions).all() for one, other in zip(lessons, again, strict=True))
