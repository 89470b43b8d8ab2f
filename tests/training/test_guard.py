"""Which steps are taken: the rule itself, and that it goes on from its state to the bit."""

import math

import pytest
import torch

from training.engine import guard
from training.engine.guard import Guard
from training.settings import GuardConfig
from vla import documents
from vla.run_folder import GuardState

CPU = torch.device("cpu")


def judge(judged: Guard, loss: float, norm: float = 1.0) -> tuple[float, float]:
    skip, spike = judged.judge(torch.tensor(loss), torch.tensor(norm))
    return float(skip), float(spike)


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (-math.inf, 1.0)]
)
def test_what_is_not_finite_is_skipped_and_forgotten(loss: float, norm: float) -> None:
    judged = Guard(GuardConfig(), CPU)
    for _ in range(3):
        assert judge(judged, 2.0) == (0, 0)
    before = judged.state()
    assert judge(judged, loss, norm) == (1, 0)
    assert judged.state() == before


def test_a_spike_is_told_against_the_running_average() -> None:
    told, skipping = Guard(GuardConfig(), CPU), Guard(GuardConfig(spike="skip"), CPU)
    for judged in (told, skipping):
        assert judge(judged, 1e9) == (0, 0), "there is no average yet"
        for _ in range(3000):
            judge(judged, 1.0)
        assert float(judged.average) == pytest.approx(1.0, rel=1e-2)
        assert judge(judged, 9.9) == (0, 0)
    assert judge(told, 15.0) == (0, 1)
    assert judge(skipping, 15.0) == (1, 1)
    assert told.state() == skipping.state(), "a spike does not enter the average in either case"


def test_it_goes_on_from_its_state_to_the_bit() -> None:
    straight = Guard(GuardConfig(), CPU)
    losses = torch.rand(2 * guard.WARMUP, generator=torch.Generator().manual_seed(0)).tolist()
    for loss in losses[: guard.WARMUP]:
        judge(straight, loss)
    resumed = Guard(GuardConfig(), CPU, documents.from_json(GuardState, documents.to_bytes(straight.state()), "state"))
    for loss in losses[guard.WARMUP :]:
        assert judge(straight, loss) == judge(resumed, loss)
        assert straight.state() == resumed.state()


def test_steps_in_a_row_are_counted() -> None:
    judged = Guard(GuardConfig(max_skipped=2), CPU)
    for skipped, exhausted in ((True, False), (False, False), (True, False), (True, True)):
        judged.observe(skipped)
        assert judged.exhausted() == exhausted


@pytest.mark.parametrize("wrong", [{"max_skipped": 0}, {"spike_factor": 1.0}, {"spike_factor": math.nan}])
def test_a_guard_that_guards_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        GuardConfig(**wrong)  # type: ignore[arg-type]
