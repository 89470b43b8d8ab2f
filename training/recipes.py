"""Whole configurations by name; the command line may change any leaf of them."""

from training.config import StageConfig, TwoStageConfig
from training.settings import Rates, Stage
from vla.parts import FRESH

FRESH_RATES = dict.fromkeys(FRESH, 1e-4)
STAGE1 = Stage(name="stage1", steps=20_000, lr=Rates(**FRESH_RATES))
"""The backbone is frozen; the other parts and the expert learn."""

STAGE2 = Stage(name="stage2", steps=10_000, lr=Rates(**FRESH_RATES, lora=1e-5, backbone=1e-5))
"""LoRA (or, with --finetune-vl full, the last blocks) opens the backbone at a tenth of the others' rate."""


def stage1() -> StageConfig:
    """Encoders and expert on a frozen backbone."""
    return StageConfig(stage=STAGE1, out="runs/stage1")


def stage2() -> StageConfig:
    """The same, with the backbone opened by LoRA."""
    return StageConfig(stage=STAGE2, finetune_vl="lora", out="runs/stage2")


def two_stage() -> TwoStageConfig:
    """Stage 1, then stage 2, in one process group."""
    return TwoStageConfig(stage1=STAGE1, stage2=STAGE2, finetune_vl="lora", out="runs/two_stage")
