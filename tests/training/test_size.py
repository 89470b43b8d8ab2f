"""What training Qwen2.5-VL-3B costs in trainable parameters and checkpoint bytes, counted on the meta device."""

import torch

from tests.vla.parts.test_lora import large
from training import recipes
from training.checkpoints.checkpoint import KEYS
from training.engine.stages import enter, without
from vla.adapter_settings import LoraConfig
from vla.contract import DataContract, StreamContract
from vla.normalize import Normalizer
from vla.parts import Encoders, lora
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.settings import ExpertConfig, SensorConfig

CONTRACT = DataContract(
    cameras=("left", "right"),
    state_dim=6,
    action_dim=7,
    horizon=8,
    fps=10.0,
    streams={"sensor": StreamContract(key="observation.force", channels=1026, samples=650, rate_hz=650.0)},
    state_names=(),
    action_names=(),
    action_periods=(0.0,) * 7,
)


SENSOR = SensorConfig(width=512, depth=2, heads=8)
EXPERT = ExpertConfig(width=1024, depth=6, heads=16)


def policy_3b() -> Policy:
    """The policy that the README's commands train on the 3B model, without its memory."""
    settings = PolicyConfig(encoders=Encoders(sensor=SENSOR), expert=EXPERT, lora=LoraConfig())
    backbone = large()
    with torch.device("meta"):
        lora.add(backbone, LoraConfig(), 0)
        normalizers = {kind: Normalizer(width) for kind, width in CONTRACT.normalized.items()}
        return Policy(
            config=settings,
            contract=CONTRACT,
            backbone=backbone,
            normalizers=normalizers,
            compute_dtype=torch.bfloat16,
            seed=0,
        )


def test_parameters_and_checkpoint_of_the_3b_model() -> None:
    policy = policy_3b()
    groups = enter("stage2", without(recipes.STAGE2, "camera"), policy)
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.group] = counts.get(group.group, 0) + group.num_parameters
    assert counts == {"lora": 7_372_800, "sensor": 11_565_056, "expert": 144_330_759}
    frozen = sum(parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad)
    assert frozen == 3_754_622_976, "Qwen2.5-VL-3B, its tied head counted once"
    per_parameter = 4 * len(KEYS)  # float32 weight, two moments, average
    assert per_parameter == 16
    assert sum(counts.values()) * per_parameter == 2_612_297_840
