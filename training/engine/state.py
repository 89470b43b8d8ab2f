"""What training changes: weights, moments and averages, by the names of the parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq", "ema")
KEYS = ("weight", *MOMENTS)


@dataclass(frozen=True, kw_only=True)
class State:
    """The trainable state by parameter name, full tensors on the host; a saved checkpoint holds exactly this."""

    weight: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    """exp_avg, exp_avg_sq and ema, each by parameter name."""
    adam_steps: Mapping[str, int]
    """By group name (`lora`, `sensor`, `expert`): how many steps its moments have seen."""
