"""Motions out of a policy: of any length, on any skeleton, from a text, or from a draft and a text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from vla.batch import Observation
from vla.contract import DataContract
from vla.diffusion import Draft, Known
from vla.frames import Picture
from vla.instruction import check_instruction
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.motion.style import style_row
from vla.names import hint
from vla.randomness import derive
from vla.rejection import Make, Rejection

OVERLAP = 0.25
"""Share of a chunk that a longer motion's next chunk is made to begin with: the end of the one before it."""
TOGETHER = 32
"""Motions that are made at once."""
UNSEEN = (3, 224, 224)
"""Of the black picture in the place of one that there is none of: as many tokens as the backbone has of a large one."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a motion is to show, and a policy is told of it."""

    text: str
    state: Float32[np.ndarray, " P"]
    """Its skeleton, as a policy sees it."""
    style: Float32[np.ndarray, "K 2"]
    pictures: Sequence[Picture]
    """Of the policy's first views."""


class How(TypedDict, total=False):
    """How `Policy.sample` and `Policy.refine` are asked, as `sample` and `refine` below say."""

    n: int
    seed: int
    steps: int | None
    style: Mapping[str, float] | None
    pictures: Sequence[Picture]
    rejection: Rejection | None


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
        draft: Draft | None = None,
        valid: Bool[Tensor, "B H"] | None = None,
    ) -> Float64[Tensor, "B H A"]:
        """Chunks of actions in the data's units; what is known of them and a draft are in these, too."""

    def given(self, shown: Float[Tensor, " N"]) -> Bool[Tensor, "N 1 A"] | None:
        """Which numbers it has learned to see as they are beside others; None: none."""

    def nearest(self, actions: Float[Tensor, "*batch A"]) -> Float64[Tensor, "*batch A"]:
        """What it can answer that is nearest to some actions, in the data's units."""

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
    style: Mapping[str, float] | None = None,
    pictures: Sequence[Picture] = (),
    rejection: Rejection | None = None,
) -> list[Moves]:
    """Some motions that show a text. Motion k follows from (seed, k), whatever their number.

    A motion longer than a chunk is made chunk by chunk: each begins with the end of the one before it, which is put in
    its place at every step of the sampling (inpainting by replacement; Lugmayr et al. 2022, without repetition).
    `skeleton` gives the offsets of the joints, m; None: those in the middle of the training data. `style` tells what is
    to be heard of it, by name; what it leaves out is not known. `pictures` are of the policy's first views, in their
    order; of the others nothing is seen. A `rejection` has those made again that are unsafe, and keeps what it found.

    Raises:
        ValueError: it is no policy of motion, there is nothing to be made, or what is made cannot be judged.
    """
    body, contract = body_of(policy), policy.contract
    check_asked(text, seed)
    if not 0 < seconds < math.inf or n < 1:
        raise ValueError(f"{n} motions of {seconds:g} s were asked for; give at least 1, of a positive length")
    frames = max(1, round(seconds * contract.fps))
    state = state_of(policy, body, skeleton)
    check_pictures(policy.contract, len(pictures))
    asked = Asked(text=text, state=state, style=style_for(policy, style), pictures=pictures)
    return chosen(rejection, moves(policy, asked, frames, seed=seed, steps=steps), n, text)


def chosen(rejection: Rejection | None, make: Make, n: int, text: str, *, again: bool = True) -> list[Moves]:
    """So many motions, as a rejection leaves them; the first of each where there is none."""
    numbers = range(n)
    return list(make(numbers, 0)) if rejection is None else rejection.choose(make, numbers, text, again=again)


def style_for(policy: Mover, told: Mapping[str, float] | None) -> Float32[np.ndarray, "K 2"]:
    """What a policy hears of a style. ValueError where it was not trained to hear that."""
    known = policy.contract.style
    for name in told or ():
        if not known:
            raise ValueError(f"this policy hears no style: leave {name} out, or train with --data.style {name}")
        if name not in known:
            raise ValueError(f"this policy hears nothing of {name}; {hint(name, known)}")
    return style_row(known, told or {}, "--style")


def check_asked(text: str, seed: int) -> None:
    """Refuse a text or a seed that is none (ValueError)."""
    check_instruction(text, "a sample", "--text")
    if seed < 0:
        raise ValueError(f"the seed is {seed}; give 0 or more")


def moves(
    policy: Mover, asked: Asked, frames: int, *, seed: int, steps: int | None, draft: Draft | None = None
) -> Make:
    """What makes motions of so many frames that show what is asked for."""
    body, contract = body_of(policy), policy.contract
    offsets = offsets_of(body, asked.state)

    def make(numbers: Sequence[int], attempt: int) -> list[Moves]:
        made: list[Moves] = []
        for first in range(0, len(numbers), TOGETHER):
            some = numbers[first : first + TOGETHER]
            seen = observation(asked, len(contract.cameras), len(some)).to(policy.device)
            rows = chunks(
                policy, seen, Noise(seed=seed, numbers=some, attempt=attempt), frames, steps=steps, draft=draft
            )
            made += [
                Moves(
                    rows=row[:frames],
                    body=body,
                    offsets=offsets,
                    rate_hz=contract.fps,
                    text=asked.text,
                )
                for row in rows.float().cpu().numpy()
            ]
        return made

    return make


@dataclass(frozen=True, kw_only=True)
class Noise:
    """That of some motions, each from the seed, its number and its try alone."""

    seed: int
    numbers: Sequence[int]
    attempt: int

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, chunk: int, shape: tuple[int, int]) -> Float32[np.ndarray, "B H A"]:
        """Of the chunk that begins at a frame."""
        purpose = f"sample/{chunk}" + (f"/try {self.attempt}" if self.attempt else "")
        draws = [derive(self.seed, purpose, number) for number in self.numbers]
        return np.stack([draw.standard_normal(shape, dtype=np.float32) for draw in draws])


def chunks(
    policy: Mover,
    seen: Observation,
    drawn: Noise,
    frames: int,
    *,
    steps: int | None,
    draft: Draft | None = None,
) -> Float64[Tensor, "B T A"]:
    """As many chunks behind one another as make so many frames, each begun with its part of a draft.

    Raises:
        ValueError: none of them is finite.
    """
    contract = policy.contract
    horizon, shared = contract.horizon, max(1, round(OVERLAP * contract.horizon))
    device = seen.state.device

    def noise(chunk: int) -> Tensor:
        return torch.from_numpy(drawn.of(chunk, (horizon, contract.action_dim))).to(device)

    def part(start: int, before: Float64[Tensor, "B S A"]) -> Draft | None:
        """Of the draft, the chunk from a frame on, behind what has been made; its last frame is held."""
        if draft is None:
            return None
        places = torch.arange(start + before.shape[1], start + horizon, device=device).clamp(max=frames - 1)
        further = draft.values[:, places].expand(len(drawn), -1, -1).double()
        return replace(draft, values=torch.cat([before, further], dim=1))

    nothing = torch.zeros(len(drawn), 0, contract.action_dim, dtype=torch.float64, device=device)
    rows = policy.act(seen, noise(0), steps, draft=part(0, nothing))
    where = torch.arange(horizon, device=device) < shared
    while rows.shape[1] < frames:
        end = rows[:, -shared:]
        known = Known(values=torch.nn.functional.pad(end, (0, 0, 0, horizon - shared)), where=where)
        begun = part(rows.shape[1] - shared, end)
        further = policy.act(seen, noise(rows.shape[1]), steps, known=known, draft=begun)
        rows = torch.cat([rows, further[:, shared:]], dim=1)
    if not rows.isfinite().flatten(1).all(dim=1).any():  # one of several is told by its number
        check_made(rows)
    return rows


def check_made(rows: Float64[Tensor, "B T A"]) -> None:
    """Refuse an answer that holds no numbers (ValueError): nothing that is made of it would be a motion."""
    if not rows.isfinite().all():
        raise ValueError(
            "what the policy makes are no finite numbers: give its adapters smaller weights, or another policy"
        )


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


def offsets_of(body: Body, state: Float32[np.ndarray, " P"]) -> Float32[np.ndarray, "J 3"] | None:
    """The skeleton that a policy sees as its state; None of a body that has none."""
    if body.kind != "rotations":
        return None
    return np.concatenate([np.zeros((1, 3), np.float32), np.asarray(state, np.float32).reshape(-1, 3)])


def check_pictures(contract: DataContract, count: int) -> None:
    """Refuse more pictures than a policy looks at (ValueError)."""
    if count > len(contract.cameras):
        views = ", ".join(contract.cameras) or "none"
        raise ValueError(f"{count} pictures were given to a policy that looks at {views}: leave out what is too many")


def observation(asked: Asked, views: int, count: int) -> Observation:
    """What a policy of some views sees that is to make some motions; views without a picture are masked."""
    unseen, given = np.zeros(UNSEEN, np.uint8), asked.pictures
    row = tuple(torch.from_numpy(given[view] if view < len(given) else unseen) for view in range(views))
    return Observation(
        images=(row,) * count,
        image_valid=(torch.arange(views) < len(given)).expand(count, -1),
        instructions=(asked.text,) * count,
        state=torch.from_numpy(asked.state).expand(count, -1),
        streams={},
        style=torch.from_numpy(asked.style).expand(count, -1, -1) if len(asked.style) else None,
    )
