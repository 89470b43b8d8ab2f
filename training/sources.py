"""Where the settings of a run come from: recipe < file < environment < command line. Each source becomes flags."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from training import bases, presets, variables
from training.config import RunConfig, flatten
from training.files import as_flags, read_file
from training.settings import Stage
from vla.documents import to_json
from vla.errors import UsageError

OPENED = ("lora", "backbone")
"""Groups of the backbone that --finetune-vl may open."""
BEGINNINGS = ("--resume-from", "--init-from")
ADAPTERS = ("adapter", "unlearn")
"""The entry points whose settings are, but for those given, their base's."""
SEVERAL = "--concept"
"""A flag that may be given several times, each with some of its values."""


OWN = re.compile(r"stages\.unlearn\.objective\.(kind|gamma|draws)")
"""Settings of a base's objective that unlearning has of its own."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Settings from one place, as flags."""

    place: str
    words: list[str]
    remarks: list[str] = field(default_factory=list)
    """How they came to be, a line each."""

    def flags(self) -> set[str]:
        """The flags among its words."""
        return {flag_of(word) for word in self.words if word.startswith("--")}


def flag_of(word: str) -> str:
    """The flag of `--flag` or `--flag=value`; dashes and underscores are one."""
    return word.partition("=")[0].replace("_", "-")


def gather(
    recipe: RunConfig, argv: Sequence[str], environment: Mapping[str, str], known: Collection[str]
) -> list[Source]:
    """The sources beside the recipe, the weakest first; `known` are the recipe's flags.

    Raises:
        ValueError: a file or a variable cannot be obeyed, or two sources contradict each other.
        UsageError: a key of a file is unknown.
    """
    path, words = taken("--config", argv)
    line = Source(place="the command line", words=words)
    found = [] if path is None else [from_file(path, recipe, known)]
    found += [from_environment(recipe.entry, environment, line.flags()), line]
    for source in found:
        refuse_one_rate(source.words, recipe)
    refuse_two_lengths(line, recipe)
    sources = [completed(source, recipe) for source in found]
    refuse_two_beginnings(sources)
    return sources if recipe.entry not in ADAPTERS else [*from_base(sources, recipe), *sources]


def taken(flag: str, words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The last value of a flag, None without one, and the other words. UsageError where the value is missing."""
    value, rest = None, []
    left = list(words)
    while left:
        word = left.pop(0)
        if flag_of(word) != flag:
            rest.append(word)
        elif "=" in word:
            value = word.partition("=")[2]
        elif left:
            value = left.pop(0)
        else:
            raise UsageError(f"{flag} needs a value")
    return value, rest


def from_file(path: str, recipe: RunConfig, known: Collection[str]) -> Source:
    """The settings in a file."""
    words, remarks = read_file(Path(path), recipe.entry, keys_of(recipe), known)
    return Source(place=path, words=[*words], remarks=[*remarks])


def from_base(sources: Sequence[Source], recipe: RunConfig) -> list[Source]:
    """What the policy that an adapter begins with, or the run that goes on, says of its settings."""
    last = {flag: None if value == "None" else value for flag, value in last_values(sources).items()}
    resumed = last["--out"] or recipe.out if last["--resume-from"] == "auto" else last["--resume-from"]
    if (place := last["--init-from"] or resumed) is None:
        return []
    (stage,) = recipe.stages
    shared = bases.settings_of(place, stage)
    if recipe.entry == "unlearn":  # its objective is its own
        shared = {key: value for key, value in shared.items() if not OWN.fullmatch(key)}
    words = as_flags(shared, keys_of(recipe))
    usual = flatten(json.loads(json.dumps(to_json(recipe))))
    changed = as_flags({key: value for key, value in shared.items() if value != usual.get(key)}, keys_of(recipe))
    return [Source(place=f"the base {place}", words=words, remarks=[" ".join(changed)] if changed else [])]


def last_values(sources: Sequence[Source]) -> dict[str, str | None]:
    """What the strongest source gives for the flags that say where a run begins and writes."""
    return {
        flag: next((value for source in reversed(sources) if (value := taken(flag, source.words)[0]) is not None), None)
        for flag in (*BEGINNINGS, "--out")
    }


def from_environment(entry: str, environment: Mapping[str, str], above: Collection[str]) -> Source:
    """The settings in the environment but those of flags `above` it."""
    source = Source(place="the environment", words=[], remarks=[])
    for name, words in variables.flags_of(entry, environment):
        if words[0] in above:
            source.remarks.append(f"{name}: {words[0]} of the command line goes before it")
        else:
            source.words.extend(words)
            if words[0] == "--preset":
                presets.preset(entry, words[1], name)
            source.remarks.append(f"{name}: {' '.join(words)}")
    return source


def completed(source: Source, recipe: RunConfig) -> Source:
    """A source with the flags of its preset before its own, for each stage, and steps that take the place of epochs."""
    name, words = taken("--preset", source.words) if recipe.entry in presets.PRESETS else (None, [*source.words])
    stood_for = [] if name is None else presets.preset(recipe.entry, name, f"{source.place}: --preset")
    said = [*source.remarks, *([f"--preset {name}: {' '.join(stood_for)}"] if stood_for else [])]
    own = spread(together(words, SEVERAL), recipe)
    given = replace(source, words=own).flags()
    lengths = [
        word
        for key in keys_of(recipe).values()
        if f"--{key}.steps" in given and f"--{key}.epochs" not in given
        for word in (f"--{key}.epochs", "None")
    ]
    return Source(place=source.place, words=[*spread(stood_for, recipe), *own, *lengths], remarks=said)


def together(words: Sequence[str], flag: str) -> list[str]:
    """A flag that is given several times as one with all of its values, where it stands last."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            groups.append([name, value] if equals and name == flag else [word])
        else:
            groups[-1].append(word)
    values = [value for group in groups if group[:1] == [flag] for value in group[1:]]
    rest = [word for group in groups if group[:1] != [flag] for word in group]
    return [*rest, flag, *values] if len(rest) < len(words) else rest


def refuse_one_rate(argv: Sequence[str], recipe: RunConfig) -> None:
    """Refuse `--stage.lr 1e-4`: each group has a rate of its own (UsageError naming the flags)."""
    keys = keys_of(recipe)
    for word in argv:
        flag = word.partition("=")[0]
        if flag in {"--stage.lr", *(f"--{key}.lr" for key in keys.values())}:
            chosen = [name for name, key in keys.items() if flag in ("--stage.lr", f"--{key}.lr")]
            groups = dict.fromkeys(group for name in chosen for group in recipe.stages[name].lr.by_group())
            named = [f"{flag}.{group}" for group in groups]
            listed = " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))
            raise UsageError(f"{flag} is no rate: give each group its own, {listed}")


def refuse_two_lengths(line: Source, recipe: RunConfig) -> None:
    """Refuse steps beside epochs on one command line (ValueError)."""
    given = replace(line, words=spread(line.words, recipe)).flags()
    for key in keys_of(recipe).values():
        steps, epochs = f"--{key}.steps", f"--{key}.epochs"
        if {steps, epochs} <= given:
            raise ValueError(f"{steps} and {epochs} both say how long the stage is; give one of them")


def refuse_two_beginnings(sources: Sequence[Source]) -> None:
    """Refuse a run to go on with beside weights to begin with, wherever each is given (ValueError)."""
    given: dict[str, str] = {}
    for source in sources:
        for flag in BEGINNINGS:
            value, _ = taken(flag, source.words)
            if value == "None":
                given.pop(flag, None)
            elif value is not None:
                given[flag] = source.place
    if len(given) == len(BEGINNINGS):
        resume, init = (f"{flag} ({given[flag]})" for flag in BEGINNINGS)
        raise ValueError(
            f"{resume} restores everything and {init} only weights; give one of them, and None for the other"
        )


def keys_of(recipe: RunConfig) -> dict[str, str]:
    """The name of each stage's flags, by the name of the stage."""
    return {name: "stage" if len(recipe.stages) == 1 else name for name in recipe.stages}


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


def trains(stage: Stage, group: str) -> bool:
    """Whether a stage trains a group, or, of the backbone, another one that --finetune-vl may put in its place."""
    rates = stage.lr.by_group()
    return group in rates or (group in OPENED and opens(stage))


def opens(stage: Stage) -> bool:
    """Whether a stage trains anything of the backbone."""
    return not stage.lr.by_group().keys().isdisjoint(OPENED)
