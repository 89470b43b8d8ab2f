"""How many samples a rank takes at once where the run leaves that open: as many as its device has memory for."""

import contextlib
import gc
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from training import adapted, distributed
from training.ending.watchdog import START_ALLOWANCE, Watchdog
from training.opening import Run
from training.planned import largest
from training.run.resuming import Row
from vla.batch import Batch, collate
from vla.policy import Policy

FILLED = 0.85
"""Share of the device's memory that is to be filled: prompts differ in length, and what is freed lies in pieces."""
STATE_BYTES = 20
"""Of a trained number beside its weight and gradient: two moments, the average, DDP's buckets, and what steps them."""
ON_CPU = 4
"""Samples at once where no device's memory decides."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes of a device."""

    fixed: float
    """Whatever the micro-batch, with the optimizer's state."""
    sample: float
    """Of each sample, where a step needs most."""
    room: float
    """What may be filled."""

    @property
    def fits(self) -> int:
        """Samples that do."""
        return int(max(0.0, self.room - self.fixed) / max(1.0, self.sample))


def decided(run: Run, accelerator: Accelerator, watchdog: Watchdog) -> Run:
    """The run with a number for its micro-batch; collective.

    That is what is given, what the run that is resumed has taken, or the largest power of two that fits and divides a
    rank's share of the batch.

    Raises:
        ValueError: not even one sample fits.
    """
    if run.config.micro_batch != "auto":
        return run
    chosen = choose(run, accelerator, watchdog)
    return replace(run, config=replace(run.config, micro_batch=chosen))


def choose(run: Run, accelerator: Accelerator, watchdog: Watchdog) -> int:
    """What is taken where nothing is given, and said. Errors as `decided`."""
    share = run.config.share(accelerator.num_processes)
    # The file lies where one machine sees it; ranks that disagreed on it would wait for each other.
    kept: int | None = distributed.share(accelerator, taken(run))
    if kept is not None and share % kept == 0:
        accelerator.print(f"--micro-batch auto: {kept}, as before")
        return kept
    fits, why = ON_CPU, "where no device's memory decides"
    if accelerator.device.type != "cpu":
        watchdog.beat("measuring memory", START_ALLOWANCE)
        found = measured(run, accelerator)
        fits = min(distributed.collect(accelerator, found.fits))
        why = f"{found.fixed / 1e9:.1f} GB and {found.sample / 1e9:.3f} GB a sample of {found.room / 1e9:.0f} GB"
        if fits < 1:
            raise ValueError(
                f"not one sample fits: {why}; give --backbone.gradient-checkpointing, zero2, zero3, or fewer pixels "
                "with --backbone.max-pixels"
            )
    chosen = largest(fits, share)
    accelerator.print(f"--micro-batch auto: {chosen}, {why}")
    return chosen


def taken(run: Run) -> int | None:
    """The micro-batch of the run that is resumed; None where nothing is, or it does not say."""
    if run.resumed is None:
        return None
    file = run.resumed.path.parent.parent / "config.json"
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = settings.get("micro_batch")
    return found if isinstance(found, int) else None


def measured(run: Run, accelerator: Accelerator) -> Measured:
    """Two small micro-batches, forward and backward, of the stage that trains most: they differ by one sample."""
    device = accelerator.device
    memory: Any = torch.get_device_module(device)
    row = max(run.rows, key=lambda own: len(own.stage.lr.by_group()))
    policy = policy_of(row, run).to(device)
    policy.set_mode(training=True)
    samples = run.data.train.resized(policy.sizes)
    batches = [collate([samples[place] for place in range(size)], run.config.seed, "noise") for size in (1, 2)]
    peaks: list[int] = []
    with contextlib.suppress(torch.OutOfMemoryError):  # what did not run is what does not fit
        peaks.extend(peak(policy, batch, memory) for batch in batches)
    learned = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    free, total = memory.mem_get_info(device)
    room = FILLED * total - (total - free - memory.memory_reserved(device))
    del policy
    gc.collect()
    memory.empty_cache()
    if len(peaks) < 2:
        return Measured(fixed=0.0 if peaks else room, sample=room, room=room)
    sample = peaks[1] - peaks[0]
    return Measured(fixed=peaks[0] - sample + STATE_BYTES * learned, sample=sample, room=room)


def policy_of(row: Row, run: Run) -> Policy:
    """The policy of a stage with fresh weights, of which that learns which learns in it."""
    policy = adapted.policy_of(row, run, {}, distributed.dtype_of(run.config.precision))
    adapted.enter(row, policy)
    return policy


def peak(policy: Policy, batch: Batch, memory: Any) -> int:
    """Bytes at most of a forward and backward; the gradients are let go."""
    memory.reset_peak_memory_stats(policy.device)
    torch.stack([loss.sum() for loss in policy(batch.to(policy.device)).values()]).sum().backward()
    found: int = memory.max_memory_allocated(policy.device)
    policy.zero_grad(set_to_none=True)
    return found
