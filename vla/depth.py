"""Depth as a picture that a policy looks at: three channels of 8 bits, over a stated range of distances.

red     the distance, from 0 at near to 255 at far
green   its inverse, from 255 at near to 0 at far, which tells small distances apart
blue    255 where something was measured

What is nearer or farther is shown as near or far. Where nothing came back (0, less, infinite or no number) all three
are 0, as in the black picture of a camera that is missing.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vla.contract import DepthRange


def depth_picture(metres: Float[np.ndarray, "*size"], shown: DepthRange) -> UInt8[np.ndarray, "3 *size"]:
    """Distances in metres as red, green and blue."""
    measured = np.isfinite(metres) & (metres > 0)
    inside = np.where(measured, metres, shown.near_m).astype(np.float64).clip(shown.near_m, shown.far_m)
    linear = (inside - shown.near_m) / (shown.far_m - shown.near_m)
    inverse = (1 / inside - 1 / shown.far_m) / (1 / shown.near_m - 1 / shown.far_m)
    levels = np.stack([np.rint(255 * linear), np.rint(255 * inverse), np.full(measured.shape, 255.0)])
    return np.where(measured, levels, 0.0).astype(np.uint8)


def parse_depth(words: Sequence[str]) -> dict[str, DepthRange]:
    """The range of each camera that `wrist_depth=0.2:1.5` names, in metres.

    Raises:
        ValueError: it is written otherwise, or names a camera twice.
    """
    ranges: dict[str, DepthRange] = {}
    for word in words:
        camera, _, limits = word.rpartition("=")
        try:
            near, far = map(float, limits.split(":"))
        except ValueError:
            near = far = 0.0
        if not camera or camera in ranges or not 0 < near < far < float("inf"):
            raise ValueError(
                f"--data.depth has {word!r}, expected CAMERA=NEAR:FAR in metres, 0 < NEAR < FAR, each camera once, "
                "such as wrist_depth=0.2:1.5"
            )
        ranges[camera] = DepthRange(near_m=near, far_m=far)
    return ranges
