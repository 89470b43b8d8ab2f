"""What decides numbers is recorded with everything that is made, and `vla info` tells it without who or where."""

import dataclasses
import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fabricated import CONFIG, write_run
from tests.policies import build_policy, manifest
from tests.vla.data.recordings import write_v2
from tests.vla.test_policy import CONFIG as SMALL
from vla import documents, privacy, provenance
from vla.__main__ import main
from vla.adapter_settings import LoraConfig
from vla.data.dataset import open_dataset
from vla.merging import merge_policy
from vla.policy_folder import read_description, save_policy
from vla.provenance import Origin, Source
from vla.settings import DataConfig

CANARY = "canary7f3a9c51"


@pytest.fixture(scope="module")
def policy(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy as training writes it."""
    dataset = open_dataset(DataConfig(roots=(str(needle),)), seed=0)
    made = build_policy(
        dataclasses.replace(SMALL, lora=LoraConfig(rank=2, alpha=2)),
        dataset.contract, dataset.statistics, torch.float32, seed=0,
    )  # fmt: skip
    base = Source(name="Qwen/Qwen2.5-VL-3B-Instruct", hub=True, license="qwen-research")
    folder = tmp_path_factory.mktemp("run") / "policy"
    save_policy(made, folder, origin=Origin(versions=provenance.here(), base=base, data=dataset.sources()))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run whose paths and texts tell who trained it, where, and with which token."""
    run = write_run(tmp_path / CANARY / "home" / "run")
    told = {"out": f"/home/{CANARY}/runs/a", "init_from": f"{CANARY}/b", "note": f"hf_{CANARY * 3}"}
    data = {"roots": [f"/mnt/{CANARY}/pick", f"{Path.home()}/data"], "horizon": 8}
    (run / "config.json").write_text(json.dumps(CONFIG | told | {"data": data}))
    last = run / "checkpoints" / "step-00000200"
    known = manifest(200, versions=provenance.here(), init_from=f"//{CANARY}.example.org/{CANARY}/runs")
    (last / "manifest.json").write_bytes(documents.to_bytes(known))
    return run


def info(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, object]:
    assert main(["info", str(path), "--json"]) == code
    tree: dict[str, object] = json.loads(capsys.readouterr().out)
    return tree


def check_versions(tree: object) -> None:
    """Every field that a report of a fault needs."""
    assert isinstance(tree, dict)
    assert set(tree) == {"code", "python", "libraries", "native", "machine"}
    assert set(tree["code"]) == {"version", "commit", "modified", "digest"}
    assert tree["python"] == platform.python_version()
    assert tree["libraries"]["numpy"] == np.__version__
    assert tree["libraries"]["torch"] == torch.__version__
    assert {"accelerate", "deepspeed", "transformers", "peft", "av", "pyarrow", "mujoco"} <= set(tree["libraries"])
    assert "pytest" not in tree["libraries"]
    assert {"HDF5", "FFmpeg libavcodec"} <= set(tree["native"])
    assert {"system", "cpu", "instructions", "cores", "threads", "device", "driver"} <= set(tree["machine"])


def test_info_tells_all_of_a_run_but_who_and_where(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("USER", "HOSTNAME"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HF_TOKEN", f"hf_{CANARY * 3}")
    tree = info(run, capsys)
    check_versions(tree["here"])
    check_versions(tree["made_with"])
    assert (tree["kind"], tree["steps"]) == ("run", {"done": 200, "of": 200})
    assert len(str(tree["checkpoints"])) > 100
    assert tree["skipped_steps"] == tree["left_out_samples"] == 1
    assert tree["differences"] == tree["problems"] == []
    assert tree["config"]["data"]["roots"] == [".../pick", "~/data"]  # type: ignore[index]
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for said in (text, json.dumps(tree)):
        assert CANARY not in said
        assert str(Path.home()) + "/" not in said
        assert platform.node() not in said
    (run / "checkpoints" / "step-00000200" / "manifest.json").write_text("{")
    (run / "checkpoints" / "step-00000100" / "manifest.json").unlink()
    assert "damaged" in str(info(run, capsys, code=65)["problems"])


def test_info_tells_of_checkpoints_policies_and_data(
    run: Path, policy: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = info(run / "checkpoints" / "step-00000200", capsys, code=65)
    assert tree["kind"] == "checkpoint"
    assert "policy.json" in str(tree["problems"])
    check_versions(tree["made_with"])
    tree = info(policy, capsys)
    assert (tree["kind"], tree["problems"]) == ("policy", [])
    assert tree["base"]["license"] == "qwen-research"  # type: ignore[index]
    check_versions(tree["made_with"])
    tree = info(needle, capsys)
    assert (tree["kind"], tree["episodes"], tree["made_with"]) == ("data", 12, None)
    assert main(["info", str(tmp_path)]) == 78
    assert "is no run, policy, adapter, checkpoint or data set" in capsys.readouterr().err


def test_info_tells_of_data_why_training_refuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_v2(tmp_path / "set", (3, 3))
    assert main(["info", str(root), "--json"]) == 78
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    with pytest.raises(ValueError, match="none of 1 episodes has as many frames as a chunk has steps") as refused:
        open_dataset(DataConfig(roots=(str(root),)), seed=0)
    assert problem == str(refused.value)


def test_a_card_says_what_is_true_of_its_policy(policy: Path, tmp_path: Path) -> None:
    card = (policy / "README.md").read_text()
    assert "base_model: Qwen/Qwen2.5-VL-3B-Instruct\n# dataset: needle" in card
    assert "LoRA of rank 2 in `adapter/`" in card
    assert "| Backbone | `Qwen/Qwen2.5-VL-3B-Instruct`, not contained" in card
    assert "(licence qwen-research)" in card
    assert f"torch {torch.__version__}" in card
    merge_policy(policy, tmp_path / "merged")
    merged = (tmp_path / "merged" / "README.md").read_text()
    assert "contained in `backbone/`" in merged
    assert "LoRA" not in merged
    assert "base_model: Qwen/Qwen2.5-VL-3B-Instruct\n" in merged
    assert read_description(tmp_path / "merged").origin == read_description(policy).origin


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/bob", "~"),
        ("/home/bob/data is missing: see /mnt/x/y.mp4", "~/data is missing: see .../y.mp4"),
        ("/nfs/home/eve/x", "~/x"),
        ("/Users/eve/x", "~/x"),
        ("runs/alice/stage1", "runs/USER/stage1"),
        ("/data/Alice_set", ".../USER_set"),
        ("box7:29500", "HOST:29500"),
        ("box7.corp.example:29500", "HOST:29500"),
        ("lerobot/pusht", "lerobot/pusht"),
        ("3/4 m/s", "3/4 m/s"),
        ("malice", "malice"),
    ],
)
def test_who_and_where_are_taken_out(text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("HOSTNAME", "box7.corp.example")
    assert privacy.anonymous({"a": [text]}) == {"a": [told]}


def test_the_code_is_known_by_commit_and_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True, env=os.environ | identity
        )
        return done.stdout.strip()

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "vla" / "provenance.py"))
    (tmp_path / "vla").mkdir()
    (tmp_path / "vla" / "a.py").write_text("1")
    provenance.code.cache_clear()
    assert (provenance.code().commit, provenance.code().modified) == (None, None)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "a")
    provenance.code.cache_clear()
    clean = provenance.code()
    assert (clean.commit, clean.modified) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "vla" / "a.py").write_text("2")
    provenance.code.cache_clear()
    changed = provenance.code()
    provenance.code.cache_clear()
    assert (changed.commit, changed.modified) == (clean.commit, True)
    assert changed.digest != clean.digest
    versions = dataclasses.replace(provenance.here(), code=clean)
    other = dataclasses.replace(versions, code=changed, libraries=versions.libraries | {"torch": "9"})
    assert [told.partition(" ")[0] for told in versions.differences(other)] == ["Touchstone", "torch"]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("# no front matter\n", None),
        ("---\nlicense: [\n---\n", "unknown, its README.md cannot be read"),
    ],
)
def test_a_licence_is_what_the_card_says(card: str, licence: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "models--Qwen--Qwen2.5-VL-3B-Instruct" / "snapshots" / "66285546"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(card)
    found = provenance.source(str(folder), folder)
    assert (found.name, found.hub, found.license) == ("Qwen/Qwen2.5-VL-3B-Instruct", True, licence)
