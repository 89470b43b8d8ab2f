"""The command line of a run: the settings of a recipe, of a file, and of the flags given.

A run's stages are `--stage.X` where it has one, `--NAME.X` where it has several; there `--stage.X` sets X in all of
them, and the rate of a group in those that train it. `--finetune-vl` edits rates, and is no setting of its own.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from training import helping
from training.config import RunConfig, flatten
from training.foreign import refuse_foreign
from training.ranks import rank
from training.settings import FinetuneVl, Stage
from vla import commandline
from vla.errors import UsageError
from vla.settings import renamed

MODES: Mapping[FinetuneVl, str | None] = {"none": None, "lora": "lora", "full": "backbone"}
"""The group that each --finetune-vl leaves open of the backbone."""
OPENED = ("lora", "backbone")
OPENING_RATE = 1e-5
"""Of a group that --finetune-vl opens where no stage gave the backbone a rate."""
DESCRIPTION = """Train a vision-language-action policy; start it with `accelerate launch`.
--config FILE (JSON or YAML) replays the config.json of a run; flags change it."""
FINETUNE = """What the stages that open the backbone train of it: nothing, LoRA adapters, or its last blocks. It moves
their rate: --stage.lr.lora or --stage.lr.backbone."""


def keys_of(recipe: RunConfig) -> dict[str, str]:
    """The name of each stage's flags, by the name of the stage."""
    return {name: "stage" if len(recipe.stages) == 1 else name for name in recipe.stages}


def parse(recipe: RunConfig, argv: Sequence[str]) -> RunConfig:
    """The configuration of the command line: recipe < file (--config FILE) < flag.

    Raises:
        ValueError: a value does not fit.
        UsageError: an unknown flag or group, with the nearest known one, or a flag without its value.
    """
    keys = keys_of(recipe)
    shown = None if "--help-all" in argv else helping.essential(tuple(keys.values()))
    argv = ["--help" if word == "--help-all" else word for word in argv]
    arguments = spread(with_file(argv, recipe), recipe)
    kind = view_of(recipe)
    known = commandline.flags(kind)
    refuse_one_rate(with_file(argv, recipe), recipe)
    refuse_foreign(arguments, known)
    words = {word.partition("=")[0] for word in spread(argv, recipe)}
    for key in keys.values():
        steps, epochs = f"--{key}.steps", f"--{key}.epochs"
        if {steps, epochs} <= words:
            raise ValueError(f"{steps} and {epochs} both say how long the stage is; give one of them")
        if steps in words:
            arguments += [epochs, "None"]  # the file's would take the place of the steps
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
            description=DESCRIPTION,
        )
    if unknown:
        hint = commandline.nearest(unknown[0], known, "--help-all lists them all")
        raise UsageError(f"unknown flag {unknown[0]}; {hint}")
    found = vars(view)
    stages = {name: found[key] for name, key in keys.items()}
    if view.finetune_vl is not None:
        refuse_contradiction(view.finetune_vl, {keys[name]: stage for name, stage in stages.items()}, words)
        stages = finetuned(stages, recipe, view.finetune_vl)
    return RunConfig(**{entry.name: found[entry.name] for entry in dataclasses.fields(RunConfig)} | {"stages": stages})


def view_of(recipe: RunConfig) -> Any:
    """A configuration as its flags show it: a field a stage in place of the mapping, and --finetune-vl."""
    stages = [(key, Stage, field(default=recipe.stages[name])) for name, key in keys_of(recipe).items()]
    finetune = ("finetune_vl", Annotated[FinetuneVl | None, tyro.conf.arg(help=FINETUNE)], None)
    return make_dataclass("Flags", [*stages, finetune], bases=(RunConfig,), frozen=True, kw_only=True)


def with_file(given: Sequence[str], recipe: RunConfig) -> list[str]:
    """The arguments with those of --config FILE before them.

    Raises:
        ValueError: there is no such file, it is no configuration, or that of another entry point.
    """
    arguments = list(given)
    if "--config" not in arguments:
        return arguments
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise ValueError("--config needs a file: the config.json of a run")
    path = Path(arguments[at + 1])
    tree = read_settings(path)
    if (entry := tree.pop("entry", recipe.entry)) != recipe.entry:
        raise ValueError(f"--config {path} is of training/{entry}.py; start that, or give a run of this entry point")
    if isinstance(tree.get("data"), dict):
        tree["data"] = renamed(tree["data"])
    return as_flags(tree, keys_of(recipe)) + arguments[:at] + arguments[at + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file: YAML where its name says so, else JSON.

    Raises:
        ValueError: it cannot be read, names a setting twice, or holds something else.
    """
    kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        tree = from_yaml(text) if kind == "YAML" else json.loads(text, object_pairs_hook=once)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} cannot be read as {kind}: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"--config {path} holds no {kind} object; give the config.json of a run")
    return tree


def once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """An object of these names and values. ValueError where a name stands twice, of which the last would count."""
    names = [name for name, _ in pairs]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"{twice[0]} stands there twice")
    return dict(pairs)


def from_yaml(text: str) -> Any:
    """The values of a document, of plain types. ValueError where a name stands twice."""
    loader = yaml.SafeLoader(text)
    root = loader.get_single_node()
    nodes = [] if root is None else [root]
    for node in nodes:  # which grows
        if isinstance(node, yaml.MappingNode):
            once([(name.value, value) for name, value in node.value if not name.tag.endswith(":merge")])
            nodes += [value for _, value in node.value if value not in nodes]
        elif isinstance(node, yaml.SequenceNode):
            nodes += [value for value in node.value if value not in nodes]
    return None if root is None else loader.construct_document(root)


def as_flags(tree: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """A configuration file as the flags that say the same, so that both are checked by one and the same code."""
    words: list[str] = []
    for name, value in flatten(tree).items():
        flag = name.removeprefix("encoders.")  # their flags have no prefix
        if flag.startswith("stages."):
            _, stage, rest = flag.split(".", 2)
            flag = f"{keys.get(stage, stage)}.{rest}"
        *path, last = flag.replace("_", "-").split(".")
        match value:
            case bool():
                words.append("--" + ".".join([*path, last if value else f"no-{last}"]))
            case list():
                words += [f"--{'.'.join([*path, last])}", *map(str, value)]
            case _:
                words += [f"--{'.'.join([*path, last])}", str(value)]
    return words


def spread(argv: Sequence[str], recipe: RunConfig) -> list[str]:
    """`--stage.X value` for each of several stages; a rate for those that train its group, or else for all."""
    keys = keys_of(recipe)
    if len(keys) == 1:
        return list(argv)
    found: list[str] = []
    words = list(argv)
    while words:
        flag = words.pop(0)
        values = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        names = [flag]
        if flag.startswith("--stage."):
            group = flag.partition("=")[0].removeprefix("--stage.lr.") if flag.startswith("--stage.lr.") else None
            chosen = [key for name, key in keys.items() if group is None or trains(recipe.stages[name], group)]
            names = [flag.replace("--stage.", f"--{key}.", 1) for key in chosen or keys.values()]
        for name in names:
            found += [name, *values]
    return found


def refuse_one_rate(argv: Sequence[str], recipe: RunConfig) -> None:
    """Refuse `--stage.lr 1e-4`: each group has a rate of its own (UsageError naming the flags)."""
    keys = keys_of(recipe)
    for word in argv:
        flag = word.partition("=")[0]
        if flag in {"--stage.lr", *(f"--{key}.lr" for key in keys.values())}:
            chosen = [name for name, key in keys.items() if flag in ("--stage.lr", f"--{key}.lr")]
            groups = dict.fromkeys(group for name in chosen for group in recipe.stages[name].lr.by_group())
            named = [f"{flag}.{group}" for group in groups]
            raise UsageError(f"{flag} is no rate: give each group its own, {', '.join(named[:-1])} or {named[-1]}")


def trains(stage: Stage, group: str) -> bool:
    """Whether a stage trains a group, or, of the backbone, another one that --finetune-vl may put in its place."""
    rates = stage.lr.by_group()
    return group in rates or (group in OPENED and opens(stage))


def opens(stage: Stage) -> bool:
    """Whether a stage trains anything of the backbone."""
    return not stage.lr.by_group().keys().isdisjoint(OPENED)


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
