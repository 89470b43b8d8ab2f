"""Checkpoints without topology: the trainable state by name, in safetensors shards, under a manifest with digests.

    RUN/checkpoints/LATEST             a hint; the newest directory with a valid manifest is the truth
    RUN/checkpoints/step-00000500/
        shard-00000-of-00002.safetensors ...    weight/<name>, exp_avg/<name>, exp_avg_sq/<name>, ema/<name>
        policy.json                             what the weights mean: settings, data contract, normalisers
        manifest.json                           written last: what a valid checkpoint consists of

Every rank writes its share of the names. The files are written beside their final place and renamed as one directory,
so a directory called step-* is whole or damaged from outside, never half written. Loading one runs no code.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from training import runtime
from training.sharding import MOMENTS, Engine, State
from vla.data.episode import CorruptData

SCHEMA = 1
KEYS = ("weight", *MOMENTS)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose manifest has been read; `verify` it before its tensors are used."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps it has behind it."""
        return int(self.manifest["step"])

    def policy(self) -> dict[str, Any]:
        """What the weights mean, as `save` was told."""
        content: dict[str, Any] = json.loads((self.path / "policy.json").read_text())
        return content

    def state(self) -> State:
        """All tensors, on the host.

        Raises:
            CorruptData: a shard cannot be read, or the shards do not hold the same names under every key.
        """
        tensors: dict[str, dict[str, Tensor]] = {key: {} for key in KEYS}
        for entry in self.manifest["files"]:
            if not entry["name"].endswith(".safetensors"):
                continue
            try:
                with safe_open(self.path / entry["name"], framework="pt") as file:
                    for full_name in file.keys():  # noqa: SIM118  (a safe_open handle is no mapping)
                        key, _, name = full_name.partition("/")
                        if key not in tensors or name in tensors[key]:
                            raise CorruptData(f"{self.path / entry['name']} holds an unexpected tensor {full_name!r}")
                        tensors[key][name] = file.get_tensor(full_name)
            except SafetensorError as error:
                raise CorruptData(f"{self.path / entry['name']} cannot be read: {error}") from error
        trained = tensors["ema"].keys()
        if any(tensors[key].keys() != trained for key in MOMENTS) or not trained <= tensors["weight"].keys():
            raise CorruptData(f"{self.path} holds weights and moments of different parameters; use another checkpoint")
        return State(
            weight=tensors["weight"],
            moments={key: tensors[key] for key in MOMENTS},
            adam_steps=dict(self.manifest["adam_steps"]),
        )


def save(
    engine: Engine,
    out: Path,
    *,
    step: int,
    entries: Mapping[str, Any],
    policy: Mapping[str, Any],
    frozen: Sequence[str],
) -> Path:
    """Write a checkpoint; every rank calls this and returns when it is complete.

    `entries` go into the manifest; `policy` becomes policy.json; `frozen` names parameters that are learned but not
    trained in this stage, whose weights are kept too.
    """
    accelerator = engine.accelerator
    folder = out / "checkpoints"
    final = folder / f"step-{step:08d}"
    staging = folder / runtime.share(accelerator, f".staging-{final.name}-{uuid.uuid4().hex[:8]}")
    if accelerator.is_main_process:
        staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    name = f"shard-{accelerator.process_index:05d}-of-{accelerator.num_processes:05d}.safetensors"
    written = [write(staging / name, to_bytes(own_share(engine, frozen)))]
    adam_steps = engine.adam_steps()
    if accelerator.is_main_process:
        written.append(write(staging / "policy.json", json.dumps(policy, indent=1).encode()))
    files = [file for files in runtime.collect(accelerator, written) for file in files]
    if accelerator.is_main_process:
        manifest = {
            "schema": SCHEMA,
            "step": step,
            **entries,
            "ranks": accelerator.num_processes,
            "zero_stage": engine.zero_stage,
            "adam_steps": adam_steps,
            "files": files,
        }
        write(staging / "manifest.json", json.dumps(manifest, indent=1).encode())
        synchronize(staging)
        if final.exists():  # damaged, or it would have been resumed from
            final.rename(folder / f".bad-{final.name}-{uuid.uuid4().hex[:8]}")
        staging.rename(final)
        write(folder / ".LATEST.tmp", final.name.encode())
        (folder / ".LATEST.tmp").replace(folder / "LATEST")
        synchronize(folder)
    accelerator.wait_for_everyone()
    return final


def own_share(engine: Engine, frozen: Sequence[str]) -> dict[str, Tensor]:
    """The tensors this rank writes: names are dealt out by size, so that the shards are of one size."""
    ranks, rank = engine.accelerator.num_processes, engine.accelerator.process_index
    load = [0] * ranks
    mine = set()
    for name in sorted(engine.shapes, key=lambda name: (-engine.shapes[name].numel(), name)):
        owner = load.index(min(load))
        load[owner] += engine.shapes[name].numel()
        if owner == rank:
            mine.add(name)
    share = {f"{key}/{name}": tensor for key in KEYS for name, tensor in engine.gather(key, keep=mine).items()}
    kept = engine.frozen(frozen)
    return share | ({f"weight/{name}": tensor for name, tensor in kept.items()} if rank == 0 else {})


def write(path: Path, content: bytes) -> dict[str, str | int]:
    """Write a file through to the disk and return its entry in the manifest."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def synchronize(folder: Path) -> None:
    """Write a directory's entries through to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prune(out: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in steps(out)[:-keep]:
        doomed = path.with_name(f".old-{path.name}")
        path.rename(doomed)  # so that a deletion that is cut off leaves nothing that looks like a checkpoint
        shutil.rmtree(doomed)


def clean(out: Path) -> None:
    """Delete what a run that was killed while saving or deleting left behind."""
    for pattern in (".staging-*", ".old-*"):
        for path in (out / "checkpoints").glob(pattern):
            shutil.rmtree(path)


def steps(out: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step-*") if path.is_dir())


def read(path: Path) -> Checkpoint:
    """Read and check the manifest of one checkpoint directory.

    Raises:
        CorruptData: the manifest is missing, torn, of a newer schema, or names a file outside the directory.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        schema, names = manifest["schema"], [entry["name"] for entry in manifest["files"]]
        _ = manifest["step"], manifest["stage"], manifest["adam_steps"], manifest["groups"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{path} is no checkpoint: its manifest.json is missing or damaged") from error
    if schema != SCHEMA:
        raise CorruptData(
            f"{path} has schema {schema}, this version reads schema {SCHEMA}; use the version that wrote it"
        )
    if outside := [name for name in names if Path(name).name != name]:
        raise CorruptData(f"{path / 'manifest.json'} names a file outside its directory: {outside[0]!r}")
    return Checkpoint(path=path, manifest=manifest)


def verify(checkpoint: Checkpoint, accelerator: Accelerator) -> None:
    """Compare every file with its digest, the files dealt out over the ranks.

    Raises:
        CorruptData: on all ranks, when any of them finds a missing or changed file.
    """
    problems = []
    for entry in checkpoint.manifest["files"][accelerator.process_index :: accelerator.num_processes]:
        path = checkpoint.path / entry["name"]
        if not path.exists():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        elif digest(path) != entry["sha256"]:
            problems.append(f"{path} does not match its digest")
    found = [problem for problems in runtime.collect(accelerator, problems) for problem in problems]
    if found:
        raise CorruptData(f"checkpoint {checkpoint.path.name} is damaged: {found[0]}; resume from another one")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest(out: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The newest valid checkpoint of a run, or None when it has none at all.

    Raises:
        CorruptData: there are checkpoints, and none of them is valid; a fresh start would hide that.
    """
    candidates = [Path(path) for path in runtime.share(accelerator, [str(path) for path in reversed(steps(out))])]
    problem = None
    for path in candidates:
        try:
            checkpoint = read(path)
            verify(checkpoint, accelerator)
        except CorruptData as error:
            problem = error
            accelerator.print(f"skipped: {error}")
            continue
        return checkpoint
    if problem is not None:
        raise CorruptData(f"none of the {len(candidates)} checkpoints in {out / 'checkpoints'} is valid ({problem})")
    return None


def find(place: str, accelerator: Accelerator) -> Checkpoint:
    """The verified checkpoint that CHECKPOINT or RUN names.

    Raises:
        ValueError: there is no checkpoint at that place.
        CorruptData: it is damaged.
    """
    path = Path(place)
    if (path / "manifest.json").exists() or path.name.startswith("step-"):
        checkpoint = read(path)
        verify(checkpoint, accelerator)
        return checkpoint
    if found := newest(path, accelerator):
        return found
    raise ValueError(f"{place} holds no checkpoint; give a run folder with checkpoints/step-* or one of those")
