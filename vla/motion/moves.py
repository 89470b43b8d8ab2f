"""A motion as rows of numbers, on its way to files and pictures."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from vla.motion.body import Body
from vla.motion.clip import Coordinates, Points, Poses
from vla.motion.drawing import Figure
from vla.motion.representation import Motion, decode, decode_coordinates
from vla.motion.rotations import quaternions
from vla.motion.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class Moves:
    """The rows of a motion and what they mean, as data give it or a policy makes it."""

    rows: Float32[np.ndarray, "T A"]
    """In the data's units."""
    body: Body
    offsets: Float32[np.ndarray, "J 3"] | None
    """Of its skeleton's joints, m; None where it has none."""
    rate_hz: float
    text: str = ""
    """What it shows, or is called."""

    def motion(self) -> Motion:
        """Its joints in space."""
        offsets = None if self.offsets is None else torch.tensor(self.offsets, dtype=torch.float64)
        return decode(self.body, torch.tensor(self.rows, dtype=torch.float64), offsets, self.rate_hz)

    def clip(self) -> Poses | Points | Coordinates:
        """It as clips are, to be written or measured."""
        if self.body.kind == "coordinates":
            rows = torch.tensor(self.rows, dtype=torch.float64)
            values = decode_coordinates(self.body, rows, self.rate_hz)
            return Coordinates(names=self.body.joints, values=values.numpy())
        motion, body = self.motion(), self.body
        if motion.turns is None or self.offsets is None:
            places = motion.positions[..., : 2 if body.kind == "plane" else 3]
            return Points(names=body.joints, parents=body.parents, values=places.numpy())
        skeleton = Skeleton(names=body.joints, parents=body.parents, offsets=self.offsets.astype(np.float64))
        turns = quaternions(motion.turns).numpy()
        return Poses(skeleton=skeleton, root=motion.positions[:, 0].numpy(), turns=turns)

    def figure(self, title: str = "") -> Figure:
        """It as it is drawn."""
        places = self.motion().positions[..., : 2 if self.body.kind == "plane" else 3].numpy()
        return Figure(
            positions=places,
            parents=self.body.parents,
            names=self.body.joints,
            rate_hz=self.rate_hz,
            title=title or self.text,
        )
