"""What answers at once: help, version and a mistake in a flag load no package that takes long."""

import os
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from training import recipes
from training.flags import view_of
from training.settings import Verification
from vla import commandline
from vla.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    *("torch", "transformers", "datasets", "peft", "accelerate", "deepspeed", "wandb"),
    *("numpy", "pyarrow", "h5py", "av", "PIL", "matplotlib", "mujoco"),
}
ENTRIES: dict[str, Any] = {
    "training/stage1.py": view_of(recipes.stage1()),
    "training/stage2.py": view_of(recipes.stage2()),
    "training/two_stage.py": view_of(recipes.two_stage()),
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
    process, loaded = run(*words, "--help")
    assert process.returncode == 0
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


def test_one_rank_prints_the_help() -> None:
    ranks = [run("training/stage1.py", "--help", RANK=rank)[0] for rank in ("0", "1")]
    assert [process.returncode for process in ranks] == [0, 0]
    assert "--data.roots" in ranks[0].stdout
    assert not ranks[1].stdout
