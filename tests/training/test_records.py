"""Records of a run: every step once, torn lines dropped, wandb offline without a secret."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from training import loop, recipes
from training.flags import parse
from training.run.records import Records, cut_back
from training.run.tracking import check_tracker, filed_under
from training.settings import WandbConfig
from vla.lines import read_lines


def test_a_resumed_run_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.30000000000000004}\n{"step": 3}\n{"ste')
    cut_back(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.30000000000000004}\n'
    path.write_text('{"step": 0, "loss": 0.1}\n')
    cut_back(path, 0)
    assert path.read_text() == "", "a run that starts anew validates at step 0 again"


def test_only_the_main_rank_writes(tmp_path: Path) -> None:
    silent = Records(tmp_path, "jsonl", {}, WandbConfig(), resumed_at=0, active=False)
    silent.add_step({"step": 1})
    silent.close()
    assert not list(tmp_path.iterdir())
    records = Records(tmp_path, "jsonl", {}, WandbConfig(), resumed_at=0, active=True)
    records.add_step({"step": 1, "loss": 1 / 3})
    records.add_validation({"step": 1, "loss": 2 / 3})
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1, "loss": 1 / 3}]
    assert list(read_lines(tmp_path / "validation.jsonl")) == [{"step": 1, "loss": 2 / 3}]


def test_wandb_without_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ValueError, match="needs WANDB_API_KEY"):
        check_tracker("wandb", WandbConfig())
    check_tracker("auto", WandbConfig())
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_tracker("wandb", WandbConfig())


def test_wandb_files_the_run_by_flags_then_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    flags = ["--wandb.project", "pour", "--wandb.entity", "lab", "--wandb.group", "g", "--wandb.tags", "a", "b"]
    config = parse(recipes.stage1(), ["--data.roots", "somewhere", *flags])
    assert filed_under(config.wandb) == {"project": "pour", "entity": "lab", "group": "g", "tags": ["a", "b"]}
    assert config.identity() == parse(recipes.stage1(), ["--data.roots", "somewhere"]).identity()
    assert filed_under(WandbConfig()) == {"project": "touchstone"}
    with pytest.raises(ValueError, match=r"--wandb.project needs WANDB_API_KEY, .* use --tracker jsonl"):
        check_tracker("auto", config.wandb)
    check_tracker("jsonl", config.wandb)  # as a run that is replayed without
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert filed_under(WandbConfig(tags=("c",))) == {"tags": ["c"]}


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline_goes_on_in_one_curve_and_holds_no_secret(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "wandb"
    ).teardown()  # it reads its variables once a process, and an earlier test may have used it
    canary = "canary7f3a9c51"
    secrets = {"HF_TOKEN": f"hf_{canary}", "WANDB_API_KEY": canary * 3, "RUNPOD_API_KEY": f"rpa_{canary}", "MY": canary}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_PROJECT", "project-of-the-variable")
    argv = ["--data.roots", str(needle), "--out", str(tmp_path / "run"), "--backbone.path", "tiny"]
    argv += ["--wandb.group", "group-of-the-flag"]
    argv += ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0", "--validation-samples", "2"]
    argv += ["--stage.steps", "2", "--tracker", "wandb", "--expert.width", "32", "--sensor.width", "32"]
    loop.train(parse(recipes.stage1(), [*argv, "--stop-after", "1"]))
    identity = json.loads((tmp_path / "run" / "wandb_id.json").read_text())
    AcceleratorState._reset_state(True)
    loop.train(parse(recipes.stage1(), [*argv, "--resume-from", "auto"]))
    runs = list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}"))
    assert len(runs) == 2
    for run in runs:
        (record,) = run.glob("*.wandb")
        assert b"project-of-the-variable" in record.read_bytes()
        assert b"group-of-the-flag" in record.read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if canary.encode() in path.read_bytes()]
