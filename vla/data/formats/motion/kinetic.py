"""The forces that a policy is to model beside the coordinates of a trial, and where they were measured.

Plates are not feet: of forces without a side only the sum can be trusted. A force that does not carry the body is that
of a foot beside the plates, and is not learned; the motion of its frame is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from vla.data.formats.motion.converted import Converted
from vla.motion import kinetics
from vla.motion_settings import Forces

COMPONENTS = ("vx", "vy", "vz")
SIDES = ("left", "right")
NAMES: Mapping[Forces, tuple[str, ...]] = {
    "none": (),
    "total": tuple(f"force.{part}" for part in COMPONENTS),
    "residual": ("force.vx", f"{kinetics.RESIDUAL}vy", "force.vz"),
    "feet": tuple(f"force.{side}.{part}" for side in SIDES for part in COMPONENTS),
}
"""What the numbers behind the coordinates are called, N."""
WEIGHT, WEIGHT_KG, MARKS = "weight_n", "weight_kg", "kinetics_valid"
"""A fact of an episode; one of a clip that may be told; the column of marks that some files have."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The forces of one trial."""

    values: Float32[np.ndarray, "T F"]
    """N; what was not measured is the mean of what was, so that it says nothing of its frame."""
    known: Bool[np.ndarray, " T"]
    """Frames where they were measured."""
    weight_n: float


@dataclass(frozen=True, kw_only=True)
class Modelled:
    """Those of all trials of a root."""

    names: tuple[str, ...]
    trials: Sequence[Measured]
    """One a clip."""
    remarks: tuple[str, ...]


def model(
    root: Path, clips: Sequence[Converted], arrays: Sequence[Sequence[Float32[np.ndarray, "..."]]], asked: Forces,
    rate_hz: float,
) -> Modelled:  # fmt: skip
    """The forces of some clips, of which rows and columns are given.

    Raises:
        ValueError: the clips are no trials with coordinates, no force of any can be trusted, or feet are asked of
            plates.
    """
    flag = f"--data.motion.forces {asked}"
    if (kind := clips[0].body.kind) != "coordinates":
        raise ValueError(f"{root} holds {kind}, and {flag} is of trials with coordinates of a model: leave it out")
    columns = [dict(zip(clip.columns, values[1:], strict=True)) for clip, values in zip(clips, arrays, strict=True)]
    rows = [values[0] for values in arrays]
    totals = [summed(of) for of in columns]
    if asked == "feet":
        for clip, of in zip(clips, columns, strict=True):
            if sided(of) is None and summed(of) is not None:
                raise ValueError(
                    f"{root} has forces of plates in {clip.name}, which are not feet: give --data.motion.forces total"
                )
    weights, remarks = weigh(root, clips, rows, totals, rate_hz)
    found: list[tuple[Float32[np.ndarray, "T F"], Bool[np.ndarray, " T"]]] = []
    for clip, row, total, of, weight in zip(clips, rows, totals, columns, weights, strict=True):
        if total is None or weight is None:
            found.append((np.zeros((len(row), len(NAMES[asked])), np.float32), np.zeros(len(row), np.bool_)))
            continue
        values = sided(of) if asked == "feet" else total
        assert values is not None, "feet are refused where they have no side"
        known = np.isfinite(values).all(axis=1)
        if MARKS not in of:  # what a file says of its forces goes before what the pelvis says
            known &= kinetics.believed(total, clip.body, row, rate_hz, weight)
        if asked == "residual":
            carried = kinetics.carrying(clip.body, row, rate_hz, weight)
            values = (total - kinetics.taken_off(NAMES[asked], carried)).astype(np.float32)
        found.append((values, known))
    if not any(known.any() for _, known in found):
        raise ValueError(
            f"{root} has no trial with a force that can be trusted, so {flag} has nothing to read: leave it out, or, "
            "for `vla forces` to say the forces, put the tables of forces elsewhere"
        )
    middle = np.concatenate([values[known] for values, known in found]).mean(axis=0)
    trials = [
        Measured(values=filled(values, known, middle), known=known, weight_n=weight or 0.0)
        for (values, known), weight in zip(found, weights, strict=True)
    ]
    alone = [clip.name for clip, (_, known) in zip(clips, found, strict=True) if not known.any()]
    unknown, frames = sum(int((~known).sum()) for _, known in found), sum(len(known) for _, known in found)
    remarks.append(
        f"forces of {unknown:,} of {frames:,} frames are not learned: they carry less than the pelvis' motion asks "
        "for, so a foot was beside the plates, or they are not there"
    )
    remarks += [f"{name} has no frame whose force can be trusted: its motion alone is learned" for name in alone]
    return Modelled(names=NAMES[asked], trials=trials, remarks=tuple(remarks))


def weigh(
    root: Path,
    clips: Sequence[Converted],
    rows: Sequence[Float32[np.ndarray, "_ _"]],
    totals: Sequence[Float32[np.ndarray, "_ 3"] | None],
    rate_hz: float,
) -> tuple[list[float | None], list[str]]:
    """The weight of who moves in each clip, N, and where it is from; None where nothing says it."""
    weights = [told_weight(root, clip) for clip in clips]
    remarks = []
    for who in dict.fromkeys(map(subject_of, clips)):
        of = [place for place, clip in enumerate(clips) if subject_of(clip) == who]
        unsaid = [place for place in of if weights[place] is None]
        trials = [(clips[place].body, rows[place], total) for place in of if (total := totals[place]) is not None]
        if not unsaid or (found := kinetics.weight_of(trials, rate_hz)) is None:
            continue
        weight, still = found
        for place in unsaid:
            weights[place] = weight
        how = "as a trial that stands still weighs" if still else "as its trials weigh, by the pelvis' acceleration"
        remarks.append(f"{who or 'the body'} is taken to weigh {weight:.0f} N, {how}; labels.csv may say {WEIGHT_KG}")
    return weights, remarks


def told_weight(root: Path, clip: Converted) -> float | None:
    """What is told of a clip's subject, N; None where nothing is. ValueError where that is no weight."""
    told: Any = clip.facts.get(WEIGHT_KG)
    if told in (None, ""):
        return None
    try:
        kilograms = float(told)
    except ValueError:
        kilograms = float("nan")
    if not 0 < kilograms < float("inf"):
        raise ValueError(f"{root} is told {WEIGHT_KG} {told} of {clip.name}: give kilograms above 0 in labels.csv")
    return kilograms * kinetics.GRAVITY


def subject_of(clip: Converted) -> str:
    """Whose trial a clip is: what is told of it, else its folder."""
    return str(clip.facts.get("subject") or PurePosixPath(clip.place).parent.as_posix()).removesuffix(".")


def summed(columns: Mapping[str, Float32[np.ndarray, "T _"]]) -> Float32[np.ndarray, "T 3"] | None:
    """The sum of the forces of a trial, whatever they are under, N; None where there is none."""
    forces = sorted({name.rpartition(".")[0] for name in columns if name.startswith("force.")})
    if not forces:
        return None
    total: Float32[np.ndarray, "T 3"] = np.sum([components(columns, force) for force in forces], axis=0)
    return total


def sided(columns: Mapping[str, Float32[np.ndarray, "T _"]]) -> Float32[np.ndarray, "T 6"] | None:
    """The forces under the left and the right foot, N; None where they have no side."""
    if any(f"force.{side}.vy" not in columns for side in SIDES):
        return None
    return np.concatenate([components(columns, f"force.{side}") for side in SIDES], axis=1)


def components(columns: Mapping[str, Float32[np.ndarray, "T _"]], force: str) -> Float32[np.ndarray, "T 3"]:
    """Those of one force."""
    return np.concatenate([columns[f"{force}.{part}"] for part in COMPONENTS], axis=1)


def filled(
    values: Float32[np.ndarray, "T F"], known: Bool[np.ndarray, " T"], middle: Float32[np.ndarray, " F"]
) -> Float32[np.ndarray, "T F"]:
    """Values with a mean in the place of those that are not known: the trial's, or `middle` where it has none."""
    mean = values[known].mean(axis=0) if known.any() else middle
    return np.where(known[:, None], values, mean).astype(np.float32)
