"""`vla doctor`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vla.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine data: outliers, constants, missing files, gaps, modalities."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the findings as JSON."""


def doctor(command: Doctor) -> None:
    """`vla doctor`."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla doctor DATA")

    from vla.data.doctor import examine

    report = examine(command.roots)
    print(json.dumps(report.to_json(), indent=2) if command.json else report)
