"""`vla export`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla.motion_settings import MotionConfig, MotionFiles


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is read."""

    motion: MotionFiles = field(default_factory=MotionFiles)
    """What its files leave unsaid."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write clips of human motion of any format that is read as files of one, with their own skeleton and rate."""

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    """Folder of clips, or a file of them."""
    destination: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    """Folder to write, one file a clip and labels.csv; it must not exist."""
    format: Literal["bvh", "npz", "mot"] = "bvh"
    """Format of the files: bvh; npz, which keeps every bit and what was not measured; mot of a model's coordinates."""
    data: Source = field(default_factory=Source)
    """What is read."""


def export(command: Export) -> None:
    """`vla export`."""
    from vla.data.formats.motion import exporting

    def say(remark: str) -> None:
        print(f"{command.source}: {remark}", file=sys.stderr)

    asked = MotionConfig(**vars(command.data.motion))
    count = exporting.export(command.source, command.destination, command.format, asked, say)
    print(f"{count:,} clips in {command.destination}")
