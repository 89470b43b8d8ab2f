"""Erasing against its closed form, on a policy of a few numbers whose answers can be written down."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from vla import diffusion
from vla.batch import Batch, Draws, Observation
from vla.objectives import Prediction
from vla.parts.expert import ContextCache
from vla.settings import ObjectiveConfig, PredictionName
from vla.teaching import Erase, guidance_of

DIM, STEPS = 2, 3
TEXTS = ("kicks", "punches", "walks")
BASE = {
    "kicks": torch.tensor([2.0, -1.0]),
    "punches": torch.tensor([-1.5, 0.5]),
    "walks": torch.tensor([0.5, 0.25]),
    "": torch.tensor([0.1, -0.3]),
}
"""The clean chunk that the base says of each instruction, and of none."""


class Toy:
    """Of each instruction it says one clean chunk, whatever it is given, and its adapter adds one for each to that."""

    def __init__(self, kind: PredictionName) -> None:
        self.kind = kind
        self.adapter = {text: torch.zeros(DIM, requires_grad=True) for text in TEXTS}
        self.adapted = True

    def normalize(self, _: str, values: Tensor) -> Tensor:
        return values

    def open_undo(self, _: str, values: Tensor) -> Tensor:
        return values.double()

    def shared(self, _: Observation, looked: object = None) -> None:
        return None

    def context(self, observation: Observation, coin: Tensor | None = None, _: object = None) -> ContextCache:
        share = 0.1
        told = [
            "" if coin is not None and coin[row] < share else text for row, text in enumerate(observation.instructions)
        ]
        said = [BASE[text] + (self.adapter[text] if self.adapted and text else 0) for text in told]
        heard = torch.stack(said)[:, None, None]  # as keys of one head and one token
        return ContextCache(keys_values=[(heard, heard)], mask=torch.ones(len(said), 1, dtype=torch.bool))

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        self.adapted = False
        with torch.no_grad():
            yield
        self.adapted = True

    def given(self, _: Tensor) -> None:
        return None

    def predict(
        self, context: ContextCache, x0: Tensor, valid: Tensor, time: Tensor, noise: Tensor, *, given: None = None
    ) -> Prediction:
        c = diffusion.coefficients("linear", time)
        x_t = diffusion.mix(c, x0, noise)
        heard = context.keys_values[0][0][:, 0, 0]
        clean = heard.repeat_interleave(len(x0) // len(heard), dim=0)[:, None].expand_as(x_t)
        eps = (x_t - c.alpha[:, None, None] * clean) / c.sigma[:, None, None]
        return Prediction(
            kind=self.kind,
            coefficients=c,
            x_t=x_t,
            out=diffusion.target(self.kind, c, clean, eps),
            target=diffusion.target(self.kind, c, x0, noise),
            valid=valid,
            labels={},
        )


def batch_of(texts: tuple[str, ...], preserved: tuple[bool, ...] | None = None, coin: float = 1.0) -> Batch:
    source = torch.Generator().manual_seed(4)
    count = len(texts)
    return Batch(
        observation=Observation(
            images=((),) * count,
            image_valid=torch.zeros(count, 0, dtype=torch.bool),
            instructions=texts,
            state=torch.zeros(count, 0),
            streams={},
        ),
        actions=torch.randn(count, STEPS, DIM, generator=source),
        action_valid=torch.ones(count, STEPS, dtype=torch.bool),
        weight=torch.ones(count),
        draws=Draws(
            time=torch.linspace(0.15, 0.85, count),
            noise=torch.randn(count, STEPS, DIM, generator=source),
            coin=torch.full((count,), coin),
            shown=torch.ones(count),
        ),
        positions=torch.arange(count),
        preserved=None if preserved is None else torch.tensor(preserved),
    )


def trained(
    kind: PredictionName, eta: float, texts: tuple[str, ...], preserved: tuple[bool, ...], anchor: str = ""
) -> Toy:
    """The toy after enough steps; its losses are quadratic."""
    toy, objective = Toy(kind), Erase(negative_guidance=eta, anchor=anchor)
    optimizer = torch.optim.LBFGS([*toy.adapter.values()], lr=1, max_iter=60, tolerance_grad=1e-12)
    batch = batch_of(texts, preserved)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = torch.stack([part.sum() for part in objective(toy, batch).values()]).sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return toy


@pytest.mark.parametrize("kind", get_args(PredictionName))
@pytest.mark.parametrize("eta", [0.0, 1.0, 2.5])
def test_every_kind_of_prediction_reaches_the_same_clean_chunk(kind: PredictionName, eta: float) -> None:
    """none - eta (told - none): by hand, of two concepts at once; eta 0 is the answer to no instruction."""
    toy = trained(kind, eta, TEXTS, (False, False, True))
    for text in ("kicks", "punches"):
        aim = BASE[""] - eta * (BASE[text] - BASE[""])
        torch.testing.assert_close(BASE[text] + toy.adapter[text].detach(), aim, atol=1e-4, rtol=0)
        if eta == 0:
            torch.testing.assert_close(BASE[text] + toy.adapter[text].detach(), BASE[""], atol=1e-4, rtol=0)
    assert toy.adapter["walks"].abs().max() < 1e-4


@pytest.mark.parametrize("kind", get_args(PredictionName))
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_an_anchor_s_answer_stands_for_the_one_to_none(kind: PredictionName, eta: float) -> None:
    """And its own stays."""
    toy = trained(kind, eta, TEXTS, (False, False, True), anchor="walks")
    for text in ("kicks", "punches"):
        aim = BASE["walks"] - eta * (BASE[text] - BASE["walks"])
        torch.testing.assert_close(BASE[text] + toy.adapter[text].detach(), aim, atol=1e-4, rtol=0)
    assert toy.adapter["walks"].abs().max() < 1e-4


def test_the_usual_guidance_goes_beyond_none_and_to_an_anchor() -> None:
    usual = ObjectiveConfig(kind="erase")
    assert [guidance_of(usual, anchor) for anchor in ("", "walks")] == [1.0, 0.0]
    assert guidance_of(replace(usual, negative_guidance=2.0), "walks") == 2.0


def test_the_loss_is_the_formula_s() -> None:
    """In numpy, of a student that has moved already: what is preserved from the base, what is erased from the aim."""
    toy = Toy("data")
    toy.adapter["kicks"].data = torch.tensor([0.3, 0.7])
    toy.adapter["walks"].data = torch.tensor([-0.2, 0.4])
    found = Erase(negative_guidance=1.5)(toy, batch_of(("kicks", "walks"), (False, True)))
    none, told = BASE[""].numpy(), BASE["kicks"].numpy()
    aim = none - 1.5 * (told - none)
    erase = np.mean((told + np.array([0.3, 0.7]) - aim) ** 2)
    preserve = np.mean(np.array([-0.2, 0.4]) ** 2)
    assert found["erase"].tolist() == pytest.approx([erase, 0.0], rel=1e-5)
    assert found["preserve"].tolist() == pytest.approx([0.0, preserve], rel=1e-5)


def test_padding_counts_nothing() -> None:
    """As many numbers as one likes in the steps that are none: neither loss nor gradient knows."""
    found = []
    for filling in (0.0, 1e3):
        toy, batch = Toy("velocity"), batch_of(("kicks", "walks"), (False, True))
        batch.action_valid[:, 2] = False
        batch.actions[:, 2] = filling
        losses = Erase()(toy, batch)
        torch.stack([part.sum() for part in losses.values()]).sum().backward()
        found.append([*losses["erase"].tolist(), *toy.adapter["kicks"].grad.tolist()])  # type: ignore[union-attr]
    assert found[0] == found[1]


def test_the_teacher_is_the_base_however_far_the_student_has_gone() -> None:
    """The target is found again from a loss: where the student stands on it, that is 0."""
    aim = 2 * BASE[""] - BASE["kicks"]
    for start in (0.0, 3.0):
        toy = Toy("noise")
        toy.adapter["kicks"].data = torch.full((DIM,), start)
        (before,) = Erase()(toy, batch_of(("kicks",)))["erase"].tolist()
        assert before > 0.1
        toy.adapter["kicks"].data = aim - BASE["kicks"]
        (after,) = Erase()(toy, batch_of(("kicks",)))["erase"].tolist()
        assert after == pytest.approx(0.0, abs=1e-9)


def test_what_is_forgotten_is_heard_in_every_sample() -> None:
    """With a coin that takes the instruction away from those that are preserved."""
    toy = Toy("data")
    heard = Erase()(toy, batch_of(("kicks", "walks"), (False, True), coin=0.05))
    torch.stack([part.sum() for part in heard.values()]).sum().backward()
    assert toy.adapter["kicks"].grad is not None and toy.adapter["kicks"].grad.abs().max() > 0.1
    assert toy.adapter["walks"].grad is None or toy.adapter["walks"].grad.abs().max() == 0


def test_a_batch_of_one_role_has_no_loss_of_the_other() -> None:
    losses = Erase()(Toy("data"), batch_of(("walks", "walks"), (True, True)))
    assert losses["erase"].tolist() == [0.0, 0.0]
    assert losses["preserve"].tolist() == [0.0, 0.0]
