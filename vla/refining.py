"""Drafts of motions, made anew from a time of the diffusion on (SDEdit; Meng et al. 2022)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from vla.contract import told_body
from vla.diffusion import Draft
from vla.frames import Picture
from vla.motion.body import Body
from vla.motion.moves import Moves
from vla.rejection import Rejection
from vla.sampling import Asked, Mover, body_of, check_asked, check_pictures, chosen, moves, style_for

WEAKEST = 1e-3
"""Strength below which so little noise is added that its share is rounding."""


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
    rejection: Rejection | None = None,
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
        copy = replace(draft, text=text)
        return chosen(
            rejection, lambda numbers, _: [replace(copy, rows=draft.rows.copy()) for _ in numbers], n, text, again=False
        )
    if strength < 1 and (limited := limits_met(policy, body, draft)):
        say(limited)
    rows = torch.tensor(draft.rows, device=policy.device)
    begin = Draft(values=rows[None], strength=strength)
    return chosen(rejection, moves(policy, asked, len(rows), seed=seed, steps=steps, draft=begin), n, text)


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
