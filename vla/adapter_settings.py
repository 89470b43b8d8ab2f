"""What can be set of adapters; nothing heavy is imported here, so that help answers at once."""

import re
from dataclasses import dataclass

ATTENTION = r"expert\.blocks\.\d+\..*attention\.(query|key_value|out)"
"""The linear layers of the expert's attention, to the chunk itself and to the context."""
LAYERS = re.compile(r"all|top:[1-9]\d*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What an adapter may be called: it is a folder, and a part of the names of its weights."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Size and regularisation of an adapter."""

    rank: int = 16
    """Rank of each update, at least 1."""
    alpha: int = 32
    """The update is scaled by alpha / rank."""
    dropout: float = 0.05
    """Share of the adapter's inputs dropped in training, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ValueError(f"LoRA of rank {self.rank} and alpha {self.alpha} cannot learn; give 1 or more for both")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout is {self.dropout}; give a share from 0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class LoraConfig(LowRank):
    """The adapter of a backbone's language model."""

    layers: str = "all"
    """Which have it: all, or the upper K of them, `top:K`; below the first nothing is kept for backward, and what it
    reads can be kept from before (--cache.door)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not LAYERS.fullmatch(self.layers):
            raise ValueError(f"--lora.layers is {self.layers}: give all, or the upper K layers as top:K")

    def chosen(self, count: int) -> range:
        """The layers that have it, of so many (ValueError where there are fewer)."""
        upper = count if self.layers == "all" else int(self.layers.removeprefix("top:"))
        if upper > count:
            raise ValueError(f"--lora.layers is {self.layers}, and there are {count} layers: give at most top:{count}")
        return range(count - upper, count)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(LowRank):
    """A named adapter of a frozen policy."""

    name: str = "adapter"
    """What it is called: letters, digits, - and _."""
    targets: tuple[str, ...] = (ATTENTION,)
    """Regular expressions; linear layers whose whole name one of them matches are adapted, and each matches some."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not NAME.fullmatch(self.name):
            raise ValueError(f"an adapter cannot be called {self.name!r}; give a name of letters, digits, - and _")
        if not self.targets:
            raise ValueError("an adapter of no layer cannot learn; give --adapter.targets a regular expression")
        for target in self.targets:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(
                    f"--adapter.targets {target} is no regular expression ({error}); correct it"
                ) from error
