"""Environment variables: each becomes a flag, by one table; flag > environment > file."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training import recipes, variables
from training.config import RunConfig
from training.flags import parse, view_of
from training.settings import Stage
from vla import commandline
from vla.commands.curate import Curate
from vla.commands.embed import Embed

ROOT = Path(__file__).resolve().parents[2]


def of(*argv: str, recipe: str = "sft", **environment: str) -> RunConfig:
    return parse(recipes.RECIPES[recipe](), argv, environment)


@pytest.mark.parametrize("recipe", variables.MOTION)
def test_a_recipe_of_motion_obeys_each_variable(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = of(recipe=recipe, TRAIN_DATA_PATH="/a b:/c", MODEL_VARIANT="large", INIT_FROM_CHECKPOINT="runs/first")
    assert (config.data.roots, config.expert.width, config.init_from) == (("/a b", "/c"), 576, "runs/first")
    assert of(recipe=recipe, RESUME_FROM_CHECKPOINT="auto").resume_from == "auto"
    said = capsys.readouterr().out
    assert "TRAIN_DATA_PATH: --data.roots /a b /c" in said
    assert "INIT_FROM_CHECKPOINT: --init-from runs/first" in said
    assert of(recipe=recipe, TRAIN_DATA_PATH="", MODEL_VARIANT="") == of(recipe=recipe), "an empty one is none"


def test_other_recipes_and_short_names_read_nothing() -> None:
    given = {row.name: "3" for row in variables.TABLE if not row.read} | {"STEPS": "3", "SEED": "9"}
    assert of(recipe="pretrain", **{name: given[name] for name in ("STEPS", "SEED")}) == of(recipe="pretrain")
    assert of(recipe="stage1", **given, INIT_FROM_CHECKPOINT="x", USE_LORA="1") == of(recipe="stage1")


@pytest.mark.parametrize(
    ("flag", "variable", "setting"),
    [
        ("--resume-from", "RESUME_FROM_CHECKPOINT", "resume_from"),
        ("--init-from", "INIT_FROM_CHECKPOINT", "init_from"),
    ],
)
@pytest.mark.parametrize("ours", [True, False], ids=["our file", "another trainer's"])
def test_flag_before_environment_before_file(
    tmp_path: Path, flag: str, variable: str, setting: str, ours: bool
) -> None:
    file = tmp_path / ("run.json" if ours else "sft.yaml")
    file.write_text(json.dumps({setting: "file"} if ours else {"training": {setting: "file", "epochs": 3}}))
    config = ["--config", str(file)]

    def chosen(*argv: str, **environment: str) -> str | None:
        value: str | None = vars(of(*argv, **environment))[setting]
        return value

    assert chosen() is None
    assert chosen(*config) == "file"
    assert chosen(*config, **{variable: "variable"}) == "variable"
    assert chosen(*config, flag, "flag", **{variable: "variable"}) == "flag"
    assert chosen(flag.replace("-from", "_from"), "flag", **{variable: "variable"}) == "flag", "as documents spell it"
    assert chosen(*config, flag, "None", **{variable: "variable"}) is None


@pytest.mark.parametrize("resume", ["file", "environment", "line"])
@pytest.mark.parametrize("init", ["file", "environment", "line"])
def test_two_beginnings_are_refused_wherever_they_come_from(tmp_path: Path, resume: str, init: str) -> None:
    file = tmp_path / "sft.yaml"
    told = {"resume_from": "a"} if resume == "file" else {}
    told |= {"init_from": "b"} if init == "file" else {}
    file.write_text(json.dumps({"training": {"epochs": 3, **told}}))
    environment = {"RESUME_FROM_CHECKPOINT": "a"} if resume == "environment" else {}
    environment |= {"INIT_FROM_CHECKPOINT": "b"} if init == "environment" else {}
    argv = [*(["--resume-from", "a"] if resume == "line" else []), *(["--init-from", "b"] if init == "line" else [])]
    places = {"file": str(file), "environment": "the environment", "line": "the command line"}
    said = rf"--resume-from \({places[resume]}\) .* --init-from \({places[init]}\) only weights; give one of them"
    with pytest.raises(ValueError, match=said) as refused:
        of("--config", str(file), *argv, **environment)
    assert "\n" not in str(refused.value)
    taken_back = of("--config", str(file), *argv, "--init-from", "None", **environment)
    assert (taken_back.resume_from, taken_back.init_from) == ("a", None)


def test_a_variable_that_a_flag_goes_before_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert of("--data.roots", "mine", TRAIN_DATA_PATH="theirs").data.roots == ("mine",)
    assert "TRAIN_DATA_PATH: --data.roots of the command line goes before it" in capsys.readouterr().out


def stage_of(config: RunConfig) -> Stage:
    (stage,) = config.stages.values()
    return stage


LORA = {
    "LORA_EXP_NAME": ("crouch", lambda config: config.adapter.name, "crouch"),
    "LORA_SAVE_DIR": ("saved", lambda config: config.out, "saved/adapter"),
    "LORA_DATA_ROOT": ("gait", lambda config: config.data.roots, ("gait",)),
    "LORA_R": ("4", lambda config: config.adapter.rank, 4),
    "LORA_ALPHA": ("8", lambda config: config.adapter.alpha, 8),
    "LORA_DROPOUT": ("0.2", lambda config: config.adapter.dropout, 0.2),
    "LORA_EPOCHS": ("7", lambda config: stage_of(config).epochs, 7.0),
    "LORA_BATCH": ("24", lambda config: config.batch_size, 24),
    "LORA_LR": ("2e-3", lambda config: stage_of(config).lr.adapter, 2e-3),
}
"""The nine of a trainer of adapters: what each says, where it is read, and what it is there."""


@pytest.mark.parametrize("recipe", variables.ADAPTER)
@pytest.mark.parametrize("name", LORA)
def test_each_variable_of_adapters_reaches_the_configuration(name: str, recipe: str) -> None:
    value, read, expected = LORA[name]
    assert read(of(recipe=recipe)) != expected
    assert read(of(recipe=recipe, **{name: value})) == expected


def test_what_is_forgotten_can_be_said_by_variables() -> None:
    given = {
        "UNLEARN_CONCEPT": "kick, play soccer\npunch,",
        "UNLEARN_METHOD": "uce",
        "UNLEARN_ANCHOR": "a person stands",
    }
    config = of(recipe="unlearn", **given, INIT_FROM_CHECKPOINT="runs/first")
    assert config.forget.concept == ("kick", "play soccer", "punch")
    assert (config.forget.method, config.forget.anchor, config.init_from) == ("uce", "a person stands", "runs/first")
    assert of("--concept", "jump", recipe="unlearn", UNLEARN_CONCEPT="kick").forget.concept == ("jump",)
    assert of(recipe="unlearn", UNLEARN_CONCEPT="") == of(recipe="unlearn")


def test_an_adapter_is_trained_in_a_folder_of_its_name() -> None:
    assert of(recipe="adapter", LORA_EXP_NAME="crouch").out == "runs/adapter_train/crouch"
    assert of(recipe="adapter", LORA_EXP_NAME="crouch", LORA_SAVE_DIR="/s").out == "/s/crouch"
    assert of("--out", "mine", recipe="adapter", LORA_EXP_NAME="crouch").out == "mine"


def test_fine_tuning_trains_an_adapter_where_it_is_asked_to() -> None:
    config = of(USE_LORA="true", LORA_RANK="4", LORA_LR="2e-3", MODEL_VARIANT="sft_large")
    assert config.stages["sft"].lr.by_group() == {"adapter": 2e-3}
    assert (config.adapter.rank, config.expert.width) == (4, 576)
    assert of(USE_LORA="false") == of()


@pytest.mark.parametrize(
    ("recipe", "given", "said"),
    [
        ("pretrain", {"USE_LORA": "1"}, "USE_LORA is set, but LoRA of fresh weights is of no use"),
        ("pretrain", {"LORA_R": "4"}, "LORA_R is set, but training/adapter.py and unlearn.py alone read it"),
        ("sft", {"USE_LORA": "1", "LORA_EPOCHS": "4"}, "LORA_EPOCHS is set, but training/adapter.py and unlearn.py"),
        ("sft", {"UNLEARN_CONCEPT": "kick"}, "UNLEARN_CONCEPT is set, but training/unlearn.py alone reads it"),
        ("adapter", {"UNLEARN_METHOD": "uce"}, "UNLEARN_METHOD is set, but training/unlearn.py alone reads it"),
        ("unlearn", {"LORA_RANK": "4", "LORA_R": "4"}, "LORA_RANK and LORA_R both say --adapter.rank; unset one"),
        ("sft", {"LORA_RANK": "4"}, "LORA_RANK is set, but USE_LORA is not true"),
        ("adapter", {"LORA_RANK": "4", "LORA_R": "4"}, "LORA_RANK and LORA_R both say --adapter.rank; unset one"),
        ("adapter", {"TRAIN_DATA_PATH": "a", "LORA_DATA_ROOT": "b"}, "both say --data.roots; unset one of them"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(recipe: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of(recipe=recipe, **given)


def test_the_table_names_flags_that_there_are() -> None:
    there = {entry: commandline.flags(view_of(recipes.RECIPES[entry]())) for entry in variables.EVERY}
    there |= {command.__name__.lower(): commandline.flags(command) for command in (Curate, Embed)}
    assert there.keys() == {*variables.EVERY, *variables.PREPARING}
    for row in variables.TABLE:
        for entry in row.entries:
            assert row.flag in there[entry], (row, entry)


def test_any_python_reads_the_table_without_a_package_of_ours() -> None:
    script = ROOT / "training" / "variables.py"
    told = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=True).stdout
    assert told.split() == list(dict.fromkeys([*(row.name for row in variables.TABLE), variables.USE]))
    tree = ast.parse(script.read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in plain | froms} <= sys.stdlib_module_names


def test_no_other_place_reads_a_variable() -> None:
    """In Python a name in quotes would be a look into the environment, in a shell one behind a dollar."""
    names = "|".join([*(row.name for row in variables.TABLE), variables.USE])
    python, shell = re.compile(rf"""["']({names})["']"""), re.compile(rf"\$\{{?!?({names})\b")
    files = [*(ROOT / "vla").rglob("*.py"), *(ROOT / "training").rglob("*.py"), *(ROOT / "runpod").glob("*.sh")]
    assert len(files) > 200
    for path in files:
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        found = [line for line in lines if (shell if path.suffix == ".sh" else python).search(line)]
        assert bool(found) == (path == ROOT / "training" / "variables.py"), (path, found[:3])
