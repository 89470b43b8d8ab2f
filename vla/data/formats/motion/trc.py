"""Markers in space, .trc: where each was seen, in the unit of the header; an empty place is a marker that was not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vla.data.formats.motion.axes import metres, upright_points
from vla.data.formats.motion.storage import Table, cells_of, numbers_of_row, on_even_clock, rising
from vla.errors import CorruptData
from vla.motion.clip import Clip, Points
from vla.motion.joints import PELVIS_MARKERS, words_of
from vla.motion_settings import MotionConfig


def is_trc(file: Path) -> bool:
    """Whether a file is of this kind."""
    return file.suffix == ".trc"


def read_trc(file: Path, asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file, its markers of the pelvis first, the others by the alphabet.

    A marker that was never seen is left out; a frame that lacks another was not measured.
    """
    names, unit, table = parse_trc(file)
    regular = on_even_clock(table)
    places = regular.values.reshape(len(regular.values), len(names), 3) * metres(unit, asked)
    places[(places == 0).all(axis=2)] = np.nan  # what was not seen, as other programs write it
    seen: Bool[np.ndarray, "T J"] = np.asarray(np.isfinite(places).all(axis=2))
    there = [place for place in range(len(names)) if seen[:, place].any()]
    kept = sorted(there, key=lambda place: (words_of(names[place])[1] not in PELVIS_MARKERS, names[place]))
    shown = tuple(names[place] for place in kept)
    if not shown:
        raise ValueError("no marker of it was ever seen; leave it out")
    values, axis = upright_points(shown, places[:, kept], asked)
    lost = [name for name in names if name not in shown]
    never = f"markers that were never seen are left out: {', '.join(lost)}" if lost else ""
    yield Clip(
        name=file.stem,
        rate_hz=regular.rate_hz,
        body=Points(names=shown, values=values),
        valid=seen[:, kept].all(axis=1) & regular.within,
        remarks=tuple(filter(None, [*table.remarks, *regular.remarks, axis, never])),
    )


def parse_trc(file: Path) -> tuple[tuple[str, ...], str, Table]:
    """The names of a file's markers, the unit of their places, and these: three columns a marker.

    Raises:
        CorruptData: it has no header, two markers of one name, or a row of another width.
    """
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    heads = [number for number, line in enumerate(lines[:8]) if line.lower().startswith("frame#")]
    if not heads or heads[0] < 2:
        raise CorruptData(f"{file} has no header of markers, a line that begins with Frame#: restore it")
    head = heads[0]
    keys, said = lines[head - 2].lower().split(), lines[head - 1].split()
    names = tuple(cells_of(lines[head].rstrip())[2::3])
    if len(set(names)) < len(names) or not all(names):
        raise CorruptData(f"{file} has markers without a name, or two of one: name each once")
    count = 3 * len(names) + 2
    rows = [
        numbers_of_row(line, count, f"{file}, row {number}", pad=True) for number, line in enumerate(lines[head + 2 :])
    ]
    unit = dict(zip(keys, said, strict=False)).get("units", "")
    times, values, remarks = rising(np.array(rows)[:, 1:] if rows else np.zeros((0, count - 1)), file)
    return names, unit, Table(labels=names, times_s=times, values=values, degrees=None, remarks=remarks)
