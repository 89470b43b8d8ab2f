"""Curves of many points as curves of few, with every spike still in them."""

import numpy as np
from jaxtyping import Float

BUCKETS = 300
"""Pieces of a thinned curve: about one a pixel of a plot on a phone."""


def thin(
    x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], buckets: int = BUCKETS
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The lowest and the highest point of each of some equal pieces, in order; points that are not finite are left out.

    A curve of at most two points a piece stays as it is.
    """
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= 2 * buckets:
        return x, y
    kept: list[int] = []
    for rows in np.array_split(np.arange(len(x)), buckets):
        ends = {int(rows[np.argmin(y[rows])]), int(rows[np.argmax(y[rows])])}
        kept += sorted(ends)
    return x[kept], y[kept]


def smooth(
    x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], buckets: int = BUCKETS
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Moving averages over a fortieth of the curve, at `buckets` places or fewer; the ends average what is there."""
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) < 3:
        return x, y
    half = max(1, len(x) // 80)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), buckets)).astype(int))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(x))
    return x[places], (sums[last] - sums[first]) / (last - first)
