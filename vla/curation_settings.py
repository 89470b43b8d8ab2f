"""What can be set of curation; nothing heavy is imported here, so that help answers at once."""

import math
from dataclasses import dataclass, field

from vla.critic_settings import CriticConfig

SHORTEST_S, LONGEST_S = 1.0, 20.0
"""Of a motion, unless others are given; episodes of robots may be of any length."""

SHARES = (
    "max_artifact", "min_realism_pretrain", "min_realism_sft", "min_quality_pretrain", "min_quality_sft",
    "min_camera_stability_sft", "balance_max_fraction", "source_max_fraction",
)  # fmt: skip
"""Settings from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class RobotConfig:
    """From where on something is wrong with an episode of a robot."""

    max_jump: float = 5.0
    """Largest step of a dimension of the actions, in those usual in these data, > 1."""
    max_frozen: float = 0.5
    """Share of an episode in which state or a sensor may stand still at a stretch while others move, 0 to 1."""
    max_clipped: float = 0.05
    """Share of a sensor's samples that may stay at the channel's end, 0 to 1."""
    min_seen: float = 0.9
    """Share of the frames in which a camera has to show something, 0 to 1."""

    def __post_init__(self) -> None:
        if not 1 < self.max_jump < math.inf:
            raise ValueError(f"--robot.max-jump is {self.max_jump:g}; give a number above 1")
        for name in ("max_frozen", "max_clipped", "min_seen"):
            check_share(f"robot.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class CurationConfig:
    """What is kept, and for what."""

    min_seconds: float | None = None
    """Shortest clip, > 0; None: 1 of human motion, any of robots."""
    max_seconds: float | None = None
    """Longest clip; None: 20 of human motion, any of robots."""
    max_artifact: float = 0.5
    """Largest share of faults (vla/critic/quality.py), 0 to 1; of human motion, as all up to the camera's stability."""
    min_realism_pretrain: float = 0.3
    """Least realism for pre-training, 0 to 1."""
    min_realism_sft: float = 0.6
    """Least realism for fine-tuning, at least that for pre-training."""
    min_quality_pretrain: float = 0.5
    """Least combined quality for pre-training, 0 to 1."""
    min_quality_sft: float = 0.8
    """Least combined quality for fine-tuning, at least that for pre-training."""
    min_camera_stability_sft: float = 0.6
    """Least stability of a drawing's camera for fine-tuning, 0 to 1; a clip without a camera passes."""
    balance_max_fraction: float = 0.3
    """Share of a split that clips of one action may be, > 0; 1: any."""
    source_max_fraction: float = 0.4
    """Share of a split that clips of one source may be, > 0; 1: any."""
    held_out: float = 0.1
    """Share of the subjects that go into neither split but are held out, 0 <= share < 1."""
    seed: int = 0
    """Which subjects these are."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """What is wrong with a motion."""
    robot: RobotConfig = field(default_factory=RobotConfig)
    """What is wrong with an episode of a robot."""

    def __post_init__(self) -> None:
        for name in ("min_seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} is {value:g}; give a positive number of seconds")
        for least, most in (self.seconds(motion=True), self.seconds(motion=False)):
            if least is not None and most is not None and most < least:
                raise ValueError(
                    f"--min-seconds and --max-seconds want {least:g} s at least and {most:g} s at most: give more room"
                )
        for name in SHARES:
            check_share(name, getattr(self, name), positive=name.endswith("_fraction"))
        if not 0 <= self.held_out < 1:
            raise ValueError(f"--held-out is {self.held_out:g}; give 0 or more, and less than 1, which leaves nothing")
        for name in ("realism", "quality"):
            least, better = getattr(self, f"min_{name}_pretrain"), getattr(self, f"min_{name}_sft")
            if better < least:
                raise ValueError(
                    f"--min-{name}-sft is {better:g}, below --min-{name}-pretrain ({least:g}): fine-tuning takes of "
                    "what pre-training has, so give as much or more"
                )

    def seconds(self, *, motion: bool) -> tuple[float | None, float | None]:
        """How short and how long a clip of human motion may be, or an episode of a robot; None: as it likes."""
        usual = (SHORTEST_S, LONGEST_S) if motion else (None, None)
        given = self.min_seconds, self.max_seconds
        least, most = (mine if mine is not None else other for mine, other in zip(given, usual, strict=True))
        return least, most


def check_share(name: str, value: float, *, positive: bool = False) -> None:
    """Refuse what is no share (ValueError)."""
    flag = f"--{name.replace('_', '-')}"
    if positive and not 0 < value <= 1:
        raise ValueError(f"{flag} is {value:g}; give a share above 0 and at most 1")
    if not 0 <= value <= 1:
        raise ValueError(f"{flag} is {value:g}; give 0 to 1")
