"""Rows 23-27: a checkpoint whose state does not fit what is to be trained."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.book import Book
from tests.faults import runs
from tests.faults.test_damage import adopt, edit
from tests.forkserver import ForkServer, Life
from tests.training.launch import ROOT
from training import recipes
from training.flags import parse
from vla.parts.backbone import load_backbone
from vla.settings import BackboneConfig

CORRUPT, REFUSED = 65, 78
STOP = 10


@pytest.fixture
def stopped(book: Book, needle: Path) -> Path:
    """A run of stage 1 on one rank, stopped after step 10, with a rate of its own for each group."""
    return book.of([*two_rates(needle), "--stop-after", STOP])


@pytest.fixture
def adapted(book: Book, needle: Path, golden: Path) -> Path:
    """A run of stage 2, LoRA alone, from the golden run of stage 1, stopped after its first step."""
    return book.of([*stage2(needle), "--init-from", golden, "--stop-after", 1], recipe="stage2")


def two_rates(needle: Path) -> list[str]:
    return runs.flags(needle, **{"stage.lr.sensor": 3e-4, "stage.lr.expert": 1e-3})


def stage2(needle: Path) -> list[str]:
    rates = {"stage.lr.sensor": None, "stage.lr.expert": None, "stage.lr.lora": 1e-3}
    return runs.flags(needle, **rates, **{"lora.rank": 4, "lora.alpha": 8})


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Change the tensors of the only shard of a checkpoint, digest and all."""
    [shard] = folder.glob("*.safetensors")
    with safe_open(shard, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(dict(change(tensors)), shard)
    adopt(shard)


def resumed(server: ForkServer, argv: list[str], run: Path, folder: Path) -> Life:
    """A life that has ended, resumed from one checkpoint into a new run folder."""
    life = server.start([*argv, "--out", folder, "--resume-from", runs.at(run, STOP)])
    life.wait()
    return life


@pytest.mark.fault(
    23, "rates of the groups after resume; groups swapped", "the golden curve; a swap is refused", deep=1
)
def test_groups(server: ForkServer, book: Book, needle: Path, stopped: Path, tmp_path: Path) -> None:
    """Moments are stored by parameter name and not by the place of a group, so that there is no order to confuse."""
    argv = two_rates(needle)
    straight, run = book.of(argv), tmp_path / "run"
    shutil.copytree(stopped, run)
    assert server.run([*argv, "--out", run, "--resume-from", "auto"]) == [0]
    runs.assert_same(run, straight)
    assert len({line["lr"]["sensor"] for line in runs.lines(run)}) > 10, "a curve, not a constant"
    assert {round(line["lr"]["expert"] / line["lr"]["sensor"], 9) for line in runs.lines(run)} == {round(10 / 3, 9)}

    swapped_rates = runs.flags(needle, **{"stage.lr.sensor": 1e-3, "stage.lr.expert": 3e-4})
    life = resumed(server, swapped_rates, stopped, tmp_path / "rates")
    assert life.codes() == [REFUSED]
    assert "stages.stage1.lr.expert is 0.0003, the checkpoint has 0.001" in life.output()

    def swap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        sensor, expert = (
            sorted(name for name in tensors if name.startswith(f"exp_avg/{group}.")) for group in ("sensor", "expert")
        )
        return tensors | {sensor[0]: tensors[expert[-1]].clone(), expert[-1]: tensors[sensor[0]].clone()}

    shutil.copytree(stopped, tmp_path / "swapped")
    rewrite(runs.at(tmp_path / "swapped", STOP), swap)
    life = resumed(server, argv, tmp_path / "swapped", tmp_path / "out")
    assert life.codes()[0] in (CORRUPT, REFUSED), life.report()
    assert "Traceback" not in life.output()


@pytest.mark.fault(
    24, "EMA, moments, steps or weights left out of the state", "refused; never begun anew in silence", deep=13
)
def test_left_out(server: ForkServer, needle: Path, stopped: Path, tmp_path: Path) -> None:
    """There is no GradScaler (bf16 needs none), and no generator is stored: all randomness follows from the position.

    What a checkpoint holds is therefore tensors under four keys and the steps their moments have seen.
    """
    [shard] = runs.at(stopped, STOP).glob("*.safetensors")
    with safe_open(shard, "pt") as file:
        names = sorted(file.keys())
    assert {name.split("/")[0] for name in names} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
    lost: dict[str, Callable[[str], bool]] = {
        "ema": lambda name: name.startswith("ema/"),
        "exp_avg": lambda name: name.startswith("exp_avg/"),
        "one weight": lambda name: name == next(other for other in names if other.startswith("weight/expert")),
        "one second moment": lambda name: name == next(other for other in names if other.startswith("exp_avg_sq/s")),
        "one parameter": lambda name: name.endswith(names[0].partition("/")[2]),
        "the sensor": lambda name: "/sensor." in name,
    }
    argv = two_rates(needle)
    for what, is_lost in lost.items():
        copy = tmp_path / what
        shutil.copytree(stopped, copy)
        rewrite(
            runs.at(copy, STOP),
            lambda tensors, is_lost=is_lost: {name: value for name, value in tensors.items() if not is_lost(name)},
        )
        life = resumed(server, argv, copy, tmp_path / "out")
        assert life.codes()[0] in (CORRUPT, REFUSED), f"{what}: {life.codes()}\n{life.report()}"
        assert "Traceback" not in life.output(), what

    def without(key: str, name: str) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest[key].pop(name)

    for key, name in (("adam_steps", "expert"), ("adam_steps", "sensor")):
        copy = tmp_path / f"{key}-{name}"
        shutil.copytree(stopped, copy)
        edit(runs.at(copy, STOP) / "manifest.json", without(key, name))
        life = resumed(server, argv, copy, tmp_path / "out")
        assert life.codes()[0] in (CORRUPT, REFUSED), f"{key} without {name}: {life.codes()}\n{life.report()}"
    assert not (tmp_path / "out" / "metrics.jsonl").exists(), "nothing was trained"


@pytest.mark.fault(25, "LoRA rank, alpha or presence differs", "refused with the difference, resumed or begun", deep=26)
def test_lora(server: ForkServer, needle: Path, adapted: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(adapted, tmp_path / "run"))
    argv = [*stage2(needle), "--out", run, "--resume-from", "auto"]
    before = runs.lines(run)
    for words, said in (
        (["--lora.rank", 8], "lora.rank is 8, the checkpoint has 4"),
        (["--lora.alpha", 16], "lora.alpha is 16, the checkpoint has 8"),
        (
            ["--finetune-vl", "full", "--stage.lr.backbone", 1e-4, "--stage.lr.lora", None],
            "stages.stage2.lr.backbone is 0.0001, the checkpoint has None",
        ),
    ):
        life = server.start([*argv, *words], recipe="stage2")
        assert life.wait() == [REFUSED], life.report()
        assert said in life.output(), life.output()
    assert runs.lines(run) == before, "a refused run leaves the folder alone"
    words = [*stage2(needle), "--out", tmp_path / "wider", "--init-from", adapted, "--lora.rank", 8]
    life = server.start(words, recipe="stage2")
    assert life.wait() == [REFUSED], life.report()
    assert "lora_" in life.output() and "shape" in life.output()


@pytest.mark.fault(26, "stage 1 -> stage 2 hand-over", "averaged weights equal, optimizer fresh; CLI > env > file")
def test_hand_over(server: ForkServer, needle: Path, golden: Path, adapted: Path, tmp_path: Path) -> None:
    first, second = runs.state(runs.at(golden, runs.STEPS)), runs.state(runs.at(adapted, 1))
    handed = {name.partition("/")[2] for name in first if name.startswith("ema/")}
    assert handed and all(second[f"weight/{name}"].equal(first[f"ema/{name}"]) for name in handed)
    assert second["adam_steps"] == {"lora": 1}
    assert {line["step"] for line in runs.lines(adapted)} == {1}
    assert runs.lines(adapted)[0]["positions"][0] == 0
    assert not any(name.startswith("exp_avg/") and "lora_" not in name for name in second)

    life = server.start([*stage2(needle), "--out", tmp_path / "x", "--init-from", golden, "--resume-from", "auto"])
    assert life.wait() == [REFUSED]
    assert "--resume-from" in life.output() and "--init-from" in life.output()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"resume_from": "of-the-file", "seed": 5}))
    assert parse(recipes.stage2(), ["--config", str(file)]).resume_from == "of-the-file"
    assert parse(recipes.stage2(), ["--resume-from", "of-the-flag", "--config", str(file)]).resume_from == "of-the-flag"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "TRAIN_DATA_PATH": str(needle),
        "CHECKPOINT_DIR": str(tmp_path / "pod"),
        "STAGE": "2",
        "MODEL_VARIANT": "tiny",
        "RESUME_FROM_CHECKPOINT": "/of/the/environment",
        "EXTRA_ARGS": f"--config {file} --resume-from of-the-flag",
    }
    tried = subprocess.run(
        ["bash", str(ROOT / "runpod" / "entrypoint.sh"), "--dry-run"],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert tried.returncode == REFUSED
    assert "of-the-flag" in tried.stderr
    shown = tried.stdout.split()
    arguments = shown[shown.index("training/stage2.py") + 1 :]
    assert "/of/the/environment" in arguments
    assert parse(recipes.stage2(), arguments).resume_from == "of-the-flag"
    without_flag = arguments[: -len(["--resume-from", "of-the-flag"])]
    assert parse(recipes.stage2(), without_flag).resume_from == "/of/the/environment"
    assert parse(recipes.stage2(), without_flag).seed == 5


@pytest.mark.fault(27, "files of the base model changed", "exit 78; the same files elsewhere are accepted", deep=26)
def test_base_model(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    """There is no override: --init-from, which would be one, wants the same backbone too."""
    folder, run = tmp_path / "backbone", tmp_path / "run"
    shutil.copytree(load_backbone(BackboneConfig(path="tiny"), torch.float32).folder, folder)
    argv = [*runs.flags(needle), "--backbone.path", folder]
    assert server.run([*argv, "--out", run, "--stop-after", 3]) == [0]
    [weights] = folder.glob("*.safetensors")
    content = weights.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    for words in (("--out", run, "--resume-from", "auto"), ("--out", tmp_path / "new", "--init-from", run)):
        life = server.start([*argv, *words])
        assert life.wait() == [REFUSED], life.report()
        assert "backbone" in life.output()
    weights.write_bytes(content)
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text(json.dumps(json.loads(config) | {"rms_norm_eps": 1e-5}))
    life = server.start([*argv, "--out", run, "--resume-from", "auto"])
    assert life.wait() == [REFUSED], life.report()
    (folder / "config.json").write_bytes(config)
    folder.rename(tmp_path / "elsewhere")
    moved = [*runs.flags(needle), "--backbone.path", tmp_path / "elsewhere"]
    assert server.run([*moved, "--out", run, "--resume-from", "auto", "--stop-after", 5]) == [0]
    assert len(runs.lines(run)) == 5
