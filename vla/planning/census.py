"""The parameters of a policy by what a training does with them."""

from collections.abc import Mapping
from dataclasses import dataclass

from vla.parts.groups import group_of
from vla.policy import Policy

PERSISTENT = 100_000
"""Elements up to which ZeRO-3 leaves a tensor whole on every rank (DeepSpeed's stage3_param_persistence_threshold)."""
TRAINED = 4
"""Bytes of a trained weight, of its gradient, of each of its two moments and of its average: float32 all."""
STORED = 4
"""Such numbers of a trained parameter in a checkpoint: weight, two moments, average."""
LANGUAGE = ".language_model.layers."
"""In the names of what a gradient passes where the backbone learns."""
ENTRY = 86
"""Bytes of an entry in the header of a safetensors file, beside names and digits: measured on checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Census:
    """Counts, and bytes of what is frozen."""

    groups: Mapping[str, int]
    """Trained parameters by group."""
    frozen: int
    frozen_bytes: int
    buffers: int
    """Bytes."""
    whole: int
    """Trained parameters that ZeRO-3 leaves whole."""
    frozen_whole: int
    """Bytes of the frozen ones that it does."""
    revisited: int
    """Bytes of the frozen ones that are asked for in backward too and that it partitions."""
    names: int
    """Letters of the names of the trained tensors."""
    tensors: int
    """Trained."""
    learned: int
    """Parameters of a policy folder."""

    @property
    def trained(self) -> int:
        """Of all groups."""
        return sum(self.groups.values())

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint's tensors, with the headers that name them."""
        headers = STORED * (self.names + self.tensors * ENTRY)
        return STORED * TRAINED * self.trained + headers

    @property
    def policy(self) -> int:
        """Bytes of the weights of a policy folder, in float32."""
        return TRAINED * self.learned


def census(policy: Policy) -> Census:
    """That of a policy whose frozen parameters need no gradient; the others are float32, whatever the outline says."""
    groups: dict[str, int] = {}
    tail = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    frozen = frozen_bytes = whole = frozen_whole = revisited = names = tensors = 0
    opens = any(name.startswith("backbone.") for name in tail)
    for name, parameter in policy.named_parameters():
        count = parameter.numel()
        small = count <= PERSISTENT
        if parameter.requires_grad:
            group = group_of(name, tail)
            groups[group] = groups.get(group, 0) + count
            whole += small * count
            names += len(name)
            tensors += 1
        else:
            frozen += count
            frozen_bytes += count * parameter.element_size()
            frozen_whole += small * count * parameter.element_size()
            revisited += (opens and not small and LANGUAGE in name) * count * parameter.element_size()
    return Census(
        groups=groups,
        frozen=frozen + policy.backbone.num_apart,
        frozen_bytes=frozen_bytes + 4 * policy.backbone.num_apart,
        buffers=sum(buffer.numel() * buffer.element_size() for buffer in policy.buffers()),
        whole=whole,
        frozen_whole=frozen_whole,
        revisited=revisited,
        names=names,
        tensors=tensors,
        learned=sum(parameter.numel() for parameter in policy.learned().values()),
    )
