"""Depth as data store it: how stored numbers become metres, and metres a picture."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from vla.contract import DepthRange
from vla.depth import depth_picture

Stored = Shaped[np.ndarray, "height width"]
"""Of unsigned integers, or float32."""
FULL = 65_535
"""What 16 bits hold at most: a reading that was too large, or none."""
READ_DEPTH = (
    "read it as depth with --data.depth CAMERA=NEAR:FAR, leave that camera out with --data.cameras, or, where there is "
    'no other or a copy is made, mark it in meta/info.json: `"info": {"is_depth_map": true}` in its feature'
)
"""What can be done about pixels of depth."""
LEVELS = 4095
"""The highest level of 12 bits."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Levels of 12 bits between two distances, as LeRobot writes depth into videos.

    The lowest level is no distance: what did not come back was clipped to it.
    """

    near_m: float
    far_m: float
    shift_m: float
    """Added to distances before their logarithm."""
    logarithmic: bool

    def metres(self, levels: Stored) -> Float64[np.ndarray, "height width"]:
        """The distances; NaN at the lowest level."""
        share = levels.astype(np.float64) / LEVELS
        if self.logarithmic:
            low, high = np.log(self.near_m + self.shift_m), np.log(self.far_m + self.shift_m)
            found = np.exp(low + share * (high - low)) - self.shift_m
        else:
            found = self.near_m + share * (self.far_m - self.near_m)
        return np.where(levels > 0, found, np.nan)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Distances in a unit."""

    unit_m: float | None
    """Metres of 1, as the metadata say; None: 16 bits are millimetres and floats metres, and nothing else is known."""

    def metres(self, values: Stored) -> Float64[np.ndarray, "height width"]:
        """The distances; NaN where 16 bits are full."""
        unit_m = self.unit_m or (1.0 if values.dtype.kind == "f" else 1e-3)
        found = values.astype(np.float64) * unit_m
        return np.where(values == FULL, np.nan, found) if values.dtype == np.uint16 else found


@dataclass(frozen=True, kw_only=True)
class Depth:
    """How a depth camera is read."""

    coding: Quantized | Measured
    range: DepthRange

    def picture(self, values: Stored) -> UInt8[np.ndarray, "3 height width"]:
        """What is stored as a picture."""
        if values.dtype == np.uint16:
            return np.ascontiguousarray(_pictures(self)[values].transpose(2, 0, 1))
        return depth_picture(self.coding.metres(values), self.range)

    def check(self, bits: int, where: str, *, floats: bool) -> None:
        """Refuse pixels that nothing says the distance of (ValueError)."""
        known = bits == 12 if isinstance(self.coding, Quantized) else self.coding.unit_m or bits == 16 or floats
        if not known:
            told = "says levels of 12 bits" if isinstance(self.coding, Quantized) else "does not say their unit"
            raise ValueError(
                f"{where} has depth of {bits} bits, and meta/info.json {told}: write `depth_unit` (mm or m) into the "
                "feature's info there, or leave the camera out of --data.depth"
            )


def coloured(where: str, kind: str) -> str:
    """What is said of colours where depth is expected."""
    return f"{where} has colours ({kind}), which are no depth: leave that camera out of --data.depth"


@functools.lru_cache(maxsize=16)
def _pictures(depth: Depth) -> UInt8[np.ndarray, "65536 3"]:
    """The colours of each number of 16 bits."""
    numbers = np.arange(FULL + 1, dtype=np.uint16)[None]
    levels = numbers.clip(max=LEVELS) if isinstance(depth.coding, Quantized) else numbers
    return np.ascontiguousarray(depth_picture(depth.coding.metres(levels), depth.range)[:, 0].T)
