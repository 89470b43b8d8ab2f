"""What a critic measures of a motion: in SI units, at one rate, most of it against the body's own middle."""

import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Float64

from vla.critic.repetition import repetition
from vla.motion import resampling
from vla.motion.moves import Moves
from vla.motion.representation import feet_of

RATE_HZ = 20.0
"""At which motions are judged: accelerations grow with the rate they were recorded at, and what grows is noise."""
ROOT_HZ = 15.0
"""The rate whose low-pass (vla/motion/resampling.py) ends at 6 Hz: of the root's velocities and accelerations."""
FIGURE_M = 1.7
"""Height of a figure that was drawn in a plane, which has no unit."""
FEWEST_FRAMES = 5
"""At RATE_HZ; accelerations that turn back take four."""
TURN_BACK = -0.5
"""Cosine of the angle from which on an acceleration turns back."""
BURST_MPS = 20.0
"""Speed of a joint that no human reaches."""
CONTACT_M, SLIDE_MPS = 0.05, 0.5
"""A foot lower than this above the lowest that the feet get, and faster, slides."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of one motion; NaN is what cannot be measured of it."""

    seconds: float
    """From the first frame to the last."""
    still: float
    """Share of the steps in which no joint moves against the middle of the body faster than a limit."""
    repetition: float
    """How far it is from going round (vla/critic/repetition.py); infinite of what does not move."""
    jitter: float
    """Share of the frames in which an acceleration above a limit turns back at once."""
    speed_mps: float
    """Largest of the root."""
    acceleration_mps2: float
    """Largest of the root."""
    lowest_m: float
    """Height of the lowest joint of all frames."""
    bursts: float
    """Share of the steps in which a joint moves faster than 20 m/s."""
    jerk_mps3: float
    """Of the joints against the middle, in the mean."""
    variety_m: float
    """Deviation of the joints against the middle over time, RMS."""
    skating: float
    """Share of the steps in which a foot slides; NaN where no joint is called a foot."""

    def to_json(self) -> dict[str, float | None]:
        """Plain values; None is what cannot be measured, or is infinite."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def measure(motion: Moves, *, still_mps: float, jitter_mps2: float) -> Measures:
    """All of a motion that says where its joints are.

    Raises:
        ValueError: it is too short, a value is not finite, or it is coordinates of a model, which say no places.
    """
    places = placed(motion)
    if not np.isfinite(places).all():
        frame = int(np.argwhere(~np.isfinite(places))[0][0])
        raise ValueError(f"frame {frame} of the motion is not finite; leave it out, or mend it first")
    flat = motion.body.kind == "plane"
    if flat:
        places = places * (FIGURE_M / stature(places))
    if not long_enough(len(places), motion.rate_hz):
        frames = len(resampling.times(len(places), motion.rate_hz, RATE_HZ))
        raise ValueError(
            f"the motion has {frames} frames at {RATE_HZ:g} Hz, and is judged from {FEWEST_FRAMES} on; make it longer"
        )
    places = at_rate(places, motion.rate_hz)
    # The middle, not the root: what the root alone does wrong would be seen in all joints.
    poses = places - places.mean(axis=1, keepdims=True)
    paces, accelerations = rates(poses, 1), derivative(poses, 2)
    root = resampling.low_pass(places[:, 0], RATE_HZ, ROOT_HZ)
    feet = [motion.body.joints.index(foot) for foot in feet_of(motion.body.joints)]
    return Measures(
        seconds=(len(places) - 1) / RATE_HZ,
        still=float((paces.max(axis=1) < still_mps).mean()),
        repetition=repetition(poses, RATE_HZ),
        jitter=math.nan if motion.rate_hz < RATE_HZ else float((turning_back(accelerations) > jitter_mps2).mean()),
        speed_mps=float(rates(root, 1).max()),
        acceleration_mps2=float(rates(root, 2).max()),
        lowest_m=math.nan if flat else float(places[..., 1].min()),
        bursts=float((rates(places, 1).max(axis=1) > BURST_MPS).mean()),
        jerk_mps3=float(rates(poses, 3).mean()),
        variety_m=float(np.sqrt(((poses - poses.mean(axis=0)) ** 2).sum(axis=-1).mean())),
        skating=math.nan if flat or not feet else sliding(places[:, feet]),
    )


def placed(motion: Moves) -> Float64[np.ndarray, "T J 3"]:
    """Where the joints of a motion are. ValueError where it does not say so."""
    positions: Float64[np.ndarray, "T J 3"] = motion.motion().positions.numpy()
    return positions


def long_enough(frames: int, rate_hz: float) -> bool:
    """Whether a motion of so many frames can be judged."""
    return len(resampling.times(frames, rate_hz, RATE_HZ)) >= FEWEST_FRAMES


def stature(places: Float64[np.ndarray, "T J 3"]) -> float:
    """How tall a figure is, in its own unit: the largest extent up and down of a frame; 1 of a point."""
    return float((places[..., 1].max(axis=1) - places[..., 1].min(axis=1)).max()) or 1.0


def at_rate(values: Float64[np.ndarray, "T J 3"], rate_hz: float) -> Float64[np.ndarray, "N J 3"]:
    """Places at the rate at which they are judged."""
    return resampling.numbers(values, rate_hz, RATE_HZ)


def derivative(values: Float[np.ndarray, "T *D"], order: int) -> Float64[np.ndarray, "N *D"]:
    """Differences from frame to frame, of an order, by the second."""
    found: Float64[np.ndarray, N * D] = np.diff(values, n=order, axis=0) * RATE_HZ**order
    return found


def rates(values: Float[np.ndarray, "T *D 3"], order: int) -> Float64[np.ndarray, "N *D"]:
    """How large these are."""
    found: Float64[np.ndarray, N * D] = np.linalg.norm(derivative(values, order), axis=-1)
    return found


def turning_back(accelerations: Float[np.ndarray, "T J 3"]) -> Float64[np.ndarray, " N"]:
    """At each frame the largest acceleration of a joint from which the next one turns by more than 120 degrees, m/s2.

    The smaller one of both: a stop does not turn back. Bodies accelerate by muscles for a tenth of a second and
    longer, noise for one frame; the acceleration alone does not tell a somersault from it.
    """
    before, after = accelerations[:-1], accelerations[1:]
    sizes = np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1)
    against = (before * after).sum(axis=-1) < TURN_BACK * sizes[0] * sizes[1]
    found: Float64[np.ndarray, N] = np.where(against, np.minimum(*sizes), 0.0).max(axis=1)
    return found


def sliding(feet: Float64[np.ndarray, "T feet 3"]) -> float:
    """The share of steps in which a foot that is low before and after moves along the ground."""
    low = feet[..., 1] < feet[..., 1].min() + CONTACT_M
    paces = rates(feet * np.array([1.0, 0.0, 1.0]), 1)
    return float((low[:-1] & low[1:] & (paces > SLIDE_MPS)).any(axis=1).mean())
