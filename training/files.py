"""Settings from a file: the config.json of a run, one that a person has written, or one of another trainer."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from training import presets
from training.config import flatten
from training.keys import is_foreign, translate
from vla.documents import from_yaml, once
from vla.settings import renamed


def read_file(
    path: Path, entry: str, keys: Mapping[str, str], flags: Collection[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """The settings in a file as flags, of an entry point that has these `flags`, and remarks on how they came to be.

    `keys` names the flags of each stage.

    Raises:
        ValueError: there is no such file, it is no configuration, that of another entry point, or cannot be obeyed.
        UsageError: it has a key of another trainer's files that is unknown.
    """
    tree = read_settings(path)
    if (other := tree.pop("entry", entry)) != entry:
        raise ValueError(f"--config {path} is of training/{other}.py; start that, or give a run of this entry point")
    if is_foreign(tree):
        if entry not in (*presets.PRESETS, "adapter"):
            raise ValueError(f"--config {path} is of human motion; give it to training/pretrain.py or training/sft.py")
        found = translate(tree, entry, f"--config {path}", flags)
        return [*found.words, *as_flags(found.own, keys)], found.remarks
    if isinstance(tree.get("data"), dict):
        tree["data"] = renamed(tree["data"])
    return as_flags(tree, keys), ()


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


def as_flags(tree: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """A configuration file as the flags that say the same, so that both are checked by one and the same code."""
    words: list[str] = []
    for name, value in flatten(tree).items():
        flag = name.removeprefix("encoders.").removeprefix("forget.")  # their flags have no prefix
        if flag.startswith("stages."):
            _, stage, rest = flag.split(".", 2)
            flag = f"{keys.get(stage, stage)}.{rest}"
        *path, last = flag.replace("_", "-").split(".")
        match value:
            case bool():
                words.append("--" + ".".join([*path, last if value else f"no-{last}"]))
            case list() | tuple():
                words += [f"--{'.'.join([*path, last])}", *map(str, value)]
            case _:
                words += [f"--{'.'.join([*path, last])}", str(value)]
    return words
