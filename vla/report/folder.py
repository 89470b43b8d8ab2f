"""What a run folder holds, read and nothing else: the run may still be under way."""

import json
import re
import zipfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vla.errors import CorruptData
from vla.lines import read_lines
from vla.run_folder import Manifest, Schedule, manifests, read_schedule

Json = Mapping[str, Any]
NESTED = ("losses", "lr", "grad_norm")
"""Objects of a line of metrics.jsonl; their numbers are columns `lr.expert` and so on."""
PLAIN = (
    "step",
    "loss",
    "samples_seen",
    "samples_per_s",
    "data_wait",
    "memory_mb",
    "mfu",
    "tflops",
    "padding",
    "skipped",
)
"""Its numbers."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """metrics.jsonl by column."""

    columns: dict[str, Float[np.ndarray, " N"]]
    """NaN where a line has no such number."""
    starts: tuple[tuple[str, int], ...]
    """Name and first step of each stage."""

    def __len__(self) -> int:
        return len(self.columns["step"])

    def groups(self, name: str) -> list[str]:
        """The names within an object of the lines, in the order in which they appeared."""
        return [key.removeprefix(f"{name}.") for key in self.columns if key.startswith(f"{name}.")]

    def last(self, name: str) -> float | None:
        """The last finite number of a column."""
        values = self.columns.get(name, np.zeros(0))
        finite = values[np.isfinite(values)]
        return float(finite[-1]) if len(finite) else None


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What one episode in the closed loop left."""

    entry: Json
    """Its line of closed_loop.json."""
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What lies beside the policy; None or empty where an evaluation has not been made."""

    folder: Path
    open_loop: Json | None
    closed_loop: Json | None
    ablation: Json | None
    motions: Json | None
    """Of a policy of human motion."""
    suites: Json | None
    """Of one, too: what came of prompt suites."""
    denoising: Json | None
    """How some chunks came out of noise."""
    episode: Mapping[str, np.ndarray] | None
    """A recorded episode and what the policy would have done."""
    rollouts: tuple[Rollout, ...]
    videos: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder."""

    folder: Path
    config: Json
    metrics: Metrics
    validations: tuple[Json, ...]
    schedule: Schedule
    checkpoints: tuple[Manifest, ...]
    """Their manifests, oldest first."""
    policy: Json | None
    """The policy's config.json; None before one has been exported, at the end or at --stop-after."""
    left_out: tuple[Json, ...]
    """Samples that could not be read."""
    evaluation: Evaluation
    written: datetime
    """When the run last wrote."""


def read_run(folder: Path) -> Run:
    """Everything the report needs.

    Raises:
        ValueError: the folder is not a run.
        CorruptData: a file of it is damaged.
    """
    check(folder)
    metrics = folder / "metrics.jsonl"
    latest = metrics if metrics.exists() else folder / "config.json"
    policy = folder / "policy" / "config.json"
    return Run(
        folder=folder,
        config=read_object(folder / "config.json"),
        metrics=read_metrics(metrics),
        validations=tuple(lines_with(folder / "validation.jsonl", ("step", "loss"))),
        checkpoints=tuple(manifests(folder)),  # before the schedule: they say of which version the run is
        schedule=read_schedule(folder),
        policy=read_object(policy) if policy.exists() else None,
        left_out=tuple(read_lines(folder / "quarantine.jsonl")),
        evaluation=read_evaluation(folder / "policy-evaluation"),
        written=datetime.fromtimestamp(latest.stat().st_mtime, UTC),
    )


def check(folder: Path) -> None:
    """Refuse what is not a run folder. ValueError says what it is instead."""
    fix = "give the --out of a training, e.g. runs/pick/stage1"
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; {fix}")
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{folder} is not a run folder, it holds no config.json; {fix}")
    config = read_object(path)
    if "contract" in config:
        raise ValueError(f"{folder} is a policy, not a run; give the run it belongs to, e.g. {folder.parent}")
    if not {"data", "backbone", "seed"} <= set(config):
        raise ValueError(f"{folder} is not a run folder, its config.json is not that of a training; {fix}")


def corrupt(path: Path, what: str) -> ValueError:
    """The error for a damaged file."""
    return CorruptData(f"{path} is damaged: {what}; restore it from a copy, or move it away to report without it")


def read_object(path: Path) -> Json:
    """An object of a JSON file. CorruptData where it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise corrupt(path, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise corrupt(path, "it holds no JSON object")
    return value


def lines_with(path: Path, needed: tuple[str, ...]) -> Iterator[Json]:
    """The objects of a JSON-lines file. CorruptData where one lacks a needed key."""
    for number, line in enumerate(read_lines(path), 1):
        if not all(key in line for key in needed):
            raise corrupt(path, f"line {number} is no object with {' and '.join(needed)}")
        yield line


def read_metrics(path: Path) -> Metrics:
    """The numbers of metrics.jsonl, as columns: 100,000 steps would be a quarter of a gigabyte as objects."""
    columns: dict[str, array[float]] = {"step": array("d")}
    starts: list[tuple[str, int]] = []
    for index, line in enumerate(lines_with(path, ("step", "loss"))):
        for key, value in numbers(line):
            column = columns.setdefault(key, array("d"))
            column.extend([np.nan] * (index - len(column)))
            column.append(value)
        if len(columns["step"]) <= index:
            raise corrupt(path, f"line {index + 1} has no number as its step")
        if not starts or line.get("stage") != starts[-1][0]:
            starts.append((str(line.get("stage")), int(line["step"])))
    length = len(columns["step"])
    for column in columns.values():
        column.extend([np.nan] * (length - len(column)))
    return Metrics(columns={key: np.array(column) for key, column in columns.items()}, starts=tuple(starts))


def numbers(line: Json) -> Iterator[tuple[str, float]]:
    """The numbers of a line and the names of their columns."""
    for key in PLAIN:
        if isinstance(value := line.get(key), int | float):
            yield key, float(value)
    for name in NESTED:
        inner = line.get(name)
        for key, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, int | float):
                yield f"{name}.{key}", float(value)


def read_evaluation(folder: Path) -> Evaluation:
    """What `vla evaluate` and `vla ablate` left beside the policy."""

    def result(name: str) -> Json | None:
        return read_object(folder / name) if (folder / name).exists() else None

    closed_loop = result("closed_loop.json")
    episode = folder / "episode.npz"
    return Evaluation(
        folder=folder,
        open_loop=result("report.json"),
        closed_loop=closed_loop,
        ablation=result("ablation.json"),
        motions=result("motions.json"),
        suites=result("adversarial_eval.json"),
        denoising=result("denoising.json"),
        episode=read_arrays(episode) if episode.exists() else None,
        rollouts=tuple(read_rollouts(folder / "rollouts", closed_loop or {})),
        videos=tuple(sorted((folder / "videos").glob("*.mp4"))),
    )


def read_rollouts(folder: Path, closed_loop: Json, limit: int = 2) -> Iterator[Rollout]:
    """A success and a failure, where there are both."""
    entries = {entry.get("episode"): entry for entry in closed_loop.get("rollouts", ()) if isinstance(entry, dict)}
    paths = {int(found[1]): path for path in sorted(folder.glob("*.npz")) if (found := re.search(r"(\d+)$", path.stem))}
    good = [episode for episode in paths if entries.get(episode, {}).get("success") is True]
    bad = [episode for episode in paths if entries.get(episode, {}).get("success") is False]
    chosen = [*good[:1], *bad[:1], *good[1:], *bad[1:], *(episode for episode in paths if episode not in entries)]
    for episode in chosen[:limit]:
        yield Rollout(entry=entries.get(episode, {"episode": episode}), arrays=read_arrays(paths[episode]))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive. CorruptData where it holds something else."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise corrupt(path, f"it is no archive of arrays ({error})") from error
