"""Numbers as a reader wants them."""

import math
from collections.abc import Mapping
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """Three to five significant digits; a dash for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}g}"


def short(value: float, _: object = None, *, digits: int = 4) -> str:
    """A number at an axis: 100k, 2.5M, 0.02, 1e-05."""
    for unit, size, least in (("G", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if abs(value) >= least:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def percent(value: Any) -> str:
    """A share in percent, without decimals where it is a whole number of them."""
    return f"{100 * value:.3g} %" if isinstance(value, int | float) and math.isfinite(value) else "-"


def interval(entry: Any, low: str = "low", high: str = "high") -> str:
    """`86 to 97 %` of an object with two shares."""
    return f"{100 * entry[low]:.3g} to {100 * entry[high]:.3g} %" if low in entry and high in entry else ""


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


def size(num_bytes: int) -> str:
    """Bytes in MB or GB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def plural(count: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def latency(result: Mapping[str, Any]) -> str:
    """What a call of the policy took, in a sentence; nothing of a result that does not say."""
    told = result.get("latency")
    if not isinstance(told, dict) or not isinstance(parts := told.get("milliseconds"), dict):
        return ""
    each = ", ".join(f"{name} {number(value, 3)}" for name, value in parts.items() if name != "all")
    rows, whole = number(told.get("rows")), number(parts.get("all"), 3)
    return f" A call of the policy took {whole} ms for {rows} at once, the median: {each}."
