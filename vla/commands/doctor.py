"""`vla doctor`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla.commands.recordings import Columns
from vla.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine data: outliers, constants, missing files, gaps, modalities."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    data: Columns = field(default_factory=Columns)
    """What is looked at."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the findings as JSON."""


def doctor(command: Doctor) -> None:
    """`vla doctor`."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla doctor DATA")

    from vla.data.doctor import examine
    from vla.data.selection import Selection

    report = examine(command.roots, selection=Selection(**vars(command.data)))
    print(json.dumps(report.to_json(), indent=2) if command.json else report)
