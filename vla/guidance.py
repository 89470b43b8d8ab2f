"""Settings of classifier-free guidance (Ho & Salimans 2022); nothing heavy is loaded for them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Guiding:
    """How a policy learns what it would answer without an instruction, and goes beyond that."""

    unconditional: float = 0.0
    """Share of the training samples that go without the instruction, 0 <= share < 1; guidance needs some, e.g. 0.1."""
    guidance: float = 1.0
    """How many times as far as with the instruction an answer is from one without it, >= 0; 1: no guidance."""

    def check_guidance(self) -> None:
        """Refuse guidance that cannot be (ValueError)."""
        if not 0 <= self.unconditional < 1:
            raise ValueError(
                f"diffusion.unconditional is {self.unconditional}; give a share from 0 up to, not including, 1"
            )
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"diffusion.guidance is {self.guidance}; give 0 or more, e.g. 1.5, or 1 for no guidance")
        if self.guidance != 1 and self.unconditional == 0:
            raise ValueError(
                f"diffusion.guidance is {self.guidance}, but training shows every sample its instruction: train with "
                "diffusion.unconditional 0.1, or give guidance 1"
            )
