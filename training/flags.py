"""The command line of a run: the settings of a recipe, of a file, and of the flags given."""

import contextlib
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from training.config import RunConfig, flatten
from training.foreign import refuse_foreign
from vla import commandline
from vla.errors import UsageError

OPENING = {"lora": "lora", "backbone": "full"}
"""The --finetune-vl that trains each group of the backbone."""
Config = TypeVar("Config", bound=RunConfig)
DESCRIPTION = """Train a vision-language-action policy; start it with `accelerate launch`.
--config FILE replays the config.json of a run; flags change it further."""


def as_flags(tree: Mapping[str, Any]) -> list[str]:
    """A configuration file as the flags that say the same, so that both are checked by one and the same code."""
    words: list[str] = []
    for name, value in flatten(tree).items():
        *path, last = name.removeprefix("encoders.").replace("_", "-").split(".")
        match value:
            case bool():
                words.append("--" + ".".join([*path, last if value else f"no-{last}"]))
            case list():
                words += [f"--{'.'.join([*path, last])}", *map(str, value)]
            case _:
                words += [f"--{'.'.join([*path, last])}", str(value)]
    return words


def parse(recipe: Config, argv: Sequence[str]) -> Config:
    """The configuration of the command line: recipe < file (--config FILE) < flag.

    Raises:
        ValueError: a value does not fit.
        UsageError: an unknown flag or group, with the nearest known one, or a flag without its value.
    """
    arguments = list(argv)
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments):
            raise ValueError("--config needs a file: the config.json of a run")
        path = Path(arguments[at + 1])
        try:
            tree = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"--config {path} cannot be read as JSON: {error}") from error
        if not isinstance(tree, dict):
            raise ValueError(f"--config {path} holds no JSON object; give the config.json of a run")
        arguments = as_flags(tree) + arguments[:at] + arguments[at + 2 :]
    known = commandline.flags(type(recipe))
    refuse_foreign(arguments, known)
    given = {word.partition("=")[0] for word in argv}
    for stage in ("stage", "stage1", "stage2"):
        steps, epochs = f"--{stage}.steps", f"--{stage}.epochs"
        if {steps, epochs} <= given:
            raise ValueError(f"{steps} and {epochs} both say how long the stage is; give one of them")
        if steps in given:
            arguments += [epochs, "None"]  # the file's would take the place of the steps
    first = os.environ.get("RANK", "0") == "0"
    with contextlib.nullcontext() if first else contextlib.redirect_stdout(io.StringIO()):  # one rank prints the help
        config, unknown = commandline.parse(type(recipe), arguments, "--help", default=recipe, description=DESCRIPTION)
    if unknown:
        hint = commandline.nearest(unknown[0], known, "--help lists them all")
        raise UsageError(f"unknown flag {unknown[0]}; {hint}")
    parsed: Config = config
    for stage, (group, mode) in itertools.product(("stage", "stage2"), OPENING.items()):
        flag = f"--{stage}.lr.{group}"
        idle = flag in given and getattr(parsed, stage).name == "stage2" and parsed.finetune_vl != mode
        if idle and getattr(getattr(parsed, stage).lr, group) is not None:
            raise ValueError(
                f"{flag} has no effect with --finetune-vl {parsed.finetune_vl}: leave it out, "
                f"or give --finetune-vl {mode}"
            )
    return parsed


def both_stages(argv: Sequence[str]) -> list[str]:
    """`--stage.X value` for a run of two stages: in both of them, or in stage 2 where only that one trains X."""
    spread: list[str] = []
    words = list(argv)
    while words:
        flag = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        stages = ["stage"]
        if flag.startswith("--stage."):
            stage2_only = flag.startswith(("--stage.lr.lora", "--stage.lr.backbone"))
            stages = ["stage2"] if stage2_only else ["stage1", "stage2"]
        for stage in stages:
            spread += [flag.replace("--stage.", f"--{stage}.", 1), *values]
    return spread
