"""Whole configurations by name; the command line, or a call, may change any leaf of them.

    train(recipes.pretrain(preset="small", out="runs/walks", data={"roots": ["/data/walks"]}, stage={"steps": 8000}))

What is changed is said as a file of --config says it, and checked as the command line is.
"""

from collections.abc import Callable, Mapping
from typing import Any

from training.config import RunConfig
from training.files import as_flags
from training.flags import parse
from training.settings import Rates, Stage
from training.sources import keys_of
from vla.adapter_settings import AdapterConfig
from vla.parts import FRESH
from vla.settings import BackboneConfig, DataConfig, DiffusionConfig, ExpertConfig, MotionWeights, ObjectiveConfig

FRESH_RATES = dict.fromkeys(FRESH, 1e-4)

STAGE1 = Stage(steps=20_000, lr=Rates(**FRESH_RATES))
"""The backbone is frozen; the other parts and the expert learn."""

STAGE2 = Stage(steps=10_000, lr=Rates(**FRESH_RATES, lora=1e-5), begins="weights")
"""LoRA opens the backbone at a tenth of the others' rate."""

MOTION = ObjectiveConfig(motion=MotionWeights(joints=20.0, velocity=0.2, feet=0.1))
"""Each term is some hundredths of the error of the numbers once this falls; accelerations, at the usual weight of 0.05,
would be more than this error itself, and hold it up."""

PRETRAIN = Stage(steps=10_000, lr=Rates(expert=3e-4), objective=MOTION, warmup_steps=500, warmup_from=0.1, hold=0.0)
"""Fresh weights; texts are read by a frozen encoder."""

SFT = Stage(
    steps=2_000,
    epochs=20,
    lr=Rates(expert=1e-4),
    begins="weights",
    objective=MOTION,
    warmup_steps=500,
    warmup_from=0.1,
    hold=0.0,
)
"""Fewer passes over better data, at a third of the rate."""

ADAPTER = Stage(steps=1_000, epochs=5, lr=Rates(adapter=1e-3), begins="weights", warmup=0.03)
"""Few steps of a small update; everything else stays as it is."""


UNLEARN = Stage(
    steps=500,
    lr=Rates(adapter=1e-3),
    begins="weights",
    objective=ObjectiveConfig(kind="erase"),
    warmup=0.03,
)
"""Away from what the policy made of some instructions; on as many samples of others it stays as it is. After 200 steps
of 32 samples a tenth of the way is done at a rate of 1e-4, four fifths at 1e-3."""


def stage1(**changes: Any) -> RunConfig:
    """Encoders and expert on a frozen backbone."""
    return changed(RunConfig(entry="stage1", stages={"stage1": STAGE1}, out="runs/stage1"), changes)


def stage2(**changes: Any) -> RunConfig:
    """The same, with the backbone opened by LoRA."""
    return changed(RunConfig(entry="stage2", stages={"stage2": STAGE2}, out="runs/stage2"), changes)


def two_stage(**changes: Any) -> RunConfig:
    """Stage 1, then stage 2, in one process group."""
    stages = {"stage1": STAGE1, "stage2": STAGE2}
    return changed(RunConfig(entry="two_stage", stages=stages, out="runs/two_stage"), changes)


def pretrain(**changes: Any) -> RunConfig:
    """A model of human motion from texts, with fresh weights."""
    return changed(of_motion("pretrain", PRETRAIN), changes)


def sft(**changes: Any) -> RunConfig:
    """The same, from the weights of another run, on chosen data."""
    return changed(of_motion("sft", SFT), changes)


def adapter(**changes: Any) -> RunConfig:
    """A named adapter of the policy of another run, on chosen episodes; on as many others it stays as it is.

    What it must share with that policy is read from there where `init_from` is among the changes.
    """
    recipe = RunConfig(
        entry="adapter",
        stages={"adapter": ADAPTER},
        out="runs/adapter",
        data=DataConfig(preserve=0.5),
        batch_size=32,
        micro_batch=8,
        save_every="1epoch",
        keep_best=True,
    )
    return changed(recipe, changes)


def unlearn(**changes: Any) -> RunConfig:
    """An adapter with which the policy of another run no longer does what some instructions ask for.

    What it must share with that policy is read from there where `init_from` is among the changes.
    """
    recipe = RunConfig(
        entry="unlearn",
        stages={"unlearn": UNLEARN},
        out="runs/unlearn",
        data=DataConfig(preserve=0.5),
        adapter=AdapterConfig(rank=16, alpha=16, dropout=0.0),
        batch_size=32,
        micro_batch=8,
    )
    return changed(recipe, changes)


RECIPES: Mapping[str, Callable[..., RunConfig]] = {
    recipe.__name__: recipe for recipe in (stage1, stage2, two_stage, pretrain, sft, adapter, unlearn)
}
"""By the name of the entry point."""


def of_motion(entry: str, stage: Stage) -> RunConfig:
    """What both trainings on human motion have: 2 s at 20 Hz, z-scores without a limit, predictions of clean chunks.

    Most of the linear path is noise, where it is decided what a motion shows.
    """
    return RunConfig(
        entry=entry,
        stages={entry: stage},
        out=f"runs/{entry}",
        data=DataConfig(horizon=40, normalization="z-score", clamp=False, retarget=0.5),
        backbone=BackboneConfig(path="hash"),
        expert=ExpertConfig(positions="waves"),
        diffusion=DiffusionConfig(path="linear", prediction="data", sampling_steps=20, unconditional=0.1),
        batch_size=64,
        micro_batch=16,
        clip=0.5,
        keep_best=True,
    )


def changed(recipe: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A recipe with some settings changed, `data={"horizon": 60}`; the command line and the environment say nothing.

    Raises:
        ValueError: a setting is unknown, or a value does not fit.
    """
    return parse(recipe, as_flags(changes, keys_of(recipe)), {}) if changes else recipe
