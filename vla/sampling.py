"""Motions out of a policy: of any length, on any skeleton, from a text."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from vla.batch import Observation
from vla.contract import DataContract
from vla.diffusion import Known
from vla.frames import Picture
from vla.instruction import check_instruction
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.randomness import derive

OVERLAP = 0.25
"""Share of a chunk that a longer motion's next chunk is made to begin with: the end of the one before it."""
TOGETHER = 32
"""Motions that are made at once."""
UNSEEN = (3, 224, 224)
"""Of the black picture in the place of one that there is none of: as many tokens as the backbone has of a large one."""


@runtime_checkable
class Mover(Protocol):
    """What is asked of a policy."""

    contract: DataContract

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def act(
        self,
        observation: Observation,
        noise: Float[Tensor, "B H A"],
        steps: int | None = None,
        *,
        known: Known | None = None,
    ) -> Float64[Tensor, "B H A"]:
        """Chunks of actions in the data's units; what is known of them is in these, too."""

    def usual_state(self) -> Float32[np.ndarray, " P"]:
        """The state in the middle of those that were trained on."""


def sample(
    policy: Mover,
    *,
    text: str,
    seconds: float,
    n: int = 1,
    seed: int = 0,
    steps: int | None = None,
    skeleton: Float[np.ndarray, "J 3"] | None = None,
    pictures: Sequence[Picture] = (),
) -> list[Moves]:
    """Some motions that show a text. Motion k follows from (seed, k), whatever their number.

    A motion longer than a chunk is made chunk by chunk: each begins with the end of the one before it, which is put in
    its place at every step of the sampling (inpainting by replacement; Lugmayr et al. 2022, without repetition).
    `skeleton` gives the offsets of the joints, m; None: those in the middle of the training data. `pictures` are of the
    policy's first views, in their order; of the others nothing is seen.

    Raises:
        ValueError: it is no policy of motion, or there is nothing to be made.
    """
    body, contract = body_of(policy), policy.contract
    check_instruction(text, "a sample", "--text")
    if seed < 0:
        raise ValueError(f"the seed is {seed}; give 0 or more")
    if not 0 < seconds < math.inf or n < 1:
        raise ValueError(f"{n} motions of {seconds:g} s were asked for; give at least 1, of a positive length")
    frames = max(1, round(seconds * contract.fps))
    state = state_of(policy, body, skeleton)
    check_pictures(contract, len(pictures))
    made: list[Moves] = []
    for first in range(0, n, TOGETHER):
        numbers = range(first, min(n, first + TOGETHER))
        seen = observation(text, state, pictures, len(contract.cameras), len(numbers)).to(policy.device)
        rows = chunks(policy, seen, numbers, frames, seed=seed, steps=steps)
        offsets = None if body.kind != "rotations" else np.concatenate([np.zeros((1, 3)), state.reshape(-1, 3)])
        made += [
            Moves(
                rows=row[:frames],
                body=body,
                offsets=None if offsets is None else offsets.astype(np.float32),
                rate_hz=contract.fps,
                text=text,
            )
            for row in rows.float().cpu().numpy()
        ]
    return made


def chunks(
    policy: Mover,
    seen: Observation,
    numbers: Sequence[int],
    frames: int,
    *,
    seed: int,
    steps: int | None,
) -> Float64[Tensor, "B T A"]:
    """As many chunks behind one another as make so many frames."""
    contract = policy.contract
    horizon, shared = contract.horizon, max(1, round(OVERLAP * contract.horizon))
    device = seen.state.device

    def noise(chunk: int) -> Tensor:
        drawn = [
            derive(seed, f"sample/{chunk}", number).standard_normal((horizon, contract.action_dim), dtype=np.float32)
            for number in numbers
        ]
        return torch.from_numpy(np.stack(drawn)).to(device)

    rows = policy.act(seen, noise(0), steps)
    where = torch.arange(horizon, device=device) < shared
    while rows.shape[1] < frames:
        given = torch.nn.functional.pad(rows[:, -shared:], (0, 0, 0, horizon - shared))
        known = Known(values=given, where=where)
        further = policy.act(seen, noise(rows.shape[1]), steps, known=known)
        rows = torch.cat([rows, further[:, shared:]], dim=1)
    return rows


def body_of(policy: Mover) -> Body:
    """What the actions of a policy mean. ValueError where they are no motion."""
    if policy.contract.body is None:
        raise ValueError("this policy moves no body, it answers observations: measure it with `vla evaluate`")
    if policy.contract.horizon < 4:
        raise ValueError(f"chunks of {policy.contract.horizon} frames show no motion: train with --data.horizon 32")
    return policy.contract.body


def state_of(policy: Mover, body: Body, skeleton: Float[np.ndarray, "J 3"] | None) -> Float32[np.ndarray, " P"]:
    """What a policy sees of a skeleton. ValueError where it does not fit."""
    if skeleton is None:
        return policy.usual_state()
    if body.kind != "rotations":
        raise ValueError("this policy makes places of joints, which have no skeleton: leave --skeleton out")
    if skeleton.shape != (len(body.joints), 3):
        raise ValueError(
            f"the skeleton has {len(skeleton)} joints, the policy's body {len(body.joints)}: {' '.join(body.joints)}"
        )
    return np.asarray(skeleton[1:], dtype=np.float32).ravel()


def check_pictures(contract: DataContract, count: int) -> None:
    """Refuse more pictures than a policy looks at (ValueError)."""
    if count > len(contract.cameras):
        views = ", ".join(contract.cameras) or "none"
        raise ValueError(f"{count} pictures were given to a policy that looks at {views}: leave out what is too many")


def observation(
    text: str, state: Float32[np.ndarray, " P"], pictures: Sequence[Picture], views: int, count: int
) -> Observation:
    """What a policy of some views sees that is to make some motions; views without a picture are masked."""
    unseen = np.zeros(UNSEEN, np.uint8)
    row = tuple(torch.from_numpy(pictures[view] if view < len(pictures) else unseen) for view in range(views))
    return Observation(
        images=(row,) * count,
        image_valid=(torch.arange(views) < len(pictures)).expand(count, -1),
        instructions=(text,) * count,
        state=torch.from_numpy(state).expand(count, -1),
        streams={},
    )
