"""The command line of a run: the settings of a recipe, of a file, and of the flags given.

A run's stages are `--stage.X` where it has one, `--NAME.X` where it has several; there `--stage.X` sets X in all of
them, and the rate of a group in those that train it. `--finetune-vl` edits rates, and is no setting of its own.
"""

import contextlib
import dataclasses
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any

import tyro

from training import helping
from training.config import RunConfig
from training.foreign import refuse_foreign
from training.presets import PRESETS
from training.ranks import rank
from training.settings import FinetuneVl, Stage
from training.sources import OPENED, Source, gather, keys_of, opens
from vla import commandline
from vla.commandline import WIDTH
from vla.errors import UsageError

MODES: Mapping[FinetuneVl, str | None] = {"none": None, "lora": "lora", "full": "backbone"}
"""The group that each --finetune-vl leaves open of the backbone."""
OPENING_RATE = 1e-5
"""Of a group that --finetune-vl opens where no stage gave the backbone a rate."""
FINETUNE = """What the stages that open the backbone train of it: nothing, LoRA adapters, or its last blocks. It moves
their rate: --stage.lr.lora or --stage.lr.backbone."""
PRESET = """Sizes of the expert by name: small, medium or large; of sft the epochs and the rate, too."""


def parse(recipe: RunConfig, argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> RunConfig:
    """The configuration of the command line: recipe < file (--config FILE) < environment < flag.

    Of the environment, recipes of human motion alone read something. What a preset, a variable or a key of another
    trainer became is printed.

    Raises:
        ValueError: a value does not fit.
        UsageError: an unknown flag or group, with the nearest known one, or a flag without its value.
    """
    keys = keys_of(recipe)
    shown = None if "--help-all" in argv else helping.essential(recipe.entry, tuple(keys.values()))
    argv = ["--help" if word == "--help-all" else word for word in argv]
    kind = view_of(recipe)
    known = commandline.flags(kind)
    sources = gather(recipe, argv, environment, known)
    arguments = [word for source in sources for word in source.words]
    refuse_foreign(arguments, known, recipe.entry)
    first = rank() == 0
    settings: dict[str, Any] = vars(recipe) | {keys[name]: stage for name, stage in recipe.stages.items()}
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(io.StringIO()):  # one rank prints the help
        view, unknown = commandline.parse(
            kind,
            arguments,
            "--help-all",
            examples=helping.examples(recipe.entry),
            shown=shown,
            default=kind(**settings),
            description=helping.describe(recipe.entry),
        )
    if unknown:
        hint = commandline.nearest(unknown[0], known, "--help-all lists them all")
        raise UsageError(f"unknown flag {unknown[0]}; {hint}")
    found = vars(view)
    stages = {name: found[key] for name, key in keys.items()}
    if view.finetune_vl is not None:
        words = sources[-1].flags()
        refuse_contradiction(view.finetune_vl, {keys[name]: stage for name, stage in stages.items()}, words)
        stages = finetuned(stages, recipe, view.finetune_vl)
    if first:
        say(sources)
    return RunConfig(**{entry.name: found[entry.name] for entry in dataclasses.fields(RunConfig)} | {"stages": stages})


def say(sources: Sequence[Source]) -> None:
    """Print what the sources became that are not flags themselves."""
    for source in sources:
        if source.remarks:
            lines = [textwrap.wrap(remark, WIDTH - 2, subsequent_indent="  ") for remark in source.remarks]
            print(f"{source.place}:", *(f"  {line}" for wrapped in lines for line in wrapped), sep="\n")


def view_of(recipe: RunConfig) -> Any:
    """A configuration as its flags show it: a field a stage in place of the mapping, --finetune-vl, --preset."""
    stages = [(key, Stage, field(default=recipe.stages[name])) for name, key in keys_of(recipe).items()]
    sugar: list[tuple[str, Any, Any]] = [
        ("finetune_vl", Annotated[FinetuneVl | None, tyro.conf.arg(help=FINETUNE)], None)
    ]
    if recipe.entry in PRESETS:
        sugar.append(("preset", Annotated[str | None, tyro.conf.arg(help=PRESET)], None))
    return make_dataclass("Flags", [*stages, *sugar], bases=(RunConfig,), frozen=True, kw_only=True)


def finetuned(stages: Mapping[str, Stage], recipe: RunConfig, mode: FinetuneVl) -> dict[str, Stage]:
    """The stages with the backbone's rate where --finetune-vl has it: those that open it, or all if none does."""
    opening = {name for name, stage in recipe.stages.items() if opens(stage)} or set(stages)
    edited = dict(stages)
    for name in opening:
        lr, kept = stages[name].lr, MODES[mode]
        rate = None if kept is None else vars(lr)[kept] or lr.lora or lr.backbone or OPENING_RATE
        rates = {group: rate if group == kept else None for group in OPENED}
        edited[name] = dataclasses.replace(stages[name], lr=lr.changed(**rates))
    return edited


def refuse_contradiction(mode: FinetuneVl, stages: Mapping[str, Stage], words: set[str]) -> None:
    """Refuse a rate that --finetune-vl would take away (ValueError)."""
    for key, stage in stages.items():
        for other, group in MODES.items():
            flag = f"--{key}.lr.{group}"
            if group is not None and other != mode and flag in words and vars(stage.lr)[group] is not None:
                raise ValueError(
                    f"{flag} has no effect with --finetune-vl {mode}: leave it out, or give --finetune-vl {other}"
                )
