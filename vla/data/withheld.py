"""A root without some of what it records: the control that shows what an input is worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vla.data.episode import Episode, Layout, Reader


@dataclass(frozen=True)
class WithoutState:
    """A reader whose episodes have no state."""

    reader: Reader

    @property
    def layout(self) -> Layout:
        """That of the root, with a state of width 0."""
        return replace(self.reader.layout, state_dim=0, state_names=(), state_units=())

    @property
    def sources(self) -> Sequence[Path]:
        """Those of the root."""
        return self.reader.sources

    @cached_property
    def episodes(self) -> Sequence[Episode]:
        """Those of the root."""
        return tuple(replace(episode, state=None) for episode in self.reader.episodes)

    def __reduce__(self) -> tuple[type["WithoutState"], tuple[Reader]]:
        """As the reader within, which opens again where it is unpickled."""
        return WithoutState, (self.reader,)
