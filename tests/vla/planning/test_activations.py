"""Bytes of activations by formula against those that autograd keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vla.planning.models import batch_of, measured, most, policy_of, workload_of, write_backbone
from vla.adapter_settings import LoraConfig
from vla.planning.activations import kept_of
from vla.settings import ExpertConfig

STAGES: dict[str, dict[str, Any]] = {
    "lora": {"trained": ("expert", "lora"), "lora": LoraConfig()},
    "bare": {"trained": ("expert", "lora"), "lora": LoraConfig(dropout=0.0)},
    "frozen": {"trained": ("expert",)},
    "full": {"trained": ("expert",), "blocks": 2},
}
DEEP = [pytest.param(stage, marks=pytest.mark.deep) for stage in ("bare", "full")]


@pytest.fixture(scope="module")
def mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone") / "mid")


@pytest.mark.parametrize("stage", ["lora", "frozen", *DEEP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_keeps_what_was_planned(mid: Path, stage: str, dtype: torch.dtype) -> None:
    """The difference of two samples and one, so that what is kept once falls out; that is compared, too."""
    expert = ExpertConfig(width=256, depth=4, heads=4)
    policy = policy_of(mid, dtype=dtype, expert=expert, **STAGES[stage])
    planned = kept_of(policy, workload_of(policy, batch_of(1)), "cpu")
    one, two = (measured(policy, batch_of(size)) for size in (1, 2))
    assert planned.sample == pytest.approx(two - one, rel=0.1)
    assert planned.once == pytest.approx(2 * one - two, rel=0.25, abs=0.02 * one)


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        ("again", torch.bfloat16),
        ("frozen", torch.float32),
        pytest.param("lora", torch.float32, marks=pytest.mark.deep),
        pytest.param("again", torch.float32, marks=pytest.mark.deep),
        pytest.param("frozen", torch.bfloat16, marks=pytest.mark.deep),
    ],
)
def test_a_step_takes_at_most_what_was_planned(mid: Path, stage: str, dtype: torch.dtype) -> None:
    """With LoRA where backward begins, with checkpointing in its first block, without either in the vision tower."""
    expert = ExpertConfig(width=256, depth=4, heads=4)
    how = STAGES["lora"] | {"again": True} if stage == "again" else STAGES[stage]
    policy = policy_of(mid, dtype=dtype, expert=expert, **how)
    planned = kept_of(policy, workload_of(policy, batch_of(1)), "cpu")
    fewer, more = (most(policy, batch_of(size)) for size in (6, 8))
    assert planned.peak == pytest.approx((more - fewer) / 2, rel=0.25)
