"""Objectives of an adapter whose teacher is the policy itself, without that adapter: no second model.

Some samples are learned, by an objective of their own, or erased; on the others, which are preserved, the policy is to
answer as it does without its adapters (prior preservation, after Ruiz et al. 2023, with the base's answers as targets).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla.batch import Batch, Losses
from vla.contract import DataContract
from vla.moving import moved
from vla.objectives import (
    Learning,
    Looked,
    Objective,
    Prediction,
    Predictor,
    Rows,
    by_sample,
    mean_error,
    noised,
    objective_of,
)
from vla.settings import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class Preserve:
    """Learned is what is not preserved."""

    learn: Learning

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None) -> Losses:
        """The losses of what is learned, and how far the answers to the rest are from the base's."""
        kept, draws = preserved(batch), self.learn.draws
        shared = policy.shared(batch.observation, looked)
        student = noised(policy, batch, draws, looked or shared)
        losses = self.learn.losses(policy, student, batch)
        rows, device = chosen(kept), batch.weight.device
        there, where = moved((kept, torch.tensor(rows)), device)
        said = answered(policy, batch, rows, batch.draws.coin[where], draws, looked=shared)
        stays = differing(student, rows, draws, said.out)
        return {name: loss.masked_fill(there, 0) for name, loss in losses.items()} | {
            "preserve": spread(stays, rows, kept)
        }


@dataclass(frozen=True, kw_only=True)
class Erase:
    """ESD (Gandikota et al. 2023): away from what the base makes of an instruction, beyond what it makes of none.

    target = base(none) - guidance (base(instruction) - base(none)); with an anchor base(anchor) stands for base(none),
    and without guidance that is concept ablation (Kumari et al. 2023).

    Outputs of every kind of prediction are affine in the clean chunk, and the target's weights add up to 1: so it is
    the same clean chunk for noise, data and velocity predictions.
    """

    negative_guidance: float = 1.0
    draws: int = 1
    anchor: str = ""
    """Instruction whose answer is the target; empty: none."""

    def __call__(self, policy: Predictor, batch: Batch, looked: Looked | None = None) -> Losses:
        """How far the answers are from the target, of what is preserved from the base's."""
        kept, device = preserved(batch), batch.weight.device
        forgotten, stay = chosen(~kept), chosen(kept)
        rows = [*forgotten, *forgotten, *stay]
        there, stays = moved((kept, torch.tensor(stay)), device)
        # What is to be forgotten is heard in every sample; who answers nothing is taught by what is preserved.
        coin = torch.where(there, batch.draws.coin, torch.ones_like(batch.draws.coin))
        shared = policy.shared(batch.observation, looked)
        student = noised(policy, replace(batch, draws=replace(batch.draws, coin=coin)), self.draws, looked or shared)
        instead = torch.full((len(forgotten),), 1.0 if self.anchor else 0.0, device=device)
        heard = torch.cat([instead, torch.ones(len(forgotten), device=device), coin[stays]])
        anchors = [self.anchor] * len(forgotten) if self.anchor else []
        said = answered(policy, batch, rows, heard, self.draws, looked=shared, anchors=anchors)
        count = len(forgotten) * self.draws
        other, told, base = said.out[:count], said.out[count : 2 * count], said.out[2 * count :]
        target = other - self.negative_guidance * (told - other)
        return {
            "erase": spread(differing(student, forgotten, self.draws, target), forgotten, ~kept),
            "preserve": spread(differing(student, stay, self.draws, base), stay, kept),
        }


def taught(config: ObjectiveConfig, contract: DataContract, *, preserve: bool, anchor: str = "") -> Objective:
    """The objective of a stage, with a teacher where it needs one. ValueError as of `objective_of`."""
    learn = objective_of(config, contract)
    if config.kind == "erase":
        return Erase(negative_guidance=guidance_of(config, anchor), draws=config.draws, anchor=anchor)
    return Preserve(learn=learn) if preserve else learn


def guidance_of(config: ObjectiveConfig, anchor: str) -> float:
    """How far beyond the other answer: what is usual where that is not said."""
    usual = 0.0 if anchor else 1.0
    return usual if config.negative_guidance is None else config.negative_guidance


def preserved(batch: Batch) -> Bool[Tensor, " B"]:
    """Which samples are not learned, on the host."""
    return torch.zeros(len(batch), dtype=torch.bool) if batch.preserved is None else batch.preserved


def chosen(which: Bool[Tensor, " B"]) -> list[int]:
    """The rows of some samples; the first one where there is none: under ZeRO-3 all ranks call the same layers."""
    return [int(row) for row in which.nonzero().flatten()] or [0]


def places(rows: Sequence[int], draws: int, device: torch.device) -> Tensor:
    """Where the draws of some samples stand."""
    (where,) = moved(((torch.tensor(rows)[:, None] * draws + torch.arange(draws)).flatten(),), device)
    return where


def answered(
    policy: Predictor,
    batch: Batch,
    rows: Sequence[int],
    coin: Float[Tensor, " R"],
    draws: int,
    *,
    looked: Looked | None,
    anchors: Sequence[str] = (),
) -> Prediction:
    """What the base says of some samples of a batch, at the times and noises of the student.

    `looked` is what the backbone said of all of them, where adapters change nothing of it: most of the cost of a look.
    `anchors` are the instructions of the first of them, in place of their own: then all are looked at anew.
    """
    asked = Rows.of(policy, batch, draws).only(places(rows, draws, batch.weight.device))
    observation = batch.observation.rows(rows)
    if anchors:
        observation = replace(observation, instructions=(*anchors, *observation.instructions[len(anchors) :]))
        looked = None
    with policy.base():
        context = policy.context(observation, coin, seen_again(looked, rows))
        return asked.said(policy, context)


def seen_again(looked: Looked | None, rows: Sequence[int]) -> Looked | None:
    """Some rows of what was seen."""
    if looked is None:
        return None
    seen, (words, mask) = looked
    (chosen,) = moved((torch.tensor(rows),), words.device)
    return seen.rows(rows), (words[chosen], mask[chosen])


def differing(
    student: Prediction, rows: Sequence[int], draws: int, target: Float[Tensor, "N H A"]
) -> Float[Tensor, " R"]:
    """How far the student is from a target on some samples: the mean square over valid steps, dimensions and draws."""
    where = places(rows, draws, target.device)
    x_t, out, valid = student.x_t[where], student.out[where], student.valid[where]
    known = None if student.known is None else student.known[where]
    part = replace(student, x_t=x_t, out=out, target=target, valid=valid, known=known, labels={})
    return by_sample(mean_error(part), draws)


def spread(errors: Float[Tensor, " R"], rows: Sequence[int], which: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Errors of some samples in their places, 0 elsewhere, and in those that they are not of."""
    out = torch.zeros(len(which), dtype=errors.dtype, device=errors.device)
    where, there = moved((torch.tensor(rows), which), errors.device)
    return out.index_put((where,), errors).masked_fill(~there, 0)
