"""Which parameters train, and how fast: one table a stage.

A group is named once. A stage gives a learning rate to the groups it trains; a group without one is frozen.
So what is frozen and what is learned cannot disagree, and a smaller rate for LoRA is a row, not a feature.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from training.settings import Stage
from vla.adapters.host import UPDATES
from vla.adapters.layer import Adapted, update_of
from vla.parts import GROUPS
from vla.parts.groups import FROZEN, group_of
from vla.run_folder import GroupSize


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


def resting(model: nn.Module) -> set[str]:
    """Names of the weights of adapters that are loaded and do not count: no stage trains them.

    A trained parameter that no loss reaches is moved all the same under ZeRO (training/engine/gradients.py).
    """
    return {
        f"{path}{UPDATES}{name}.{own}"
        for path, layer in model.named_modules()
        if isinstance(layer, Adapted)
        for name in layer.updates.keys() - layer.blend.weights.keys()
        for own, _ in update_of(layer, name).named_parameters()
    }


def enter(name: str, stage: Stage, model: nn.Module, tail: Collection[str] = ()) -> list[Group]:
    """Freeze what the stage leaves out, open the rest, and return the optimizer's groups.

    Raises:
        ValueError: the stage trains a group of which the model has no parameter.
    """
    rates = stage.lr.by_group()
    decay, idle = decaying(model), resting(model)
    members: dict[tuple[str, bool], list[tuple[str, int]]] = {}
    for path, parameter in model.named_parameters():
        group = group_of(path, tail)
        parameter.requires_grad_(group in rates and path not in idle)
        if parameter.requires_grad:
            members.setdefault((group, path in decay), []).append((path, parameter.numel()))
    if missing := rates.keys() - {group for group, _ in members}:
        raise ValueError(
            f"stage {name!r} trains {sorted(missing)}, but the policy has no such parameters; "
            f"freeze them with {' '.join(f'--stage.lr.{group} None' for group in sorted(missing))}"
        )
    if not members:
        raise ValueError(f"stage {name!r} trains nothing; give a rate to one of {', '.join(GROUPS)}")
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


def learned(policy: nn.Module, in_full: Collection[str]) -> list[str]:
    """Names of the parameters that training changes or changed; those given are from here on float32."""
    names = []
    for name, parameter in policy.named_parameters():
        if name in in_full:
            parameter.data = parameter.data.float()  # the last blocks come in the dtype of the frozen ones
        if group_of(name, ()) != FROZEN or name in in_full:
            names.append(name)
    return names


def without(stage: Stage, group: str) -> Stage:
    """The stage with a group left out."""
    return replace(stage, lr=stage.lr.changed(**{group: None}))


def table(name: str, groups: list[Group], num_frozen: int) -> str:
    """The groups as a person reads them before the first step."""
    lines = [f"{name}:  {'group':<16}{'tensors':>8}{'parameters':>14}{'peak rate':>11}{'decay':>7}"]
    indent = " " * (len(name) + 3)
    lines += [
        f"{indent}{group.name:<16}{len(group.parameters):>8}{group.num_parameters:>14,}"
        f"{group.rate:>11.1e}{group.weight_decay:>7}"
        for group in groups
    ]
    lines.append(f"{indent}{'frozen':<16}{'':>8}{num_frozen:>14,}{'-':>11}{'-':>7}")
    return "\n".join(lines)


def sizes(groups: list[Group]) -> dict[str, GroupSize]:
    """The groups as the manifest keeps them."""
    return {
        group.name: GroupSize(
            tensors=len(group.parameters),
            parameters=group.num_parameters,
            lr=group.rate,
            weight_decay=group.weight_decay,
        )
        for group in groups
    }
