"""Forces that a policy of motion and forces samples of a motion alone: what is known stays, the forces are made.

The coordinates of each window of a trial are put in their place at every step of the sampling (inpainting by
dimension), so a trial of any length, with no force measured, is told its forces; each sample is one way they may have
been.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from vla.diffusion import Known
from vla.motion.body import Body
from vla.randomness import derive
from vla.sampling import Asked, Mover, body_of, check_asked, observation, style_for

APART = 0.25
"""Of a window, by how much the next one begins later."""
TOGETHER = 64
"""Windows that are sampled at once."""


def body_with_forces(policy: Mover) -> Body:
    """What the actions of a policy mean. ValueError where no force is among them."""
    if policy.contract.body is None or not policy.contract.body.forces:
        raise ValueError("this policy models no forces: train one on trials with forces and --data.motion.forces total")
    return body_of(policy)


def sample_forces(
    policy: Mover,
    motion: Float[np.ndarray, "T C"],
    *,
    text: str = "",
    n: int = 16,
    seed: int = 0,
    steps: int | None = None,
) -> Float64[np.ndarray, "n T F"]:
    """Forces of a motion, N, in n ways; `policy.set_mode(training=False)` first.

    `motion` is the rows of a trial in the data's units, of which the coordinates alone are looked at, one row a frame
    at the policy's rate. Windows begin a quarter of a window after one another, and where they overlap their samples
    are averaged, each the more the farther it is from its window's ends. Sample k follows from (seed, k), whatever n.

    Raises:
        ValueError: the policy models no forces, the motion has another width or no frame, or nothing is asked for.
    """
    body, horizon = body_with_forces(policy), policy.contract.horizon
    if policy.contract.instructed:
        check_asked(text, seed)
    given = len(body.joints)
    if motion.ndim != 2 or motion.shape[1] not in (given, len(body.names)) or not len(motion):
        raise ValueError(f"a motion of shape {motion.shape} was given, the policy's has {given} coordinates a frame")
    if n < 1 or seed < 0:
        raise ValueError(f"{n} samples of seed {seed} were asked for; give at least 1, of a seed of at least 0")
    sums, weights = np.zeros((n, len(motion), len(body.forces))), np.zeros(len(motion))
    ramp = np.minimum(np.arange(horizon) + 1.0, horizon - np.arange(horizon))
    begins = starts(len(motion), horizon)
    for start in begins:
        length = min(horizon, len(motion) - start)
        weights[start : start + length] += ramp[:length]
    asked = Asked(text=text, state=policy.usual_state(), style=style_for(policy, None), pictures=())
    for jobs in batches([(start, number) for start in begins for number in range(n)]):
        made = sample_windows(policy, body, motion, asked, jobs, seed=seed, steps=steps)
        for (start, number), forces in zip(jobs, made, strict=True):
            length = min(horizon, len(motion) - start)
            sums[number, start : start + length] += ramp[:length, None] * forces[:length]
    return sums / weights[:, None]


def starts(frames: int, horizon: int) -> list[int]:
    """Where windows begin that cover so many frames, the last one so that it ends with them."""
    last = max(0, frames - horizon)
    return [*range(0, last, max(1, round(APART * horizon))), last]


def batches(jobs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Some jobs after the other."""
    for first in range(0, len(jobs), TOGETHER):
        yield jobs[first : first + TOGETHER]


def sample_windows(
    policy: Mover,
    body: Body,
    motion: Float[np.ndarray, "T C"],
    asked: Asked,
    jobs: list[tuple[int, int]],
    *,
    seed: int,
    steps: int | None,
) -> Float64[np.ndarray, "B H F"]:
    """Forces of windows (start, number of the sample)."""
    contract, device, given = policy.contract, policy.device, len(body.joints)
    shape = (contract.horizon, contract.action_dim)
    drawn = [derive(seed, f"forces/{start}", number).standard_normal(shape, dtype=np.float32) for start, number in jobs]
    places = np.array([start for start, _ in jobs])[:, None] + np.arange(contract.horizon)
    values = np.zeros((len(jobs), *shape))
    values[..., :given] = motion[places.clip(max=len(motion) - 1), :given]
    where: Bool[Tensor, "H A"] = torch.zeros(shape, dtype=torch.bool, device=device)
    where[:, :given] = True
    clean = policy.given(torch.zeros(1, device=device)) is not None
    known = Known(values=torch.from_numpy(values).to(device), where=where, clean=clean)
    noise: Float32[Tensor, "B H A"] = torch.from_numpy(np.stack(drawn)).to(device)
    seen = observation(asked, len(contract.cameras), len(jobs)).to(device)
    valid = torch.from_numpy(places < len(motion)).to(device)
    made = policy.act(seen, noise, steps, known=known, valid=valid)
    return np.asarray(made[..., given:].double().cpu().numpy())
