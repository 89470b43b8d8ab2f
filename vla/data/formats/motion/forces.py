"""Forces under the feet and loads of joints, as tables of OpenSim label them, and what they are on a body's clock.

A plate is not a foot: a force has a side where its labels say one. Where it acts is told from the ground below the
pelvis, as everything else of a motion; a force of 0 acts nowhere.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vla.data.formats.motion.storage import Regular
from vla.motion.resampling import quantity

FORCE = re.compile(
    r"(?:(?P<before>\w+)_)?ground_(?P<what>force|torque|moment)_(?:(?P<after>\w+)_)?(?P<part>[vpm]?)(?P<axis>[xyz])",
    re.IGNORECASE,
)
"""`ground_force_r_vx`, `1_ground_force_px`, `ground_force_calcn_l_mz`, `L_ground_torque_x`, ..."""
LOAD = re.compile(r"(?!.*ground_).+_(moment|force)")
"""What inverse dynamics say of a coordinate: `hip_flexion_r_moment`, `pelvis_tx_force`."""
PARTS = {"v": ("vx", "vy", "vz"), "p": ("px_root", "py_root", "pz_root"), "m": ("mx", "my", "mz")}
"""Of a force: its components, N; where it acts, seen from the ground below the root, m; its free moment there, Nm."""
SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
OTHER = {"left": "right", "right": "left"}
ZERO = "a force of 0 is a foot in the air or beside the plate, which the file does not say"

Places = dict[str, int]
"""Of a force, the column of each of its numbers: `vx`, `pz`, `my`, ..."""


@dataclass(frozen=True, kw_only=True)
class Kinetics:
    """Further values a frame of a trial."""

    columns: Mapping[str, Float64[np.ndarray, "N _"]]
    names: Mapping[str, tuple[str, ...]]
    remarks: tuple[str, ...]


def is_kinetic(label: str) -> bool:
    """Whether a label is of a force under a foot, or of a load."""
    return FORCE.fullmatch(label) is not None or LOAD.fullmatch(label) is not None


def kinetics_at(
    labels: Sequence[str],
    table: Regular,
    times_s: Float64[np.ndarray, " N"],
    rate_hz: float,
    root: Float64[np.ndarray, "N 3"],
) -> Kinetics:
    """The forces and loads of a table at the times of a body, which has this rate; `root` is where its pelvis is, m."""

    def moved(values: Float64[np.ndarray, "T D"]) -> Float64[np.ndarray, "N D"]:
        return quantity(values, table.rate_hz, times_s - table.start_s, rate_hz)

    columns: dict[str, Float64[np.ndarray, "N _"]] = {}
    forces, remarks = sided(grouped(labels))
    below = root * [1.0, 0.0, 1.0]
    for name, places in forces.items():
        parts = {part: numbers_of(table, places, part) for part in PARTS}
        parts["p"][(parts["v"] == 0).all(axis=1)] = np.nan
        at_frames = {part: moved(values) for part, values in parts.items()}
        at_frames["p"] -= below
        columns[f"force.{name}"] = np.concatenate([at_frames[part] for part in PARTS], axis=1)
    names = dict.fromkeys(columns, tuple(name for part in PARTS.values() for name in part))
    loads = [place for place, label in enumerate(labels) if LOAD.fullmatch(label)]
    if loads:
        columns["load"] = moved(table.values[:, loads])
        names["load"] = tuple(labels[place] for place in loads)
    return Kinetics(columns=columns, names=names, remarks=(*remarks, *([ZERO] if forces else [])))


def numbers_of(table: Regular, places: Places, part: str) -> Float64[np.ndarray, "T 3"]:
    """The three numbers of a part of a force; NaN where the table has none, or no row near."""
    found = [table.values[:, places[f"{part}{axis}"]] if f"{part}{axis}" in places else None for axis in "xyz"]
    nowhere = np.full(len(table.values), np.nan)
    values = np.stack([nowhere if column is None else column for column in found], axis=1)
    values[~table.within] = np.nan
    return values


def grouped(labels: Sequence[str]) -> dict[tuple[str, int], Places]:
    """The forces of a table by what their labels call them, and the how manieth of that label each is."""
    found: dict[tuple[str, int], Places] = {}
    for place, label in enumerate(labels):
        if (parsed := FORCE.fullmatch(label)) is None:
            continue
        whose = (parsed["before"] or parsed["after"] or "").lower()
        part = parsed["part"].lower() or ("v" if parsed["what"].lower() == "force" else "m")
        number = sum(earlier == label for earlier in labels[:place])
        found.setdefault((whose, number), {})[part + parsed["axis"].lower()] = place
    return found


def sided(forces: Mapping[tuple[str, int], Places]) -> tuple[dict[str, Places], list[str]]:
    """Forces by the side that they are called, the others as plates in their order; and what was told by itself."""
    sides = [
        next((SIDES[word] for word in whose.split("_") if word in SIDES), "") if number == 0 else ""
        for whose, number in forces
    ]
    remarks = []
    if len(sides) == 2 and bool(sides[0]) != bool(sides[1]):
        sides = [side or OTHER[sides[1 - place]] for place, side in enumerate(sides)]
        remarks.append("of two forces one has a side, and the other is taken for that of the other foot")
    if len(set(filter(None, sides))) < sum(map(bool, sides)):
        sides = [""] * len(sides)
    if not all(sides):
        remarks.append("forces without a side are of plates, not of feet")
    numbers = iter(range(1, len(sides) + 1))
    names = [side or f"plate{next(numbers)}" for side in sides]
    return dict(zip(names, forces.values(), strict=True)), remarks
