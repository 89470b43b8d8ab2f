"""The micro-batch that fits: measured where a device has memory of its own, kept where a run goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from training import loop, micro_batch, recipes
from training.config import RunConfig
from training.flags import parse
from training.micro_batch import Measured
from training.planned import largest
from vla.policy import Policy

FLAGS = ["--backbone.path", "tiny", "--batch-size", "12", "--micro-batch", "auto", "--stage.steps", "2", "--seed", "7"]
FLAGS += ["--tracker", "jsonl", "--data.workers", "0", "--validation-samples", "4", "--expert.width", "32"]
FLAGS += ["--expert.depth", "2", "--sensor.width", "16"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.parametrize(
    ("fits", "share", "found"), [(1, 8, 1), (7, 8, 4), (9, 8, 8), (100, 12, 4), (3, 12, 2), (64, 96, 32), (5, 7, 1)]
)
def test_the_largest_power_of_two_that_fits_and_divides(fits: int, share: int, found: int) -> None:
    assert largest(fits, share) == found


def test_what_fits_follows_from_what_two_micro_batches_took() -> None:
    assert Measured(fixed=10e9, sample=2e9, room=31e9).fits == 10
    assert Measured(fixed=40e9, sample=2e9, room=31e9).fits == 0


class Memory:
    """A device whose memory is what a linear law says, by the samples of the last micro-batch."""

    def __init__(self, fixed: int, sample: int, total: int) -> None:
        self.fixed, self.sample, self.total, self.seen = fixed, sample, total, 0

    def reset_peak_memory_stats(self, _: torch.device) -> None:
        self.seen = 0

    def max_memory_allocated(self, _: torch.device) -> int:
        return self.fixed + self.seen * self.sample

    def mem_get_info(self, _: torch.device) -> tuple[int, int]:
        return self.total - 500, self.total

    def memory_reserved(self, _: torch.device) -> int:
        return 300

    def empty_cache(self) -> None:
        pass


def opened(needle: Path, out: Path, *words: str) -> Any:
    """A run that is opened, and the config that is written."""
    argv = ["--data.roots", str(needle), "--out", str(out), *FLAGS, *words]
    loop.train(parse(recipes.stage1(), argv))
    return json.loads((out / "config.json").read_text())


def test_a_measured_micro_batch_fits_and_is_kept_by_a_resumed_run(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory(fixed=1000, sample=10_000, total=80_000)
    forward = Policy.forward

    def counting(self: Policy, batch: Any, *rest: Any) -> Any:
        memory.seen = max(memory.seen, len(batch))
        return forward(self, batch, *rest)

    monkeypatch.setattr(Policy, "forward", counting)
    monkeypatch.setattr(torch, "get_device_module", lambda _: memory)
    monkeypatch.setattr(micro_batch, "STATE_BYTES", 0)
    found: list[Measured] = []

    def fitting(run: Any, accelerator: Any, _: Any) -> int:
        found.append(micro_batch.measured(run, accelerator))
        return largest(found[-1].fits, run.config.share(1))

    with monkeypatch.context() as patched:
        patched.setattr(micro_batch, "choose", fitting)
        assert opened(needle, tmp_path / "run", "--stop-after", "1")["micro_batch"] == 4
    assert (found[0].fixed, found[0].sample) == (1000, 10_000)
    assert found[0].room == pytest.approx(0.85 * 80_000 - 200), "what others hold is theirs"
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    monkeypatch.setattr(micro_batch, "measured", lambda *_: pytest.fail("it is known"))
    assert opened(needle, tmp_path / "run", "--resume-from", "auto")["micro_batch"] == 4
    assert "--micro-batch auto: 4, as before" in capsys.readouterr().out


@pytest.mark.parametrize("ran", [0, 1])
def test_what_runs_out_of_memory_does_not_fit(ran: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, peaks = Memory(fixed=1000, sample=10_000, total=80_000), [30_000] * ran

    def peak(*_: Any) -> int:
        if not peaks:
            raise torch.OutOfMemoryError
        return peaks.pop()

    policy: Any = torch.nn.Linear(1, 1)
    policy.set_mode, policy.sizes = lambda **_: None, ()
    monkeypatch.setattr(micro_batch, "policy_of", lambda *_: policy)
    monkeypatch.setattr(micro_batch, "collate", lambda *_: None)
    monkeypatch.setattr(micro_batch, "peak", peak)
    monkeypatch.setattr(torch, "get_device_module", lambda _: memory)
    row = SimpleNamespace(stage=SimpleNamespace(lr=SimpleNamespace(by_group=dict)))
    train: Any = SimpleNamespace(resized=lambda _: [None, None])
    run: Any = SimpleNamespace(rows=[row], data=SimpleNamespace(train=train), config=RunConfig())
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"))
    assert micro_batch.measured(run, accelerator).fits == ran


def test_on_a_cpu_it_is_small(needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opened(needle, tmp_path / "run", "--batch-size", "6", "--stop-after", "1")["micro_batch"] == 2
    assert "--micro-batch auto: 2, where no device's memory decides" in capsys.readouterr().out


def test_not_one_sample_that_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=1, print=print, is_main_process=True)
    watchdog: Any = SimpleNamespace(beat=lambda *_: None)
    run: Any = SimpleNamespace(config=RunConfig(micro_batch="auto"), resumed=None)
    monkeypatch.setattr(micro_batch, "measured", lambda *_: Measured(fixed=9e9, sample=4e9, room=10e9))
    monkeypatch.setattr(micro_batch.distributed, "collect", lambda _, value: [value])
    with pytest.raises(ValueError, match=r"not one sample fits: 9\.0 GB and 4\.000 GB a sample of 10 GB; give"):
        micro_batch.choose(run, accelerator, watchdog)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="--batch-size 6 does not divide among 4 ranks; use --batch-size 8"):
        RunConfig(micro_batch="auto", batch_size=6).check_batch(4)
