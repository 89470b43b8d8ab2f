"""Normalisation: the module that applies statistics and undoes them, inside the policy."""

import math
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor, nn

from vla.settings import Normalization
from vla.statistics import Statistics, beyond

LARGEST = float(np.finfo(np.float32).max)
ANSWERS, INPUTS = 0.1, 10.0
"""Inner ranges beyond the inner range within which actions, learnt or answered, and what is observed are kept."""
MODE = 4.0
"""Magnitude of the ends of the inner range at most: a mode that ends the data stays, with its noise, below 5."""


class Normalizer(nn.Module):
    """Data units to unitless and back, a linear map a dimension; of signed square roots where companded.

    `quantile` takes the 1 % and 99 % quantiles to -1 and 1, `min-max` the extremes, `z-score` mean and deviation to 0
    and 1. Stray values (vla/statistics.py) count for the extremes alone, and every mode of 0.5 % of the rows or more
    has a magnitude of at most 5, the most that a policy answers: its dimension is scaled by it where it would have
    more (a gripper that is shut in 99 % of the rows). No scale is smaller than 1e-4 of a dimension's largest
    magnitude, so the noise of a nearly constant one stays noise; 1e-4 is for the resolution of float32, of values that
    need float64 it is as much smaller as theirs. A dimension that is constant but for strays becomes 0 and is undone
    to exactly its constant, whatever comes in. An angle is unwrapped about its circular mean before, and put back into
    the range of the data after. Values between `lowest` and `highest` are taken and given as they are, others as these.

    float64 values are centred before they become float32: what moves little far from the origin keeps its motion.
    """

    offset: Float64[Tensor, " D"]
    scale: Float64[Tensor, " D"]
    constant: Bool[Tensor, " D"]
    period: Float64[Tensor, " D"]
    center: Float64[Tensor, " D"]
    low: Float64[Tensor, " D"]
    companded: Bool[Tensor, " D"]
    lowest: Float64[Tensor, " D"]
    highest: Float64[Tensor, " D"]

    def __init__(self, width: int) -> None:
        """The identity; `of` or load_state_dict give it values."""
        super().__init__()
        self.register_buffer("offset", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float64))
        self.register_buffer("constant", torch.zeros(width, dtype=torch.bool))
        self.register_buffer("period", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("center", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("low", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("companded", torch.zeros(width, dtype=torch.bool))
        self.register_buffer("lowest", torch.full((width,), -LARGEST, dtype=torch.float64))
        self.register_buffer("highest", torch.full((width,), LARGEST, dtype=torch.float64))

    @staticmethod
    def of(
        statistics: Statistics,
        mode: Normalization,
        reach: float = math.inf,
        finest: Sequence[float] | float = 0.0,
    ) -> "Normalizer":
        """The normaliser that these statistics give; no scale is below `finest`, in the data's units.

        `lowest` and `highest` are `reach` inner ranges beyond the inner range; an angle that may then be any has none.
        """
        least, most = statistics.inner_minimum, statistics.inner_maximum
        constant = least == most
        match mode:
            case "z-score":
                offset, scale = statistics.mean, statistics.std
            case "quantile":
                low, high = np.maximum(statistics.q01, least), np.minimum(statistics.q99, most)
                offset, scale = (low + high) / 2, (high - low) / 2
            case "min-max":
                low, high = statistics.minimum, statistics.maximum
                offset, scale = (low + high) / 2, (high - low) / 2
        scale = np.maximum(scale, np.maximum(most - offset, offset - least) / MODE)
        resolution = np.where(statistics.single, 1.0, np.finfo(np.float64).eps / np.finfo(np.float32).eps)
        floor = 1e-4 * resolution * np.maximum(np.abs(least), np.abs(most))
        buffers = {
            "offset": np.where(constant, np.where(statistics.companded, least * np.abs(least), least), offset),
            # No 1 / 1e-40 in float32.
            "scale": np.where(constant, 1.0, np.maximum(scale, np.maximum(np.maximum(floor, finest), 1e-30))),
            "constant": constant,
            "period": statistics.period,
            "center": statistics.center,
            "low": statistics.low,
            "companded": statistics.companded & ~constant,
        }
        normalizer = Normalizer(len(offset))
        if math.isfinite(reach):
            least, most = (np.where(statistics.companded, end * np.abs(end), end) for end in (least, most))
            lowest, highest = beyond(least, most, reach)
            free = (statistics.period > 0) & (highest - lowest >= statistics.period)
            buffers["lowest"] = np.where(free, -LARGEST, np.maximum(lowest, -LARGEST))
            buffers["highest"] = np.where(free, LARGEST, np.minimum(highest, LARGEST))
        values = {name: torch.from_numpy(np.asarray(value)) for name, value in buffers.items()}
        normalizer.load_state_dict(normalizer.state_dict() | values)
        return normalizer

    @property
    def limited(self) -> bool:
        """Whether values of any dimension are kept within limits."""
        return bool((self.highest < LARGEST).any())

    @overload
    def apply(self, values: Float[Tensor, "*batch D"]) -> Float32[Tensor, "*batch D"]: ...

    @overload
    def apply(self, values: Callable[[nn.Module], None]) -> "Normalizer": ...

    def apply(self, values: Tensor | Callable[[nn.Module], None]) -> "Tensor | Normalizer":
        """Data units to unitless; given a function, what nn.Module.apply does when it walks a model with this in it."""
        if not isinstance(values, Tensor):
            return super().apply(values)
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        offset, scale, period, center, lowest, highest = (
            buffer.to(dtype)
            for buffer in (self.offset, self.scale, self.period, self.center, self.lowest, self.highest)
        )
        values = _turned(values.to(dtype), period, center, torch.round).clamp(lowest, highest)
        values = torch.where(self.companded, values.abs().sqrt().copysign(values), values)
        return torch.where(self.constant, 0.0, (values - offset) / scale).float()

    def undo(self, values: Float[Tensor, "*batch D"], *, limited: bool = True) -> Float64[Tensor, "*batch D"]:
        """Unitless to data units; not `limited`: beyond the limits too, where an answer would have no gradient."""
        values = torch.where(self.constant, self.offset, values.double() * self.scale + self.offset)
        values = torch.where(self.companded, values * values.abs(), values)
        values = values.clamp(self.lowest, self.highest) if limited else values
        return torch.where(self.constant, self.offset, _turned(values, self.period, self.low, torch.floor))


class Scaled(nn.Module):
    """What has a normaliser for each stream of data that it is given or answers."""

    normalizer: nn.ModuleDict

    def normalizer_of(self, stream: str) -> Normalizer:
        """The normaliser of `actions`, `state` or a sensor stream."""
        normalizer = self.normalizer[stream]
        assert isinstance(normalizer, Normalizer)
        return normalizer

    def normalize(self, stream: str, values: Float[Tensor, "*batch D"]) -> Float32[Tensor, "*batch D"]:
        """Data units to unitless."""
        return self.normalizer_of(stream).apply(values)

    def open_undo(self, stream: str, values: Float[Tensor, "*batch D"]) -> Float64[Tensor, "*batch D"]:
        """Unitless to data units, within no limits."""
        return self.normalizer_of(stream).undo(values, limited=False)

    def unitless(self, stream: str, values: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """As `normalize`; a stream that the data do not have stays the empty one it is."""
        return self.normalize(stream, values) if stream in self.normalizer else values


def _turned(
    values: Float[Tensor, "*batch D"],
    period: Float[Tensor, " D"],
    start: Float[Tensor, " D"],
    whole: Callable[[Tensor], Tensor],
) -> Float[Tensor, "*batch D"]:
    """The values less the whole part of their number of periods from a start; as they are where there is no period."""
    periods = whole((values - start) / torch.where(period > 0, period, 1.0))
    return torch.where(period > 0, values - periods * period, values)
