"""Trainings on human motion: the same on every topology, killed anywhere, and obeying each of their options."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from rich.console import Console

from tests import clips
from tests.book import Book
from tests.faults import runs
from tests.forkserver import ForkServer
from tests.training.test_verify_resume import forked
from tests.vla.data.motion.test_clip_list import sample
from training import loop, recipes
from training.checkpoints import checkpoint
from training.flags import parse
from training.verify_resume import verify
from vla import errors

RANKS = {"cpu": 1, "ddp": 2, "zero2": 2, "zero3": 2}
"""Of each topology; cpu is the one that the others are compared with."""
STEPS = 4
WEIGHTS = {"joints": 20.0, "velocity": 0.2, "feet": 0.1, "acceleration": 5e-4, "bones": 10.0}
"""Of terms, so that none drowns the others."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clips(tmp_path_factory.mktemp("made") / "clips")


class Trained:
    """Both trainings by topology, each run once; sft begins with the best policy of one rank's pretraining."""

    def __init__(self, book: Book, data: Path) -> None:
        self.book, self.data = book, data

    def pretrain(self, topology: str) -> Path:
        return self.of("pretrain", topology)

    def sft(self, topology: str) -> Path:
        return self.of("sft", topology, "--init-from", self.pretrain("cpu") / "best")

    def of(self, recipe: str, topology: str, *more: object) -> Path:
        words = clips.flags(self.data, dropout=0, **{"stage.steps": STEPS, "validate-every": 2})
        return self.book.of([*words, *more], ranks=RANKS[topology], topology=topology, recipe=recipe)


@pytest.fixture
def trained(book: Book, data: Path) -> Trained:
    return Trained(book, data)


def measured(run: Path) -> dict[str, Any]:
    """Losses by part and gradient norms of each step, and the validation losses."""
    lines, checks = runs.lines(run), runs.lines(run, "validation.jsonl")
    found = {f"{part} {line['step']}": loss for line in lines for part, loss in line["losses"].items()}
    found |= {f"norm {line['step']}": line["grad_norm"]["all"] for line in lines}
    return found | {f"validation {check['step']}": check["loss"] for check in checks}


class TestTopologies:
    """One rank, and two under DDP, ZeRO-2 and ZeRO-3."""

    @pytest.mark.promise(26, "motion trains alike", "losses of every topology to 1e-5 of one rank's")
    @pytest.mark.parametrize("topology", ["ddp", "zero2", "zero3"])
    def test_pretraining_agrees(self, trained: Trained, topology: str) -> None:
        reference = measured(trained.pretrain("cpu"))
        assert len(reference) == 5 * STEPS + 3, "four terms and the norm of each step, three validations"
        assert measured(trained.pretrain(topology)) == pytest.approx(reference, rel=1e-5)

    @pytest.mark.promise(27, "fine-tuned motion, too", "from the best policy of a pretraining", deep=26)
    @pytest.mark.deep
    @pytest.mark.parametrize("topology", ["ddp", "zero2", "zero3"])
    def test_fine_tuning_agrees(self, trained: Trained, topology: str) -> None:
        reference = measured(trained.sft("cpu"))
        assert measured(trained.sft(topology)) == pytest.approx(reference, rel=1e-5)
        first = checkpoint.best(trained.pretrain("cpu"), fake_accelerator())
        assert first is not None
        assert reference["validation 0"] == pytest.approx(first.manifest.validation_loss, rel=1e-6)


def fake_accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.mark.promise(28, "killed trainings of motion", "end bitwise equal to straight ones")
@pytest.mark.parametrize(
    "recipe", ["pretrain", *(pytest.param(name, marks=pytest.mark.deep) for name in ("sft", "adapter"))]
)
def test_killed_runs_end_bitwise_equal(
    server: ForkServer, trained: Trained, data: Path, tmp_path: Path, recipe: str
) -> None:
    """By verify_resume: SIGKILL and SIGTERM at steps drawn from a seed, under ZeRO-2, with dropout."""
    shown = tmp_path / "shown.txt"
    begin = ["--init-from", str(trained.pretrain("cpu") / "best")] if recipe != "pretrain" else []
    begin += ["--data.preserve", "0"] if recipe == "adapter" else []
    flags = [
        word for word in clips.flags(data, dropout=0.1, **{"micro-batch": 1}) if word not in ("--stage.steps", "6")
    ]
    words = ["--recipe", recipe, "--steps", "16", "--kill-at", "3", "6", "--topologies", "zero2:2", "--seed", "4"]
    words += ["--leg-seconds", "600", "--json", str(tmp_path / "result.json"), "--", *flags, *begin]
    with shown.open("w") as file:
        code = verify(words, Console(width=80, file=file), forked(server))
    assert code == errors.DONE, shown.read_text()
    kills, *others = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert kills["count"] == "2 of 2"
    assert {row["verdict"] for row in others} <= {"bitwise equal", "each once, in order", "as they should"}


class TestOptions:
    """Each option changes what it names, and nothing before it has an effect."""

    @pytest.fixture(autouse=True)
    def fresh_accelerator(self) -> Iterator[None]:
        yield
        AcceleratorState._reset_state(True)
        GradientState._reset_state()

    def train(self, data: Path, out: Path, *more: object, **changes: object) -> list[dict[str, Any]]:
        """The lines of a short run."""
        values: dict[str, object] = {"out": out, "stage.steps": 3, "data.validation-share": 0, "dropout": 0}
        loop.train(parse(recipes.pretrain(), [*clips.flags(data, **(values | changes)), *map(str, more)], {}))
        AcceleratorState._reset_state(True)
        return runs.lines(out)

    def test_first_and_last_rates_are_those_of_the_recipe(self, data: Path, tmp_path: Path) -> None:
        """80 samples are 20 steps of 4: an epoch is shorter than 500 steps, and half of 12 steps shorter than it."""
        rates = [line["lr"]["expert"] for line in self.train(data, tmp_path / "run", **{"stage.steps": 12})]
        assert rates[0] == pytest.approx(0.1 * 3e-4, rel=1e-12)
        assert rates[6] < max(rates) * 1.000001
        assert rates[5] == pytest.approx((0.1 + 0.9 * 5 / 6) * 3e-4, rel=1e-12)
        assert rates[-1] == pytest.approx(0.01 * 3e-4, rel=1e-9)

    def test_a_warm_up_is_no_longer_than_an_epoch(self, data: Path, tmp_path: Path) -> None:
        lines = self.train(data, tmp_path / "run", **{"stage.steps": 400, "stop-after": 2, "batch-size": 40})
        assert lines[1]["lr"]["expert"] / lines[0]["lr"]["expert"] == pytest.approx((0.1 + 0.9 / 3) / 0.1)

    def test_the_norm_of_a_gradient_is_clipped_to_what_the_flag_says(self, data: Path, tmp_path: Path) -> None:
        """After one step Adam's first moment is a tenth of the gradient that it was given."""
        (free,) = self.train(data, tmp_path / "free", "--clip", 1e9, **{"stage.steps": 1})
        norm = free["grad_norm"]["all"]
        for clip in (norm / 4, norm * 2):
            out = tmp_path / f"clip-{clip}"
            (line,) = self.train(data, out, "--clip", clip, **{"stage.steps": 1})
            assert line["grad_norm"]["all"] == pytest.approx(norm, rel=1e-6), "what is recorded is before it"
            moments = checkpoint.read(checkpoint.path_of(out, 1)).state().moments["exp_avg"].values()
            given = torch.cat([moment.flatten() for moment in moments]).norm() / 0.1
            assert float(given) == pytest.approx(min(norm, clip), rel=1e-4)

    @pytest.mark.parametrize(
        ("key", "value", "term"),
        [
            ("velocity_weight", 0.7, "velocity"),
            ("acceleration_weight", 0.05, "acceleration"),
            ("use_velocity_loss", False, "velocity"),
            ("use_acceleration_loss", True, "acceleration"),
        ],
    )
    def test_a_weight_scales_its_term_alone(
        self, data: Path, tmp_path: Path, key: str, value: float | bool, term: str
    ) -> None:
        """At the first step, when the weights are still those of the other run."""
        file = tmp_path / "options.yaml"
        file.write_text(f"{key}: {json.dumps(value)}\n")
        usual = self.train(data, tmp_path / "usual", **{"stage.steps": 1})[0]["losses"]
        found = self.train(data, tmp_path / "run", "--config", file, **{"stage.steps": 1})[0]["losses"]
        weight = {True: 0.05, False: 0.0}.get(value, value) if isinstance(value, bool) else value
        before = {"velocity": 0.2, "acceleration": 0.0}[term]
        assert found["diffusion"] == usual["diffusion"]
        if weight == 0:
            assert term not in found
        elif before:
            assert found[term] == pytest.approx(usual[term] * weight / before, rel=1e-6)
        else:
            assert found[term] > 0 and term not in usual

    def test_geometric_loss_is_of_positions(self, data: Path, tmp_path: Path) -> None:
        file = tmp_path / "options.yaml"
        file.write_text("use_geometric_loss: true\n")
        with pytest.raises(ValueError, match="has no effect on rotations, whose bones keep their length: set it to 0"):
            self.train(data, tmp_path / "rotations", "--config", file)
        AcceleratorState._reset_state(True)
        places = {"data.motion.representation": "positions", "stage.steps": 1}
        first = self.train(data, tmp_path / "positions", "--config", file, **places)[0]["losses"]
        assert first["bones"] > 0

    def test_another_trainer_s_file_and_list_of_clips_train_here(self, tmp_path: Path) -> None:
        """Sticks in a plane with an action and physics of each frame; feet are the one thing that they do not say."""
        clips_of = [sample(frames=30, seed=seed) for seed in range(3)]
        torch.save(clips_of, tmp_path / "pretrain_data.pt")
        file = tmp_path / "small.yaml"
        file.write_text(
            "model: {input_dim: 48, d_model: 32, nhead: 2, num_layers: 1, num_actions: 64}\n"
            "training: {batch_size: 2, grad_accum_steps: 2, epochs: 0.1, learning_rate: 0.0002, max_grad_norm: 1.0}\n"
            "loss_weights: {temporal: 0.1, action: 0.15, physics: 0.2, diffusion: 0.0}\n"
            f"data: {{curated_pretrain_data: {tmp_path / 'pretrain_data.pt'}, checkpoint_dir: {tmp_path / 'run'}}}\n"
        )
        more = ["--data.workers", "0", "--data.horizon", "8", "--data.validation-share", "0", "--tracker", "jsonl"]
        words = ["--config", str(file), *more, "--diffusion.sampling-steps", "2"]
        with pytest.raises(ValueError, match=r"--stage\.objective\.motion\.feet needs joints of feet .*: set it to 0"):
            loop.train(parse(recipes.pretrain(), words, {}))
        AcceleratorState._reset_state(True)
        loop.train(parse(recipes.pretrain(), [*words, "--stage.objective.motion.feet", "0"], {}))
        lines = runs.lines(tmp_path / "run")
        assert {*lines[0]["losses"]} == {"diffusion", "joints", "velocity", "action", "physics"}
        assert lines[0]["losses"]["action"] == pytest.approx(0.15 * np.log(46), rel=0.5), "a guess among some 46"

    def test_rate_length_and_batch_of_a_file(self, data: Path, tmp_path: Path) -> None:
        file = tmp_path / "options.yaml"
        file.write_text("lr: 0.0002\nnum_epochs: 0.1\nbatch_size: 8\n")
        words = clips.flags(data, out=tmp_path / "run", **{"data.validation-share": 0})
        for flag in ("--stage.steps", "--batch-size"):
            at = words.index(flag)
            del words[at : at + 2]
        loop.train(parse(recipes.pretrain(), ["--config", str(file), *words], {}))
        lines = runs.lines(tmp_path / "run")
        assert len(lines) == int(np.ceil(0.1 * 120 / 8))
        assert [line["positions"] for line in lines] == [[0, 7], [8, 15]]
        assert lines[0]["lr"]["expert"] == pytest.approx(0.1 * 2e-4)


@pytest.mark.deep
def test_every_term_of_the_loss_falls_on_real_clips(tmp_path: Path, repository: Path) -> None:
    """Numbers, places, velocities, feet and accelerations of rotations; bones where they can differ."""
    root = str(repository / "examples/motion/cmu/train")
    sizes = ["--expert.width", "48", "--expert.depth", "2", "--batch-size", "32", "--micro-batch", "32"]
    words = ["--data.roots", root, *sizes, "--stage.lr.expert", "2e-3", "--stage.warmup-steps", "5", "--dropout", "0"]
    words += ["--data.workers", "0", "--data.validation-share", "0", "--stage.steps", "80", "--data.horizon", "16"]
    weighed = {
        "rotations": ("joints", "velocity", "feet", "acceleration"),
        "positions": ("joints", "velocity", "bones"),
    }
    for kind, terms in weighed.items():
        given = [f"--stage.objective.motion.{term}={WEIGHTS[term] if term in terms else 0.0}" for term in WEIGHTS]
        run = tmp_path / kind
        loop.train(parse(recipes.pretrain(), [*words, *given, "--data.motion.representation", kind, "--out", str(run)]))
        lines = runs.lines(run)
        for part in ("diffusion", *terms):
            losses = [line["losses"][part] for line in lines]
            assert np.mean(losses[-15:]) < 0.85 * np.mean(losses[:15]), (kind, part)
