"""Statistics as LeRobot stores them beside the data: exact quantiles of the values, not averages of quantiles."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Stats = dict[str, np.ndarray]
MAX_ROWS = 100_000
"""Rows of a whole dataset from which quantiles are taken; more are thinned out evenly."""


def of_values(values: Float[np.ndarray, "N C"], count: int) -> Stats:
    """Statistics of each column; `count` frames hold these rows."""
    stats = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0, dtype=np.float64),
        "std": values.std(axis=0, dtype=np.float64),
        "count": np.array([count]),
    }
    return stats | dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))


def count_pixels(image: UInt8[np.ndarray, "3 height width"]) -> Int64[np.ndarray, "3 256"]:
    """How often each value occurs in each channel of an image, seen at a quarter of its rows and columns."""
    return np.stack([np.bincount(channel[::4, ::4].reshape(-1), minlength=256) for channel in image]).astype(np.int64)


def of_pixels(counts: Int64[np.ndarray, "3 256"], count: int) -> Stats:
    """Statistics of each channel, in [0, 1], of shape (3, 1, 1)."""
    levels = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    cumulated = np.cumsum(shares, axis=1)
    stats = {
        "min": np.array([levels[channel > 0].min() for channel in counts]),
        "max": np.array([levels[channel > 0].max() for channel in counts]),
        "mean": mean,
        "std": np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)),
    }
    for name, quantile in QUANTILES.items():
        stats[name] = np.array([levels[min(255, int(np.searchsorted(channel, quantile)))] for channel in cumulated])
    return {name: value.reshape(3, 1, 1) for name, value in stats.items()} | {"count": np.array([count])}


class Collected:
    """The values of a whole dataset, thinned out so that they fit into memory; sums are over all of them."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}
        self._totals: dict[str, dict[str, np.ndarray]] = {}
        self._counts: dict[str, int] = {}
        self._pixels: dict[str, np.ndarray] = {}
        self._strides: dict[str, int] = {}

    def add_values(self, key: str, values: Float[np.ndarray, "N C"], count: int) -> None:
        """The values of one episode."""
        wide = values.astype(np.float64)
        new = {
            "min": wide.min(axis=0),
            "max": wide.max(axis=0),
            "sum": wide.sum(axis=0),
            "square": (wide**2).sum(axis=0),
        }
        new["rows"] = np.array([len(wide)])
        old = self._totals.get(key)
        if old is not None:
            joined = {name: old[name] + new[name] for name in ("sum", "square", "rows")}
            new = joined | {"min": np.minimum(old["min"], new["min"]), "max": np.maximum(old["max"], new["max"])}
        self._totals[key] = new
        self._counts[key] = self._counts.get(key, 0) + count
        parts = self._parts.setdefault(key, [])
        stride = self._strides.setdefault(key, 1)
        parts.append(values[::stride].copy())
        if sum(map(len, parts)) > MAX_ROWS:
            self._parts[key] = [np.concatenate(parts)[::2]]
            self._strides[key] = 2 * stride

    def add_pixels(self, key: str, counts: Int64[np.ndarray, "3 256"], count: int) -> None:
        """The pixels of one episode."""
        self._pixels[key] = self._pixels.get(key, np.zeros((3, 256), dtype=np.int64)) + counts
        self._counts[key] = self._counts.get(key, 0) + count

    def stats(self) -> dict[str, Stats]:
        """The statistics of the whole dataset."""
        found = {key: of_pixels(counts, self._counts[key]) for key, counts in self._pixels.items()}
        for key, totals in self._totals.items():
            rows = float(totals["rows"][0])
            mean = totals["sum"] / rows
            found[key] = of_values(np.concatenate(self._parts[key]), self._counts[key]) | {
                "min": totals["min"],
                "max": totals["max"],
                "mean": mean,
                "std": np.sqrt(np.maximum(totals["square"] / rows - mean**2, 0)),
            }
        return found


def as_lists(stats: Mapping[str, Stats]) -> dict[str, dict[str, list[object]]]:
    """Statistics as JSON."""
    return {key: {name: value.tolist() for name, value in entry.items()} for key, entry in stats.items()}


def as_columns(stats: Mapping[str, Stats], prefix: Sequence[str] = ("stats",)) -> dict[str, object]:
    """Statistics as the columns of one row of the episode table: `stats/<feature>/<statistic>`."""
    return {
        "/".join((*prefix, key, name)): value.tolist() for key, entry in stats.items() for name, value in entry.items()
    }
