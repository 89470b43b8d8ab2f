"""Model FLOPs and padding of a step, as a run records them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.vla.planning.models import batch_of, counted, loss_of, policy_of, samples_of
from training import recipes
from training.engine.guard import Guard
from training.run import metrics
from training.run.meter import Meter, peak_of
from training.run.metrics import Metrics, Step, Timing
from training.run.resuming import Row
from vla.adapter_settings import LoraConfig
from vla.batch import collate
from vla.policy import Policy
from vla.run_folder import GuardState
from vla.settings import ExpertConfig

SAMPLES = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return policy_of("tiny", ("expert", "lora"), lora=LoraConfig(), expert=ExpertConfig(width=128, depth=2, heads=2))


def test_flops_are_those_of_each_sample_without_padding(policy: Policy) -> None:
    alone = [
        sum(counted(policy, collate([sample], 0, "noise"))) for sample in samples_of(SAMPLES, 128, 160, ragged=True)
    ]
    assert len(set(alone)) == SAMPLES
    counter, batch = Meter(policy, draws=1), batch_of(SAMPLES, 128, 160, ragged=True)
    loss_of(policy, batch)
    work = counter.take(SAMPLES)
    assert work.flops == pytest.approx(sum(alone), rel=0.01)
    inputs, _ = policy.backbone.processor.observe(batch.observation)
    assert (work.tokens, work.places) == (inputs.attention_mask.sum(), inputs.attention_mask.numel())
    assert work.tokens < work.places


def stepped(policy: Policy, *, seconds: float, validated: bool = False) -> dict[str, Any]:
    """The line of a step of two samples."""
    lines: list[dict[str, Any]] = []
    accelerator: Any = SimpleNamespace(num_processes=1, process_index=0, is_main_process=False, device=CPU)
    records: Any = SimpleNamespace(add_step=lines.append)
    row = Row(name="stage2", stage=recipes.STAGE2, start=0, end=10)
    guard = Guard(recipes.stage2().guard, CPU, GuardState())
    shown = Metrics(accelerator, records, guard, row, at=0)
    shown.count(policy)
    if validated:
        loss_of(policy, batch_of(1, 128, 160))
    shown.begin()
    loss_of(policy, batch_of(2, 128, 160, ragged=True))
    zero = torch.zeros(())
    timing = Timing(seconds=seconds, waited=0.0, busy=0.0)
    shown.add(
        Step(
            step=1,
            stage="stage2",
            batch_size=2,
            lr={},
            losses={"diffusion": zero},
            gradient_norms={"all": zero},
            skip=zero,
            spike=zero,
            timing=timing,
        )
    )
    shown.settle()
    return lines[0]


def test_a_line_tells_the_rate_and_the_padding(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    line = stepped(policy, seconds=0.5)
    assert "mfu" not in line, "no peak is known of a CPU"
    assert 0 < line["padding"] < 0.2
    assert stepped(policy, seconds=1.0, validated=True)["tflops"] == pytest.approx(line["tflops"] / 2)
    monkeypatch.setattr(metrics, "peak_of", lambda *_: 4e12 * line["tflops"])
    assert stepped(policy, seconds=0.5)["mfu"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA H200", torch.float32, None),
        ("NVIDIA T4", torch.bfloat16, None),
    ],
)
def test_the_peak_is_that_of_the_device_and_of_bfloat16(
    name: str, dtype: torch.dtype, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    accelerator: Any = SimpleNamespace(device=torch.device("cuda", 0))
    asked: Any = SimpleNamespace(compute_dtype=dtype)
    assert peak_of(accelerator, asked) == peak
