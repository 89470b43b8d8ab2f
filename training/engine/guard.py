"""Which steps are taken: none whose loss or gradient is not finite, and, if asked, none whose loss is a spike.

The decision is made on the device from values that all ranks share, so no rank can decide otherwise and no host waits
for it. Everything it depends on is stored with a checkpoint, so a resumed run decides the same.
"""

import math

import torch
from torch import Tensor

from training.settings import GuardConfig
from vla.run_folder import GuardState

WARMUP, MEMORY = 50, 100
"""Steps before a loss can be called a spike, and steps that the running average of the loss looks back on."""


class Guard:
    """Judges every step of a stage. `judge` runs on the device; `observe` counts what the host learns later."""

    def __init__(self, config: GuardConfig, device: torch.device, state: GuardState | None = None) -> None:
        """Start a stage, or go on from `state`."""
        state = state or GuardState()
        self.config = config
        self.average = torch.tensor(state.average, dtype=torch.float64, device=device)
        self.count = torch.tensor(float(state.count), dtype=torch.float64, device=device)
        self.skipped_in_a_row = state.skipped_in_a_row

    def state(self) -> GuardState:
        """What the decisions to come depend on."""
        return GuardState(average=float(self.average), count=int(self.count), skipped_in_a_row=self.skipped_in_a_row)

    @torch.no_grad()
    def judge(self, loss: Tensor, gradient_norm: Tensor) -> tuple[Tensor, Tensor]:
        """Whether to skip a step, and whether its loss is a spike: scalars, 1 for yes. Both arguments are scalars."""
        loss = loss.double()
        finite = torch.isfinite(loss) & torch.isfinite(gradient_norm)
        spike = finite & (self.count >= WARMUP) & (loss > self.config.spike_factor * self.average)
        usual = finite & ~spike
        weight = 1 / torch.clamp(self.count + 1, max=MEMORY)
        self.average = torch.where(usual, self.average + weight * (loss - self.average), self.average)
        self.count = self.count + usual
        skip = ~finite | spike if self.config.spike == "skip" else ~finite
        return skip.float(), spike.float()

    def observe(self, skipped: bool) -> None:
        """Count a step that the host has the verdict of."""
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0

    def exhausted(self) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.skipped_in_a_row >= self.config.max_skipped


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it: what is not finite becomes null."""
    return value if math.isfinite(value) else None
