"""How far a motion is from another, in SI units: what a policy may be trained for beside the error of its numbers.

Each is the mean, over the frames that are no padding and the joints, of a squared distance. A difference over time
counts where every frame that it takes is no padding. Labels of frames have terms of their own, of which none is in SI.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla.motion.body import Body
from vla.motion.representation import Motion, contacts_of, feet_of
from vla.motion.skeleton import index_of


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A motion that a policy says, and the true one; N rows."""

    body: Body
    rate_hz: float
    said: Motion
    true: Motion
    valid: Bool[Tensor, "N T"]


def joints(pair: Pair) -> Float[Tensor, " N"]:
    """Where joints are, from the ground below the root and in the frame of the heading, m^2."""
    return _mean((pair.said.seen - pair.true.seen).square().sum(dim=-1), pair.valid)


def velocity(pair: Pair) -> Float[Tensor, " N"]:
    """How fast joints move in space, (m/s)^2."""
    error = (pair.said.positions - pair.true.positions).diff(dim=1) * pair.rate_hz
    return _mean(error.square().sum(dim=-1), pair.valid[:, 1:] & pair.valid[:, :-1])


def acceleration(pair: Pair) -> Float[Tensor, " N"]:
    """How their velocity changes, (m/s^2)^2."""
    error = (pair.said.positions - pair.true.positions).diff(n=2, dim=1) * pair.rate_hz**2
    return _mean(error.square().sum(dim=-1), pair.valid[:, 2:] & pair.valid[:, 1:-1] & pair.valid[:, :-2])


def bones(pair: Pair) -> Float[Tensor, " N"]:
    """How long bones are, m^2; of rotations they are what they are."""
    parents = index_of(tuple(max(parent, 0) for parent in pair.body.parents), pair.valid.device)

    def lengths(motion: Motion) -> Tensor:
        # A root has no bone; nor a gradient that is not finite, as the root of a sum that is zero would have.
        ways = (motion.seen - motion.seen.index_select(-2, parents))[..., 1:, :]
        return (ways.square().sum(dim=-1) + 1e-12).sqrt()

    return _mean((lengths(pair.said) - lengths(pair.true)).square(), pair.valid)


def feet(pair: Pair) -> Float[Tensor, " N"]:
    """How fast feet move that should stand, (m/s)^2: the mean over all feet, of which those in the air count 0."""
    names = pair.body.feet or feet_of(pair.body.joints)
    places = index_of(tuple(map(pair.body.joints.index, names)), pair.valid.device)
    truth = pair.true.positions.index_select(2, places)
    stands = pair.true.contacts > 0.5 if pair.body.feet else contacts_of(truth, pair.rate_hz)
    speed = (pair.said.positions.index_select(2, places).diff(dim=1) * pair.rate_hz).square().sum(dim=-1)
    return _mean(speed * stands[:, :-1], pair.valid[:, 1:] & pair.valid[:, :-1])


TERMS: Mapping[str, Callable[[Pair], Float[Tensor, " N"]]] = {
    "joints": joints,
    "velocity": velocity,
    "acceleration": acceleration,
    "bones": bones,
    "feet": feet,
}
"""By the name of their weight."""


def cross_entropy(
    said: Float[Tensor, "N T C"], true: Float[Tensor, "N T 1"], valid: Bool[Tensor, "N T"]
) -> Float[Tensor, " N"]:
    """How surprising the class of a frame is, nat; `said` are the logarithms of probabilities, up to a constant."""
    nats = torch.nn.functional.cross_entropy(said.transpose(1, 2), true[..., 0].long(), reduction="none")
    return _mean(nats[..., None], valid)


def squared_error(
    said: Float[Tensor, "N T C"], true: Float[Tensor, "N T C"], valid: Bool[Tensor, "N T"]
) -> Float[Tensor, " N"]:
    """How far values are from the true ones, squared, in the square of their unit."""
    return _mean((said - true).square(), valid)


def _mean(errors: Float[Tensor, "N T J"], valid: Bool[Tensor, "N T"]) -> Float[Tensor, " N"]:
    """Over the valid frames of each row and its joints; 0 where a row has none."""
    count = valid.sum(dim=1).clamp(min=1) * errors.shape[2]
    return torch.where(valid[..., None], errors, 0).sum(dim=(1, 2)) / count
