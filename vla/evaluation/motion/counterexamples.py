"""Motions that no human makes, made of real ones: what a judge of motions must reject.

A policy that has learned too little glides: recall and the Frechet distance of a classifier that knows real motions
alone do not see it. What such policies make is made here on purpose, with settings that a judge's training and its
test choose differently.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.motion.clips import Clip, floor_height
from vla.evaluation.motion.heading import heading, level, local, turn
from vla.evaluation.motion.landmarks import Landmarks
from vla.randomness import derive

NOT_HUMAN = "not human"


@dataclass(frozen=True, kw_only=True)
class Counterexamples:
    """What is chosen from for each; one of each for each clip."""

    speeds_mps: tuple[float, ...] = (0.5, 1.0, 1.6)
    """With which a body glides along its heading."""
    kept: tuple[float, ...] = (0.0, 0.12)
    """Shares of their own motion that held legs keep."""
    poses: tuple[float | None, ...] = (None, 0.25)
    """Where in the clip (0 start, 1 end) the legs' pose is from; None: the mean pose."""
    averages_s: tuple[float, ...] = (0.7, 1.4)
    """Over which a running mean is taken."""
    blends: tuple[float, ...] = (0.35, 0.5)
    """Shares of another clip."""
    bones_kept: tuple[bool, ...] = (False, True)
    """Whether bones get back the lengths that means have shortened, as a policy of rotations keeps them."""
    least_m: float = 0.08
    """What moves the legs by less, root mean square, is left out: it is still the real motion."""


UNSEEN = Counterexamples(
    speeds_mps=(0.7, 1.3), kept=(0.06, 0.2), poses=(0.5, 0.8), averages_s=(0.55, 1.0), blends=(0.42,)
)
"""Settings that no judge is trained with: by what these make it is itself examined."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A clip taken apart: how the body moves in itself, and where it goes."""

    pose: Float64[np.ndarray, "T J 3"]
    """Local positions."""
    heading: Float64[np.ndarray, " T"]
    path: Float64[np.ndarray, "T 3"]

    @staticmethod
    def of(positions: Float[np.ndarray, "T J 3"], body: Landmarks) -> "_Course":
        return _Course(
            pose=local(positions, body), heading=np.unwrap(heading(positions, body)), path=level(positions, body)
        )

    def positions(self) -> Float64[np.ndarray, "T J 3"]:
        positions: Float64[np.ndarray, "T J 3"] = turn(self.pose, self.heading) + self.path[:, None]
        return positions


Maker = Callable[[Clip, Landmarks, Counterexamples, np.random.Generator, Sequence[Clip]], _Course]


def frozen_legs(
    clip: Clip, body: Landmarks, settings: Counterexamples, draw: np.random.Generator, _others: Sequence[Clip]
) -> _Course:
    """The legs held in one pose below the pelvis, all else as it was."""
    course = _Course.of(clip.positions, body)
    legs, pose = course.pose[:, body.legs], course.pose.copy()
    at = settings.poses[draw.integers(len(settings.poses))]
    held = legs.mean(axis=0) if at is None else legs[round(at * (len(legs) - 1))]
    pose[:, body.legs] = held + draw.choice(settings.kept) * (legs - held)
    return replace(course, pose=pose)


def glide(
    clip: Clip, body: Landmarks, settings: Counterexamples, draw: np.random.Generator, _others: Sequence[Clip]
) -> _Course:
    """The legs held in one pose while the body moves along its heading at one speed."""
    course = frozen_legs(clip, body, settings, draw, ())
    ahead = turn(np.tile((0.0, 0.0, 1.0), (len(course.heading), 1)), course.heading)
    step = draw.choice(settings.speeds_mps) / clip.rate_hz
    return replace(course, path=course.path[:1] + step * (np.cumsum(ahead, axis=0) - ahead[:1]))


def averaged(
    clip: Clip, body: Landmarks, settings: Counterexamples, draw: np.random.Generator, _others: Sequence[Clip]
) -> _Course:
    """A running mean over time of the body's pose, along the way that it went."""
    course = _Course.of(clip.positions, body)
    margin = round(draw.choice(settings.averages_s) * clip.rate_hz / 2)
    padded = np.pad(course.pose, ((margin, margin), (0, 0), (0, 0)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * margin + 1, axis=0)
    return replace(course, pose=around.mean(axis=-1))


def blend(
    clip: Clip, body: Landmarks, settings: Counterexamples, draw: np.random.Generator, others: Sequence[Clip]
) -> _Course:
    """The mean of two clips' poses, along the way of the first."""
    course, other = _Course.of(clip.positions, body), others[int(draw.integers(len(others)))]
    frames = min(len(clip.positions), len(other.positions))
    weight = draw.choice(settings.blends)
    pose = (1 - weight) * course.pose[:frames] + weight * local(other.positions[:frames], body)
    return _Course(pose=pose, heading=course.heading[:frames], path=course.path[:frames])


KINDS: dict[str, Maker] = {"glide": glide, "frozen legs": frozen_legs, "averaged": averaged, "blend": blend}


def counterexamples(
    clips: Sequence[Clip], body: Landmarks, settings: Counterexamples | None = None, *, seed: int = 0
) -> dict[str, list[Clip]]:
    """Of prepared clips, the counter-examples of each kind, at most one a clip; each keeps the label of its clip."""
    settings = Counterexamples() if settings is None else settings
    found: dict[str, list[Clip]] = {kind: [] for kind in KINDS}
    for kind, make in KINDS.items():
        for place, clip in enumerate(clips):
            draw = derive(seed, f"counterexamples/{kind}", place)
            positions = make(clip, body, settings, draw, clips).positions()
            if draw.choice(settings.bones_kept):
                positions = with_bones(positions, body, body.bones(clip.positions).mean(axis=0))
            if kind != "glide" and _moved(clip.positions[: len(positions)], positions, body) < settings.least_m:
                continue
            positions[..., 1] -= floor_height(positions)
            found[kind].append(replace(clip, positions=positions))
    return found


def _moved(before: Float[np.ndarray, "T J 3"], after: Float[np.ndarray, "T J 3"], body: Landmarks) -> float:
    """By how much the legs are elsewhere, root mean square, in m."""
    return float(np.sqrt(((before - after)[:, body.legs] ** 2).sum(axis=-1).mean()))


def with_bones(
    positions: Float[np.ndarray, "T J 3"], body: Landmarks, lengths: Float[np.ndarray, " bones"]
) -> Float64[np.ndarray, "T J 3"]:
    """The same directions of all bones at other lengths, from the root on; a bone of no length has none to keep."""
    given = iter(lengths)
    changed = positions.astype(np.float64)
    for place, parent in enumerate(body.parents):
        if parent >= 0:
            bone = positions[:, place] - positions[:, parent]
            size = np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-9)
            changed[:, place] = changed[:, parent] + bone / size * next(given)
    return changed
