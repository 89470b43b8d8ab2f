"""What a training writes into its run folder for others to read: the schedule, and the manifests of its checkpoints.

RUN/schedule.json                           the stages as decided
RUN/checkpoints/step-*/manifest.json        what a checkpoint consists of
RUN/checkpoints/step-*/policy.json          what its weights mean
RUN/best                                    the policy of the lowest validation loss, once the run has ended
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla import documents
from vla.adapter_settings import LoraConfig
from vla.contract import DataContract
from vla.errors import CorruptData
from vla.provenance import Versions

SCHEMA = 5
"""Of checkpoints; raised whenever an earlier version would misread one."""
READERS = {1: "a3da51d", 2: "a3da51d", 3: "31ac386", 4: "afa2e5a"}
"""The last commit that reads checkpoints of each older schema."""


BEST = "best"
"""The name, in a run folder, of the policy with the lowest validation loss; before it is there, of its checkpoint."""

Buffers = Mapping[str, Mapping[str, tuple[float | bool, ...]]]
"""Buffers of normalisers, by stream and name."""


@dataclass(frozen=True, kw_only=True)
class BackboneName:
    """Which backbone trained weights belong to; they hold none of it."""

    id: str
    """Folder or hub id, as it was given."""
    fingerprint: str
    """Of its weight files."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a stage was expected to need and to reach on the GPUs that it began on (vla/planning)."""

    gpu: str
    samples_per_s: float
    """Of all ranks."""
    slowest: float
    fastest: float
    """Ends of its range."""
    memory_mb: float
    """Of a rank."""


@dataclass(frozen=True, kw_only=True)
class ScheduledStage:
    """A stage in its place: it takes the policy from step `start` to step `end`."""

    name: str
    start: int
    end: int
    rates: Mapping[str, float]
    """Peak learning rate of each group that trains."""
    planned: Planned | None = None
    """None where it began on no GPU whose data sheet is known."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """RUN/schedule.json: what was decided before the first step."""

    entry: str
    """Entry point that trains by such a configuration: training/ENTRY.py."""
    stages: tuple[ScheduledStage, ...]
    contract: DataContract
    """What the policy looks at and answers."""
    backbone: BackboneName

    @property
    def end(self) -> int:
        """Optimizer steps of all stages."""
        return self.stages[-1].end


@dataclass(frozen=True, kw_only=True)
class GroupSize:
    """A parameter group of the optimizer."""

    tensors: int
    parameters: int
    lr: float
    """Peak rate."""
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GuardState:
    """What the guard's decisions to come depend on: whether a step would do harm."""

    average: float = 0.0
    """Running average of the loss."""
    count: int = 0
    """Steps in it."""
    skipped_in_a_row: int = 0


@dataclass(frozen=True, kw_only=True)
class Extension:
    """More steps than the run was to have until then."""

    at: int
    """Step that it was at."""
    before: int
    """Step at which it would have ended."""
    to: int
    """Step at which it ends."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """RUN/checkpoints/step-*/manifest.json."""

    schema: int
    step: int
    """Optimizer steps behind it."""
    stage: str
    samples_seen: int
    seed: int
    config: str
    """Digest of what a resumed run must share."""
    backbone: BackboneName
    lora: LoraConfig | None
    """The adapter, where the stage has one."""
    init_from: str | None
    """Where the weights came from that the run began with."""
    groups: Mapping[str, GroupSize]
    ranks: int
    zero_stage: int
    adam_steps: Mapping[str, int]
    """By group: how many steps its moments have seen."""
    guard: GuardState
    roll_backs: int
    """How often the run went back to an earlier checkpoint."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of each trained parameter, of which the shards hold flat pieces."""
    files: tuple[StoredFile, ...] = ()
    versions: Versions | None = None
    """Of rank 0, which wrote it; None in checkpoints from before they were recorded."""
    validation_loss: float | None = None
    """On the held-out episodes after this very step; None where none was measured."""
    extended: tuple[Extension, ...] = ()
    """By --extend-to, the first one first."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """RUN/checkpoints/step-*/policy.json: what the weights of a checkpoint mean."""

    identity: Mapping[str, Any]
    """What a resumed run must share: settings, and the data by its content; flat."""
    contract: DataContract
    normalizer: Buffers


def read_manifest(path: Path) -> Manifest:
    """The manifest in a checkpoint directory.

    Raises:
        CorruptData: it is missing, torn or of a newer schema.
        ValueError: it is of an older schema; names the commit that reads it.
    """
    file = path / "manifest.json"
    try:
        text = file.read_bytes()
    except OSError as error:
        raise CorruptData(f"{path} is no checkpoint: its manifest.json is missing or damaged ({error})") from error
    schema = documents.schema_of(text)
    if schema in READERS:
        raise ValueError(
            f"{path} is of schema {schema}, this version reads schema {SCHEMA}: check out commit "
            f"{READERS[schema]}, which reads it, or train anew"
        )
    if schema not in (SCHEMA, None):
        raise CorruptData(
            f"{path} is of schema {schema}, this version reads schema {SCHEMA}; use the version that wrote it"
        )
    return documents.from_json(Manifest, text, file)


def read_meaning(path: Path) -> Meaning:
    """What the weights of a checkpoint directory mean. CorruptData where that cannot be read."""
    file = path / "policy.json"
    return documents.from_json(Meaning, file.read_bytes(), file, exact=True)


def read_schedule(run: Path) -> Schedule:
    """The schedule of a run.

    Raises:
        CorruptData: it is damaged, or missing.
    """
    file = run / "schedule.json"
    try:
        text = file.read_bytes()
    except FileNotFoundError as error:
        raise CorruptData(
            f"{file} is missing; restore it from a copy, or go on with the run, which writes it"
        ) from error
    return documents.from_json(Schedule, text, file)


def manifests(run: Path) -> Iterator[Manifest]:
    """The manifests of a run's checkpoints, oldest first. A run under way may remove one meanwhile.

    Raises:
        CorruptData: one cannot be read.
        ValueError: one is of an older schema.
    """
    for file in sorted((run / "checkpoints").glob("step-*/manifest.json")):
        with contextlib.suppress(FileNotFoundError):
            yield read_manifest(file.parent)
