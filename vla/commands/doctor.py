"""`vla doctor`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla.commands.recordings import Columns
from vla.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Examined(Columns):
    """What is looked at."""

    depth: tuple[str, ...] = ()
    """Depth cameras to look at and the distances they show in metres, `wrist_depth=0.2:1.5`; others are left out."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine data: outliers, constants, missing files, gaps, modalities."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    data: Examined = field(default_factory=Examined)
    """What is looked at."""
    decode_seconds: float = 2.0
    """Seconds for each folder in which to measure how fast its frames decode; 0: leave that out."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the findings as JSON."""


def doctor(command: Doctor) -> None:
    """`vla doctor`."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla doctor DATA")

    if not 0 <= command.decode_seconds < 3600:
        raise UsageError(f"--decode-seconds is {command.decode_seconds:g}; give at least 0 and less than an hour")

    from vla.data.doctor import examine
    from vla.data.selection import Selection

    report = examine(command.roots, selection=Selection(**vars(command.data)), decode_s=command.decode_seconds)
    print(json.dumps(report.to_json(), indent=2) if command.json else report)
