"""FLOPs by formula against those that torch counts of the same step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_size import CONTRACT as LARGE
from tests.vla.planning.models import batch_of, counted, policy_of, workload_of, write_backbone
from vla.adapter_settings import LoraConfig
from vla.parts import Encoders
from vla.planning.flops import flops_of
from vla.planning.outline import PUBLISHED, outlined
from vla.planning.plan import opened
from vla.planning.workload import Workload, pairs_of, patches_of, tokens_of
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig, CameraConfig, ExpertConfig

EXPERT = ExpertConfig(width=128, depth=2, heads=2)
STAGES: dict[str, dict[str, Any]] = {
    "lora": {"trained": ("expert", "lora"), "lora": LoraConfig()},
    "frozen": {"trained": ("expert",)},
    "full": {"trained": ("expert",), "blocks": 1},
    "camera": {"trained": ("expert",), "encoders": Encoders(camera=CameraConfig(width=64, pixels=64))},
}
SAMPLES = 2


@pytest.fixture(scope="module")
def mid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone") / "mid")


def check(policy: Any, size: tuple[int, int]) -> None:
    batch = batch_of(SAMPLES, *size)
    planned = flops_of(policy, workload_of(policy, batch))
    assert (SAMPLES * planned.forward, SAMPLES * planned.backward) == pytest.approx(counted(policy, batch), rel=0.01)


@pytest.mark.parametrize("stage", STAGES)
def test_those_of_the_tiny_policy(stage: str) -> None:
    """Frames of 128 x 160 pixels make windows of several sizes."""
    check(policy_of("tiny", expert=EXPERT, **STAGES[stage]), (128, 160))


@pytest.mark.parametrize("stage", ["lora", pytest.param("full", marks=pytest.mark.deep)])
def test_those_of_real_proportions(mid: Path, stage: str) -> None:
    check(policy_of(mid, expert=EXPERT, **STAGES[stage]), (224, 224))


def test_checkpointing_computes_the_language_model_again_and_no_model_flop() -> None:
    policy = policy_of("tiny", expert=EXPERT, **STAGES["lora"])
    work = workload_of(policy, batch_of(1))
    before = flops_of(policy, work)
    object.__setattr__(policy.backbone.config, "gradient_checkpointing", True)
    after = flops_of(policy, work)
    assert (before.again, after.again) == (0, before.parts["language"].forward)
    assert after.model == before.model


@pytest.mark.parametrize(("path", "teraflops"), [*zip(PUBLISHED, (3.87, 7.72), strict=True)])
def test_the_published_sizes_cost_what_was_derived_by_hand(path: str, teraflops: float) -> None:
    """2N and 4N of the linear layers and half of the attention, worked out on paper for three images of 224 pixels."""
    config = PolicyConfig(backbone=BackboneConfig(path=path), lora=LoraConfig())
    policy = opened(outlined(config, LARGE, torch.bfloat16), ("sensor", "expert", "lora"), 1)
    flops = flops_of(policy, Workload(tokens=256, images=((16, 16),) * 3))
    backbone = [flops.parts[part] for part in ("vision", "language")]
    assert sum(cost.forward + cost.backward for cost in backbone) / 1e12 == pytest.approx(teraflops, rel=0.015)


def test_frames_become_patches_and_tokens_as_the_processor_makes_them() -> None:
    config = BackboneConfig(path="tiny", max_pixels=50176)
    policy = policy_of("tiny", expert=EXPERT, **STAGES["frozen"])
    for size in ((224, 224), (480, 640), (20, 30)):
        images = workload_of(policy, batch_of(1, *size)).images
        assert images[0] == patches_of(*size, config, 14, 2)
        assert tokens_of(images, 2) == sum(rows * columns // 4 for rows, columns in images)
    assert pairs_of((10, 8), 8) == 64**2 + 16**2


@pytest.mark.parametrize("layer", [1, None])
def test_what_is_read_from_behind_a_door_is_not_counted(layer: int | None) -> None:
    """With LoRA on the upper layer, and of a frozen backbone."""
    lora = {"lora": LoraConfig(layers="top:1"), "trained": ("expert", "lora")} if layer else STAGES["frozen"]
    policy = policy_of("tiny", expert=EXPERT, **lora)
    batch = batch_of(SAMPLES, 128, 160)
    whole = workload_of(policy, batch)
    prefix = policy.backbone.prefix(batch.observation, layer, "fp32")
    known = replace(batch, observation=replace(batch.observation, prefix=prefix))
    work = replace(whole, images=(), first=layer or policy.backbone.num_layers)
    planned = flops_of(policy, work)
    assert planned.model < 0.8 * flops_of(policy, whole).model
    assert (SAMPLES * planned.forward, SAMPLES * planned.backward) == pytest.approx(counted(policy, known), rel=0.01)
