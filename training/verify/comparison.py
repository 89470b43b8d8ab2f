"""Two runs side by side: what they recorded, what their last checkpoints hold, what they exported."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.checkpoints import checkpoint
from training.config import flatten
from training.engine.state import State
from vla.errors import CorruptData
from vla.lines import read_lines

NOTHING = 1e-3
"""Tensors smaller than this share of the largest one of their kind are measured against that share: a gradient that is
zero but for rounding (of the bias of attention's keys) has no digits two topologies could agree in."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far two runs of different topology may lie apart; runs of one topology are equal bit for bit."""

    records: float = 1e-5
    """Of losses and gradient norms, relative."""
    tensors: float = 1e-3
    """Of the largest difference within a tensor, relative to the largest value of that tensor."""


EXACT = Tolerance(records=0.0, tensors=0.0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One compared thing."""

    name: str
    count: str
    """How much was compared."""
    verdict: str
    difference: float
    """The largest, relative; infinite where something is missing or no number."""
    holds: bool


def compare(reference: Path, other: Path, tolerance: Tolerance = EXACT) -> list[Row]:
    """The rows of the table, for two run folders.

    Raises:
        CorruptData: a run has no metrics or no checkpoint, or they cannot be read.
    """
    first, second = recorded(reference), recorded(other)
    one, two = newest(reference), newest(other)
    return [
        compare_steps(first, second),
        compare_values("positions", chosen(first, "positions"), chosen(second, "positions"), 0.0),
        compare_values("learning rates", chosen(first, "stage", "lr"), chosen(second, "stage", "lr"), 0.0),
        compare_values("losses", chosen(first, "loss", "losses"), chosen(second, "loss", "losses"), tolerance.records),
        compare_values("gradient norms", chosen(first, "grad_norm"), chosen(second, "grad_norm"), tolerance.records),
        compare_tensors("parameters", one.weight, two.weight, tolerance.tensors),
        compare_tensors("first moments", one.moments["exp_avg"], two.moments["exp_avg"], tolerance.tensors),
        compare_tensors("second moments", one.moments["exp_avg_sq"], two.moments["exp_avg_sq"], tolerance.tensors),
        compare_tensors("averages (EMA)", one.moments["ema"], two.moments["ema"], tolerance.tensors),
        compare_values("steps of Adam", {0: one.adam_steps}, {0: two.adam_steps}, 0.0),
        compare_tensors("exported policy", exported(reference), exported(other), tolerance.tensors),
    ]


def chosen(lines: Sequence[Mapping[str, Any]], *keys: str) -> dict[int, Any]:
    """Some keys of the recorded lines, by step."""
    return {line["step"]: {key: line[key] for key in keys} for line in lines}


def recorded(run: Path) -> list[dict[str, Any]]:
    """The steps a run recorded, in the order of the file.

    Raises:
        CorruptData: there are none.
    """
    path = run / "metrics.jsonl"
    lines = list(read_lines(path))
    if not lines:
        raise CorruptData(f"{path} holds no complete step; the run has not trained")
    return lines


def newest(run: Path) -> State:
    """The state in a run's last checkpoint.

    Raises:
        CorruptData: there is none.
    """
    paths = checkpoint.steps(run)
    if not paths:
        raise CorruptData(f"{run} holds no checkpoint; the run has not saved")
    return checkpoint.read(paths[-1]).state()


def exported(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's exported policy, by file and name; none where it has not been exported."""
    paths = sorted((run / "policy").rglob("*.safetensors"))
    return {f"{path.name}: {name}": tensor for path in paths for name, tensor in load_file(path).items()}


def compare_steps(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Row:
    """Both runs recorded the same steps, each once, in order."""
    ours, theirs = ([int(line["step"]) for line in run] for run in (first, second))
    found = {
        "is missing": set(ours) - set(theirs),
        "is too much": set(theirs) - set(ours),
        "is there twice": {step for step in theirs if theirs.count(step) > 1},
        "is out of order": {b for a, b in itertools.pairwise(theirs) if b < a},
    }
    problem = next((f"step {min(steps)} {what}" for what, steps in found.items() if steps), None)
    return Row(
        name="steps",
        count=f"{len(ours)} steps",
        verdict="each once, in order" if problem is None else f"DIFFERS: {problem}",
        difference=0.0 if problem is None else math.inf,
        holds=problem is None,
    )


def compare_values(name: str, first: Mapping[int, Any], second: Mapping[int, Any], allowed: float) -> Row:
    """Numbers and words by step; `allowed` is their largest relative difference."""
    largest, at, count = 0.0, None, 0
    for step in sorted(first.keys() & second.keys()):
        ours, theirs = flatten({"": first[step]}), flatten({"": second[step]})
        differences = [relative(ours.get(key), theirs.get(key)) for key in ours | theirs]
        count += len(differences)
        if at is None and max(differences) > allowed:
            at = f"first at step {step}" if step else "here"
        largest = max(largest, *differences)
    return row(name, f"{count} values", largest, at)


def relative(ours: Any, theirs: Any) -> float:
    """Difference of two values, relative to the first where both are numbers."""
    if ours == theirs:
        return 0.0
    if not all(isinstance(value, float | int) and math.isfinite(value) for value in (ours, theirs)):
        return math.inf
    return float(abs(ours - theirs) / max(abs(ours), 1e-30))


def compare_tensors(name: str, first: Mapping[str, Tensor], second: Mapping[str, Tensor], allowed: float) -> Row:
    """Tensors by name; `allowed` is the largest difference, relative to the largest value of its tensor."""
    largest, at = 0.0, None
    scale = max((float(tensor.float().abs().max()) for tensor in first.values() if tensor.numel()), default=0.0)
    for key in sorted(first.keys() | second.keys()):
        difference = distance(first.get(key), second.get(key), NOTHING * scale)
        if at is None and difference > allowed:
            at = f"first {key}"
        largest = max(largest, difference)
    return row(name, f"{len(first)} tensors", largest, at)


def distance(ours: Tensor | None, theirs: Tensor | None, least: float) -> float:
    """The largest difference of two tensors relative to the largest value, 0 only where every bit is equal."""
    if ours is None or theirs is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return math.inf
    if torch.equal(ours.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8)):
        return 0.0
    ours, theirs = ours.double(), theirs.double()
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=max(least, 1e-300)))
    return math.inf if math.isnan(difference) else max(difference, 1e-300)


def row(name: str, count: str, difference: float, at: str | None) -> Row:
    """The row of a comparison; `at` says where the difference is larger than allowed."""
    if at is not None:
        by = "something is missing or no number" if math.isinf(difference) else f"by {difference:.1e}"
        return Row(name=name, count=count, verdict=f"DIFFERS: {at}, {by}", difference=difference, holds=False)
    verdict = f"equal to {difference:.0e}" if difference else "bitwise equal"
    return Row(name=name, count=count, verdict=verdict, difference=difference, holds=True)
