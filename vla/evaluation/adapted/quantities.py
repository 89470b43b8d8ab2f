"""What of a motion a style changes, in SI units, and how such a quantity goes with the weight of an adapter."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.motion.clips import Clip, speeds
from vla.evaluation.motion.heading import level
from vla.evaluation.motion.landmarks import Landmarks
from vla.motion.joints import known

MONOTONE = 0.9
"""Size of the rank correlation from which on a quantity goes with the weight."""


def pelvis_height(clip: Clip, body: Landmarks) -> float:
    """Mean height of the pelvis above the floor, m."""
    return float(clip.positions[:, body.pelvis, 1].mean())


def wrist_height(clip: Clip, body: Landmarks) -> float:
    """Mean height of both wrists above the floor, m; NaN of a body without any."""
    called = known(body.names, {})
    if not {"left_wrist", "right_wrist"} <= called.keys():
        return float("nan")
    places = [body.names.index(called[joint]) for joint in ("left_wrist", "right_wrist")]
    return float(clip.positions[:, places, 1].mean())


def speed(clip: Clip, body: Landmarks) -> float:
    """Mean speed of the pelvis over ground, m/s."""
    return float(speeds(level(clip.positions, body), clip.rate_hz).mean())


def trunk_lean(clip: Clip, body: Landmarks) -> float:
    """Mean angle of the way from the pelvis to between the shoulders from the vertical, degrees."""
    trunk = clip.positions[:, list(body.shoulders)].mean(axis=1) - clip.positions[:, body.pelvis]
    across = np.hypot(trunk[:, 0], trunk[:, 2])
    return float(np.degrees(np.arctan2(across, trunk[:, 1])).mean())


QUANTITIES: dict[str, tuple[str, Callable[[Clip, Landmarks], float]]] = {
    "pelvis height": ("m", pelvis_height),
    "wrist height": ("m", wrist_height),
    "speed": ("m/s", speed),
    "trunk lean": ("degrees", trunk_lean),
}
"""Of prepared clips, whose floor is at 0: unit and measure by name."""


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The rank correlation of two lists, equal values sharing their rank; NaN where one of them does not vary."""
    one, other = (ranks(np.asarray(values, dtype=np.float64)) for values in (first, second))
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size else float("nan")


def ranks(values: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """From 1 on, equal values sharing the mean of theirs."""
    below = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    found: Float64[np.ndarray, " N"] = below + (equal + 1) / 2
    return found


def weight_for(weights: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The weight at which a quantity is what is wanted: by straight lines between the points that were measured.

    Points that do not go the way of the others share the mean of those they cross (isotonic regression by pooling
    adjacent violators; Ayer et al. 1955).

    Raises:
        ValueError: the quantity does not go with the weight, or is nowhere what is wanted; says where it is.
    """
    correlation = spearman(weights, values)
    if not abs(correlation) >= MONOTONE:
        raise ValueError(
            f"the quantity does not go with the weight: their rank correlation is {correlation:.2f}, and {MONOTONE:g} "
            "is asked for; take another quantity, or weights of a smaller range"
        )
    order = np.argsort(np.asarray(weights))
    at, rising = np.asarray(weights, dtype=np.float64)[order], np.sign(correlation) * np.asarray(values)[order]
    pooled = isotonic(rising)
    if not pooled[0] <= np.sign(correlation) * wanted <= pooled[-1]:
        ends = sorted((float(np.sign(correlation) * pooled[0]), float(np.sign(correlation) * pooled[-1])))
        raise ValueError(f"{wanted:g} is out of reach: the quantity is {ends[0]:.3g} to {ends[1]:.3g}; ask for less")
    middle = {value: float(at[pooled == value].mean()) for value in np.unique(pooled)}
    ends_at = {float(pooled[0]): float(at[0]), float(pooled[-1]): float(at[-1])}
    places = [ends_at.get(float(value), place) for value, place in middle.items()]
    return float(np.interp(np.sign(correlation) * wanted, list(middle), places))


def curve(weights: Sequence[float], values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Which weights make equal steps of a quantity, from its value at the first weight to that at the last.

    As many values as weights were measured, each with its weight; errors as `weight_for`.
    """
    rising = 1.0 if spearman(weights, values) > 0 else -1.0
    order = np.argsort(np.asarray(weights))
    ends = rising * isotonic(rising * np.asarray(values, dtype=np.float64)[order])[[0, -1]]
    wanted = np.linspace(ends[0], ends[1], len(values)).clip(ends.min(), ends.max()).tolist()
    return tuple((value, weight_for(weights, values, value)) for value in wanted)


def isotonic(values: Float[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """The nearest values, in squares, that never fall."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, more = blocks.pop()
            blocks.append([(before * more + mean * count) / (more + count), more + count])
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])
