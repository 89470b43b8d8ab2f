"""Forces that a policy of motion and forces samples of a motion alone, and motions that it samples of forces.

What is known is put in its place at every step of the sampling (inpainting by dimension, or by time), and the rest is
made; each sample is one way it may have been.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from vla.diffusion import Known
from vla.motion.body import Body
from vla.motion.kinetics import is_residual, taken
from vla.randomness import derive
from vla.sampling import Asked, Mover, body_of, check_asked, check_made, observation, style_for

APART = 0.25
"""Of a window, by how much the next one begins later."""
TOGETHER = 64
"""Windows that are sampled at once."""
ALWAYS = 1 - 2**-20
"""A draw at which a policy shows a motion as it is only where it does so at nearly all of them."""


@dataclass(frozen=True, kw_only=True)
class Inpainting:
    """What is asked of a policy of motion and forces."""

    policy: Mover
    body: Body
    asked: Asked
    n: int
    seed: int
    steps: int | None


def body_with_forces(policy: Mover) -> Body:
    """What the actions of a policy mean. ValueError where no force is among them."""
    if policy.contract.body is None or not policy.contract.body.forces:
        raise ValueError("this policy models no forces: train one on trials with forces and --data.motion.forces total")
    return body_of(policy)


def check_makes_motion(policy: Mover) -> None:
    """Refuse a policy that has learned no motion, as it was always shown it beside forces (ValueError)."""
    shown = policy.given(torch.full((1,), ALWAYS, device=policy.device))
    if shown is not None and bool(shown.any()):
        raise ValueError(
            "this policy makes no motion, as training always showed it (--diffusion.given 1): train one with "
            "--diffusion.given 0.5"
        )


def sample_forces(
    policy: Mover,
    motion: Float[np.ndarray, "T C"],
    *,
    weight_n: float | None = None,
    text: str = "",
    n: int = 16,
    seed: int = 0,
    steps: int | None = None,
) -> Float64[np.ndarray, "n T F"]:
    """Forces of a motion, N, in n ways; `policy.set_mode(training=False)` first.

    `motion` is the rows of a trial in the data's units, of which the coordinates alone are looked at, one row a frame
    at the policy's rate. Windows begin a quarter of a window after one another, and where they overlap their samples
    are averaged, each the more the farther it is from its window's ends. Sample k follows from (seed, k), whatever n.
    A policy that models what forces are beyond m (a + g) of the pelvis needs the weight, N, and gives the whole forces.

    Raises:
        ValueError: the policy models no forces or needs a weight, the motion has another width or no frame, or nothing
            is asked for.
    """
    asked = inpainting(policy, text, n, seed, steps)
    given = len(asked.body.joints)
    rows = padded(asked.body, checked(asked.body, motion), first=0)
    where = np.zeros((policy.contract.horizon, rows.shape[1]), np.bool_)
    where[:, :given] = True
    beside = taken(asked.body, motion, policy.contract.fps, weight_n)
    found: Float64[np.ndarray, "n T F"] = averaged(asked, rows, where)[..., given:] + beside
    return found


def sample_motion(
    policy: Mover,
    forces: Float[np.ndarray, "T F"],
    *,
    text: str = "",
    n: int = 16,
    seed: int = 0,
    steps: int | None = None,
) -> Float64[np.ndarray, "n T C"]:
    """Rows of coordinates of a motion that goes with some forces, N, in n ways; the rest as `sample_forces`.

    Raises:
        ValueError: the policy models no forces or makes no motion, or the forces have another width or no frame.
    """
    check_makes_motion(policy)
    asked = inpainting(policy, text, n, seed, steps)
    body, given = asked.body, len(asked.body.joints)
    if is_residual(body):
        raise ValueError(
            "this policy models what forces are beyond m (a + g) of the pelvis, so its motion does not follow from "
            "forces: train one with --data.motion.forces total"
        )
    if forces.ndim != 2 or forces.shape[1] != len(body.forces) or not len(forces):
        raise ValueError(f"forces of shape {forces.shape} were given, the policy's are {len(body.forces)} a frame")
    where = np.zeros((policy.contract.horizon, len(body.names)), np.bool_)
    where[:, given:] = True
    return averaged(asked, padded(body, forces, first=given), where)[..., :given]


def continue_motion(
    policy: Mover,
    motion: Float[np.ndarray, "T _"],
    *,
    text: str = "",
    n: int = 16,
    seed: int = 0,
    steps: int | None = None,
) -> tuple[list[int], Float64[np.ndarray, "n W R C"]]:
    """The second half of each whole window of a motion, made of its first half alone, in n ways.

    They are rows of coordinates beside the frames at which they begin; of a motion shorter than a window there is
    none. The rest as `sample_forces`.

    Raises:
        ValueError: the policy models no forces or makes no motion, or the motion has another width or no frame.
    """
    check_makes_motion(policy)
    asked = inpainting(policy, text, n, seed, steps)
    body, horizon, given = asked.body, policy.contract.horizon, len(asked.body.joints)
    rows, half = padded(body, checked(body, motion), first=0), horizon // 2
    begins = [start for start in starts(len(rows), horizon) if start + horizon <= len(rows)]
    where = np.zeros((horizon, len(body.names)), np.bool_)
    where[:half, :given] = True
    found = np.zeros((n, len(begins), horizon - half, given))
    for (start, number), made in windows(asked, rows, where, begins):
        found[number, begins.index(start)] = made[half:, :given]
    return [start + half for start in begins], found


def inpainting(policy: Mover, text: str, n: int, seed: int, steps: int | None) -> Inpainting:
    """What is asked of a policy. ValueError where that is nothing, or it models no forces."""
    body = body_with_forces(policy)
    if policy.contract.instructed:
        check_asked(text, seed)
    if n < 1 or seed < 0:
        raise ValueError(f"{n} samples of seed {seed} were asked for; give at least 1, of a seed of at least 0")
    asked = Asked(text=text, state=policy.usual_state(), style=style_for(policy, None), pictures=())
    return Inpainting(policy=policy, body=body, asked=asked, n=n, seed=seed, steps=steps)


def checked(body: Body, motion: Float[np.ndarray, "T _"]) -> Float[np.ndarray, "T C"]:
    """The coordinates of rows. ValueError where they are of another body."""
    given = len(body.joints)
    if motion.ndim != 2 or motion.shape[1] not in (given, len(body.names)) or not len(motion):
        raise ValueError(f"a motion of shape {motion.shape} was given, the policy's has {given} coordinates a frame")
    return motion[:, :given]


def padded(body: Body, values: Float[np.ndarray, "T _"], *, first: int) -> Float64[np.ndarray, "T A"]:
    """Whole rows that hold some numbers from a column on."""
    rows = np.zeros((len(values), len(body.names)))
    rows[:, first : first + values.shape[1]] = values
    return rows


def averaged(
    asked: Inpainting, rows: Float64[np.ndarray, "T A"], where: Bool[np.ndarray, "H A"]
) -> Float64[np.ndarray, "n T A"]:
    """Whole rows of a trial in n ways, of whose windows the same is known."""
    horizon = asked.policy.contract.horizon
    sums, weights = np.zeros((asked.n, *rows.shape)), np.zeros(len(rows))
    ramp = np.minimum(np.arange(horizon) + 1.0, horizon - np.arange(horizon))
    begins = starts(len(rows), horizon)
    for start in begins:
        length = min(horizon, len(rows) - start)
        weights[start : start + length] += ramp[:length]
    for (start, number), made in windows(asked, rows, where, begins):
        length = min(horizon, len(rows) - start)
        sums[number, start : start + length] += ramp[:length, None] * made[:length]
    return sums / weights[:, None]


def starts(frames: int, horizon: int) -> list[int]:
    """Where windows begin that cover so many frames, the last one so that it ends with them."""
    last = max(0, frames - horizon)
    return [*range(0, last, max(1, round(APART * horizon))), last]


def windows(
    asked: Inpainting, rows: Float64[np.ndarray, "T A"], where: Bool[np.ndarray, "H A"], begins: list[int]
) -> Iterator[tuple[tuple[int, int], Float64[np.ndarray, "H A"]]]:
    """Each window of each sample, beside where it begins and the sample's number."""
    jobs = [(start, number) for start in begins for number in range(asked.n)]
    for first in range(0, len(jobs), TOGETHER):
        some = jobs[first : first + TOGETHER]
        yield from zip(some, sample_windows(asked, rows, where, some), strict=True)


def sample_windows(
    asked: Inpainting, rows: Float64[np.ndarray, "T A"], where: Bool[np.ndarray, "H A"], jobs: list[tuple[int, int]]
) -> Float64[np.ndarray, "B H A"]:
    """Windows (start, number of the sample). ValueError where they are not finite."""
    policy = asked.policy
    contract, device = policy.contract, policy.device
    shape = (contract.horizon, contract.action_dim)
    drawn = [
        derive(asked.seed, f"forces/{start}", number).standard_normal(shape, dtype=np.float32) for start, number in jobs
    ]
    places = np.array([start for start, _ in jobs])[:, None] + np.arange(contract.horizon)
    values = rows[places.clip(max=len(rows) - 1)]
    # Only of forces beside a motion has the network learned to be shown what is known as it is.
    clean = bool(where[:, : len(asked.body.joints)].all()) and policy.given(torch.zeros(1, device=device)) is not None
    known = Known(values=torch.from_numpy(values).to(device), where=torch.from_numpy(where).to(device), clean=clean)
    noise: Float32[Tensor, "B H A"] = torch.from_numpy(np.stack(drawn)).to(device)
    seen = observation(asked.asked, len(contract.cameras), len(jobs)).to(device)
    valid = torch.from_numpy(places < len(rows)).to(device)
    made = policy.act(seen, noise, asked.steps, known=known, valid=valid)
    check_made(made)
    return np.asarray(made.double().cpu().numpy())
