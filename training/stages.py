"""Which parameters train, and how fast: one table a stage.

A group is named once. A stage gives a learning rate to the groups it trains; a group without one is frozen.
So what is frozen and what is learned cannot disagree, and a smaller rate for LoRA is a row, not a feature.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace

from torch import nn

FROZEN = "frozen"
"""The group of the pretrained weights that no stage trains."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rate of each group; None keeps the group frozen."""

    sensor: float | None = None
    """Sensor encoder."""
    camera: float | None = None
    """Camera encoder; without one (--camera.width 0) its rate has no effect."""
    expert: float | None = None
    """Diffusion action expert."""
    lora: float | None = None
    """LoRA adapters on the backbone's language model."""
    backbone: float | None = None
    """The last language-model blocks themselves, with --finetune-vl full."""

    def __post_init__(self) -> None:
        for group, rate in self.by_group().items():
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(
                    f"the learning rate of group {group!r} is {rate}; give a positive number, or None to freeze it"
                )

    def by_group(self) -> dict[str, float]:
        """The groups that train."""
        rates = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {group: rate for group, rate in rates.items() if rate is not None}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the schedule: how long, which groups, how fast."""

    name: str
    """Written into metrics and manifest."""
    steps: int
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over the training samples, or with weights or emphasis as many samples; it takes the place of steps."""
    lr: Rates = field(default_factory=Rates)
    """Peak learning rate by group."""
    weight_decay: float = 0.01
    """Of the matrices; biases, norms, tables and tokens have none."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises to its peak."""
    hold: float = 0.02
    """Share of the steps at the peak after that."""
    floor: float = 0.01
    """Last rate as a share of the peak, the same for every group: so the groups' ratio never changes."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"--stage.steps is {self.steps}; a stage has at least 1 step")
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"--stage.epochs is {self.epochs}; give a positive number of passes over the data")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"--stage.weight-decay is {self.weight_decay}; give a number of at least 0")
        if self.warmup < 0 or self.hold < 0 or self.warmup + self.hold > 1 or not 0 <= self.floor <= 1:
            raise ValueError("warmup, hold and floor are shares in [0, 1], and warmup + hold is at most 1")

    def total(self, num_samples: int, batch_size: int) -> int:
        """Optimizer steps of the stage."""
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * num_samples / batch_size))
        return self.steps

    def factor(self, step: int, total: int) -> float:
        """Share of the peak rate at step `step` of the stage, counted from 0: warm-up, hold, cosine."""
        warmup = math.ceil(self.warmup * total)
        hold = warmup + math.ceil(self.hold * total)
        if step < warmup:
            return (step + 1) / warmup
        if step < hold:
            return 1.0
        progress = (step - hold + 1) / max(1, total - hold)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True, kw_only=True)
class Group:
    """One parameter group of the optimizer: the members of a group that decay, or those that do not."""

    name: str
    """`expert/decay`, `expert/plain`, ..."""
    group: str
    rate: float
    weight_decay: float
    parameters: tuple[str, ...]
    """Names of the trainable tensors."""
    num_parameters: int


def group_of(parameter: str, tail: Collection[str]) -> str:
    """The group a parameter belongs to; `tail` names the backbone parameters that --finetune-vl full opens."""
    part, _, rest = parameter.partition(".")
    match part:
        case "sensor" | "camera" | "expert":
            return part
        case "state":
            return "expert"  # it is small, and as new as the expert that reads it
        case "backbone" if "lora_" in rest:
            return "lora"
        case "backbone":
            return "backbone" if parameter in tail else FROZEN
    raise ValueError(f"parameter {parameter!r} belongs to no group; add its part to training.stages.group_of")


def decaying(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay shrinks: the matrices of linear, convolution and attention layers."""
    matrices = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, matrices)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim >= 2
    }


def enter(stage: Stage, model: nn.Module, tail: Collection[str] = ()) -> list[Group]:
    """Freeze what the stage leaves out, open the rest, and return the optimizer's groups.

    Raises:
        ValueError: the stage trains a group of which the model has no parameter.
    """
    rates = stage.lr.by_group()
    decay = decaying(model)
    members: dict[tuple[str, bool], list[tuple[str, int]]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, tail)
        parameter.requires_grad_(group in rates)
        if parameter.requires_grad:
            members.setdefault((group, name in decay), []).append((name, parameter.numel()))
    if missing := rates.keys() - {group for group, _ in members}:
        raise ValueError(
            f"stage {stage.name!r} trains {sorted(missing)}, but the policy has no such parameters; "
            f"freeze them with {' '.join(f'--stage.lr.{group} None' for group in sorted(missing))}"
        )
    if not members:
        raise ValueError(
            f"stage {stage.name!r} trains nothing; give a rate to one of sensor, camera, expert, lora, backbone"
        )
    return [
        Group(
            name=f"{group}/{'decay' if decays else 'plain'}",
            group=group,
            rate=rates[group],
            weight_decay=stage.weight_decay if decays else 0.0,
            parameters=tuple(name for name, _ in entries),
            num_parameters=sum(count for _, count in entries),
        )
        for (group, decays), entries in sorted(members.items())
    ]


def without(stage: Stage, group: str) -> Stage:
    """The stage with a group left out."""
    return replace(stage, lr=replace(stage.lr, **{group: None}))


def table(stage: Stage, groups: list[Group], num_frozen: int) -> str:
    """The groups as a person reads them before the first step."""
    lines = [f"{stage.name}:  {'group':<16}{'tensors':>8}{'parameters':>14}{'peak rate':>11}{'decay':>7}"]
    indent = " " * (len(stage.name) + 3)
    lines += [
        f"{indent}{group.name:<16}{len(group.parameters):>8}{group.num_parameters:>14,}"
        f"{group.rate:>11.1e}{group.weight_decay:>7}"
        for group in groups
    ]
    lines.append(f"{indent}{'frozen':<16}{'':>8}{num_frozen:>14,}{'-':>11}{'-':>7}")
    return "\n".join(lines)


def manifest_groups(groups: list[Group]) -> Mapping[str, Mapping[str, float | int]]:
    """The groups as the manifest keeps them."""
    return {
        group.name: {
            "tensors": len(group.parameters),
            "parameters": group.num_parameters,
            "lr": group.rate,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    }
