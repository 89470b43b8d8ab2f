"""Writes checkpoints behind the training.

    main thread   copies this rank's pieces into host memory (all that a step waits for), goes on training
    saver thread  of every rank: shard -> disk -> read back -> posts name, size and digest
                  of rank 0: when all have posted: manifest -> rename -> LATEST -> deletes what --keep does not

One save is in flight at a time. Whatever is cut off leaves a folder .staging-*, which is no checkpoint. When a shard
cannot be written nothing is committed, older checkpoints stay, and the training goes on to try at the next interval.
"""

import concurrent.futures
import contextlib
import errno
import json
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from training import distributed, faults
from training.checkpoints import checkpoint, storage
from training.checkpoints.notes import Notes
from vla.run_folder import Manifest, Meaning, StoredFile

WORD_S, VISIBLE_S = 1800.0, 30.0
"""How long the slowest rank may write, and how long a written file may take to be seen by rank 0."""

SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a save ended, the same on every rank."""

    step: int
    num_bytes: int
    seconds: float
    error: str | None
    """Why there is no checkpoint, if there is none."""
    remark: str | None
    """What went wrong after it was there: the pointer to it, or the deletion of older ones."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the saver thread of a rank is to write."""

    step: int
    staging: Path
    tensors: Mapping[str, Tensor]
    manifest: Manifest
    meaning: Meaning
    check: bool
    """Whether to read the shard back from the disk."""


class Saver:
    """The saver of one rank. Every method but `busy` and `seconds_needed` is called by all ranks, in the same order."""

    def __init__(
        self,
        accelerator: Accelerator,
        out: Path,
        *,
        keep: int,
        keep_best: bool = False,
        rate: float,
        objection: Callable[[], str | None],
    ) -> None:
        """Save into `out`/checkpoints and keep the newest `keep` of them, and the best.

        `rate` is the write rate measured so far, in bytes a second; `objection` says why no checkpoint may be made now,
        if there is a reason; rank 0 asks it.
        """
        self.accelerator, self.out, self.rate = accelerator, out, rate
        self._prune = partial(checkpoint.prune, out, keep, keep_best=keep_best)
        self._objection = objection
        self.failures = 0
        """Saves that failed in a row."""
        self.last: int | None = None
        """Step of the last checkpoint that was committed."""
        self._nonce: str = distributed.share(accelerator, uuid.uuid4().hex[:8])
        self._notes = Notes(accelerator)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._running: Future[Outcome] | None = None
        self._count = 0
        self._host: dict[str, Tensor] = {}

    def reserve(self, pieces: Mapping[str, Tensor]) -> None:
        """Take the host memory that the copies of `pieces` need, so that the first save does not wait for it."""
        assert self._running is None, "the copies are being written"
        pinned = self.accelerator.device.type == "cuda"
        self._host = {
            name: torch.zeros(piece.shape, dtype=piece.dtype, pin_memory=pinned) for name, piece in pieces.items()
        }

    def save(
        self,
        pieces: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],
        *,
        manifest: Manifest,
        meaning: Meaning,
        check: bool = True,
    ) -> None:
        """Copy `pieces`, which training goes on to change, and begin to write them with `kept`, which it does not."""
        assert self._running is None, "the save before this one has been told of"
        faults.hit("snapshot")
        for name, piece in pieces.items():
            self._host[name].copy_(piece.detach(), non_blocking=True)
        if self.accelerator.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self._count += 1
        final = checkpoint.path_of(self.out, manifest.step)
        job = Job(
            step=manifest.step,
            staging=final.with_name(f".staging-{final.name}-{self._nonce}-{self._count}"),
            tensors=self._host | {f"weight/{name}": tensor for name, tensor in kept.items()},
            manifest=manifest,
            meaning=meaning,
            check=check,
        )
        self._running = self._thread.submit(self._write, job)

    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._running is not None and not self._running.done()

    def finish(self, seconds: float | None = None) -> Outcome | None:
        """The outcome of the save in flight, waiting for it at most some seconds; None when there is none (yet).

        An error of the saver thread that is not the storage's is raised here.
        """
        if self._running is None:
            return None
        try:
            outcome = self._running.result(seconds)
        except concurrent.futures.TimeoutError:
            if self._running.done():
                raise
            return None
        self._running = None
        if outcome.error is None:
            self.failures, self.last = 0, outcome.step
        else:
            self.failures += 1
        return outcome

    def seconds_needed(self, pieces: Mapping[str, Tensor]) -> float:
        """How long this rank would write, at the rate it has measured."""
        return sum(piece.numel() * piece.element_size() for piece in pieces.values()) / self.rate

    # In the saver thread.

    def _write(self, job: Job) -> Outcome:
        rank, ranks, began = self.accelerator.process_index, self.accelerator.num_processes, time.monotonic()
        try:
            note: dict[str, Any] = {
                "file": asdict(self._write_shard(job, f"shard-{rank:05d}-of-{ranks:05d}.safetensors"))
            }
        except OSError as error:
            note = {"error": f"rank {rank}: {error}"}
        self._notes.post(f"{job.staging.name}/{rank}", note)
        if rank == 0:
            self._notes.post(f"{job.staging.name}/outcome", self._commit(job, ranks))
        outcome: dict[str, Any]
        [outcome] = self._notes.read([f"{job.staging.name}/outcome"], WORD_S)
        return Outcome(step=job.step, seconds=time.monotonic() - began, **outcome)

    def _write_shard(self, job: Job, name: str) -> StoredFile:
        job.staging.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        entry = storage.write(job.staging / name, safetensors(job.tensors))
        self.rate = max(1, entry.bytes) / max(1e-6, time.monotonic() - began)
        faults.hit("shard.written")
        if job.check and not storage.reread(entry, job.staging):
            raise OSError(errno.EIO, "what was written reads back differently", str(job.staging / name))
        return entry

    def _written(self, job: Job, ranks: int) -> tuple[StoredFile, ...]:
        """The shards of all ranks.

        Raises:
            OSError: one could not be written, is not seen by rank 0, or no checkpoint may be made now.
            TimeoutError: a rank did not say in time.
        """
        notes = self._notes.read([f"{job.staging.name}/{rank}" for rank in range(ranks)], WORD_S)
        if errors := [note["error"] for note in notes if "error" in note]:
            raise OSError(errors[0])
        files = tuple(StoredFile(**note["file"]) for note in notes)
        if unseen := [file.name for file in files if not storage.settled(job.staging / file.name, VISIBLE_S)]:
            raise OSError(f"{unseen[0]} was written by its rank but is not seen by rank 0")
        if objection := self._objection():
            raise OSError(objection)
        return files

    def _commit(self, job: Job, ranks: int) -> dict[str, Any]:
        """Make the checkpoint of what all ranks have written, or nothing; returns the outcome but for step and time."""
        try:
            files = self._written(job, ranks)
            final = checkpoint.commit(job.staging, replace(job.manifest, files=files), job.meaning)
        except (OSError, TimeoutError) as error:
            with contextlib.suppress(OSError):  # what it leaves is no checkpoint, and is deleted at the next start
                storage.remove(job.staging)
            return {"num_bytes": 0, "error": str(error), "remark": None}
        remark = None
        try:
            checkpoint.point_to(final)
            self._prune()
        except OSError as error:  # the checkpoint stands; pointer and deletion come again with the next one
            remark = str(error)
        return {"num_bytes": sum(file.bytes for file in files), "error": None, "remark": remark}


def safetensors(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """The bytes of a safetensors file, without copying the tensors, which lie in host memory.

    The library's own functions copy everything once more and hold the interpreter meanwhile, which the training thread
    would feel. Format: length of the header, header in JSON, the tensors end to end.
    """
    header: dict[str, Any] = {}
    parts: list[memoryview] = []
    end = 0
    for name, tensor in sorted(tensors.items()):
        part = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        header[name] = {
            "dtype": SAFETENSORS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(part)],
        }
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]
