"""What a copy of a LeRobot dataset keeps beside what is read: columns that nobody looks at, as they are stored."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vla.data.episode import ACTION, STATE
from vla.data.formats.lerobot.metadata import Metadata
from vla.data.tables import columns_of
from vla.listing import visible

KEPT = re.compile(r"(float|u?int)\d+|bool|string|language")
"""Types of a feature that a copy can hold."""
OWN_FACTS = re.compile(r"codebase_version|fps|features|total_.*|chunks_size|splits|.*_path|.*_size_in_mb|columns")
"""What info.json says of the files, which are others in a copy."""
TEXTS = ("meta/subtasks.parquet", "meta/subtasks.jsonl")
"""Tables of texts that a column names by their numbers, as task_index names tasks."""
OWN_FILES = re.compile(r"info\.json|stats\.json|(tasks|episodes|episodes_stats)(\.\w+)?")


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What a copy keeps."""

    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The features as info.json describes them, by key."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else info.json says of the recordings: robot_type, ..."""
    tasks: tuple[str, ...] = ()
    """Of the whole dataset, in order."""
    files: tuple[str, ...] = ()
    """Further tables, below the root."""
    remarks: tuple[str, ...] = ()
    """What is kept and what is left out."""


def choose_carried(metadata: Metadata, read: Collection[str], floats: Sequence[str]) -> Carried:
    """Everything but the features that are `read`, `floats` of them as float32, and what is left out and why."""
    tables = {record.data_file for record in metadata.episodes.values()}
    there = columns_of(first) if (first := next((path for path in visible(tables) if path.is_file()), None)) else ()
    kept: dict[str, Mapping[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    for key, feature in metadata.features.items():
        if key in read or metadata.is_depth(key):
            continue
        if key in (STATE, ACTION):
            left_out.setdefault("the copy has another column of this name", []).append(key)
        elif key not in there:
            left_out.setdefault("in no table", []).append(key)
        elif not KEPT.fullmatch(feature["dtype"]):
            left_out.setdefault(f"{feature['dtype']} cannot be written", []).append(key)
        else:
            kept[key] = {name: value for name, value in feature.items() if (name, value) != ("fps", metadata.fps)}
    unknown = [key for key in there if key not in metadata.features and key not in read]
    if unknown:
        left_out["meta/info.json does not describe it"] = unknown
    files = tuple(name for name in TEXTS if (metadata.root / name).is_file())
    others = [path.name for path in visible((metadata.root / "meta").iterdir()) if not OWN_FILES.fullmatch(path.name)]
    if strange := [name for name in others if f"meta/{name}" not in files]:
        left_out["what it says may not hold of the copy"] = [f"meta/{name}" for name in strange]
    remarks = [f"kept as they are: {', '.join([*kept, *files])}"] if kept or files else []
    remarks += [f"{', '.join(keys)} left out: {why}" for why, keys in left_out.items()]
    if others := retyped(metadata, floats):
        remarks.append(f"{', '.join(others)} written in float64")
    return Carried(
        columns=kept,
        facts={key: value for key, value in metadata.facts.items() if not OWN_FACTS.fullmatch(key)},
        tasks=tuple(metadata.tasks[index] for index in sorted(metadata.tasks)),
        files=files,
        remarks=tuple(remarks),
    )


def retyped(metadata: Metadata, keys: Sequence[str]) -> list[str]:
    """Of the features that are read as floats, those of integers too wide for float32, and their types."""
    kinds = {key: metadata.features[key]["dtype"] for key in keys}
    return [f"{key} ({kind})" for key, kind in kinds.items() if re.fullmatch(r"u?int(32|64)", kind)]
