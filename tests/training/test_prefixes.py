"""The prefix cache in trainings: the same losses from behind each door, and what cannot stand behind one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.forkserver import ForkServer
from training import loop, recipes
from training.flags import parse
from vla.prefix.store import Store

FLAGS = ["--backbone.path", "tiny", "--batch-size", "4", "--micro-batch", "2", "--stage.steps", "3", "--seed", "7"]
FLAGS += ["--tracker", "jsonl", "--data.workers", "0", "--validation-samples", "4", "--dropout", "0.1"]
FLAGS += ["--expert.width", "32", "--expert.depth", "2", "--sensor.width", "16", "--stage.lr.expert", "1e-3"]
STAGES = {
    "stage1": ([], ["context", "auto", "frames"]),
    "stage2": (["--stage.begins", "anew"], ["vision", "auto"]),
    "upper": (["--stage.begins", "anew", "--lora.layers", "top:1"], ["layer", "auto"]),
}
DEEP = ["stage2", "upper"]
DEEPEST = {"stage1": "context", "stage2": "vision", "upper": "layer-1"}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    reset()


def reset() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def train(stage: str, needle: Path, out: Path, *words: str) -> list[float]:
    """The losses of a training and of its validations."""
    recipe = recipes.stage1() if stage == "stage1" else recipes.stage2()
    argv = ["--data.roots", str(needle), "--out", str(out), *FLAGS, *STAGES[stage][0], *words]
    loop.train(parse(recipe, argv))
    reset()
    lines = [*(out / "metrics.jsonl").read_text().splitlines(), *(out / "validation.jsonl").read_text().splitlines()]
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("stage", ["stage1", *(pytest.param(stage, marks=pytest.mark.deep) for stage in DEEP)])
def test_a_stage_learns_the_same_from_behind_its_doors(
    stage: str, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    computed = train(stage, needle, tmp_path / "computed")
    place = ["--cache.path", str(tmp_path / "cache")]
    for door in STAGES[stage][1]:
        capsys.readouterr()
        kept = train(stage, needle, tmp_path / door, "--cache.door", door, *place)
        assert kept == pytest.approx(computed, rel=1e-6), door
        said = capsys.readouterr().out
        name = door if door in ("frames", "vision", "context") else DEEPEST[stage]
        assert f"prefix cache: {name}, " in said
        assert ("records made in" in said) == (door != "auto"), "what is there is not made again"
    assert len(list((tmp_path / "cache").iterdir())) == len(STAGES[stage][1]) - 1


@pytest.mark.deep
@pytest.mark.parametrize("topology", ["ddp", "zero3"])
def test_ranks_make_a_stretch_of_the_records_each(
    topology: str, server: ForkServer, needle: Path, tmp_path: Path
) -> None:
    losses = []
    for door in ("none", "vision"):
        out = tmp_path / door
        argv = ["--data.roots", needle, "--out", out, *FLAGS, "--stage.begins", "anew", "--cache.door", door]
        life = server.start([*argv, "--cache.path", tmp_path / "cache"], ranks=2, recipe="stage2", topology=topology)
        assert life.wait() == [0, 0], life.report()
        losses.append([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert losses[1] == losses[0]
    assert "prefix cache: 486 records made in" in life.output()
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(Store.at(folder).there()) == 486


@pytest.mark.deep
def test_a_run_goes_on_behind_its_door_alone(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    argv = ["--data.roots", needle, "--out", tmp_path / "run", *FLAGS, "--cache.path", tmp_path / "cache"]
    assert server.run([*argv, "--cache.door", "auto", "--stop-after", "2"]) == [0]
    life = server.start([*argv, "--resume-from", "auto"])
    assert life.wait() == [78]
    assert "cache.door is 'none', the checkpoint has 'auto'" in life.output()
    elsewhere = ["--resume-from", "auto", "--cache.door", "auto", "--cache.path", tmp_path / "elsewhere"]
    assert server.run([*argv, *elsewhere]) == [0]
    straight = tmp_path / "straight"
    assert server.run([*argv, "--cache.door", "auto", "--out", straight]) == [0]
    first, second = (
        [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (tmp_path / "run", straight)
    )
    assert first == second


REFUSED: list[tuple[str, Sequence[str], str]] = [
    ("stage2", ["--cache.door", "context"], "--cache.door context lies behind what the stage trains"),
    ("stage2", ["--cache.door", "layer"], r"none of its doors: give vision"),
    (
        "stage1",
        ["--cache.door", "vision", "--backbone.path", "hash", "--camera.width", "16"],
        "is a sentence encoder, whose embeddings",
    ),
]


@pytest.mark.parametrize(("stage", "words", "sentence"), REFUSED)
def test_what_cannot_stand_behind_a_door_is_refused(
    stage: str, words: Sequence[str], sentence: str, needle: Path, tmp_path: Path
) -> None:
    place = ["--cache.path", str(tmp_path / "cache")]
    with pytest.raises(ValueError, match=sentence):
        train(stage, needle, tmp_path / "run", *words, *place)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run" / "config.json").exists()
