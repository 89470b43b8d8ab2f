"""The parts of a call: each takes what it is made to take."""

import time
from typing import Any

import pytest

from tests.vla.test_policy import SEEING, batch, build
from vla.evaluation.latency import Latency, Stopwatch
from vla.parts.qwen import qwen_of

DATA = batch()


def test_each_part_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for what each module adds at its end."""
    policy, now = build(SEEING), [0.0]
    policy.set_mode(training=False)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    model = qwen_of(policy.backbone).plain.model
    takes = {
        model.visual: 1.0,
        model.language_model.norm: 20.0,
        policy.get_submodule("camera"): 300.0,
        policy.expert: 4000.0,
    }
    for module, seconds in takes.items():
        module.register_forward_hook(lambda *_, seconds=seconds: pass_by(seconds))
    actions = policy.normalizer_of("actions")
    undo = actions.undo

    def slow(values: Any) -> Any:
        pass_by(50000.0)
        return undo(values)

    monkeypatch.setattr(actions, "undo", slow)
    watch = Stopwatch(policy)
    for steps in (2, 3, 5):
        with watch.call(4):
            policy.act(DATA.observation, DATA.draws.noise, steps=steps)
    rest = {"rows": 4.0, "language": 20.0, "context": 300.0, "rest": 50000.0}
    assert watch.calls == [
        rest | {"vision": 1.0, "expert": 8000.0, "all": 58321.0},
        rest | {"vision": 0.0, "expert": 12000.0, "all": 62320.0},  # the frames have not changed
        rest | {"vision": 0.0, "expert": 20000.0, "all": 70320.0},
    ]
    told = Latency.of(watch.calls)
    assert told is not None
    assert (told.calls, told.rows) == (3, 4)
    medians = {"vision": 0.0, "language": 2e4, "context": 3e5, "expert": 1.2e7, "rest": 5e7, "all": 6.232e7}
    assert told.milliseconds == medians
    assert Latency.of([]) is None
    with watch.call(4):
        looked = policy.look(DATA.observation)
        with watch.aside():
            policy(DATA, looked)
            slow(DATA.actions.float())
        policy.act(DATA.observation, DATA.draws.noise, steps=2, looked=looked)
    assert watch.calls.pop() == watch.calls[0], "what is done aside takes no time"
    policy.act(DATA.observation, DATA.draws.noise)
    assert len(watch.calls) == 3
    assert not any(module._forward_pre_hooks for module in (policy.backbone, policy.expert, model.visual))
