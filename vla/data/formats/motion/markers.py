"""Markers (c3d): places of points on a body, of which no skeleton is known.

Labels that are no places (a model's angles, forces, moments, powers) and markers without a name are left out, and so
are those that are never seen. A frame that lacks one of the others was not measured.
"""

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla import units
from vla.data.formats.motion.axes import METRES, with_y_up
from vla.errors import CorruptData, MissingPackage
from vla.motion.clip import Clip, Points
from vla.motion.joints import PELVIS_MARKERS, words_of
from vla.motion_settings import Axis, MotionConfig

NO_PLACES = ("ANGLES", "FORCES", "MOMENTS", "POWERS", "SCALARS")
"""Parameters that list labels of what is no place."""
DAMAGED = (AssertionError, AttributeError, EOFError, LookupError, OverflowError, TypeError, ValueError, struct.error)
"""What the package c3d raises of files that it cannot read."""
MISSING = 3
"""Column of its points that is negative where a point was not seen."""


def is_c3d(file: Path) -> bool:
    """Whether a file is of this kind, by its name."""
    return file.suffix.lower() == ".c3d"


def read_c3d(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file.

    Raises:
        CorruptData: it is damaged.
        MissingPackage: c3d is not installed.
        ValueError: nothing says the unit of its lengths, or which axis is up.
    """
    try:
        import c3d
    except ModuleNotFoundError as missing:
        raise MissingPackage(
            f"{file} is read by {missing.name}, which is not installed; give `pip install 'touchstone-vla[motion]'`"
        ) from missing
    try:
        with file.open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forces, which are not looked at; frames are counted below
            reader = c3d.Reader(opened)
            announced, rate_hz = reader.last_frame - reader.first_frame + 1, float(reader.point_rate)
            names, unit, axis = names_of(reader), unit_of(reader) or asked.unit, asked.up or axis_of(reader)
            rows = [points[:, : MISSING + 1] for _, points, _ in reader.read_frames()]
    except DAMAGED as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error
    if len(rows) != announced or not rows or not 0 < rate_hz < math.inf:
        raise CorruptData(f"{file} has {len(rows)} of {announced} frames, at {rate_hz:g} a second: copy it again")
    if unit is None:
        raise ValueError(f"{file} does not say the unit of its lengths: give --data.motion.unit mm, or another")
    if axis is None:
        raise ValueError(f"{file} does not say which axis is up: give --data.motion.up z, or another")
    values = np.stack(rows).astype(np.float64)
    measured = values[..., MISSING] >= 0
    seen = {name: place for place, name in names.items() if measured[:, place].any()}
    kept = sorted(seen, key=lambda name: (words_of(name)[1] not in PELVIS_MARKERS, name))
    places = [seen[name] for name in kept]
    yield Clip(
        name=file.stem,
        rate_hz=rate_hz,
        body=Points(names=tuple(kept), values=METRES[unit] * with_y_up(values[:, places, :MISSING], axis)),
        valid=np.asarray(measured[:, places].all(axis=1)),
        remarks=remarks_on(values.shape[1] - len(names), sorted(set(names.values()) - set(kept))),
    )


def remarks_on(others: int, unseen: Sequence[str]) -> tuple[str, ...]:
    """What is not read."""
    told = (
        f"{others} points without a name, or that are no places, are left out" if others else "",
        f"markers never seen are left out: {', '.join(unseen)}" if unseen else "",
    )
    return tuple(remark for remark in told if remark)


def names_of(reader: Any) -> dict[int, str]:
    """The markers of a file, by their place among its points; a subject's name before all of them is left out."""
    labels = texts_of(reader, "LABELS")[: reader.point_used]
    if len(labels) < reader.point_used:
        raise ValueError(f"it has {reader.point_used} points and {len(labels)} labels")
    others = {label for name in NO_PLACES for label in texts_of(reader, name)}
    others |= {label for label in labels if not label or label.startswith("*")}
    named = {place: label for place, label in enumerate(labels) if label not in others}
    if len({label.rpartition(":")[0] for label in named.values()}) == 1:
        named = {place: label.rpartition(":")[2] for place, label in named.items()}
    if twice := [label for label in named.values() if [*named.values()].count(label) > 1]:
        raise ValueError(f"it has two markers {twice[0]}")
    return named


def texts_of(reader: Any, name: str) -> list[str]:
    """The texts of a parameter of points, and of those that go on with it (LABELS2): one holds 255 at most."""
    texts: list[str] = []
    number = 1
    while (held := reader.get(f"POINT:{name}{number if number > 1 else ''}")) is not None:
        texts += [str(text).strip("\0 ") for text in held.string_array.ravel()]
        number += 1
    return texts


def unit_of(reader: Any) -> str | None:
    """The unit of lengths; None where the file does not say one that is known."""
    words = " ".join(texts_of(reader, "UNITS")).split()
    unit = units.spelled(words[0].lower()) if words else ""
    return unit if unit in METRES else None


def axis_of(reader: Any) -> Axis | None:
    """The axis that points up, as a screen's height does; None where the file does not say it, or says what is down."""
    axes: dict[str, Axis] = {"+X": "x", "+Y": "y", "+Z": "z"}
    return next((axes.get(text) for text in texts_of(reader, "Y_SCREEN")), None)
