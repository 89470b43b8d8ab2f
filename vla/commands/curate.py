"""`vla curate`."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from vla.commandline import progress
from vla.commands.recordings import Columns
from vla.curation_settings import CurationConfig


@dataclass(frozen=True, kw_only=True)
class Curate(CurationConfig):
    """Keep what is good enough to learn from, for pre-training and for fine-tuning, with the reason for every drop."""

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="IN")]]
    """Folder of clips of human motion or of a robot's episodes, of any format that is read; of motion, a file too."""
    destination: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """Folder to write: pretrain, sft, held_out, curation_stats.json, clips.jsonl and index.html; it must not exist. A
    curation that was stopped goes on where it was."""
    data: Columns = field(default_factory=Columns)
    """What is read."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print curation_stats.json."""

    @property
    def config(self) -> CurationConfig:
        """The settings alone."""
        return CurationConfig(**{entry.name: getattr(self, entry.name) for entry in fields(CurationConfig)})


def curate(command: Curate) -> None:
    """`vla curate`."""
    from vla.curation import curating
    from vla.data.selection import Selection
    from vla.report.curation import page

    curating.check_places(command.source, command.destination)
    selection = Selection(missing_cameras="mask", **vars(command.data))
    opened = curating.open_items(command.source, selection, command.config)
    for remark in (*opened.remarks, *opened.problems):
        print(f"{command.source}: {remark}", file=sys.stderr)
    if curating.is_finished(command.destination, opened):
        print(f"{command.destination} is finished, of these data and settings; nothing is to do", file=sys.stderr)
        if command.json:
            print((command.destination / curating.STATS).read_text(encoding="utf-8"), end="")
        return
    with progress(len(opened.items), "scores") as bar:
        curated = curating.judge(opened, command.destination, command.config, bar.update)
    for remark in curated.remarks:
        print(f"{command.source}: {remark}", file=sys.stderr)
    stats = curating.stats_of(opened, curated)
    images = sum(len(episode.cameras) * len(episode.timestamps) for item in opened.items for episode in item.episodes)
    with progress(images, "images") as bar:
        written = page(command.destination.name, opened, curated, stats)
        curating.write(opened, curated, command.destination, written, bar.update)
    print(json.dumps(stats, indent=1) if command.json else summary(stats, command.destination))


def summary(stats: dict[str, Any], destination: Path) -> str:
    """What was kept and why the rest was not, in a few lines."""
    from vla.curation.thresholds import WORDS

    kept = ", ".join(
        f"{stats[split]['num_samples']:,} {words}"
        for split, words in (
            ("pretrain", "for pre-training"),
            ("sft", "of them for fine-tuning"),
            ("held_out", "held out"),
        )
    )
    dropped = Counter({check: stats.get(f"dropped_{check}", 0) for check in WORDS})
    lines = [f"{stats['total_input']:,} in: {kept}, {dropped.total():,} dropped"]
    lines += [f"  {count:,} {WORDS[check]}" for check, count in dropped.items() if count]
    return "\n".join([*lines, f"{destination}/index.html shows them, {destination}/clips.jsonl says why, a line each"])
