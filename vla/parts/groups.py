"""The group of parameters that each parameter of a policy is trained with, by its name."""

from collections.abc import Collection

from vla.adapters.host import UPDATES
from vla.parts import PARTS, row_of

FROZEN = "frozen"
"""The group of the pretrained weights that no stage trains."""


def group_of(parameter: str, tail: Collection[str]) -> str:
    """The group a parameter belongs to; `tail` names the backbone parameters that the stage opens."""
    part = row_of(parameter)
    if UPDATES in parameter:
        return "adapter"
    if part == "backbone":
        return "lora" if "lora_" in parameter else "backbone" if parameter in tail else FROZEN
    if part != "expert" and part not in PARTS:
        raise ValueError(f"parameter {parameter!r} belongs to no group; give its part a row of vla.parts.PARTS")
    return part if part == "expert" else PARTS[part].group
