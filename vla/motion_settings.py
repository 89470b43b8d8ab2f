"""What can be set of human motion; nothing heavy is imported here, so that help answers at once."""

import math
from dataclasses import dataclass
from typing import Literal

Representation = Literal["auto", "rotations", "positions"]
Axis = Literal["x", "y", "z"]
Forces = Literal["none", "total", "residual", "feet"]
"""Which forces a policy models beside the coordinates of a model: none, their sum, that less the vertical m (a + g) of
the pelvis, or those under each foot."""
LabelName = Literal["action", "physics"]
"""What is said of each frame of a motion: the number of the action it shows, and quantities such as velocities."""
StyleName = Literal["tempo", "energy_level", "smoothness", "valence", "arousal"]
"""Numbers that are said of a whole clip (vla/motion/style.py)."""


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """The style encoder has no settings: its token is as wide as the expert."""


@dataclass(frozen=True, kw_only=True)
class MotionFiles:
    """What files of human motion may leave unsaid."""

    up: Axis | None = None
    """Axis that points up in the files; None: what they say, or their skeleton at rest."""
    unit: Literal["m", "dm", "cm", "mm", "in", "ft"] | None = None
    """Of lengths in files that do not say it."""
    angles: Literal["deg", "rad"] | None = None
    """Of angles in files that do not say it."""
    source_rate_hz: float | None = None
    """Frames a second of files that do not say it."""

    def __post_init__(self) -> None:
        if self.source_rate_hz is not None and not 0 < self.source_rate_hz < math.inf:
            raise ValueError(
                f"--data.motion.source-rate-hz is {self.source_rate_hz}; give a positive number of frames a second"
            )


@dataclass(frozen=True, kw_only=True)
class NamedMotionFiles(MotionFiles):
    """The same of files that are to become a body which is decided already."""

    joints: tuple[str, ...] = ()
    """Joints that no rule finds by name: `left_hip=j2`."""
    pictures: str | None = None
    """Folder of pictures of the clips of a list, sample_000000/actor_0/metadata.json and so on; None: none."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig(MotionFiles):
    """How clips of human motion become episodes; of other data it says nothing."""

    rate_hz: float = 20.0
    """Frames a second, whatever the clips have."""
    representation: Representation = "auto"
    """rotations: turns of joints, bones keep their length. positions: places. auto: rotations where all have them."""
    joints: tuple[str, ...] = ()
    """none: the 15 joints that most skeletons share; `left_hip=j2` names one of them. all: the skeleton's own."""
    pictures: str | None = None
    """Folder of pictures of the clips of a list, sample_000000/actor_0/metadata.json and so on; None: none."""
    forces: Forces = "none"
    """Of trials with coordinates and forces, what is modelled beside the motion: total, the sum of all plates or feet;
    residual, that less the vertical m (a + g) of the pelvis, which the motion says; feet, that under each foot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate_hz < math.inf:
            raise ValueError(f"--data.motion.rate-hz is {self.rate_hz}; give a positive number of frames a second")
