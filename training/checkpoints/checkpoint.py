"""Checkpoints without topology: the trainable state by name, in safetensors shards, under a manifest with digests.

    RUN/checkpoints/LATEST             a hint; the newest directory with a valid manifest is the truth
    RUN/checkpoints/step-00000500/
        shard-00000-of-00002.safetensors ...    weight/<name>, exp_avg/<name>, exp_avg_sq/<name>, ema/<name>;
                                                <name>@1024 is the flat piece that begins at element 1024
        policy.json                             what the weights mean: settings, data contract, normalisers
        manifest.json                           written last: what a valid checkpoint consists of

Every rank writes its share (training/checkpoints/saving.py). The files are written beside their final place and
renamed as one directory, so a directory called step-* is whole or damaged from outside, never half written. Loading
runs no code.
"""

import dataclasses
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training import distributed, faults
from training.checkpoints import storage
from training.engine.state import KEYS, MOMENTS, State
from vla import documents
from vla.errors import CorruptData
from vla.run_folder import BEST, Manifest, Meaning, StoredFile, read_manifest, read_meaning

NAME = re.compile(r"step-\d{8,}")
FILE = re.compile(r"\w[\w.-]*", re.ASCII)
"""Names of files in a checkpoint: none is a path."""
STALE_S, VISIBLE_S = 1.0, 5.0
"""How long a shared file system may show a file as it was, and hide a directory that its pointer names."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose manifest has been read; `verify` it before its tensors are used."""

    path: Path
    manifest: Manifest

    def meaning(self) -> Meaning:
        """What the weights mean. CorruptData where that cannot be read."""
        return read_meaning(self.path)

    def state(self) -> State:
        """All tensors, on the host.

        Raises:
            CorruptData: a shard cannot be read, or the shards do not hold the same names under every key.
        """
        tensors: dict[str, dict[str, Tensor]] = {key: {} for key in KEYS}
        unfilled: dict[tuple[str, str], int] = {}
        for full_name, piece, file in self._stored():
            key, _, rest = full_name.partition("/")
            name, _, start = rest.partition("@")
            if key not in tensors or (name in tensors[key] and (key, name) not in unfilled):
                raise CorruptData(f"{file} holds an unexpected tensor {full_name!r}")
            if not start:
                tensors[key][name] = piece
                continue
            shape = torch.Size(self.manifest.shapes[name])
            whole = tensors[key].setdefault(name, torch.empty(shape, dtype=piece.dtype))
            whole.view(-1).narrow(0, int(start), piece.numel()).copy_(piece)
            unfilled[key, name] = unfilled.get((key, name), shape.numel()) - piece.numel()
        if torn := [name for (_, name), count in unfilled.items() if count != 0]:
            raise CorruptData(f"{self.path} lacks pieces of {torn[0]!r}; use another checkpoint")
        trained = tensors["ema"].keys()
        if any(tensors[key].keys() != trained for key in MOMENTS) or not trained <= tensors["weight"].keys():
            raise CorruptData(f"{self.path} holds weights and moments of different parameters; use another checkpoint")
        for key in MOMENTS:
            for name, moment in tensors[key].items():
                if moment.shape != (shape := tensors["weight"][name].shape):
                    raise CorruptData(
                        f"{self.path} holds {key} of {name!r} with shape {tuple(moment.shape)}, but its weight has "
                        f"{tuple(shape)}; use another checkpoint"
                    )
        return State(
            weight=tensors["weight"],
            moments={key: tensors[key] for key in MOMENTS},
            adam_steps=dict(self.manifest.adam_steps),
        )

    def _stored(self) -> Iterator[tuple[str, Tensor, Path]]:
        """Stored name, tensor and file of everything in the shards."""
        for entry in self.manifest.files:
            path = self.path / entry.name
            if path.suffix != ".safetensors":
                continue
            try:
                with safe_open(path, framework="pt") as file:
                    names: list[str] = file.keys()
                    for full_name in names:
                        yield full_name, file.get_tensor(full_name), path
            except SafetensorError as error:
                raise CorruptData(f"{path} cannot be read: {error}") from error


def commit(staging: Path, manifest: Manifest, meaning: Meaning) -> Path:
    """Make a checkpoint of a folder whose shards are written; one process calls this. Before its rename it is none.

    Raises:
        OSError: the storage failed; then there is no new checkpoint, and the earlier ones are as they were.
    """
    folder = staging.parent
    final = path_of(folder.parent, manifest.step)
    described = storage.write(staging / "policy.json", [documents.to_bytes(meaning)])
    manifest = dataclasses.replace(manifest, files=(*manifest.files, described))
    storage.write(staging / "manifest.json", [documents.to_bytes(manifest)])
    faults.hit("manifest.written")
    storage.synchronize(staging)
    if final.exists():  # damaged, or it would have been resumed from
        set_aside(final)
    faults.hit("rename.before")
    storage.move(staging, final)
    return final


def point_to(path: Path) -> None:
    """Name a checkpoint as the newest one."""
    faults.hit("latest.before")
    storage.write(path.with_name("LATEST"), [path.name.encode()])
    faults.hit("latest.after")
    storage.synchronize(path.parent)


def set_aside(path: Path, why: Literal["bad", "later"] = "bad") -> Path:
    """Set a checkpoint aside, whole, under a name that nothing resumes from; returns the new place.

    bad: it is damaged. later: the run went back to an earlier step, and will come by its step again.
    """
    aside = path.with_name(f".{why}-{path.name}-{uuid.uuid4().hex[:8]}")
    storage.move(path, aside)
    return aside


def prune(out: Path, keep: int, *, keep_best: bool = False) -> None:
    """Delete all but the newest `keep` valid checkpoints, and the best; a damaged one counts for nothing and stays.

    Raises:
        OSError: the storage refuses; what is left is tried again after the next save.
    """
    valid = list(filter(None, map(whole, steps(out))))
    spared = ranked(valid)[:1] if keep_best else []
    for found in valid[:-keep]:
        if found not in spared:
            faults.hit("prune.before")
            discard(found.path)


def ranked(found: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Of checkpoints in the order of their steps, those of the last one's stage that were validated, the best first.

    Losses of another stage may be of another objective.
    """
    validated = [
        (each.manifest.validation_loss, each)
        for each in found
        if each.manifest.validation_loss is not None and each.manifest.stage == found[-1].manifest.stage
    ]
    return [each for _, each in sorted(validated, key=lambda pair: pair[0])]


def discard(path: Path) -> bool:
    """Delete a checkpoint; whether that is done. Cut off, it leaves nothing that looks like a checkpoint."""
    doomed = path.with_name(f".old-{path.name}-{uuid.uuid4().hex[:8]}")
    storage.move(path, doomed)
    faults.hit("prune.renamed")
    return storage.remove(doomed)


def whole(path: Path) -> Checkpoint | None:
    """A checkpoint whose manifest can be read and whose files have their sizes; digests are not compared."""
    try:
        found = read(path)
        same = all((path / entry.name).stat().st_size == entry.bytes for entry in found.manifest.files)
    except (ValueError, OSError):
        return None
    return found if same else None


def clean(out: Path) -> None:
    """Delete what a run that was killed while saving or deleting left behind."""
    for pattern in (".staging-*", ".old-*", storage.TEMPORARY):
        for path in (out / "checkpoints").glob(pattern):
            storage.remove(path)


def path_of(out: Path, step: int, folder: str = "checkpoints") -> Path:
    """Where the checkpoint of a step stands, or what another folder of the run has of it."""
    return out / folder / f"step-{step:08d}"


def steps(out: Path) -> list[Path]:
    """The checkpoint directories of a run, oldest first."""
    return sorted(path for path in (out / "checkpoints").glob("step-*") if path.is_dir())


def later(out: Path, step: int) -> list[Path]:
    """The checkpoint directories of a run after a step, oldest first."""
    return [path for path in steps(out) if path.name > path_of(out, step).name]


def read(path: Path) -> Checkpoint:
    """Read and check the manifest of one checkpoint directory.

    Raises:
        CorruptData: the manifest is missing, torn, of a newer schema, or names a file outside the directory.
        ValueError: it is of an older schema.
    """
    manifest = read_manifest(path)
    if outside := [entry.name for entry in manifest.files if not FILE.fullmatch(entry.name)]:
        raise CorruptData(f"{path / 'manifest.json'} names a file outside its directory: {outside[0]!r}")
    return Checkpoint(path=path, manifest=manifest)


def verify(checkpoint: Checkpoint, accelerator: Accelerator) -> None:
    """Compare every file with its digest, the files dealt out over the ranks.

    Raises:
        CorruptData: on all ranks, when any of them finds a missing or changed file.
    """
    mine = checkpoint.manifest.files[accelerator.process_index :: accelerator.num_processes]
    problems = [problem for entry in mine if (problem := problem_of(checkpoint.path, entry))]
    found = [problem for problems in distributed.collect(accelerator, problems) for problem in problems]
    if found:
        raise CorruptData(f"checkpoint {checkpoint.path.name} is damaged: {found[0]}; resume from another one")


def problem_of(folder: Path, entry: StoredFile) -> str | None:
    """What is wrong with a file of a checkpoint, looked at twice: a shared file system may show an old state first."""
    path = folder / entry.name
    for pause_s in (STALE_S, 0.0):
        try:
            size = path.stat().st_size
            if size == entry.bytes and storage.digest(path) == entry.sha256:
                return None
            problem = (
                f"{path} does not match its digest"
                if size == entry.bytes
                else f"{path} has {size} bytes instead of {entry.bytes}"
            )
        except FileNotFoundError:
            problem = f"{path} is missing"
        time.sleep(pause_s)
    return problem


def candidates(out: Path) -> list[Path]:
    """The checkpoint directories of a run, newest first.

    One that LATEST names is waited for: on a shared file system the pointer may be seen before the directory.
    """
    try:
        hint = (out / "checkpoints" / "LATEST").read_text(errors="replace")
    except OSError:
        hint = ""
    found = steps(out)
    if NAME.fullmatch(hint) and (not found or hint > found[-1].name):
        storage.settled(out / "checkpoints" / hint, VISIBLE_S)
    return list(reversed(steps(out)))


def newest(
    out: Path,
    accelerator: Accelerator,
    *,
    accept: Callable[[Checkpoint], bool] = lambda _: True,
    damaged: list[Path] | None = None,
) -> Checkpoint | None:
    """The newest valid checkpoint of a run that is accepted, or None when it has none.

    Damaged ones that were passed over are told of, and added to `damaged`.

    Raises:
        CorruptData: there are checkpoints, and none of them is valid; a fresh start would hide that.
    """
    return first_valid(candidates, out, accelerator, accept, damaged)


def best(out: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The valid checkpoint of the lowest validation loss in the stage of the newest one; None when none has any.

    Raises:
        CorruptData: there are such checkpoints, and none of them is valid.
    """
    return first_valid(best_first, out, accelerator)


def best_first(out: Path) -> list[Path]:
    """The validated checkpoint directories of a run's newest stage."""
    return [found.path for found in ranked(list(filter(None, map(whole, steps(out)))))]


def first_valid(
    listed: Callable[[Path], list[Path]],
    out: Path,
    accelerator: Accelerator,
    accept: Callable[[Checkpoint], bool] = lambda _: True,
    damaged: list[Path] | None = None,
) -> Checkpoint | None:
    """The first valid checkpoint that is accepted, of those that rank 0 lists."""
    paths = distributed.share(accelerator, [str(path) for path in listed(out)] if accelerator.is_main_process else None)
    problems = []
    for path in map(Path, paths):
        try:
            checkpoint = read(path)
            if not accept(checkpoint):
                continue
            verify(checkpoint, accelerator)
        except CorruptData as error:
            problems.append(error)
            accelerator.print(f"skipped: {error}")
            if damaged is not None:
                damaged.append(path)
            continue
        return checkpoint
    if problems and len(problems) == len(paths):
        raise CorruptData(f"none of the {len(paths)} checkpoints in {out / 'checkpoints'} is valid ({problems[-1]})")
    return None


def find(place: str, accelerator: Accelerator) -> Checkpoint:
    """The verified checkpoint that CHECKPOINT, RUN or RUN/best names.

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
    if path.name == BEST and (found := best(path.parent, accelerator)):
        return found
    raise ValueError(f"{place} holds no checkpoint; give a run folder with checkpoints/step-* or one of those")
