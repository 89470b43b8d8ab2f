"""SI units, read off the end of a dimension's name: `dx_mm`, `da_deg`, `dx_5mm` for a count of 5 mm."""

import math
import re
from dataclasses import dataclass

UNITS = {
    "m": (1.0, "m"),
    "cm": (1e-2, "m"),
    "mm": (1e-3, "m"),
    "um": (1e-6, "m"),
    "rad": (1.0, "rad"),
    "deg": (math.pi / 180, "rad"),
    "s": (1.0, "s"),
    "ms": (1e-3, "s"),
    "N": (1.0, "N"),
    "Nm": (1.0, "Nm"),
    "mps": (1.0, "m/s"),
    "radps": (1.0, "rad/s"),
}
"""Size and symbol in SI, by ending; `ps` is per second."""
ENDING = re.compile(rf"_(?P<count>\d+(?:\.\d+)?)?(?P<unit>{'|'.join(UNITS)})$")


@dataclass(frozen=True)
class Unit:
    """What 1 in the data is."""

    factor: float
    """In SI."""
    symbol: str
    """Of SI; empty where the name tells no unit."""


NONE = Unit(1.0, "")


def unit_of(name: str) -> Unit:
    """The unit that a dimension's name ends with; `NONE` where it ends with none."""
    found = ENDING.search(name)
    if found is None:
        return NONE
    size, symbol = UNITS[found["unit"]]
    return Unit(float(found["count"] or 1) * size, symbol)
