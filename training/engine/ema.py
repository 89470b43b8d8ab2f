"""Averaged weights of the trainables: a third moment beside Adam's two.

The average lives in the optimizer's state, on the same fp32 partition whose weights it averages, so it costs each
rank only its own share, and it is saved and restored by name like the other two moments.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def decay_at(step: int, decay: float) -> float:
    """Decay after optimizer step `step` (from 1): min(decay, (1 + step) / (10 + step)), which follows at first."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(averages: Iterable[Tensor], weights: Iterable[Tensor], decay: float, skip: Tensor) -> None:
    """average <- decay * average + (1 - decay) * weight, in place; nothing where the scalar `skip` is 1.

    Of all at once: a kernel each would be more of them than all else of a step's end.
    """
    averages, weights = list(averages), list(weights)
    if not averages:  # a rank of ZeRO may own nothing
        return
    changes = torch._foreach_sub(weights, averages)
    torch._foreach_mul_(changes, ((1 - decay) * (1 - skip)).to(averages[0].device))
    torch._foreach_add_(averages, changes)
