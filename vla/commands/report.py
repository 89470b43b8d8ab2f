"""`vla report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run as one HTML file: curves, checkpoints, evaluations, configuration."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Run folder, the --out of a training; it may still be under way."""
    out: Path | None = None
    """The file to write; None: RUN/report.html."""


def report(command: Report) -> None:
    """`vla report`."""
    from vla.report.page import write_report

    out = command.out or command.run / "report.html"
    size = write_report(command.run, out)
    print(f"{out}, {size / 1e6:.1f} MB; open it in a browser")
