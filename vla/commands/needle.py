"""`vla needle`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla.benchmarks.needle.config import NeedleConfig


@dataclass(frozen=True, kw_only=True)
class NeedleDemos:
    """Record demonstrations of the needle benchmark as LeRobot v3.0."""

    task: tyro.conf.Positional[Annotated[Literal["demos"], tyro.conf.arg(metavar="demos")]]
    """What to do."""
    out: Path
    """Folder to write; it must not exist."""
    episodes: int = 1000
    """Demonstrations to keep, >= 1; only successful ones are."""
    seed: int = 0
    """Of everything that is drawn, >= 0."""
    workers: int = 2
    """Processes that record, >= 1; the data do not depend on it."""
    needle: Annotated[NeedleConfig, tyro.conf.arg(name="")] = field(default_factory=NeedleConfig)
    """The benchmark's settings."""


def record(command: NeedleDemos) -> None:
    """`vla needle demos`."""
    from vla.benchmarks.needle.demonstrations import write_demonstrations

    totals = write_demonstrations(
        command.needle, command.out, episodes=command.episodes, seed=command.seed, workers=command.workers
    )
    print(f"{', '.join(f'{count:,} {what}' for what, count in totals.items())} in {command.out}")
