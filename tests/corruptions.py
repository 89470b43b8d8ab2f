"""What is done to real clips so that a critic has something to find: each a function of (poses, rate, draw)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from vla.motion.clip import Poses

Corrupt = Callable[[Poses, float, np.random.Generator], Poses]
JITTER_M, JITTER_DEG = 0.02, 6.0
"""Standard deviations of the noise of a frame, of the root and of each joint."""


def freeze(poses: Poses, _rate_hz: float, draw: np.random.Generator) -> Poses:
    """Held from a frame of its first tenth on; of every second one the root glides on."""
    frames = np.arange(len(poses)).clip(max=int(draw.uniform(0, 0.1) * len(poses)))
    glides = bool(draw.integers(2))
    return replace(poses, root=poses.root if glides else poses.root[frames], turns=poses.turns[frames])


def loop(poses: Poses, rate_hz: float, draw: np.random.Generator) -> Poses:
    """A stretch of at most a second, again and again: four times and a half at least; the root goes on."""
    frames = len(poses)
    length = round(rate_hz * float(np.clip(frames / rate_hz / 4.5, 0.25, 1.0)))
    start = int(draw.integers(0, frames - length + 1))
    at = start + np.arange(frames) % length
    stretch = poses.root[start : start + length]
    step = (stretch[-1] - stretch[0]) * np.array([1.0, 0.0, 1.0]) * length / max(length - 1, 1)
    return replace(poses, root=poses.root[at] + (np.arange(frames) // length)[:, None] * step, turns=poses.turns[at])


def jitter(poses: Poses, _rate_hz: float, draw: np.random.Generator) -> Poses:
    """Every frame off by itself."""
    shape = poses.turns.shape
    noise = Rotation.from_rotvec(np.radians(JITTER_DEG) * draw.standard_normal((shape[0] * shape[1], 3)))
    turns = (Rotation.from_quat(poses.turns.reshape(-1, 4)) * noise).as_quat().reshape(shape)
    return replace(poses, root=poses.root + JITTER_M * draw.standard_normal(poses.root.shape), turns=turns)


def fast(poses: Poses, _rate_hz: float, _draw: np.random.Generator) -> Poses:
    """Four times as fast."""
    return replace(poses, root=poses.root[::4], turns=poses.turns[::4])


def sunk(poses: Poses, _rate_hz: float, _draw: np.random.Generator) -> Poses:
    """Sunk into the ground by 0.3 m."""
    return replace(poses, root=poses.root - np.array([0.0, 0.3, 0.0]))


def teleport(poses: Poses, _rate_hz: float, draw: np.random.Generator) -> Poses:
    """Elsewhere by one to three metres, from one frame to the next, somewhere in its middle."""
    after = np.arange(len(poses)) >= draw.uniform(0.2, 0.8) * len(poses)
    angle, distance = draw.uniform(0, 2 * np.pi), draw.uniform(1, 3)
    return replace(poses, root=poses.root + after[:, None] * distance * np.array([np.cos(angle), 0.0, np.sin(angle)]))


CORRUPTIONS: dict[str, Corrupt] = {
    "freeze": freeze, "loop": loop, "jitter": jitter, "four times the speed": fast, "sunk": sunk, "teleport": teleport,
}  # fmt: skip
