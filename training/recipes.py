"""Whole configurations by name; the command line may change any leaf of them."""

from training.config import RunConfig
from training.settings import Rates, Stage
from vla.parts import FRESH

FRESH_RATES = dict.fromkeys(FRESH, 1e-4)

STAGE1 = Stage(steps=20_000, lr=Rates(**FRESH_RATES))
"""The backbone is frozen; the other parts and the expert learn."""

STAGE2 = Stage(steps=10_000, lr=Rates(**FRESH_RATES, lora=1e-5), begins="weights")
"""LoRA opens the backbone at a tenth of the others' rate."""


def stage1() -> RunConfig:
    """Encoders and expert on a frozen backbone."""
    return RunConfig(entry="stage1", stages={"stage1": STAGE1}, out="runs/stage1")


def stage2() -> RunConfig:
    """The same, with the backbone opened by LoRA."""
    return RunConfig(entry="stage2", stages={"stage2": STAGE2}, out="runs/stage2")


def two_stage() -> RunConfig:
    """Stage 1, then stage 2, in one process group."""
    return RunConfig(entry="two_stage", stages={"stage1": STAGE1, "stage2": STAGE2}, out="runs/two_stage")
