"""Where times stand among the stamps of another clock."""

import numpy as np
from jaxtyping import Float64, Int64


def newest(stamps: Float64[np.ndarray, " N"], times: Float64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """Index of the last stamp that is not later than each time; -1 where there is none."""
    return np.asarray(np.searchsorted(stamps, times, side="right") - 1, dtype=np.int64)


def nearest(stamps: Float64[np.ndarray, " N"], times: Float64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """Index of the stamp next to each time, the earlier one of two as near."""
    after = np.searchsorted(stamps, times).clip(max=len(stamps) - 1)
    before = (after - 1).clip(min=0)
    return np.where(times - stamps[before] <= stamps[after] - times, before, after).astype(np.int64)
