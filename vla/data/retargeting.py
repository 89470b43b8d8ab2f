"""Motions shown on other skeletons of the data, so that what is done is not tied to who was recorded doing it.

An action that one body alone shows is otherwise learned as a matter of that skeleton: asked for on another one, a
policy does something else. Turns are kept and lengths grow with the legs, as retargeting usually begins (Gleicher
1998): a step is then as long as the leg that takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from vla.batch import Sample
from vla.data.episode import Episode, Reader
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.motion.skeleton import reach
from vla.randomness import derive

LENGTHS = ("m", "mps")
"""Units of the numbers that grow with a body."""


@dataclass(frozen=True, kw_only=True)
class Skeletons:
    """Those of some clips whose rows are turns."""

    offsets: Float32[np.ndarray, "S P"]
    """As a policy sees them, each once."""
    legs: Float64[np.ndarray, " S"]
    """From root to foot, m."""
    lengths: Bool[np.ndarray, " A"]
    """Which numbers of a row are lengths, or lengths a second."""
    body: Body

    @staticmethod
    def of(episodes: Sequence[Episode], body: Body) -> "Skeletons":
        """Those of some clips, of the kind rotations."""
        states = [episode.state.values[0] for episode in episodes if episode.state is not None]
        offsets = np.unique(np.asarray(states, dtype=np.float32), axis=0)
        legs = np.array([leg_m(body, own) for own in offsets])
        return Skeletons(offsets=offsets, legs=legs, lengths=np.isin(body.units, LENGTHS), body=body)

    def __len__(self) -> int:
        return len(self.offsets)

    def shown(
        self, rows: Float[np.ndarray, "T A"], offsets: Float[np.ndarray, " P"], chosen: int
    ) -> tuple[Float[np.ndarray, "T A"], Float32[np.ndarray, " P"]]:
        """The rows of a motion on one of these instead of the skeleton that it has, and that one's offsets."""
        scale = np.where(self.lengths, self.legs[chosen] / leg_m(self.body, offsets), 1.0)
        return (rows * scale).astype(rows.dtype), self.offsets[chosen].copy()


def moves_of(reader: Reader, episode: Episode, skeletons: Skeletons | None = None, chosen: int | None = None) -> Moves:
    """A clip as a motion, on its own skeleton or on a chosen one."""
    body, rows = reader.layout.body, np.asarray(episode.actions.values)
    assert body is not None, "clips of motion have a body"
    offsets = None if episode.state is None else episode.state.values[0]
    if skeletons is not None and chosen is not None and offsets is not None:
        rows, offsets = skeletons.shown(rows, offsets, chosen)
    if offsets is not None:
        offsets = np.concatenate([np.zeros((1, 3), np.float32), offsets.reshape(-1, 3)])
    return Moves(rows=rows, body=body, offsets=offsets, rate_hz=reader.layout.fps)


@dataclass(frozen=True, kw_only=True)
class Retargeting:
    """A share of the samples is shown on a skeleton that follows from the seed and the sample's position."""

    skeletons: Skeletons
    share: float
    seed: int

    def __call__(self, sample: Sample) -> Sample:
        """The sample, or the same one on another skeleton."""
        draw = derive(self.seed, "data/retarget", sample.position)
        if sample.weight == 0 or draw.random() >= self.share:
            return sample
        rows, offsets = self.skeletons.shown(sample.actions, sample.state, int(draw.integers(len(self.skeletons))))
        return replace(sample, state=offsets, actions=rows)


def leg_m(body: Body, offsets: Float[np.ndarray, " P"]) -> float:
    """How long a skeleton is from its root to a foot, in the mean of its feet, m; all its bones where it has none.

    `offsets` are those of all joints but the root, as a policy sees them.
    """
    bones = np.linalg.norm(np.asarray(offsets, dtype=np.float64).reshape(-1, 3), axis=1)
    whole = np.concatenate([[0.0], bones])  # the root has none
    found = [reach(body.parents, whole, body.joints.index(foot)) for foot in body.feet]
    return float(np.mean(found)) if found else float(bones.sum())
