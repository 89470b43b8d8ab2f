"""`vla import`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla.commandline import progress
from vla.commands.recordings import Columns


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write data of another format as LeRobot v3.0."""

    format: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FORMAT")]]
    """Format of the source: lerobot (any version), insertion (the insertion recorder's) or motion (clips)."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    """Folder to read; of motion, a file too."""
    destination: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    """Folder to write; it must not exist."""
    data: Columns = field(default_factory=Columns)
    """What becomes observation.state, action and the sensor streams."""


def convert(command: Import) -> None:
    """`vla import`."""
    from vla.data.formats import FORMATS, detect, open_folder
    from vla.data.selection import Selection, check_left_out
    from vla.data.writing.writer import write_lerobot

    if command.format not in FORMATS:
        raise ValueError(f"FORMAT is {command.format}; give one of {', '.join(map(repr, FORMATS))}")
    if (found := detect(command.source)) != command.format:
        raise ValueError(f"{command.source} is of format {found}, not {command.format}; give `vla import {found}`")
    reader = open_folder(command.source, Selection(missing_cameras="mask", carry=True, **vars(command.data)))
    check_left_out({str(command.source): reader.layout.left_out}, command.data.without)

    def say(remark: str) -> None:
        print(f"{command.source}: {remark}", file=sys.stderr)

    for remark in reader.layout.remarks:
        say(remark)
    images = len(reader.layout.cameras) * sum(len(episode.timestamps) for episode in reader.episodes)
    remarks: list[str] = []
    with progress(images, "images") as bar:
        totals = write_lerobot(reader, command.destination, progress=bar.update, remark=remarks.append)
    for remark in remarks:
        say(remark)
    print(f"{', '.join(f'{count:,} {what}' for what, count in totals.items())} in {command.destination}")
