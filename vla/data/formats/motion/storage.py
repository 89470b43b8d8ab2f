"""Tables of OpenSim and SIMM, .mot and .sto: a header of whatever keys, `endheader`, labels, a row a time."""

import math
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from vla.errors import CorruptData
from vla.motion.body import LENGTH
from vla.motion.clip import Coordinates

EVEN = 0.25
"""How far from an even clock a time may stand, in periods, and still be a rounding of it, as 120 Hz in milliseconds."""
GAP = 2.0
"""Longer than so many periods, what lies between two rows is not known."""
WHOLE = 2e-4
"""How far a rate may be from whole Hz and still be these, as a share of it; those of television are 1e-3 off."""
NO_NUMBER = re.compile(r"nan|ind", re.IGNORECASE)
"""What is written for a number that is none: NaN, -1.#IND, ..."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What such a file holds, as it stands there."""

    labels: tuple[str, ...]
    """One a column beside the time; some may be the same."""
    times_s: Float64[np.ndarray, " T"]
    """Strictly increasing."""
    values: Float64[np.ndarray, "T C"]
    """NaN where there is no number."""
    degrees: bool | None
    """Whether angles are in degrees; None where the header does not say."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Regular:
    """A table on an even clock."""

    start_s: float
    rate_hz: float
    values: Float64[np.ndarray, "N C"]
    within: Bool[np.ndarray, " N"]
    """Rows that have one of the table near."""
    remarks: tuple[str, ...]


def read_labels_of(file: Path) -> tuple[str, ...]:
    """The labels of a table beside the time, without its rows. CorruptData where there are none."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        return _labels(_header(lines, file)[1], file)


def read_table(file: Path) -> Table:
    """The content of a file.

    Raises:
        CorruptData: it has no header or no rows, a row that is not as wide as the labels, or time runs backwards.
        ValueError: its header says in another way than yes or no whether angles are in degrees, or that it holds others
            than numbers.
    """
    with file.open(encoding="utf-8", errors="replace") as lines:
        header, first = _header(lines, file)
        labels = _labels(first, file)
        full = (line for line in lines if line.strip())
        rows = [numbers_of_row(line, len(labels) + 1, f"{file}, row {number}") for number, line in enumerate(full)]
    if kind := re.search(r"^\s*DataType\s*=\s*(?!double)(\S+)", header, re.IGNORECASE | re.MULTILINE):
        raise ValueError(f"{file} holds {kind[1]}, where numbers are expected: write its coordinates as double")
    times_s, values, remarks = rising(np.array(rows).reshape(len(rows), len(labels) + 1), file)
    promised = re.search(r"^\s*(?:nRows|datarows)\s*[= ]\s*(\d+)", header, re.IGNORECASE | re.MULTILINE)
    if promised and int(promised[1]) != len(rows):
        remarks = (*remarks, "the header promises another number of rows than there are, which are read")
    return Table(
        labels=labels,
        times_s=times_s,
        values=values,
        degrees=_in_degrees(header, file),
        remarks=remarks,
    )


def rising(
    rows: Float64[np.ndarray, "N D"], file: Path
) -> tuple[Float64[np.ndarray, " T"], Float64[np.ndarray, "T C"], tuple[str, ...]]:
    """The times and values of rows that begin with their time, one a time, and a remark on those left out.

    Raises:
        CorruptData: there are fewer than two, one has no time, or time runs backwards.
    """
    if len(rows) < 2:
        raise CorruptData(f"{file} has {len(rows)} rows, a motion has two at least: restore it")
    times = rows[:, 0]
    if not np.isfinite(times).all():
        raise CorruptData(f"{file} has a row without a time: restore it")
    steps = np.diff(times)
    if (back := np.flatnonzero(steps < 0)).size:
        row = int(back[0]) + 1
        raise CorruptData(
            f"{file}: time runs backwards, from {times[row - 1]:g} to {times[row]:g} s at row {row}: sort or split it"
        )
    again = np.concatenate([[False], steps == 0])
    remarks = ("a row with the time of the row before it is left out",) if again.any() else ()
    return times[~again], rows[~again, 1:], remarks


def on_even_clock(table: Table) -> Regular:
    """The rows of a table at even times: as they are where these are but rounded, else between them at the usual rate.

    Raises:
        CorruptData: but one row is left.
    """
    times, count = table.times_s, len(table.times_s)
    if count < 2:
        raise CorruptData("there is one row, a motion has two at least: restore it")
    rate_hz = (count - 1) / (times[-1] - times[0])
    if np.abs(times - times[0] - np.arange(count) / rate_hz).max() <= EVEN / rate_hz:
        everywhere = np.ones(count, np.bool_)
        return Regular(start_s=times[0], rate_hz=whole(rate_hz), values=table.values, within=everywhere, remarks=())
    steps = np.diff(times)
    rate_hz = whole(1 / float(np.median(steps)))
    even = times[0] + np.arange(int((times[-1] - times[0]) * rate_hz + 1e-6) + 1) / rate_hz
    after = np.searchsorted(times, even, side="left").clip(1, count - 1)
    share = ((even - times[after - 1]) / steps[after - 1]).clip(0, 1)[:, None]
    off = np.minimum(even - times[after - 1], times[after] - even)
    before, behind = table.values[after - 1], table.values[after]
    values = np.where(share == 0, before, np.where(share == 1, behind, before + share * (behind - before)))
    return Regular(
        start_s=times[0],
        rate_hz=rate_hz,
        values=values,
        within=(steps[after - 1] <= GAP / rate_hz) | (off <= EVEN / rate_hz),
        remarks=("rows at uneven times are put on an even clock of their usual rate",),
    )


def whole(rate_hz: float) -> float:
    """A rate as it is meant where times were rounded."""
    near = round(rate_hz)
    return float(near) if abs(rate_hz - near) <= WHOLE * rate_hz else float(rate_hz)


def write_mot(file: Path, coordinates: Coordinates, rate_hz: float) -> None:
    """Write coordinates of a model as OpenSim reads them: m and rad, time from 0 on.

    Raises:
        ValueError: a coordinate is not finite.
    """
    if not np.isfinite(coordinates.values).all():
        raise ValueError(f"coordinates to be written to {file} are not finite: leave out what was not measured")
    _write(file, "Coordinates", coordinates.names, coordinates.values, rate_hz)


def write_forces(file: Path, names: Sequence[str], values: Float64[np.ndarray, "T F"], rate_hz: float) -> None:
    """Write forces as OpenSim labels them, N, time from 0 on: `force.vx` is `ground_force_vx`, `force.left.vx` with l.

    Where they act is not among them.
    """
    labels = [name.replace("force.", "ground_force_").replace("left.", "l_").replace("right.", "r_") for name in names]
    _write(file, "Forces", labels, values, rate_hz)


def _write(file: Path, title: str, labels: Sequence[str], values: Float64[np.ndarray, "T C"], rate_hz: float) -> None:
    """Write a table of OpenSim beside its place first."""
    times = np.arange(len(values)) / rate_hz
    head = [
        title,
        "version=1",
        f"nRows={len(values)}",
        f"nColumns={len(labels) + 1}",
        "inDegrees=no",
        "endheader",
        "\t".join(["time", *labels]),
    ]
    rows = np.concatenate([times[:, None], values], axis=1)
    lines = ("\t".join(map(repr, row)) for row in rows.tolist())
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)  # it is gone where it has become the file


def unit_of(label: str, *, degrees: bool) -> float:
    """What 1 of a coordinate is in m or rad, where angles are in degrees or in radians."""
    return math.pi / 180 if degrees and not LENGTH.search(label) else 1.0


def _header(lines: Iterator[str], file: Path) -> tuple[str, str]:
    """What stands before `endheader`, and the line of labels after it."""
    header: list[str] = []
    for line in lines:
        if line.strip().lower() == "endheader":
            return "".join(header), next((line for line in lines if line.strip()), "")
        header.append(line)
    raise CorruptData(f"{file} has no line `endheader`, which ends the header of a table of OpenSim: restore it")


def _labels(line: str, file: Path) -> tuple[str, ...]:
    time, *labels = cells_of(line.rstrip()) or [""]
    if time.lower() != "time" or not labels:
        raise CorruptData(f"{file} has no labels that begin with time after its header: restore it")
    return tuple(labels)


def cells_of(line: str) -> Sequence[str]:
    """What stands between tabs, or where there are none between spaces."""
    return [cell.strip() for cell in line.split("\t")] if "\t" in line.strip() else line.split()


def numbers_of_row(line: str, width: int, place: str, *, pad: bool = False) -> list[float]:
    """What stands in a row; NaN where nothing does, and with `pad` at its end.

    Raises:
        CorruptData: something is no number, or the row is of another width.
    """
    cells = [*cells_of(line)]
    cells += [""] * (width - len(cells)) if pad else []
    while len(cells) > width and not cells[-1]:
        cells.pop()
    if len(cells) != width:
        raise CorruptData(f"{place}, has {len(cells)} values for {width} labels: restore the file")
    try:
        return [math.nan if not cell or NO_NUMBER.search(cell) else float(cell) for cell in cells]
    except ValueError as error:
        raise CorruptData(f"{place}, holds what is no number ({error}): restore the file") from error


def _in_degrees(header: str, file: Path) -> bool | None:
    """What a header says of angles, in its key or in the sentence that SIMM's have."""
    if said := re.search(r"^\s*inDegrees\s*=?\s*(\S+)", header, re.IGNORECASE | re.MULTILINE):
        if said[1].lower() not in ("yes", "no"):
            raise ValueError(f"{file} says inDegrees={said[1]}, which programs read in two ways: write yes or no there")
        return said[1].lower() == "yes"
    sentence = re.search(r"^\s*Angles are in (degrees|radians)", header, re.IGNORECASE | re.MULTILINE)
    return None if sentence is None else sentence[1].lower() == "degrees"
