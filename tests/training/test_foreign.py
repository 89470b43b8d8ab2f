"""Flags of other trainers are refused by name, with ours that says the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from training import recipes
from training.config import RunConfig
from training.flags import parse, view_of
from training.foreign import INSTEAD, OF_ADAPTERS
from vla import commandline
from vla.errors import UsageError

README = Path(__file__).resolve().parents[2] / "README.md"
OURS = {*commandline.flags(view_of(recipes.stage2()))}
OF_THE_LAUNCHER = {"--num_processes"}
FLAG = re.compile(r"(--[\w.-]+\w)")
GUIDE = """--nproc_per_node=4 --dataset_dir data --training-stage stage2 --stage1-checkpoint stage1.pt --lora-r 16
    --lora-alpha 32 --lora-dropout 0.05 --epochs 10 --batch_size 4 --lr 1e-4 --vl-lr 1e-5 --grad_accum 8
    --resume stage2.pt --checkpoint stage2.pt --stage stage2"""
"""What a guide to another trainer of two stages has in its commands, but for --finetune-vl, which is ours too."""


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse(recipes.stage2(), [*argv, "--data.roots", "somewhere"])
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("flag", FLAG.findall(GUIDE))
def test_each_is_refused_with_dashes_and_underscores(flag: str) -> None:
    words = re.split("[-_]", flag.removeprefix("--"))
    for spelled in {"--" + "-".join(words), "--" + "_".join(words)} - {"--batch-size"}:
        for argv in ([spelled, "4"], [f"{spelled}=4"], [spelled]):
            assert refusal(*argv) == f"there is no flag {spelled} here; give {INSTEAD[flag]}"


def test_a_batch_a_gpu_is_told_from_a_batch_of_all_ranks() -> None:
    assert "--batch-size counts samples per optimizer step over all ranks" in refusal("--batch_size", "4")
    assert parse(recipes.stage2(), ["--batch-size", "4"]).batch_size == 4
    assert parse(recipes.stage2(), ["--finetune_vl", "full", "--micro_batch", "2"]).micro_batch == 2


def test_the_flags_of_a_trainer_of_adapters_lead_to_ours() -> None:
    for flag, instead in OF_ADAPTERS.items():
        with pytest.raises(UsageError, match=f"there is no flag {flag} here; give {re.escape(instead)}"):
            parse(recipes.adapter(), [flag, "150"], {})


def test_what_is_named_instead_is_there() -> None:
    named = {flag for instead in INSTEAD.values() for flag in FLAG.findall(instead)}
    assert named <= OURS | OF_THE_LAUNCHER
    assert not INSTEAD.keys() & OURS


def test_a_file_and_a_run_of_both_stages_are_refused_alike(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"lora_r": 16}))
    assert "give --lora.rank" in refusal("--config", str(file))
    with pytest.raises(UsageError, match=r"give --stage\.lr\.lora, or"):
        parse(recipes.two_stage(), ["--vl-lr", "1e-5"])


def test_the_readme_has_the_table() -> None:
    code = re.compile(r"(--[\w.-]+\w|training/\w+\.py)")
    rows = [f"| `{flag}` | " + code.sub(r"`\1`", instead) + " |" for flag, instead in INSTEAD.items()]
    table = "\n".join(rows)
    assert table in README.read_text(), table


@pytest.mark.parametrize(
    ("recipe", "flag", "groups"),
    [
        (recipes.stage1, "--stage.lr", "sensor, --stage.lr.expert or --stage.lr.camera"),
        (recipes.stage2, "--stage.lr", "sensor, --stage.lr.expert, --stage.lr.camera or --stage.lr.lora"),
        (recipes.two_stage, "--stage1.lr", "sensor, --stage1.lr.expert or --stage1.lr.camera"),
        (recipes.two_stage, "--stage.lr", "sensor, --stage.lr.expert, --stage.lr.camera or --stage.lr.lora"),
    ],
)
def test_one_rate_for_all_is_refused_with_the_flags_of_the_groups(
    recipe: Callable[[], RunConfig], flag: str, groups: str, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(f"{flag.removeprefix('--').removesuffix('.lr')}:\n  lr: 1e-4\n")
    for argv in ([flag, "1e-4"], [f"{flag}=1e-4"], ["--config", str(tmp_path / "run.yaml")]):
        with pytest.raises(UsageError) as refused:
            parse(recipe(), [*argv, "--data.roots", "somewhere"])
        assert str(refused.value) == f"{flag} is no rate: give each group its own, {flag}.{groups}"
