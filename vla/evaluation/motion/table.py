"""Figures of samples beside what real motions and copies have, as JSON and as a person reads them."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from vla.evaluation.motion.figure import Figure

WIDTH = 80
CELL = 26
COLUMNS = ("samples", "real", "replay")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of three sets of motions."""

    name: str
    unit: str
    """Empty of a share or a ratio."""
    samples: Figure
    real: Figure
    """Of held-out real motions; of what compares two sets, one half of them against the other."""
    replay: Figure
    """Of training motions in place of the samples: what a policy has that copies."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What was measured of some samples."""

    rows: tuple[Row, ...]
    rate_hz: float
    cutoff_hz: float
    """All motions were brought to this rate and band."""
    remarks: tuple[str, ...] = ()
    """What was left out, and what limits a figure."""

    def row(self, name: str) -> Row:
        """The row of a name."""
        return {row.name: row for row in self.rows}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The table in 80 columns: of each figure how many it is of, its values and their 95 % intervals."""
        text = (
            f"Motions at {self.rate_hz:g} Hz, below {self.cutoff_hz:g} Hz. Real: held out; where sets are compared, "
            "one half of it against the other. Replay: training motions in place of samples."
        )
        lines = [*textwrap.wrap(text, WIDTH), "", "".join(f"{title:>{CELL}}" for title in COLUMNS)]
        for row in self.rows:
            cells = (row.samples, row.real, row.replay)
            title = f"{row.name} [{row.unit}]" if row.unit else row.name
            counts = "n " + ", ".join(str(cell.n) for cell in cells)
            lines += [f"{title:<{WIDTH - len(counts)}}{counts}", "".join(f"{cell!s:>{CELL}}" for cell in cells)]
        return [*lines, *(line for remark in self.remarks for line in textwrap.wrap(remark, WIDTH))]
