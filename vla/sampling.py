"""Motions out of a policy: of any length, on any skeleton, from a text, or from a draft and a text."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from vla.batch import Observation
from vla.contract import DataContract, told_body
from vla.diffusion import Draft, Known
from vla.frames import Picture
from vla.instruction import check_instruction
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.motion.style import style_row
from vla.names import hint
from vla.randomness import derive

OVERLAP = 0.25
"""Share of a chunk that a longer motion's next chunk is made to begin with: the end of the one before it."""
TOGETHER = 32
"""Motions that are made at once."""
WEAKEST = 1e-3
"""Strength below which so little noise is added that its share is rounding."""
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
    ) -> Float64[Tensor, "B H A"]:
        """Chunks of actions in the data's units; what is known of them and a draft are in these, too."""

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
) -> list[Moves]:
    """Some motions that show a text. Motion k follows from (seed, k), whatever their number.

    A motion longer than a chunk is made chunk by chunk: each begins with the end of the one before it, which is put in
    its place at every step of the sampling (inpainting by replacement; Lugmayr et al. 2022, without repetition).
    `skeleton` gives the offsets of the joints, m; None: those in the middle of the training data. `style` tells what is
    to be heard of it, by name; what it leaves out is not known. `pictures` are of the policy's first views, in their
    order; of the others nothing is seen.

    Raises:
        ValueError: it is no policy of motion, or there is nothing to be made.
    """
    body, contract = body_of(policy), policy.contract
    check_asked(text, seed)
    if not 0 < seconds < math.inf or n < 1:
        raise ValueError(f"{n} motions of {seconds:g} s were asked for; give at least 1, of a positive length")
    frames = max(1, round(seconds * contract.fps))
    state = state_of(policy, body, skeleton)
    check_pictures(policy.contract, len(pictures))
    asked = Asked(text=text, state=state, style=style_for(policy, style), pictures=pictures)
    return moves(policy, asked, frames, n=n, seed=seed, steps=steps)


def style_for(policy: Mover, told: Mapping[str, float] | None) -> Float32[np.ndarray, "K 2"]:
    """What a policy hears of a style. ValueError where it was not trained to hear that."""
    known = policy.contract.style
    for name in told or ():
        if not known:
            raise ValueError(f"this policy hears no style: leave {name} out, or train with --data.style {name}")
        if name not in known:
            raise ValueError(f"this policy hears nothing of {name}; {hint(name, known)}")
    return style_row(known, told or {}, "--style")


def remark(sentence: str) -> None:
    """Say something on standard error."""
    print(sentence, file=sys.stderr)


def refine(
    policy: Mover,
    *,
    draft: Moves,
    strength: float,
    text: str,
    n: int = 1,
    seed: int = 0,
    steps: int | None = None,
    style: Mapping[str, float] | None = None,
    pictures: Sequence[Picture] = (),
    say: Callable[[str], None] = remark,
) -> list[Moves]:
    """A draft noised to time `strength` and denoised from there, on its own skeleton and as long as it is.

    At 0 it comes back bit by bit, at 1 the motions are those of `sample`, bit by bit, with the same seed, skeleton and
    length. In between a chunk takes as much of the steps as the strength says. Chunks lie as in `sample`; past the end
    of the draft its last frame is held, and cut off again. What the policy cannot answer of the draft is said.

    Raises:
        ValueError: it is no policy of motion, the draft is of another body or rate or is not measured everywhere, or
            there is nothing to be made.
    """
    body = body_of(policy)
    check_asked(text, seed)
    if n < 1:
        raise ValueError(f"{n} motions were asked for; give at least 1")
    if not (strength == 0 or WEAKEST <= strength <= 1):
        raise ValueError(f"the strength is {strength:g}; give 0, which returns the draft, or {WEAKEST:g} to 1")
    check_draft(policy, body, draft)
    state = policy.usual_state() if draft.offsets is None else draft.offsets[1:].astype(np.float32).ravel()
    check_pictures(policy.contract, len(pictures))
    asked = Asked(text=text, state=state, style=style_for(policy, style), pictures=pictures)
    if strength == 0:
        return [replace(draft, rows=draft.rows.copy(), text=text) for _ in range(n)]
    if strength < 1 and (limited := limits_met(policy, body, draft)):
        say(limited)
    rows = torch.tensor(draft.rows, device=policy.device)
    begin = Draft(values=rows[None], strength=strength)
    return moves(policy, asked, len(rows), n=n, seed=seed, steps=steps, draft=begin)


def check_asked(text: str, seed: int) -> None:
    """Refuse a text or a seed that is none (ValueError)."""
    check_instruction(text, "a sample", "--text")
    if seed < 0:
        raise ValueError(f"the seed is {seed}; give 0 or more")


def check_draft(policy: Mover, body: Body, draft: Moves) -> None:
    """Refuse a draft that is not of a policy's numbers (ValueError)."""
    if (draft.body.kind, draft.body.names) != (body.kind, body.names):
        lacking = [joint for joint in body.joints if joint not in draft.body.joints]
        apart = f", of which it has no {lacking[0]}" if lacking else ""
        raise ValueError(
            f"the draft is {told_body(draft.body)}, the policy moves {told_body(body)}{apart}; give a clip of "
            f"{' '.join(body.joints)}"
        )
    if body.kind == "rotations" and (draft.body.parents != body.parents or draft.offsets is None):
        raise ValueError("the draft's joints hang together otherwise than the policy's; give a clip of its skeleton")
    if draft.rate_hz != policy.contract.fps:
        raise ValueError(
            f"the draft has {draft.rate_hz:g} frames a second, the policy {policy.contract.fps:g}; bring it to its rate"
        )
    if not len(draft.rows):
        raise ValueError("the draft has no frame; give a clip that has some")
    if wrong := np.flatnonzero(~np.isfinite(draft.rows).all(axis=1)).tolist():
        raise ValueError(
            f"{len(wrong)} of {len(draft.rows)} frames of the draft are not finite, the first is {wrong[0]}: cut the "
            "clip to what was measured"
        )


def limits_met(policy: Mover, body: Body, draft: Moves) -> str:
    """That some numbers of a draft lie beyond what a policy answers, as a sentence; empty where none do."""
    rows = torch.tensor(draft.rows, device=policy.device)
    finest = torch.tensor(body.finest, device=policy.device).clamp(min=1e-6)
    beyond = (policy.nearest(rows) - rows).abs() > finest
    names = [name for name, met in zip(body.names, beyond.any(dim=0).tolist(), strict=True) if met]
    if not names:
        return ""
    return (
        f"{int(beyond.any(dim=1).sum())} of {len(rows)} frames of the draft have numbers that the policy cannot answer "
        f"({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}): they end at its limits"
    )


def moves(
    policy: Mover,
    asked: Asked,
    frames: int,
    *,
    n: int,
    seed: int,
    steps: int | None,
    draft: Draft | None = None,
) -> list[Moves]:
    """Motions of so many frames that show what is asked for."""
    body, contract = body_of(policy), policy.contract
    offsets = None if body.kind != "rotations" else np.concatenate([np.zeros((1, 3)), asked.state.reshape(-1, 3)])
    made: list[Moves] = []
    for first in range(0, n, TOGETHER):
        numbers = range(first, min(n, first + TOGETHER))
        seen = observation(asked, len(contract.cameras), len(numbers)).to(policy.device)
        rows = chunks(policy, seen, numbers, frames, seed=seed, steps=steps, draft=draft)
        made += [
            Moves(
                rows=row[:frames],
                body=body,
                offsets=None if offsets is None else offsets.astype(np.float32),
                rate_hz=contract.fps,
                text=asked.text,
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
    draft: Draft | None = None,
) -> Float64[Tensor, "B T A"]:
    """As many chunks behind one another as make so many frames, each begun with its part of a draft."""
    contract = policy.contract
    horizon, shared = contract.horizon, max(1, round(OVERLAP * contract.horizon))
    device = seen.state.device

    def noise(chunk: int) -> Tensor:
        drawn = [
            derive(seed, f"sample/{chunk}", number).standard_normal((horizon, contract.action_dim), dtype=np.float32)
            for number in numbers
        ]
        return torch.from_numpy(np.stack(drawn)).to(device)

    def part(start: int, before: Float64[Tensor, "B S A"]) -> Draft | None:
        """Of the draft, the chunk from a frame on, behind what has been made; its last frame is held."""
        if draft is None:
            return None
        places = torch.arange(start + before.shape[1], start + horizon, device=device).clamp(max=frames - 1)
        further = draft.values[:, places].expand(len(numbers), -1, -1).double()
        return replace(draft, values=torch.cat([before, further], dim=1))

    nothing = torch.zeros(len(numbers), 0, contract.action_dim, dtype=torch.float64, device=device)
    rows = policy.act(seen, noise(0), steps, draft=part(0, nothing))
    where = torch.arange(horizon, device=device) < shared
    while rows.shape[1] < frames:
        end = rows[:, -shared:]
        known = Known(values=torch.nn.functional.pad(end, (0, 0, 0, horizon - shared)), where=where)
        begun = part(rows.shape[1] - shared, end)
        further = policy.act(seen, noise(rows.shape[1]), steps, known=known, draft=begun)
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
