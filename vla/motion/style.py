"""The style of a motion: some numbers, each of which is known or is not."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

RANGES: Mapping[str, tuple[float, float]] = {
    "tempo": (0.0, 1.0),
    "energy_level": (0.0, 1.0),
    "smoothness": (0.0, 1.0),
    "valence": (-1.0, 1.0),
    "arousal": (0.0, 1.0),
}
"""From where to where each goes."""


def style_row(names: Sequence[str], told: Mapping[str, float], owner: str) -> Float32[np.ndarray, "K 2"]:
    """A style as a policy hears it: of each name its value and 1, or 0 and 0 where it is not told.

    Raises:
        ValueError: a value lies beyond its range.
    """
    row = np.zeros((len(names), 2), np.float32)
    for place, name in enumerate(names):
        if name not in told:
            continue
        low, high = RANGES[name]
        if not low <= told[name] <= high:
            raise ValueError(
                f"{owner} has a {name} of {told[name]:g}, expected {low:g} to {high:g}: correct it, or leave it out "
                "where it is not known"
            )
        row[place] = told[name], 1.0
    return row
