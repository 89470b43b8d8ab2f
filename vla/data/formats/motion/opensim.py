"""Trials as OpenSim's tables have them: the coordinates of a model, and what was measured with them.

The model that says what the coordinates turn and how long its bones are is in another file, so they are kept as they
are. Forces and loads of the same trial are read with its coordinates (trials.py).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vla.data.formats.motion.forces import Kinetics, is_kinetic, kinetics_at
from vla.data.formats.motion.storage import Regular, Table, on_even_clock, read_labels_of, read_table, unit_of
from vla.data.formats.motion.trials import TABLES, same_trial
from vla.errors import CorruptData
from vla.motion.body import LENGTH
from vla.motion.clip import Clip, Coordinates
from vla.motion_settings import MotionConfig

PATH = re.compile(r"/jointset/.+/([^/]+)/value")
"""A coordinate in a table of OpenSim 4."""
STATE = re.compile(r".*[./].*|.+_u")
"""Other states of a model: `soleus_r.activation`, `/forceset/...`, the speed `knee_angle_r_u`."""
COUPLED = re.compile(r".+_beta")
"""What follows from another coordinate, as the kneecap does: programs leave it in degrees in a table of radians."""
SUSPICIOUS = 4 * math.pi
"""Angles beyond this, rad, may have been written in degrees."""
ROOT = ("pelvis_tx", "pelvis_ty", "pelvis_tz")


def is_opensim(file: Path) -> bool:
    """Whether a file is of this kind."""
    return file.suffix in TABLES


def read_opensim(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The trial of a file of coordinates; of forces alone, nothing where a trial's coordinates are read with them."""
    labels = read_labels_of(file)
    others = same_trial(file)
    if not is_kinematic(labels):
        if not any(map(is_kinetic, labels)):
            yield nobody(file, "no coordinate of a pelvis, force under a foot or load of a joint is in it")
        elif not any(is_kinematic(read_labels_of(other)) for other in others):
            yield nobody(file, "it holds forces, and no file beside it holds the coordinates of their trial")
        return
    table = read_table(file)
    regular = on_even_clock(table)
    body = body_of(table, regular, degrees=in_degrees(table, file, asked))
    kinetics = kinetics_of(table, regular, others, body)
    measured = (remark for found in kinetics for remark in found.remarks)
    yield Clip(
        name=file.stem,
        rate_hz=regular.rate_hz,
        body=body,
        valid=np.isfinite(body.values).all(axis=1) & regular.within,
        columns={name: values for found in kinetics for name, values in found.columns.items()},
        column_names={name: names for found in kinetics for name, names in found.names.items()},
        remarks=tuple(dict.fromkeys([*table.remarks, *regular.remarks, *measured, *oddities(table, body)])),
    )


def oddities(table: Table, body: Coordinates) -> list[str]:
    """What of a table is not read, or may be wrong."""
    said = []
    unread = [label for label in table.labels if coordinate_of(label, table.labels) is None and not is_kinetic(label)]
    if unread:
        said.append(f"{len(unread)} columns of its table are not read: {unread[0]}, ...")
    angles = body.values[:, [place for place, name in enumerate(body.names) if not LENGTH.search(name)]]
    largest = float(np.nanmax(np.abs(angles), initial=0.0))
    if largest > SUSPICIOUS:
        said.append(f"angles reach {largest:.0f} rad, as if they were in degrees")
    return said


def body_of(table: Table, regular: Regular, *, degrees: bool) -> Coordinates:
    """The coordinates of a table on an even clock, each once.

    Raises:
        CorruptData: two columns of one coordinate differ.
    """
    places: dict[str, int] = {}
    for place, label in enumerate(table.labels):
        name = coordinate_of(label, table.labels)
        first = None if name is None else places.setdefault(name, place)
        if first is not None and not np.array_equal(table.values[:, first], table.values[:, place], equal_nan=True):
            raise CorruptData(f"two columns are called {name} and differ: leave out the one that is not meant")
    factors = [unit_of(name, degrees=degrees) for name in places]
    return Coordinates(names=tuple(places), values=regular.values[:, list(places.values())] * factors)


def kinetics_of(table: Table, regular: Regular, others: Sequence[Path], body: Coordinates) -> list[Kinetics]:
    """What was measured with coordinates: in the other files of their trial, or else in their own."""
    times_s = regular.start_s + np.arange(len(body)) / regular.rate_hz
    nowhere = np.zeros(len(body))
    root = np.stack(
        [body.values[:, body.names.index(name)] if name in body.names else nowhere for name in ROOT], axis=1
    )
    found: list[Kinetics] = []
    for other in others:
        labels = read_labels_of(other)
        if not any(map(is_kinetic, labels)) or is_kinematic(labels):
            continue
        measured = read_table(other)
        even = on_even_clock(measured)
        kinetics = kinetics_at(labels, even, times_s, regular.rate_hz, root)
        odd = [f"of its forces, {remark}" for remark in (*measured.remarks, *even.remarks)]
        end_s = even.start_s + (len(even.values) - 1) / even.rate_hz
        if even.start_s > times_s[0] + 1 / even.rate_hz or end_s < times_s[-1] - 1 / even.rate_hz:
            odd.append("its forces were not measured from its first frame to its last")
        if any(kinetics.columns.keys() & earlier.columns.keys() for earlier in found):
            raise ValueError(f"{other.name} holds forces or loads that another file of its trial holds too: leave one")
        found.append(replace(kinetics, remarks=(*kinetics.remarks, *odd)))
    own = kinetics_at(table.labels, regular, times_s, regular.rate_hz, root)
    if found and own.columns:
        instead = ("the forces in its own file are not read, but those of another of its trial",)
        found[-1] = replace(found[-1], remarks=(*found[-1].remarks, *instead))
    return found or [own]


def nobody(file: Path, reason: str) -> Clip:
    """What is given of a file without coordinates."""
    return Clip(name=file.stem, rate_hz=1.0, body=None, remarks=(reason,))


def in_degrees(table: Table, file: Path, asked: MotionConfig) -> bool:
    """Whether the angles of a table are in degrees. ValueError where neither it nor the user says so."""
    if table.degrees is not None:
        return table.degrees
    if asked.angles is None:
        raise ValueError(
            f"{file} does not say whether its angles are in degrees: give `--data.motion.angles deg`, or rad"
        )
    return asked.angles == "deg"


def is_kinematic(labels: Sequence[str]) -> bool:
    """Whether some labels are of the coordinates of a body."""
    return any((coordinate_of(label, labels) or "").startswith("pelvis_") for label in labels)


def coordinate_of(label: str, labels: Sequence[str]) -> str | None:
    """The coordinate that a label is of, among the others of its table; None of the place of a marker, a force, ..."""
    if is_kinetic(label) or is_marker(label, labels):
        return None
    path = PATH.fullmatch(label)
    if path is None and STATE.fullmatch(label):
        return None
    name = path[1] if path else label
    return None if COUPLED.fullmatch(name) else name


def is_marker(label: str, labels: Sequence[str]) -> bool:
    """Whether a label is of the place of something else than the pelvis, along all three axes."""
    name, _, axis = label.rpartition("_")
    return axis in ("tx", "ty", "tz") and name != "pelvis" and all(f"{name}_t{axis}" in labels for axis in "xyz")
