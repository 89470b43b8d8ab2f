"""What a run, a policy, a checkpoint or a data set is, with all that a report of a fault needs.

Nothing is refused for being damaged: what cannot be read is a problem in the result.
"""

import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from vla import documents, privacy, provenance
from vla.documents import to_json
from vla.errors import CorruptData
from vla.lines import last_line, read_lines
from vla.provenance import Versions
from vla.run_folder import Manifest, read_manifest, read_meaning, read_schedule
from vla.settings import DataConfig

WIDTH, LABEL = 80, 26
Kind = Literal["run", "policy", "adapter", "checkpoint", "data", "gait model"]
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Inspection:
    """What is found of one folder, as a tree of JSON values; nothing in it tells who or where."""

    path: Path
    kind: Kind
    about: dict[str, Any] = field(default_factory=dict)
    made_with: Versions | None = None
    """What wrote it; None for data, and where that is not recorded."""
    problems: list[ValueError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it, and what this process is."""
        here = provenance.here()
        tree = {
            "kind": self.kind,
            "name": self.path.resolve().name,
            **self.about,
            "problems": [str(problem) for problem in self.problems],
            "made_with": None if self.made_with is None else to_json(self.made_with),
            "differences": [] if self.made_with is None else self.made_with.differences(here),
            "here": to_json(here),
        }
        anonymous: dict[str, Any] = privacy.anonymous(tree)
        return anonymous

    def attempt(self, read: Callable[[], Result]) -> Result | None:
        """What can be read; what cannot is a problem."""
        try:
            return read()
        except ValueError as problem:
            self.problems.append(problem)
        except OSError as problem:
            self.problems.append(CorruptData(f"{problem.filename or self.path} cannot be read ({problem.strerror})"))
        return None


def inspect(path: Path) -> Inspection:
    """Whatever lies in a folder.

    Raises:
        ValueError: it is nothing of ours.
    """
    kind = kind_of(path)
    found = Inspection(path=path, kind=kind)
    see: dict[Kind, Callable[[Inspection], None]] = {
        "run": see_run,
        "policy": see_policy,
        "adapter": see_adapter,
        "checkpoint": see_checkpoint,
        "data": see_data,
        "gait model": see_gait_model,
    }
    see[kind](found)
    return found


def kind_of(path: Path) -> Kind:
    """What a folder is, be it damaged.

    Raises:
        ValueError: there is no such folder, or it is nothing of ours.
    """
    from vla.adapters.file import WEIGHTS_FILE
    from vla.data.formats import FORMATS
    from vla.foreign.gait_base import is_gait_base

    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; give a run, a policy, an adapter, a checkpoint or a data set")
    if (path / "manifest.json").exists() or list(path.glob("shard-*-of-*.safetensors")):
        return "checkpoint"
    if (path / "schedule.json").exists() or (path / "checkpoints").is_dir():
        return "run"
    if is_gait_base(path):
        return "gait model"
    if any(row.found(path) for row in FORMATS.values()):
        return "data"
    if (path / "normalizer.safetensors").exists():
        return "policy"
    if (path / WEIGHTS_FILE).is_file():
        return "adapter"
    raise ValueError(f"{path} is no run, policy, adapter, checkpoint or data set; give the folder of one")


def see_run(found: Inspection) -> None:
    """How far it is, what it was asked for, what it has."""
    path = found.path
    schedule = found.attempt(lambda: read_schedule(path))
    config = found.attempt(lambda: read_config(path / "config.json"))
    last = found.attempt(lambda: last_line(path / "metrics.jsonl"))
    steps = found.attempt(lambda: list(read_lines(path / "metrics.jsonl"))) or []
    validations = found.attempt(lambda: list(read_lines(path / "validation.jsonl"))) or []
    manifests = [
        manifest
        for folder in sorted((path / "checkpoints").glob("step-*"))
        if (manifest := found.attempt(partial(read_manifest, folder))) is not None
    ]
    found.about = {
        "steps": {"done": last["step"] if last else 0, "of": schedule.end if schedule else None},
        "has_policy": (path / "policy" / "config.json").exists(),
        "last_step": last,
        "last_validation": {key: value for key, value in validations[-1].items() if key != "action_mae"}
        if validations
        else None,
        "skipped_steps": sum(bool(line.get("skipped")) for line in steps),
        "left_out_samples": len(found.attempt(lambda: list(read_lines(path / "quarantine.jsonl"))) or []),
        "schedule": None if schedule is None else to_json(schedule),
        "checkpoints": [row_of(manifest) for manifest in manifests],
        "last_checkpoint": of_manifest(manifests[-1]) if manifests else None,
        "config": config,
    }
    found.made_with = manifests[-1].versions if manifests else None


def see_checkpoint(found: Inspection) -> None:
    """What it holds, and whether its files are as long as they were."""
    path = found.path
    manifest = found.attempt(lambda: read_manifest(path))
    meaning = found.attempt(lambda: read_meaning(path))
    if manifest is not None:
        found.made_with = manifest.versions
        found.about = of_manifest(manifest) | {"files": [to_json(file) for file in manifest.files]}
        for file in manifest.files:
            place = path / file.name
            size = place.stat().st_size if place.is_file() else None
            if size != file.bytes:
                told = "is missing" if size is None else f"has {size:,} bytes instead of {file.bytes:,}"
                found.problems.append(CorruptData(f"{place} {told}; use another checkpoint"))
    if meaning is not None:
        found.about |= {"contract": to_json(meaning.contract), "settings": dict(meaning.identity)}


def see_policy(found: Inspection) -> None:
    """What it is, what it was made from, and whether its files are what they were."""
    from vla.policy_folder import check_files, read_description

    description = found.attempt(lambda: read_description(found.path))
    if description is None:
        return
    found.attempt(lambda: check_files(found.path, description.files))
    tree = to_json(description)
    origin = tree.pop("origin")
    held_out = {"seed": description.held_out.seed, "episodes": len(description.held_out.episodes)}
    found.about = tree | {"held_out": held_out}
    if description.origin is not None:
        found.about |= {"base": origin["base"], "data": origin["data"]}
        found.made_with = description.origin.versions


def see_adapter(found: Inspection) -> None:
    """What it is, what it fits, how it was made, and how large it is."""
    from vla.adapters.file import read

    stored = found.attempt(lambda: read(found.path))
    if stored is None:
        return
    found.about = {"adapter": to_json(stored.config), "base": None}
    if stored.description is not None:
        tree = to_json(stored.description)
        origin = tree.pop("origin")
        found.about = tree
        if stored.description.origin is not None:
            found.about["data"] = origin["data"]
            found.made_with = stored.description.origin.versions
    found.about["layers"] = len(stored.tensors)
    found.about["parameters"] = sum(a.numel() + b.numel() for a, b in stored.tensors.values())


def see_gait_model(found: Inspection) -> None:
    """What was imported, what was left out, and whether its files are what they were."""
    from vla.foreign import gait_base

    description = found.attempt(lambda: gait_base.read_description(found.path))
    if description is None:
        return
    found.attempt(lambda: gait_base.check_files(found.path, description))
    found.about = to_json(description) | {"columns": [column.name for column in description.columns]}


def see_data(found: Inspection) -> None:
    """What it offers, what its episodes are known by, and why a training would refuse it before it reads numbers."""
    from vla.data.dataset import agree_on_readers
    from vla.data.episode import mark_of
    from vla.data.formats import open_folder

    reader = found.attempt(lambda: open_folder(found.path, report=found.problems.append))
    if reader is None:
        return
    config = DataConfig(roots=(str(found.path),))
    found.attempt(lambda: agree_on_readers(config, 0, lambda *_: reader))
    layout, episodes = reader.layout, reader.episodes
    marks = "\n".join(map(mark_of, episodes))
    source = provenance.source(str(found.path), found.path)
    found.about = {
        "format": layout.format,
        "license": source.license,
        "episodes": len(episodes),
        "frames": sum(len(episode.timestamps) for episode in episodes),
        "instructions": len({text for episode in episodes for text in episode.instructions.different}),
        "content": hashlib.sha256(marks.encode()).hexdigest(),
        "layout": to_json(replace(layout, root=found.path.resolve().name)),
    }


def read_config(file: Path) -> dict[str, Any]:
    """The settings of a run. CorruptData where they are not JSON."""
    try:
        config: dict[str, Any] = json.loads(file.read_bytes())
    except ValueError as error:
        raise CorruptData(f"{file} is damaged: it is not JSON ({error}); restore it from a copy") from error
    config.pop("wandb", None)  # whose account it is
    return config


def of_manifest(manifest: Manifest) -> dict[str, Any]:
    """A manifest without the shapes of its tensors, its files and versions."""
    tree: dict[str, Any] = to_json(replace(manifest, shapes={}, files=(), versions=None))
    for name in ("shapes", "files", "versions"):
        del tree[name]
    return tree | {"tensors": len(manifest.shapes)}


def row_of(manifest: Manifest) -> dict[str, Any]:
    """A checkpoint among others."""
    names = ("step", "stage", "ranks", "zero_stage", "roll_backs")
    return {name: getattr(manifest, name) for name in names} | {"bytes": sum(file.bytes for file in manifest.files)}


def lines(tree: Mapping[str, Any]) -> list[str]:
    """The result in 80 columns: what made it and what this is in few lines, all else by dotted name."""
    rows = leaves({key: value for key, value in tree.items() if key not in ("made_with", "here")})
    for title in ("made_with", "here"):
        rows.append((title, "not recorded" if tree[title] is None else ""))
        rows += [(f"  {name}", value) for name, value in versions_of(tree[title])]
    return [line for name, value in rows for line in row(name, value)]


def versions_of(tree: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Versions that were made anonymous, in words."""
    return [] if tree is None else documents.from_json(Versions, json.dumps(tree), "here").rows()


def row(name: str, value: str) -> list[str]:
    """A name and its value, in lines of 80 columns."""
    return textwrap.wrap(f"{name:<{LABEL - 1}} {value}", WIDTH, subsequent_indent=" " * LABEL) or [name]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The leaves of a tree by dotted name, as text."""
    rows = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            rows += leaves(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            for place, entry in enumerate(value):
                rows += leaves(entry, f"{name}.{place}.")
        else:
            rows.append((name, written(value)))
    return rows


def written(value: Any) -> str:
    """A leaf as text."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | dict():
            return ", ".join(map(written, value)) or "-"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
