"""What is read of a root, and who hears of what is wrong with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vla.data.episode import ACTION, STATE
from vla.motion_settings import MotionConfig
from vla.names import ranges
from vla.settings import Pairing

Problems = Callable[[ValueError], None]
"""Told of every problem; raises at the first one, or collects them, and what is damaged is left out."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is read of a root."""

    episodes: tuple[int, ...] = ()
    """Indices; none: all."""
    without: tuple[int, ...] = ()
    """Indices of episodes to leave out; one that is not there is passed over."""
    cameras: tuple[str, ...] = ()
    """Feature keys or their last parts, in this order; none: all."""
    depth: tuple[str, ...] = ()
    """Those of them that are read as depth, and between which distances, `wrist_depth=0.2:1.5`; others are left out."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """Whether an episode without one of the cameras is a problem."""
    sensor: tuple[str, ...] = ("auto",)
    """Feature keys of the sensor streams or their last parts, in this order; auto: the only one; none: no sensor."""
    columns: tuple[str, ...] = ()
    """Feature keys of what the episodes give beside actions, state and sensors."""
    state_key: str = STATE
    """Feature key of the state; where there is none of the usual name, there is no state."""
    action_key: str = ACTION
    """Feature key of the actions."""
    dims: tuple[str, ...] = ()
    """Dimensions of the actions and the state, `action=0,1,gripper`; none: all."""
    angles: tuple[str, ...] = ()
    """Dimensions of the actions that are angles which wrap, and their units, `yaw=rad`, beside those that say so."""
    pairing: Pairing = "auto"
    """How rows and frames of a video belong together (vla/data/pairing.py)."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """How clips of human motion become episodes."""
    withhold_state: bool = False
    """Whether a state that may have another key is no problem, since it is not wanted."""
    carry: bool = False
    """Whether episodes also give the columns that nobody looks at, as they are stored, for a copy."""
    keep_damaged: bool = False
    """Whether a damaged video is no problem until one of its frames is read."""


EVERYTHING = Selection()


def remark_left_out(indices: Sequence[int]) -> list[str]:
    """That episodes were left out by request."""
    return [f"episodes left out: {ranges(indices)}"] if indices else []


def refuse(problem: ValueError) -> None:
    """Raise the first problem."""
    raise problem


def check_left_out(left_out: Mapping[str, Sequence[int]], without: Sequence[int]) -> None:
    """Refuse to leave out an episode that no root has, given those that each has left out (ValueError)."""
    if unknown := sorted(set(without) - {index for own in left_out.values() for index in own}):
        raise ValueError(
            f"{' and '.join(left_out)} {'have' if len(left_out) > 1 else 'has'} no episode {ranges(unknown)} to leave "
            "out: correct --data.without"
        )
