"""Quaternions among the dimensions of a stream: q and -q are one orientation, and their mean is none."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from vla.data.episode import Stream

UNIT = 0.01
"""By how much the length of a quaternion may differ from 1."""
MOST_DIMENSIONS = 512
"""Of a stream that is looked at: wider ones are no poses."""


def sign_flips(parts: Sequence[Stream], sample: Float64[np.ndarray, "N C"]) -> dict[int, int]:
    """Of each dimension of a quaternion, how often its sign flips from one row to the next; of those that ever do.

    Four dimensions side by side are one where they have length 1 in every row of the `sample` of the streams.
    """
    finite = sample[np.isfinite(sample).all(axis=1)]
    if not len(finite) or not 4 <= sample.shape[1] <= MOST_DIMENSIONS:
        return {}
    squares = np.cumsum(np.pad(finite**2, ((0, 0), (1, 0))), axis=1)
    lengths = np.sqrt(squares[:, 4:] - squares[:, :-4])
    flips: dict[int, int] = {}
    for first in np.flatnonzero((np.abs(lengths - 1) < UNIT).all(axis=0)).tolist():
        count = 0
        for part in parts:
            values = np.asarray(part.values[:, first : first + 4], dtype=np.float64)
            count += int((np.sum(values[1:] * values[:-1], axis=1) < 0).sum())
        if count:
            flips |= dict.fromkeys(range(first, first + 4), count)
    return flips
