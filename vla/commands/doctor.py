"""`vla doctor`."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla.commands.recordings import Columns
from vla.errors import DONE, StorageFault, UsageError, told
from vla.settings import DataConfig

if TYPE_CHECKING:
    from vla.data.diagnosis import Report


@dataclass(frozen=True, kw_only=True)
class Examined(Columns):
    """What is looked at."""

    horizon: int = 8
    """Action steps of a chunk, >= 1."""
    depth: tuple[str, ...] = ()
    """Depth cameras to look at and the distances they show in metres, `wrist_depth=0.2:1.5`; others are left out."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine data: what training refuses, outliers, constants, missing files, gaps."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    data: Examined = field(default_factory=Examined)
    """What is looked at."""
    decode_seconds: float = 2.0
    """Seconds for each folder in which to measure how fast its frames decode; 0: leave that out."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the findings as JSON."""


def doctor(command: Doctor) -> int:
    """`vla doctor`; the exit code is that of a training on these data."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla doctor DATA")

    if not 0 <= command.decode_seconds < 3600:
        raise UsageError(f"--decode-seconds is {command.decode_seconds:g}; give at least 0 and less than an hour")

    from vla.data.doctor import examine
    from vla.data.selection import Selection

    config = DataConfig(roots=tuple(map(str, command.roots)), **vars(command.data))
    columns = {name: value for name, value in vars(command.data).items() if name != "horizon"}
    found = examine(command.roots, command.data.horizon, Selection(**columns), command.decode_seconds)
    report = with_refusal(found, config)
    print(json.dumps(report.to_json(), indent=2) if command.json else report)
    return report.exit_code


def with_refusal(report: "Report", config: DataConfig) -> "Report":
    """The findings, with why a training by this configuration is refused: at its start, or where it meets a problem."""
    from vla.data.dataset import open_dataset

    try:
        open_dataset(config, seed=0)
    except (ValueError, StorageFault) as refused:
        return replace(report, refusal=str(refused), exit_code=told(refused)[0])
    for root in report.roots:
        if root.exit_code != DONE:
            return replace(report, refusal=root.problems[0], exit_code=root.exit_code)
    return report
