"""Whether weights of what a motion is trained for fit the data."""

from collections.abc import Mapping
from typing import get_args

from vla.motion.body import Body
from vla.motion.representation import feet_of
from vla.motion_settings import LabelName


def switched_off(weights: Mapping[str, float]) -> str:
    """The flags that weigh nothing."""
    return " ".join(f"--stage.objective.motion.{name} 0" for name in weights)


def check_motion(weights: Mapping[str, float], body: Body) -> None:
    """Refuse weights of what a body does not have (ValueError)."""
    if weights and body.kind == "coordinates":
        raise ValueError(
            f"--stage.objective.motion.{next(iter(weights))} needs joints in space, which coordinates of a model do "
            f"not say: give {switched_off(weights)}"
        )
    if "bones" in weights and body.kind == "rotations":
        raise ValueError(
            "--stage.objective.motion.bones has no effect on rotations, whose bones keep their length: set it to 0"
        )
    if "feet" in weights and not (body.feet or feet_of(body.joints)):
        raise ValueError(
            f"--stage.objective.motion.feet needs joints of feet among {' '.join(body.joints)}: set it to 0"
        )


def check_labelled(weights: Mapping[str, float], labels: Mapping[str, int]) -> None:
    """Refuse labels without a weight, whose head would learn nothing, and weights without their labels (ValueError)."""
    for name in get_args(LabelName):
        if name in labels and name not in weights:
            raise ValueError(
                f"--data.labels {name} is chosen but not trained: give --stage.objective.motion.{name} 0.1 or another "
                "weight, or leave it out"
            )
        if name in weights and name not in labels:
            raise ValueError(
                f"--stage.objective.motion.{name} needs what the data say of it: give --data.labels {name}, or leave "
                "it out"
            )
