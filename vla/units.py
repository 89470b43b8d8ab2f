"""Units of dimensions: how data spell them, and what they are in SI."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

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
"""Size and symbol in SI, by what a name may end with and by what data are said to have; `ps` is per second."""
ENDING = re.compile(rf"_(?P<count>\d+(?:\.\d+)?)?(?P<unit>{'|'.join(UNITS)})$")
BRACKETS = re.compile(r"[^\s\[(]\s*[\[(]\s*([^\[\]()]+?)\s*[\])]$")
"""`yaw [deg]`, `x (mm)`."""
SYMBOLS = {"°": "deg", "µm": "um", "μm": "um", "m/s": "mps", "rad/s": "radps", "rad s^-1": "radps", "m s^-1": "mps"}
SYMBOLS |= {"N.m": "Nm", "N*m": "Nm", "N·m": "Nm", "N m": "Nm"}
WORDS = {
    **dict.fromkeys(("metre", "metres", "meter", "meters"), "m"),
    **dict.fromkeys(("centimetre", "centimetres", "centimeter", "centimeters"), "cm"),
    **dict.fromkeys(("millimetre", "millimetres", "millimeter", "millimeters"), "mm"),
    **dict.fromkeys(("micrometre", "micrometres", "micrometer", "micrometers", "micron", "microns"), "um"),
    **dict.fromkeys(("radian", "radians", "rads"), "rad"),
    **dict.fromkeys(("degree", "degrees", "degs"), "deg"),
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("msec", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("newton", "newtons"), "N"),
    **dict.fromkeys(("newton_metre", "newton_meter", "newton-metre", "newton-meter", "newton metres"), "Nm"),
}
"""The same unit in other words, whatever their case."""
UNSAID = {"", "-", "?", "none", "null", "nan", "n/a", "na", "unknown", "unspecified"}
"""Words for a unit that is not known."""


@dataclass(frozen=True)
class Unit:
    """What 1 in the data is."""

    factor: float
    """In SI."""
    symbol: str
    """Of SI; empty where no unit is known."""


NONE = Unit(1.0, "")


def size_of(unit: str) -> Unit:
    """What a unit is in SI, `5mm` and the like too; `NONE` of one that is not known."""
    found = ENDING.search(f"_{unit}")
    if found is None:
        return NONE
    size, symbol = UNITS[found["unit"]]
    return Unit(float(found["count"] or 1) * size, symbol)


def spelled(unit: str) -> str:
    """A unit as it is compared: `deg` for `Degrees` and `°`; as it is given where it is none of the usual ones."""
    text = unit.strip()
    if text.lower() in UNSAID:
        return ""
    if text in UNITS:
        return text
    for known in (SYMBOLS.get(text), WORDS.get(text.lower())):
        if known:
            return known
    return text.lower() if text.lower() in ("rad", "deg") else text


def named_unit(name: str) -> str:
    """The unit that a dimension's name ends with, `mm` of `dx_mm`, `5mm` of `dx_5mm`, `deg` of `yaw [deg]`, or none."""
    if found := ENDING.search(name):
        return f"{found['count'] or ''}{found['unit']}"
    if (found := BRACKETS.search(name)) and size_of(spelled(found[1])) != NONE:
        return spelled(found[1])
    return ""


def units_of(names: Sequence[str], said: Sequence[str] = ()) -> tuple[str, ...]:
    """One unit a dimension, as metadata say or else as its name ends; empty where none is known of any."""
    width = max(len(names), len(said))
    units = tuple(
        (said[place] if said else "") or (named_unit(names[place]) if names else "") for place in range(width)
    )
    return units if any(units) else ()


def said_units(given: Any, names: Sequence[str], width: int) -> tuple[str, ...]:
    """What metadata say of `width` dimensions: one unit for all, one each in their order, or one each by name.

    Empty where that is none of these.
    """
    if isinstance(given, str):
        return (spelled(given),) * width
    if isinstance(given, Mapping):
        if len(names) == width and set(names) <= given.keys():
            return said_units([given[name] for name in names], names, width)
        given = [unit for units in given.values() for unit in (units if isinstance(units, list) else [units])]
    if not isinstance(given, list) or not all(isinstance(unit, str) or unit is None for unit in given):
        return ()
    units = tuple(spelled(unit or "") for unit in given)
    return units * width if len(units) == 1 else units if len(units) == width else ()


def disagreeing(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """The dimensions of which both sides say a unit, and not the same one."""
    if len(ours) != len(theirs):
        return []
    pairs = enumerate(zip(ours, theirs, strict=True))
    return [place for place, (one, other) in pairs if one and other and one != other]


def told(units: Sequence[str], places: Sequence[int] | None = None) -> str:
    """The units of some dimensions in words: `deg`, or `6 x deg, mm` where they differ; `?` for one not known."""
    some = [units[place] or "?" for place in (range(len(units)) if places is None else places)]
    runs = [(unit, len(list(run))) for unit, run in groupby(some)]
    if len(runs) == 1:
        return runs[0][0]
    return ", ".join(unit if count == 1 else f"{count} x {unit}" for unit, count in runs)
