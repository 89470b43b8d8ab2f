"""Validation on held-out episodes: averaged weights, evaluation mode, fixed times and noise."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from training import distributed, faults
from training.engine.sharding import Engine
from training.run.left_out import num_void
from vla.batch import Batch, collate
from vla.data.dataset import ValidationSamples
from vla.policy import Policy
from vla.randomness import torch_seed


def validate(
    engine: Engine,
    policy: Policy,
    samples: ValidationSamples,
    *,
    limit: int,
    micro_batch: int,
    seed: int,
    beat: Callable[[str], None] = lambda _: None,
    settle: Callable[[Sequence[Batch]], None] = lambda _: None,
) -> dict[str, Any]:
    """Losses by part and the error of sampled actions, over at most `limit` samples spread evenly.

    Returns `loss`, `losses`, and `action_mae`: mean absolute error in the data's units, by horizon step (rows) and
    action dimension. `beat` is told of every micro-batch; `settle`, on all ranks, of this rank's batches with samples
    that could not be read. Every rank makes the same number of forward passes, because under ZeRO-3 each is collective.
    """
    accelerator = engine.accelerator
    count = min(limit, len(samples))
    indices = [round(i * len(samples) / count) for i in range(count)]
    stride = accelerator.num_processes * micro_batch
    sums: dict[str, Tensor] = {}
    unread: list[Batch] = []
    policy.set_mode(training=False)
    with engine.averaged(), torch.no_grad():
        for start in range(0, count, stride):
            beat("validation")
            faults.hit("validate")
            first = start + accelerator.process_index * micro_batch
            chosen = [min(first + i, count - 1) for i in range(micro_batch)]
            batch = collate([samples[indices[i]] for i in chosen], seed, "validation")
            unread += [batch] if num_void([batch]) else []
            batch = batch.to(accelerator.device)
            real = torch.tensor([first + i < count for i in range(micro_batch)], device=accelerator.device)
            for key, value in measure(policy, batch, real, seed).items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value
    policy.set_mode(training=True)
    if distributed.total(accelerator, len(unread)) != [0]:
        settle(unread)
    reduced = {
        key: torch.tensor(distributed.total(accelerator, *value.flatten().tolist())) for key, value in sums.items()
    }
    losses = {
        key.removeprefix("loss/"): float(value / reduced["weight"])
        for key, value in reduced.items()
        if key.startswith("loss/")
    }
    steps = reduced["steps"].view(samples[0].actions.shape[0], -1)
    errors = reduced["absolute error"].view(len(steps), -1) / steps.clamp(min=1)
    return {
        "loss": sum(losses.values()),
        "losses": losses,
        "action_mae": errors.tolist(),
        "samples": int(reduced["samples"]),
    }


def measure(policy: Policy, batch: Batch, real: Tensor, seed: int) -> dict[str, Tensor]:
    """Sums over the real samples of a batch; the padding of the last round counts for nothing.

    The backbone looks once, for the losses and the actions. The ddpm sampler's fresh noise follows from `seed` and the
    batch's first sample: it is the same in every validation.
    """
    weight = batch.weight * real
    looked = policy.look(batch.observation)
    sums = {f"loss/{part}": (loss * weight).sum().double() for part, loss in policy(batch, looked).items()}
    fresh = torch.Generator().manual_seed(torch_seed(seed, "validation", int(batch.positions[0])))
    actions = policy.act(batch.observation, batch.draws.noise, generator=fresh, looked=looked)
    valid = (batch.action_valid & real[:, None])[:, :, None]
    valid = (valid if batch.action_known is None else valid & batch.action_known).double()
    error = (actions.double() - batch.actions.double()).abs() * valid
    counts = {"weight": weight.sum().double(), "samples": weight.count_nonzero(), "steps": valid.sum(0)}
    return sums | counts | {"absolute error": error.sum(0)}
