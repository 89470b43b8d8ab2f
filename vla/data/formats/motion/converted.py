"""What is kept of a clip beside its numbers, or of a file that gives none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla.motion.body import Body
from vla.motion.clip import Scene


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What is kept of a clip beside its rows."""

    name: str
    place: str
    """Of its file."""
    texts: tuple[str, ...]
    frames: int
    invalid: tuple[int, ...]
    """Rows of frames that were not measured."""
    offsets: tuple[float, ...]
    facts: Mapping[str, Any]
    remarks: tuple[str, ...]
    body: Body
    left_out: tuple[str, ...]
    moved_m: float
    columns: tuple[str, ...]
    """Those kept beside its rows, in this order."""
    scene: Scene | None


@dataclass(frozen=True, kw_only=True)
class Unread:
    """What is kept of a file without a body."""

    place: str
    reason: str
