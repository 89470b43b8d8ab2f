"""What a policy asks of its backbone, and what is to be known of a kind of backbone before its weights are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.adapters.layer import Blend
from vla.batch import Observation
from vla.frames import Size
from vla.parts.memory import Memory
from vla.settings import BackboneConfig, PoolingName


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a backbone has read of a batch, as the host counts it."""

    tokens: tuple[int, ...]
    """Of each sample, those of the images among them."""
    length: int
    """Of each sample once it is padded."""
    grids: tuple[tuple[int, int, int], ...]
    """Time steps, rows and columns of patches of each image, as many of each sample."""
    first: int
    """The layer that read first: what lies before it was known."""


class Backbone(nn.Module, ABC):
    """Turns an instruction, and the frames where it looks at any, into the first tokens of the context."""

    def __init__(self, config: BackboneConfig, folder: Path, width: int) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.width = width
        """Of its tokens."""
        self.blend = Blend()
        """Of the adapters of the policy that it is a part of."""

    prompt: str
    """What it is given to read, in words."""
    num_apart: int = 0
    """Parameters beside those of its module: nothing trains, shards or stores them."""

    on_read: Callable[[Read], None] | None = None
    """Told of every batch that a language model is given; None: nobody asks."""

    @property
    @abstractmethod
    def size(self) -> Size | None:
        """In what size it looks at a camera's frame; None: it looks at none."""

    @abstractmethod
    def forward(
        self, observation: Observation, memory: Memory | None = None, /
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Context tokens and which of them may be looked at; the others are zero.

        Frames that a memory knows are not looked at again, where it looks at any.

        Raises:
            ValueError: an instruction cannot be meant.
        """

    @abstractmethod
    def last_layer_names(self, count: int) -> set[str]:
        """Names of the parameters of its last blocks, adapters left out.

        Raises:
            ValueError: it has fewer that can be trained, or `count` is below 1.
        """


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of backbone."""

    words: str
    """What one is, for a sentence."""
    sees: bool
    """Whether it looks at frames and has a language model that can be trained."""
    settings: frozenset[str]
    """Of BackboneConfig, those that it obeys beside the path."""
    check: Callable[[Path], None]
    """Refuse a folder of this kind that is not complete (ValueError)."""
    width: Callable[[Path], int]
    """Of its tokens, by the folder's configuration alone."""
    reading: Callable[[Path, PoolingName], str] = lambda *_: ""
    """What decides its tokens beside the folder's files and weights, in words (ValueError where that is open)."""
    load: Callable[[BackboneConfig, Path, torch.dtype], Backbone]
    """The backbone of a complete folder, frozen and in eval mode, with weights of this type."""
