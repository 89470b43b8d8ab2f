"""A text a frame: what the robot is asked to do may change within an episode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, kw_only=True)
class Texts:
    """A text a frame; each different one is held once."""

    different: tuple[str, ...]
    """In the order in which they first occur; at least one."""
    places: Int64[np.ndarray, " N"]
    """Of each frame's text, among the different ones."""

    @staticmethod
    def throughout(text: str, frames: int) -> "Texts":
        """One text for all frames."""
        return Texts(different=(text,), places=np.zeros(frames, np.int64))

    @staticmethod
    def of(texts: Sequence[str]) -> "Texts":
        """One text each; at least one."""
        known = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return Texts(different=tuple(known), places=np.array([known[text] for text in texts], np.int64))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, frame: int) -> str:
        """The text of a frame."""
        return self.different[int(self.places[frame])]

    def at(self, frames: Int64[np.ndarray, " M"]) -> "Texts":
        """Those of some frames; at least one."""
        if len(self.different) == 1:
            return Texts(different=self.different, places=self.places[frames])
        return Texts.of([self[frame] for frame in frames.tolist()])
