"""One step of a model of human motion without taking it: what each term of its loss is, before a run is begun.

Such a model is small enough to be built for that, which one with a vision-language backbone is not.
"""

import math

import torch

from training.config import RunConfig
from training.engine import stages
from training.opening import normalizers_of
from training.run.sizes import with_suited_sizes
from vla.assembling import assemble
from vla.batch import collate
from vla.data.dataset import open_dataset
from vla.objectives import objective_of
from vla.parts.backbone import width_of

REHEARSED = 4
"""Samples, where the micro-batch is decided as a run opens."""
MAIN = "diffusion"
"""The part of the loss that the others stand beside."""


def rehearse(config: RunConfig) -> list[str]:
    """A line on the loss of the first micro-batch, by part, and its gradient; one on each that outweighs the main one.

    Raises:
        ValueError: the data cannot be trained on, or a loss or a gradient is not finite.
        CorruptData: the data are damaged.
    """
    data = open_dataset(config.data, config.seed)
    config = with_suited_sizes(config, data.contract, width_of(config.backbone.path))
    name, stage = next(iter(config.stages.items()))
    normalizers = normalizers_of(data, config.data)
    policy = assemble(config.policy(stage), data.contract, normalizers, torch.float32, config.seed)
    policy.objective = objective_of(stage.objective, data.contract)
    stages.enter(name, stage, policy)
    policy.set_mode(training=True)
    count = REHEARSED if config.micro_batch == "auto" else config.micro_batch
    batch = collate([data.train[position] for position in range(count)], config.seed, "noise")
    losses = {part: (loss * batch.weight).sum() / batch.weight.sum() for part, loss in policy(batch).items()}
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    told = {part: float(loss.detach()) for part, loss in losses.items()}
    if not math.isfinite(sum(told.values()) + norm):
        wrong = next((part for part, loss in told.items() if not math.isfinite(loss)), "its gradient")
        raise ValueError(
            f"{wrong} of the first {count} samples is not a finite number, so nothing could be learned: "
            f"look at them with `vla doctor {config.data.roots[0]}`, or leave that term out"
        )
    parts = ", ".join(f"{part} {loss:.3g}" for part, loss in told.items())
    epoch = data.train.num_samples / config.batch_size
    lines = [
        f"rehearsed: {parts}, gradient {norm:.3g}, on {count} samples by fresh weights",
        f"length: {stage.steps:,} steps of {config.batch_size} samples, {stage.steps / epoch:.3g} times all of them",
    ]
    return lines + [
        f"{part} is {loss / told[MAIN]:.3g} times {MAIN} and would be most of what is learned: give it a smaller "
        f"--stage.objective.motion.{part}"
        for part, loss in told.items()
        if part != MAIN and loss > told[MAIN]
    ]
