"""Averaged weights of the trainables: a third moment beside Adam's two.

The average lives in the optimizer's state, on the same fp32 partition whose weights it averages, so it costs each
rank only its own share, and it is saved and restored by name like the other two moments.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """Decay after optimizer step `step` (from 1): min(decay, (1 + step) / (10 + step)), which follows at first."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(averages: Iterable[Tensor], weights: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * weight, in place."""
    get_ema_multi_avg_fn(decay)(list(averages), list(weights), None)  # type: ignore[no-untyped-call]
