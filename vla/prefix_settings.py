"""What can be set of the prefix cache; nothing heavy is imported here, so that help answers at once."""

from dataclasses import dataclass
from typing import Literal

DoorName = Literal["none", "auto", "frames", "vision", "layer", "context"]
Precision = Literal["fp32", "bf16", "int8"]


DOORS: tuple[DoorName, ...] = ("frames", "vision", "layer", "context")
"""In the order in which a sample passes them."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """A place in the policy where what is known of a sample can be kept."""

    name: DoorName
    layer: int | None = None
    """Of the language model, that reads what is kept: of the door `layer` alone."""

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}-{self.layer}"

    @property
    def depth(self) -> tuple[int, int]:
        """The greater, the later a sample passes it."""
        return DOORS.index(self.name), self.layer or 0


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """What is computed of each sample once and kept on disk, because nothing that learns lies before it."""

    door: DoorName = "none"
    """Behind which a stage begins: resized frames, the vision tower, the layers below the first that learns, or the
    whole backbone; auto: the deepest before all that the stage trains. What is missing is computed as it begins."""
    path: str = ""
    """Folder of the kept records; empty: the cache of this user."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Of a kept number; auto: of the run's arithmetic. int8 keeps a scale for each token."""
