"""--dry-run says what a start would refuse, and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.faults import runs
from tests.training.launch import ROOT
from tests.vla.data.recordings import write_v2
from training import loop, recipes
from training.flags import parse
from vla.parts.backbone import resolve


def look(data: Path, run: Path, **changes: object) -> None:
    words = runs.flags(data, **({"out": run} | changes))
    loop.train(parse(recipes.stage1(), [*words, "--dry-run"]))


def test_what_can_be_trained_is_described(needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look(needle, tmp_path / "run")
    assert capsys.readouterr().out.splitlines() == [
        "batch: 4 samples = 2 x 1 rank x 2 accumulated",
        f"data: {needle}, lerobot v3.0, 12 episodes",
        "backbone: tiny, a Qwen2.5-VL (random weights, built by Touchstone)",
        "not checked: the numbers and videos of the data, and the weights; a start reads them",
    ]
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "data that are not there": ({"data.roots": "nowhere"}, "nowhere is not there"),
    "a folder without data": ({"data.roots": "."}, "holds no data"),
    "an episode that is not there": ({"data.episodes": 99}, "has no episode 99"),
    "an episode that nobody has": ({"data.without": 99}, r"--data\.without"),
    "a cut that leaves nothing to learn from": ({"data.horizon": 1000}, "has as many frames as a chunk has steps"),
    "heads that do not share the width": ({"expert.heads": 3, "expert.width": "auto"}, "does not divide into 3 heads"),
    "roots that differ": (
        {"data.roots": ("one", "other")},
        "one and other cannot be mixed, their frames per second differ",
    ),
    "a batch that does not divide": ({"batch-size": 5}, "--batch-size 5 is not a multiple"),
    "a backbone that is not there": ({"backbone.path": "./missing"}, "'./missing' is not a folder"),
    "weights that are not there": ({"init-from": "nowhere"}, "--init-from nowhere is not a folder"),
    "a checkpoint that is not there": ({"resume-from": "nowhere"}, "--resume-from nowhere is not a folder"),
    "a run folder below a file": ({"out": "file/run"}, "--out file/run cannot be written"),
    "what is learned that nobody asks for": (
        {"data.where": "instruction=juggle"},
        "no episode has instruction=juggle of --data.where",
    ),
    "a policy that is preserved by no adapter": (
        {"data.where": "instruction=x", "data.preserve": 0.5},
        "stage1 trains none: give --stage.lr.adapter 1e-4, or --data.preserve 0",
    ),
    "another run's folder": ({"out": "taken"}, "taken already holds a run"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_refused_is_refused(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    changes, said = REFUSED[what]
    monkeypatch.chdir(tmp_path)
    if what == "roots that differ":
        write_v2(Path("one"), camera="none")
        write_v2(Path("other"), fps=10, camera="none")
    Path("file").touch()
    Path("taken").mkdir()
    Path("taken/metrics.jsonl").touch()
    with pytest.raises(ValueError, match=said):
        look(needle, tmp_path / "run", **changes)


def test_ranks_and_cluster_are_those_of_the_launch(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="--micro-batch 2 x 3 ranks"):
        look(needle, tmp_path / "run")
    monkeypatch.setenv("NUM_NODES", "2")
    with pytest.raises(ValueError, match="NUM_NODES is 2"):
        look(needle, tmp_path / "run")


def test_the_kind_of_a_backbone_is_told_by_its_folder_or_the_cache(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    look(needle, tmp_path / "run", **{"backbone.path": "someone/model"})
    assert "someone/model, not here yet" in capsys.readouterr().out
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1")
    shutil.copy(resolve("tiny") / "config.json", snapshot)
    look(needle, tmp_path / "run", **{"backbone.path": "someone/model"})
    assert "someone/model of the local cache, a Qwen2.5-VL" in capsys.readouterr().out
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for path in ("someone/model", str(snapshot)):
        with pytest.raises(ValueError, match="is of type 'llama'"):
            look(needle, tmp_path / "run", **{"backbone.path": path})


def motion(run: Path, *flags: str) -> None:
    words = ["--data.roots", str(ROOT / "examples/motion/amp"), "--out", str(run), "--preset", "small", *flags]
    words += ["--expert.width", "24", "--expert.depth", "1", "--batch-size", "8", "--micro-batch", "8"]
    loop.train(parse(recipes.pretrain(), [*words, "--data.workers", "0", "--data.validation-share", "0"]))


def test_a_model_of_motion_is_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss of the first batch by part is what the first step of the run then has; what outweighs it is told."""
    motion(tmp_path / "run", "--dropout", "0", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith("rehearsed:")]
    assert "not checked: the weights; a start reads them" in lines
    assert not any("would be most of what is learned" in line for line in lines)
    motion(tmp_path / "run", "--stage.objective.motion.acceleration", "1.0", "--dry-run")
    warned = [line for line in capsys.readouterr().out.splitlines() if "would be most of what is learned" in line]
    assert [line.partition(" is ")[0] for line in warned] == ["acceleration"]
    assert warned[0].endswith("give it a smaller --stage.objective.motion.acceleration")
    assert list(tmp_path.iterdir()) == []

    motion(tmp_path / "run", "--dropout", "0", "--stage.steps", "1")
    (step,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    parts = told.removeprefix("rehearsed: ").partition(", gradient")[0].split(", ")
    found = {part: float(loss) for part, _, loss in (each.partition(" ") for each in parts)}
    assert found == pytest.approx(step["losses"], rel=5e-3)
    assert set(found) == {"diffusion", "joints", "velocity", "feet"}


def test_a_rehearsal_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"joints of the first 8 samples is not a finite number.*leave that term out"):
        motion(tmp_path / "run", "--stage.objective.motion.joints", "1e39", "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_goes_on_from_weights_is_refused_without_any(tmp_path: Path) -> None:
    words = ["--data.roots", str(ROOT / "examples/motion/amp"), "--out", str(tmp_path / "run"), "--dry-run"]
    with pytest.raises(ValueError, match=r"sft goes on from the weights of another run: give --init-from RUN"):
        loop.train(parse(recipes.sft(), words))
    loop.train(parse(recipes.sft(), [*words, "--stage.begins", "anew", "--preset", "small", "--micro-batch", "8"]))
