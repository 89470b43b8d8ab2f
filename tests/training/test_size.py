"""What training Qwen2.5-VL-3B costs in trainable parameters and checkpoint bytes, counted on the meta device."""

import torch

from tests.vla.test_lora import large
from training import recipes
from training.checkpoint import KEYS
from training.stages import enter, without
from vla import lora
from vla.batch import DataContract
from vla.expert import LARGE
from vla.normalize import Normalizer
from vla.policy import Policy, streams
from vla.sensor import FORCE_AND_ASCAN
from vla.settings import LoraConfig, PolicyConfig

CONTRACT = DataContract(
    cameras=("left", "right"),
    state_dim=6,
    action_dim=7,
    horizon=8,
    fps=10.0,
    sensor="observation.force",
    sensor_channels=FORCE_AND_ASCAN.channels,
    sensor_samples=FORCE_AND_ASCAN.samples,
    sensor_rate_hz=FORCE_AND_ASCAN.rate_hz,
    state_names=(),
    action_names=(),
    action_periods=(0.0,) * 7,
)


def policy_3b() -> Policy:
    """The policy that the README's commands train on the 3B model, without its memory."""
    settings = PolicyConfig(sensor=FORCE_AND_ASCAN.config, expert=LARGE, lora=LoraConfig())
    backbone = large()
    with torch.device("meta"):
        lora.add(backbone, LoraConfig(), 0)
        normalizers = {stream: Normalizer(width) for stream, width in streams(CONTRACT).items()}
        return Policy(
            config=settings,
            contract=CONTRACT,
            backbone=backbone,
            normalizers=normalizers,
            compute_dtype=torch.bfloat16,
        )


def test_parameters_and_checkpoint_of_the_3b_model() -> None:
    policy = policy_3b()
    groups = enter(without(recipes.stage2().stages()[0], "camera"), policy)
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.group] = counts.get(group.group, 0) + group.num_parameters
    assert counts == {"lora": 7_372_800, "sensor": 11_567_104, "expert": 144_355_335}
    frozen = sum(parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad)
    assert frozen == 3_754_622_976, "Qwen2.5-VL-3B, its tied head counted once"
    per_parameter = 4 * len(KEYS)  # float32 weight, two moments, average
    assert per_parameter == 16
    assert sum(counts.values()) * per_parameter == 2_612_723_824
