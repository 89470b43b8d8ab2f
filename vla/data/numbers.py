"""What a start must know of all numbers of the data: that samples can be made of them, and their statistics.

They are read once, whole, and what is found is kept until the files change (vla/cache.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vla import cache
from vla.contract import DataContract
from vla.data.checks import check_streams, finite_chunks, fit_statistics
from vla.data.episode import Episode, Reader
from vla.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was found, and how."""

    statistics: Mapping[str, Statistics]
    """Of `actions`, `state` and each sensor stream, on the training episodes; of width 0 without a state."""
    recalled: bool
    """Whether an earlier start found it in the same files."""


def read_numbers(
    readers: Sequence[Reader],
    kept: Sequence[tuple[int, ...]],
    held_out: Sequence[tuple[int, ...]],
    contract: DataContract,
    *,
    keep_damaged: bool,
    compand: Sequence[str],
) -> Numbers:
    """Check the streams of every episode at these places, and fit the statistics to those that are kept.

    Raises:
        CorruptData: a clock does not increase, or, without `keep_damaged`, a value is not finite.
        ValueError: no training episode has a sample of a sensor stream.
    """
    entry = _entry(readers, kept, held_out, contract, keep_damaged=keep_damaged, compand=compand)
    facts = None if entry is None else entry.recall()
    if facts is not None:
        return Numbers(statistics={kind: _from_json(fact) for kind, fact in facts.items()}, recalled=True)
    for reader, *places in zip(readers, kept, held_out, strict=True):
        for place in sorted(chain(*places)):
            check_streams(reader.episodes[place], reader.layout, contract)
    statistics = fit_statistics(episodes_at(readers, kept), contract, keep_damaged=keep_damaged, compand=compand)
    for kind in statistics:
        for _ in finite_chunks(episodes_at(readers, held_out), kind, contract, keep_damaged=keep_damaged):
            pass  # refuses what is not finite
    if entry is not None:
        entry.keep({kind: _to_json(found) for kind, found in statistics.items()})
    return Numbers(statistics=statistics, recalled=False)


def episodes_at(readers: Sequence[Reader], places: Sequence[tuple[int, ...]]) -> list[Episode]:
    """The episodes of each reader at these places, one after the other."""
    return [reader.episodes[place] for reader, chosen in zip(readers, places, strict=True) for place in chosen]


def _entry(
    readers: Sequence[Reader],
    kept: Sequence[tuple[int, ...]],
    held_out: Sequence[tuple[int, ...]],
    contract: DataContract,
    *,
    keep_damaged: bool,
    compand: Sequence[str],
) -> cache.Entry | None:
    """Where what is found is kept; None where a reader's numbers are in no file."""
    if not all(reader.sources for reader in readers):
        return None
    decides = {
        "layouts": [asdict(reader.layout) for reader in readers],
        "periods": contract.action_periods,
        "widths": [contract.action_dim, contract.state_dim],
        "streams": {name: [stream.key, stream.channels] for name, stream in contract.streams.items()},
        "labels": contract.labels,
        "kept": [episode.name for episode in episodes_at(readers, kept)],
        "held out": [episode.name for episode in episodes_at(readers, held_out)],
        "keep damaged": keep_damaged,
        "compand": sorted(compand),
        "facts": [field.name for field in fields(Statistics)],
    }
    return cache.Entry(
        purpose=f"numbers {json.dumps(decides)}",
        stamps={Path(reader.layout.root): cache.stamp(reader.sources) for reader in readers},
    )


def _to_json(statistics: Statistics) -> dict[str, Any]:
    """Every digit: JSON as Python writes it gives back the same float64."""
    return {name: value if name == "count" else value.tolist() for name, value in vars(statistics).items()}


def _from_json(facts: Mapping[str, Any]) -> Statistics:
    kinds = {"companded": np.bool_, "single": np.bool_, "strays": np.int64, "stray_angles": np.int64}
    arrays: dict[str, Any] = {
        field.name: np.array(facts[field.name], dtype=kinds.get(field.name, np.float64))
        for field in fields(Statistics)
        if field.name != "count"
    }
    return Statistics(count=facts["count"], **arrays)
