"""How far joint angles are off that a policy of motion and forces makes, in degrees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vla.forces import continue_motion, sample_motion
from vla.motion.body import Body
from vla.motion.kinetics import is_residual
from vla.sampling import Mover


@dataclass(frozen=True, kw_only=True)
class Angles:
    """Root mean squares over frames of what is said less what was measured, degrees."""

    rmse_deg: float
    """Over all angles."""
    joints: Mapping[str, float]
    """Of each angle."""
    frames: int


def places_of(body: Body) -> list[int]:
    """Which coordinates of a body are angles."""
    return [place for place, unit in enumerate(body.units[: len(body.joints)]) if unit == "rad"]


def apart(body: Body, said: Float[np.ndarray, "T C"], true: Float[np.ndarray, "T C"]) -> Angles:
    """How far rows of coordinates are from others."""
    places = places_of(body)
    off = np.degrees(np.asarray(said, np.float64) - np.asarray(true, np.float64))[:, places]
    each = np.sqrt((off**2).mean(axis=0))
    named = {body.joints[place]: float(value) for place, value in zip(places, each, strict=True)}
    return Angles(rmse_deg=float(np.sqrt((off**2).mean())), joints=named, frames=len(off))


def longest(known: Bool[np.ndarray, " T"]) -> slice:
    """The longest run of frames that are known; empty where none is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    return slice(*max(runs, key=lambda run: run[1] - run[0], default=(0, 0)))


def from_forces(
    policy: Mover, rows: Float[np.ndarray, "T A"], known: Bool[np.ndarray, " T"], **how: Any
) -> Angles | None:
    """How far a motion is off that is made of its measured forces, of the longest run of frames where those are known.

    What is said is the mean of the samples; `how` as of `vla.forces.sample_motion`. None where nothing was measured,
    and of a policy that models what forces are beyond m (a + g), which the motion says.
    """
    body = policy.contract.body
    assert body is not None, "asked of a policy of motion"
    given, run = len(body.joints), rows[longest(known)]
    if rows.shape[1] == given or not len(run) or is_residual(body):
        return None
    return apart(body, sample_motion(policy, run[:, given:], **how).mean(axis=0), run[:, :given])


def continued(policy: Mover, rows: Float[np.ndarray, "T A"], **how: Any) -> Angles | None:
    """How far the second halves of a motion's windows are off that are made of the first; None of a short motion."""
    body = policy.contract.body
    assert body is not None, "asked of a policy of motion"
    begins, made = continue_motion(policy, rows, **how)
    if not begins:
        return None
    said = made.mean(axis=0)
    true = np.stack([rows[begin : begin + said.shape[1], : said.shape[2]] for begin in begins])
    return apart(body, said.reshape(-1, said.shape[2]), true.reshape(-1, said.shape[2]))
