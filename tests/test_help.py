"""What answers at once: help, version and a mistake in a flag load no package that takes long."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from training import recipes
from training.config import RunConfig
from training.flags import keys_of, parse, view_of
from training.helping import essential, examples
from training.settings import Verification
from vla import commandline
from vla.__main__ import COMMANDS
from vla.__main__ import parse as vla_parse
from vla.documents import to_json
from vla.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    *("torch", "transformers", "datasets", "peft", "accelerate", "deepspeed", "wandb"),
    *("numpy", "pyarrow", "h5py", "av", "PIL", "matplotlib", "mujoco"),
}
ENTRIES: dict[str, Any] = {
    **{f"training/{name}.py": view_of(recipe()) for name, recipe in recipes.RECIPES.items()},
    "training/verify_resume.py": Verification,
}


def run(*words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What a command says, and the packages that it loads."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
    )
    lines = [line for line in process.stderr.splitlines() if line.startswith("import time:")]
    return process, {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        *(([entry], settings) for entry, settings in ENTRIES.items()),
        *((["-m", "vla", name], settings) for name, (settings, _) in COMMANDS.items()),
    ],
)
def test_help_lists_every_setting_and_loads_no_heavy_package(words: list[str], settings: Any) -> None:
    is_recipe = words[-1] in ENTRIES and settings is not Verification
    process, loaded = run(*words, "--help-all" if is_recipe else "--help")
    assert process.returncode == 0
    assert process.stdout.startswith("examples:\n")
    assert max(map(len, process.stdout.splitlines())) <= 80
    assert loaded >= {"tyro", "vla"}
    assert loaded.isdisjoint(HEAVY)
    listed = {word.rstrip(",") for word in process.stdout.split() if word.startswith("--")}
    required = {f"--{entry.name}" for entry in fields(settings) if MISSING is entry.default is entry.default_factory}
    assert listed >= set(commandline.flags(settings)) - required  # what is required has a place instead of a flag


@pytest.mark.parametrize(
    "words", [["-m", "vla", "--help"], ["-m", "vla", "--version"], ["-m", "vla", "evaluate", "--nonsense"]]
)
def test_the_command_itself_loads_no_heavy_package(words: list[str]) -> None:
    process, loaded = run(*words)
    assert process.returncode == (2 if "--nonsense" in words else 0)
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_mistake_is_usage_before_a_heavy_package_is_loaded(entry: str) -> None:
    process, loaded = run(entry, "--nonsense", "3")
    assert process.returncode == 2
    assert "usage: unknown flag --nonsense" in process.stderr
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("recipe", recipes.RECIPES.values())
def test_help_shows_the_twenty_settings_that_matter(
    recipe: Callable[[], RunConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(recipe(), ["--help"])
    text = capsys.readouterr().out
    listed = re.findall(r"(?m)^  (--[a-z][\w.-]+)", text.partition("usage:")[2])
    stages = tuple(keys_of(recipe()).values())
    assert sorted(listed) == sorted(essential(recipe().entry, stages))
    assert len(essential(recipe().entry, ("stage",))) == 20
    more = len(commandline.flags(view_of(recipe()))) - len(listed)
    assert text.endswith(f"--help-all shows {more} more.\n")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("recipe", recipes.RECIPES.values())
def test_the_examples_of_an_entry_point_parse(recipe: Callable[[], RunConfig], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(recipe())))
    for example in examples(recipe().entry):
        words = shlex.split(example.replace("\\\n", ""))
        assert (words[:2], words[4]) == (["accelerate", "launch"], f"training/{recipe().entry}.py")
        parse(recipe(), [str(file) if word.endswith("config.json") else word for word in words[5:]])


def test_the_examples_of_each_command_parse() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys() | {""}
    for name, pair in EXAMPLES.items():
        for example in pair:
            assert len(example) <= 78
            program, command, *_ = words = shlex.split(example)
            assert (program, command) == ("vla", name or command)
            assert isinstance(vla_parse(words[1:]), COMMANDS[command][0])


def test_one_rank_prints_the_help() -> None:
    ranks = [run("training/stage1.py", "--help", RANK=rank)[0] for rank in ("0", "1")]
    assert [process.returncode for process in ranks] == [0, 0]
    assert "--data.roots" in ranks[0].stdout
    assert not ranks[1].stdout
