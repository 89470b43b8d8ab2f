"""A run's session: errors of loader processes, loss weights over the global batch, dropout from the position alone."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch.utils._python_dispatch import TorchDispatchMode

from training import distributed, loop, recipes
from training.checkpoints import checkpoint
from training.config import RunConfig
from training.ending import exits
from training.engine import guard
from training.engine.state import MOMENTS
from training.flags import parse
from training.run.metrics import Step, Stopwatch
from training.session import Session
from vla import objectives
from vla.batch import Batch, Sample
from vla.data.dataset import TrainSamples, open_dataset
from vla.data.episode import Episode
from vla.data.window import Window
from vla.errors import REFUSED, CorruptData
from vla.objectives import Prediction
from vla.policy import Policy
from vla.policy_folder import load_policy
from vla.settings import DataConfig, Sizes

FLAGS = ["--backbone.path", "tiny", "--stage.steps", "2", "--tracker", "jsonl", "--validation-samples", "2"]
FLAGS += ["--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def config(needle: Path, out: Path, *flags: str) -> RunConfig:
    return parse(recipes.stage1(), ["--data.roots", str(needle), "--out", str(out), *FLAGS, *flags])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_damage_found_while_training_is_one_sentence(
    needle: Path, tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TrainSamples.__getitem__

    def damaged(samples: TrainSamples, position: int) -> Sample:
        if position == 5:
            raise CorruptData("needle/episode_000003, frame 7: cannot be decoded")
        return read(samples, position)

    monkeypatch.setattr(TrainSamples, "__getitem__", damaged)
    with pytest.raises(CorruptData) as error:
        loop.train(
            config(needle, tmp_path / "run", "--batch-size", "4", "--micro-batch", "4", "--data.workers", workers)
        )
    assert str(error.value) == "needle/episode_000003, frame 7: cannot be decoded"


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_loss_is_the_weighted_mean_over_the_whole_batch(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of 1 give each sample's loss; any other size must give their mean by weight."""
    read = TrainSamples.__getitem__
    weights = [2.0, 1.0, 0.5, 2.0, 1.0, 1.0, 4.0, 0.25]

    def weighted(samples: TrainSamples, position: int) -> Sample:
        sample = read(samples, position)
        object.__setattr__(sample, "weight", weights[position % 8])
        return sample

    monkeypatch.setattr(TrainSamples, "__getitem__", weighted)
    common = ["--data.workers", "0", "--dropout", "0"]
    loop.train(config(needle, tmp_path / "whole", *common, "--batch-size", "8", "--micro-batch", "8"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "split", *common, "--batch-size", "8", "--micro-batch", "2"))
    AcceleratorState._reset_state(True)
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    by_hand = config(needle, tmp_path / "by-hand", *common, "--batch-size", "8", "--micro-batch", "8")
    with Session(by_hand) as session, torch.no_grad():
        session.enter(session.run.rows[0])
        session.policy.set_mode(training=True)
        batch = next(session.batches(session.run.rows[0]))[0]
        each = session.policy(batch)["diffusion"]
    expected = sum(float(loss) * weight for loss, weight in zip(each, weights, strict=True)) / sum(weights)
    assert losses(tmp_path / "whole")[0] == pytest.approx(expected, rel=1e-6)


def test_workers_change_nothing(needle: Path, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        flags = ["--batch-size", "4", "--micro-batch", "2", "--dropout", "0.2", "--data.workers", workers]
        loop.train(config(needle, tmp_path / workers, *flags))
        AcceleratorState._reset_state(True)
    assert losses(tmp_path / "0") == losses(tmp_path / "2")


def test_a_finished_run_is_exported_again_and_trains_nothing(needle: Path, tmp_path: Path) -> None:
    import shutil

    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    loop.train(config(needle, tmp_path / "run", *flags))
    AcceleratorState._reset_state(True)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    exported = {path.name: path.read_bytes() for path in (tmp_path / "run" / "policy").glob("*.safetensors")}
    shutil.rmtree(tmp_path / "run" / "policy")
    loop.train(config(needle, tmp_path / "run", *flags, "--resume-from", "auto"))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    again = {path.name: path.read_bytes() for path in (tmp_path / "run" / "policy").glob("*.safetensors")}
    assert again == exported


def poison(monkeypatch: pytest.MonkeyPatch, spoiled: Callable[[int], float]) -> None:
    """Multiply the actions of samples, and with them the loss, by a factor of their position."""
    read = TrainSamples.__getitem__

    def poisoned(samples: TrainSamples, position: int) -> Sample:
        sample = read(samples, position)
        factor = spoiled(position)
        actions = sample.actions * np.float32(factor) if np.isfinite(factor) else np.full_like(sample.actions, factor)
        return replace(sample, actions=actions)

    monkeypatch.setattr(TrainSamples, "__getitem__", poisoned)


def stored(run: Path, step: int) -> dict[str, torch.Tensor]:
    state = checkpoint.read(checkpoint.path_of(run, step)).state()
    return {f"{key}/{name}": value for key in MOMENTS for name, value in state.moments[key].items()} | dict(
        state.weight
    )


EMPHASIS = ["--batch-size", "2", "--micro-batch", "2", "--save-every", "2", "--keep", "9", "--stage.steps", "4"]
EMPHASIS += ["--data.emphasis", "abs(action[2]) > 0.5", "--data.emphasis-share", "0.7"]
EMPHASIS += ["--data.compand", "actions", "sensor"]


def test_emphasis_and_companding_resume_bitwise_and_do_not_change(needle: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    loop.train(config(needle, tmp_path / "straight", *EMPHASIS, "--data.workers", "0"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, run, *EMPHASIS, "--data.workers", "1", "--stop-after", "2"))
    for flags, said in (
        (["--data.emphasis-share", "0.3"], "data.emphasis_share is 0.3, the checkpoint has 0.7"),
        (["--data.emphasis", "action[2] < 0"], "data.emphasis is 'action.2. < 0', the checkpoint has 'abs"),
        (["--data.compand", "actions"], r"data.compand is \['actions'\], the checkpoint has \['actions', 'sensor'\]"),
    ):
        AcceleratorState._reset_state(True)
        with pytest.raises(ValueError, match=said):
            loop.train(config(needle, run, *EMPHASIS, *flags, "--data.workers", "0", "--resume-from", "auto"))
    AcceleratorState._reset_state(True)
    replayed = ["--config", str(run / "config.json"), "--stop-after", "None", "--resume-from", "auto"]
    loop.train(parse(recipes.stage1(), replayed))
    straight, resumed = stored(tmp_path / "straight", 4), stored(run, 4)
    assert all(straight[name].equal(resumed[name]) for name in straight)
    assert losses(run) == losses(tmp_path / "straight")
    policy = load_policy(run / "policy")
    assert {stream: bool(policy.normalizer_of(stream).companded.any()) for stream in policy.normalizer} == {
        "actions": True,
        "state": False,
        "sensor": True,
    }
    actions = next(iter(open_dataset(DataConfig(roots=(str(needle),)), 0).validation)).actions
    there = torch.from_numpy(actions)
    torch.testing.assert_close(policy.normalizer_of("actions").undo(policy.normalize("actions", there)).float(), there)


def test_weights_keep_the_scales_they_were_trained_with(needle: Path, tmp_path: Path) -> None:
    flags = ["--batch-size", "2", "--micro-batch", "2", "--stage.steps", "1", "--data.workers", "0"]
    first = tmp_path / "first"
    loop.train(config(needle, first, *flags, "--data.compand", "actions"))
    for origin in (first, first / "policy"):
        for given in ([], ["--data.compand", "actions"]):
            AcceleratorState._reset_state(True)
            with Session(config(needle, tmp_path / "next", *flags, *given, "--init-from", str(origin))) as session:
                assert session.run.normalizers["actions"].companded.any()
        AcceleratorState._reset_state(True)
        other = config(needle, tmp_path / "next", *flags, "--data.compand", "state", "--init-from", str(origin))
        with pytest.raises(
            ValueError, match="first.* was trained with actions companded, .* leave out --data.compand st"
        ):
            Session(other).__enter__()
        AcceleratorState._reset_state(True)
        other = config(needle, tmp_path / "next", *flags, "--data.normalization", "z-score", "--init-from", str(origin))
        with pytest.raises(ValueError, match="was trained with --data.normalization quantile, and its scales stay"):
            Session(other).__enter__()
        AcceleratorState._reset_state(True)
        other = config(needle, tmp_path / "next", *flags, "--data.no-clamp", "--init-from", str(origin))
        with pytest.raises(ValueError, match="was trained with --data.clamp, and its scales stay: give the same"):
            Session(other).__enter__()


DROPPING = ["--batch-size", "4", "--stage.steps", "4", "--save-every", "2", "--keep", "9", "--data.workers", "0"]
DROPPING += ["--dropout", "0", "--diffusion.unconditional", "0.5", "--diffusion.guidance", "1.5"]


def test_who_is_dropped_depends_on_no_micro_batch_and_no_resume(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: dict[str, dict[int, bool]] = {}
    noised = objectives.noised

    def noting(policy: Policy, batch: Batch, draws: int, *looked: Any) -> Prediction:
        if policy.training:
            own = dropped.setdefault(name, {})
            own |= zip(batch.positions.tolist(), (batch.draws.coin < 0.5).tolist(), strict=True)
        else:
            assert not (batch.draws.coin < 1).any(), "the losses that are reported are with the instruction"
        return noised(policy, batch, draws, *looked)

    monkeypatch.setattr(objectives, "noised", noting)
    lives = {
        "whole": [["--micro-batch", "4"]],
        "split": [["--micro-batch", "1"]],
        "resumed": [["--micro-batch", "4", "--stop-after", "2"], ["--micro-batch", "4", "--resume-from", "auto"]],
    }
    for name, parts in lives.items():
        for flags in parts:
            loop.train(config(needle, tmp_path / name, *DROPPING, *flags))
            AcceleratorState._reset_state(True)
    assert dropped["whole"] == dropped["split"] == dropped["resumed"]
    assert sorted(dropped["whole"]) == list(range(16))
    assert 0 < sum(dropped["whole"].values()) < 16
    whole, split, resumed = (losses(tmp_path / name) for name in lives)
    assert split == pytest.approx(whole, rel=1e-5)
    assert resumed == whole
    straight, gone_on = stored(tmp_path / "whole", 4), stored(tmp_path / "resumed", 4)
    assert straight.keys() == gone_on.keys()
    assert all(straight[key].equal(gone_on[key]) for key in straight)
    assert straight["exp_avg/expert.context.unconditional"].any()
    assert load_policy(tmp_path / "whole" / "policy").config.diffusion.guidance == 1.5


def test_weights_with_and_without_what_stands_for_no_instruction_are_told_apart(needle: Path, tmp_path: Path) -> None:
    flags = ["--batch-size", "2", "--micro-batch", "2", "--stage.steps", "1", "--data.workers", "0"]
    dropping = ["--diffusion.unconditional", "0.25"]
    for name, own, other, said in (
        (
            "with",
            dropping,
            [],
            "with --diffusion.unconditional 0.25 and has what .* give --diffusion.unconditional 0.25",
        ),
        (
            "without",
            [],
            dropping,
            "with --diffusion.unconditional 0 and lacks what .* give --diffusion.unconditional 0,",
        ),
    ):
        loop.train(config(needle, tmp_path / name, *flags, *own))
        for origin in (tmp_path / name, tmp_path / name / "policy"):
            AcceleratorState._reset_state(True)
            begin = ["--init-from", str(origin)]
            with pytest.raises(ValueError, match=said):
                Session(config(needle, tmp_path / "next", *flags, *other, *begin)).__enter__()
            AcceleratorState._reset_state(True)
            with Session(config(needle, tmp_path / "next", *flags, *own, *begin)) as session:
                assert session.run.initial is not None
            AcceleratorState._reset_state(True)


def test_a_run_takes_the_sizes_of_the_weights_it_begins_with(
    needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--data.roots", str(needle), *FLAGS[:8], "--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    first, second, fresh = (tmp_path / name for name in ("first", "second", "fresh"))
    loop.train(parse(recipes.stage1(), [*plain, "--out", str(first), *FLAGS[8:], "--expert.heads", "2"]))
    for begin in (["--init-from", str(first)], ["--init-from", str(first / "policy")], ["--resume-from", "auto"]):
        AcceleratorState._reset_state(True)
        loop.train(parse(recipes.stage2(), [*plain, "--out", str(second), *begin, "--stop-after", "1"]))
        assert load_policy(second / "policy").config.expert.sizes == Sizes(width=32, depth=1, heads=2)
        assert json.loads((second / "config.json").read_text())["expert"]["width"] == 32
        if begin[1] == str(first):
            shutil.rmtree(second)
    AcceleratorState._reset_state(True)
    capsys.readouterr()
    with Session(parse(recipes.stage1(), [*plain, "--out", str(fresh)])) as session:
        assert session.config.expert.sizes == Sizes(width=128, depth=3, heads=4)
    assert "auto: --expert.width 128 --expert.depth 3 --expert.heads 4\n" in capsys.readouterr().out


@pytest.mark.deep
def test_a_resumed_run_keeps_where_it_began(needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also one that ended before its first checkpoint: it begins where it had begun, without being told again."""
    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    origin, run, straight = (tmp_path / name for name in ("origin", "run", "straight"))
    loop.train(config(needle, origin, *flags, "--stage.steps", "1"))
    for cut, out in ((["--stop-after", "1"], run), ([], straight)):
        AcceleratorState._reset_state(True)
        loop.train(config(needle, out, *flags, "--init-from", str(origin), *cut))
    for path in checkpoint.steps(run):
        checkpoint.discard(path)
    for step in (1, 2):
        AcceleratorState._reset_state(True)
        loop.train(config(needle, run, *flags, "--resume-from", "auto", "--stop-after", str(step)))
        assert (f"begins with the weights of {origin}, as before" in capsys.readouterr().out) == (step == 1)
        told = json.loads((run / "config.json").read_text())
        assert (told["init_from"], told["resume_from"]) == (str(origin), None)
        assert checkpoint.read(checkpoint.path_of(run, step)).manifest.init_from == str(origin)
    assert losses(run) == losses(straight)
    AcceleratorState._reset_state(True)
    loop.train(parse(recipes.stage1(), ["--config", str(run / "config.json"), "--out", str(tmp_path / "again")]))
    assert losses(tmp_path / "again") == losses(straight)


def test_a_run_that_goes_back_keeps_its_own_steps(
    needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an earlier step the later checkpoints are another life's: they must not be kept, or gone on from, instead."""
    flags = ["--stage.steps", "6", "--save-every", "1", "--keep", "2", "--data.workers", "0"]
    flags += ["--batch-size", "2", "--micro-batch", "2", "--ema-decay", "0.5"]
    run, before = tmp_path / "run", tmp_path / "before"
    loop.train(config(needle, run, *flags, "--stop-after", "3"))
    shutil.copytree(run / "checkpoints/step-00000002", before)
    loop.train(config(needle, run, *flags, "--resume-from", "auto"))
    whole = losses(run)
    first, last = run / "checkpoints/step-00000005", run / "checkpoints/step-00000006"
    shutil.copytree(before, run / "checkpoints/step-00000002")
    held = {path.name: sorted((file.name, file.read_bytes()) for file in path.iterdir()) for path in (first, last)}
    capsys.readouterr()
    back = str(run / "checkpoints/step-00000002")
    loop.train(config(needle, run, *flags, "--resume-from", back, "--stop-after", "4"))
    said = capsys.readouterr().out
    assert "step-00000005 is after step 2, which the run goes on from: set aside as .later-step-00000005-" in said
    assert sorted(path.name for path in (run / "checkpoints").glob("step-*")) == ["step-00000003", "step-00000004"]
    aside = {path.name[7:20]: path for path in (run / "checkpoints").glob(".later-*")}
    for name, files in held.items():
        assert sorted((file.name, file.read_bytes()) for file in aside[name].iterdir()) == files, "whole"
    loop.train(config(needle, run, *flags, "--resume-from", "auto"))
    assert losses(run) == whole


def test_every_sampler_is_validated_with_the_same_noise_each_time(needle: Path, tmp_path: Path) -> None:
    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0", "--diffusion.sampler", "ddpm"]
    errors = []
    for name in ("one", "two"):
        AcceleratorState._reset_state(True)
        loop.train(config(needle, tmp_path / name, *flags))
        lines = (tmp_path / name / "validation.jsonl").read_text().splitlines()
        errors.append([json.loads(line)["action_mae"] for line in lines])
    assert errors[0] == errors[1]
    assert torch.tensor(errors[0]).isfinite().all()


def test_what_stands_where_in_the_stream_is_part_of_a_run(needle: Path, tmp_path: Path) -> None:
    """Another instruction, or another frame in the emphasised pool, and what is learned is something else."""
    import shutil

    import pandas as pd

    flags = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"]
    data = Path(shutil.copytree(needle, tmp_path / "data"))
    before = open_dataset(DataConfig(roots=(str(data),)), 0).train.fingerprint()
    loop.train(config(data, tmp_path / "run", *flags, "--stop-after", "1"))
    tasks = pd.read_parquet(data / "meta" / "tasks.parquet")
    tasks.index = pd.Index(["do it otherwise", *tasks.index[1:]], name=tasks.index.name)
    tasks.to_parquet(data / "meta" / "tasks.parquet")
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="places of the training samples is"):
        loop.train(config(data, tmp_path / "run", *flags, "--resume-from", "auto"))
    prints = {
        open_dataset(DataConfig(roots=(str(needle),), emphasis=emphasis), 0).train.fingerprint()
        for emphasis in ("", "action[2] < 0", "action[2] < -0.5")
    }
    assert len(prints) == 3
    assert before in prints


POISONED = ["--batch-size", "2", "--micro-batch", "2", "--data.workers", "0", "--save-every", "1", "--keep", "99"]
POISONED += ["--data.no-clamp"]  # which would keep the poison within the range of the data


def test_a_step_that_memory_does_not_hold_names_the_flags(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch raises of a tensor that is too large, in a step of a training; a restart would meet it again."""
    monkeypatch.setattr(Policy, "forward", lambda *_: torch.empty(2**50))
    with pytest.raises(RuntimeError) as failed:
        loop.train(config(needle, tmp_path / "run", "--batch-size", "2", "--micro-batch", "2", "--data.workers", "0"))
    for error in (failed.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")):
        code, sentence = exits.told(error)
        assert code == REFUSED
        assert sentence is not None
        assert "a smaller --micro-batch" in sentence and "\n" not in sentence


def test_a_step_that_is_not_finite_changes_nothing(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, lambda position: float("nan") if position == 5 else 1)
    loop.train(config(needle, tmp_path / "run", *POISONED, "--stage.steps", "4"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [False, False, True, False]
    assert lines[2]["loss"] is None
    assert not checkpoint.path_of(tmp_path / "run", 3).exists(), "nothing is saved among skipped steps"
    before, after = stored(tmp_path / "run", 2), stored(tmp_path / "run", 4)
    assert checkpoint.read(checkpoint.path_of(tmp_path / "run", 4)).manifest.adam_steps["expert"] == 3
    assert any(not before[name].equal(after[name]) for name in before)

    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "stopped", *POISONED, "--stage.steps", "4", "--stop-after", "3"))
    skipped = stored(tmp_path / "stopped", 3)
    assert all(before[name].equal(skipped[name]) for name in before), "weights, moments and averages are untouched"


def test_too_many_skipped_steps_go_back_once(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times: Counter[int] = Counter()

    def once(position: int) -> float:
        times[position] += 1
        return float("nan") if 6 <= position < 12 and times[position] == 1 else 1

    flags = [*POISONED, "--stage.steps", "8", "--guard.max-skipped", "3", "--save-every", "2"]
    loop.train(config(needle, tmp_path / "straight", *flags))
    AcceleratorState._reset_state(True)
    poison(monkeypatch, once)
    loop.train(config(needle, tmp_path / "run", *flags))
    assert "going back to step-00000002, once" in capsys.readouterr().out
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    straight, back = stored(tmp_path / "straight", 8), stored(tmp_path / "run", 8)
    assert all(straight[name].equal(back[name]) for name in straight)
    assert checkpoint.read(checkpoint.path_of(tmp_path / "run", 8)).manifest.roll_backs == 1

    AcceleratorState._reset_state(True)
    monkeypatch.undo()
    poison(monkeypatch, lambda position: float("inf") if position >= 6 else 1)
    with pytest.raises(FloatingPointError, match="after going back to a checkpoint as well"):
        loop.train(config(needle, tmp_path / "lost", *flags))
    assert [path.name for path in checkpoint.steps(tmp_path / "lost")] == ["step-00000002"]


@pytest.mark.parametrize("policy", ["log", "skip"])
def test_a_spike_is_told_or_skipped_and_a_resumed_run_decides_the_same(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    monkeypatch.setattr(guard, "WARMUP", 4)
    poison(monkeypatch, lambda position: 1e3 if position in {12, 13} else 1)
    flags = [*POISONED, "--stage.steps", "9", "--guard.spike", policy]
    loop.train(config(needle, tmp_path / "straight", *flags))
    out = capsys.readouterr().out
    assert "step 7: the loss" in out
    assert ("the step was skipped" in out) == (policy == "skip")
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "resumed", *flags, "--stop-after", "5"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "resumed", *flags, "--resume-from", "auto"))
    assert "step 7: the loss" in capsys.readouterr().out
    straight, resumed = stored(tmp_path / "straight", 9), stored(tmp_path / "resumed", 9)
    assert all(straight[name].equal(resumed[name]) for name in straight)


@pytest.mark.deep
def test_unreadable_samples_are_left_out_within_the_budget(
    needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Window.cut

    def damaged(window: Window, episode: Episode, frame: int, position: int) -> Sample:
        if 3 <= frame < 9:
            raise CorruptData(f"{episode.name}, frame {frame}: its video cannot be decoded")
        return cut(window, episode, frame, position)

    monkeypatch.setattr(Window, "cut", damaged)
    flags = ["--batch-size", "8", "--micro-batch", "4", "--data.workers", "0", "--stage.steps", "6"]
    with pytest.raises(CorruptData, match="cannot be decoded"):
        loop.train(config(needle, tmp_path / "strict", *flags, "--validation-samples", "1"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "run", *flags, "--data.quarantine", "99"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) > 1
    assert {line["frame"] for line in lines} <= set(range(3, 9))
    assert all("cannot be decoded" in line["reason"] for line in lines)
    AcceleratorState._reset_state(True)
    with pytest.raises(CorruptData, match=f"{len(lines)} samples cannot be read, {len(lines) - 1} may be left out"):
        loop.train(config(needle, tmp_path / "few", *flags, "--data.quarantine", str(len(lines) - 1)))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "resumed", *flags, "--data.quarantine", "99", "--stop-after", "3"))
    AcceleratorState._reset_state(True)
    loop.train(config(needle, tmp_path / "resumed", *flags, "--data.quarantine", "99", "--resume-from", "auto"))
    assert losses(tmp_path / "resumed") == losses(tmp_path / "run")
    resumed = (tmp_path / "resumed" / "quarantine.jsonl").read_text().splitlines()
    assert {(line["episode"], line["frame"]) for line in map(json.loads, resumed)} == {
        (line["episode"], line["frame"]) for line in lines
    }


class NoReading(TorchDispatchMode):
    """Fails where the host asks for the value of a tensor, which on a GPU waits for all work before it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default, "a number was read on the host"
        return function(*args, **(kwargs or {}))


def test_a_step_is_judged_and_taken_without_reading_a_number(needle: Path, tmp_path: Path) -> None:
    flags = ["--data.workers", "0", "--batch-size", "2", "--micro-batch", "2"]
    with Session(config(needle, tmp_path / "run", *flags)) as session:
        engine = session.enter(session.run.rows[0])
        with engine.micro_batch(last=True):
            total = session.policy(next(session.batches(session.run.rows[0]))[0])["diffusion"].sum()
            engine.backward(total)
        with NoReading():
            with pytest.raises(AssertionError, match="was read on the host"):
                float(total)
            norms = engine.gradient_norms()
            [reduced] = distributed.sum_over_ranks(session.accelerator, [total.detach()])
            skip, spike = session.guard.judge(reduced, norms["all"])
            engine.step(1.0, 0.9, norms["all"], skip)
            values = {"diffusion": reduced}
            session.metrics.add(
                Step(
                    step=1,
                    stage="stage1",
                    batch_size=2,
                    lr={},
                    losses=values,
                    gradient_norms=norms,
                    skip=skip,
                    spike=spike,
                    timing=Stopwatch().stop(),
                )
            )
        session.metrics.settle()
    assert len(losses(tmp_path / "run")) == 1
