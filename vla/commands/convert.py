"""`vla import`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from vla.commandline import progress
from vla.commands.recordings import Columns
from vla.errors import UsageError

GAITDYNAMICS = "gaitdynamics"


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write data of another format as LeRobot v3.0, or a model of GaitDynamics as a module and files of ours."""

    format: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FORMAT")]]
    """Format: lerobot (any version), insertion (the insertion recorder's), motion (clips) or gaitdynamics (a model)."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    """Folder to read; of motion, a file too; of gaitdynamics, its .pt file."""
    destination: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    """Folder to write; it must not exist."""
    data: Columns = field(default_factory=Columns)
    """What becomes observation.state, action and the sensor streams."""
    heads: int | None = None
    """Of gaitdynamics: heads of each attention, which the file does not say; None: one for each 64 numbers."""


def convert(command: Import) -> None:
    """`vla import`."""
    from vla.data.formats import FORMATS, detect, open_folder
    from vla.data.selection import Selection, check_left_out
    from vla.data.writing.writer import write_lerobot

    if command.format == GAITDYNAMICS:
        import_gait_model(command)
        return
    if command.format not in FORMATS:
        raise ValueError(f"FORMAT is {command.format}; give one of {', '.join(map(repr, (*FORMATS, GAITDYNAMICS)))}")
    if command.heads is not None:
        raise UsageError(f"--heads says something of {GAITDYNAMICS} alone: leave it out")
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


def import_gait_model(command: Import) -> None:
    """`vla import gaitdynamics`; what it chooses and leaves out is told on standard error.

    Raises:
        UsageError: flags are given that say something of data.
    """
    from vla.foreign.gait_base import save_gait_base
    from vla.foreign.gaitdynamics import read_checkpoint

    if command.data != Columns():
        raise UsageError(f"--data flags say something of recordings, and {GAITDYNAMICS} is a model: leave them out")
    if command.destination.exists():  # said before a large file is read
        raise ValueError(f"{command.destination} exists; give a folder that does not, or move it away")
    checkpoint = read_checkpoint(command.source, command.heads)
    base = save_gait_base(checkpoint, command.source, command.destination)
    sizes, scaler = checkpoint.sizes, checkpoint.scaler
    chosen = "as given" if command.heads is not None else f"one for each {sizes.width // sizes.heads} numbers"
    trained_by = (
        f"names and units of {sizes.columns} columns, {base.rate_hz:g} Hz and windows of {base.window} frames are what "
        "GaitDynamics trains by; the file does not say them"
    )
    for remark in (
        f"{sizes.heads} heads, {chosen}; the file does not say it",
        trained_by,
        *(f"left out: {what}" for what in base.left_out),
    ):
        print(f"{command.source}: {remark}", file=sys.stderr)
    print(
        f"{sum(value.numel() for value in checkpoint.weights.values()):,} averaged weights of {sizes.layers} layers, "
        f"{len(scaler.columns)} of {sizes.columns} columns normalised to {scaler.ends[0]:g} .. {scaler.ends[1]:g}, "
        f"in {command.destination}"
    )
