"""The checkpoint of the lowest validation loss: kept beside the newest, begun with, gone on from, and exported."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from hypothesis import given
from hypothesis import strategies as st

from tests import clips
from tests.book import Book
from tests.faults import runs
from tests.forkserver import ForkServer
from tests.policies import manifest
from training import loop, recipes, session
from training.checkpoints import checkpoint
from training.checkpoints.beginning import read_origin
from training.checkpoints.checkpoint import Checkpoint
from training.flags import parse
from training.session import Session
from vla import documents
from vla.policy_folder import load_policy


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clips(tmp_path_factory.mktemp("made") / "clips")


def fake(run: Path, step: int, loss: float | None, stage: str = "pretrain") -> None:
    folder = checkpoint.path_of(run, step)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(documents.to_bytes(manifest(step, stage=stage, validation_loss=loss)))


class TestWhich:
    """Manifests alone say which checkpoint is the best."""

    def test_the_best_is_kept_beside_the_newest(self, tmp_path: Path) -> None:
        for step, loss in ((1, 0.5), (2, 0.2), (3, None), (4, 0.3), (5, 0.25)):
            fake(tmp_path, step, loss)
        checkpoint.prune(tmp_path, 1, keep_best=True)
        assert runs.steps(tmp_path) == [2, 5]
        fake(tmp_path, 6, 0.1)
        checkpoint.prune(tmp_path, 1, keep_best=True)
        assert runs.steps(tmp_path) == [6]
        fake(tmp_path, 7, 0.4)
        checkpoint.prune(tmp_path, 1)
        assert runs.steps(tmp_path) == [7], "unless it is asked for, only the newest count"

    def test_losses_of_another_stage_are_of_another_objective(self, tmp_path: Path) -> None:
        fake(tmp_path, 1, 0.1, "stage1")
        fake(tmp_path, 2, 0.7, "stage2")
        fake(tmp_path, 3, 0.9, "stage2")
        checkpoint.prune(tmp_path, 1, keep_best=True)
        assert runs.steps(tmp_path) == [2, 3]

    def test_a_damaged_one_is_passed_over(self, tmp_path: Path) -> None:
        for step, loss in ((1, 0.1), (2, 0.2), (3, 0.3)):
            fake(tmp_path, step, loss)
        (checkpoint.path_of(tmp_path, 1) / "manifest.json").write_text("{")
        found = checkpoint.best(tmp_path, Accelerator(cpu=True))
        assert found is not None and found.manifest.step == 2

    def test_a_place_called_best_is_that_of_its_run(self, tmp_path: Path) -> None:
        accelerator = Accelerator(cpu=True)
        for step, loss in ((1, 0.1), (2, 0.2)):
            fake(tmp_path / "run", step, loss)
        assert checkpoint.find(str(tmp_path / "run" / "best"), accelerator).manifest.step == 1
        fake(tmp_path / "best", 5, 0.9)
        assert checkpoint.find(str(tmp_path / "best"), accelerator).manifest.step == 5, "a run of that name is itself"
        with pytest.raises(ValueError, match="holds no checkpoint"):
            checkpoint.find(str(tmp_path / "none" / "best"), accelerator)

    @given(losses=st.lists(st.one_of(st.none(), st.floats(0, 9)), min_size=1, max_size=12), keep=st.integers(1, 4))
    def test_what_is_kept_is_the_newest_and_the_lowest(self, losses: Sequence[float | None], keep: int) -> None:
        found = [
            Checkpoint(path=Path(str(step)), manifest=manifest(step, validation_loss=loss))
            for step, loss in enumerate(losses)
        ]
        measured = [loss for loss in losses if loss is not None]
        best = checkpoint.ranked(found)[:1]
        assert [each.manifest.validation_loss for each in best] == ([min(measured)] if measured else [])


class TestRuns:
    """A run whose validation losses are made up: the third of six is the best."""

    LOSSES: ClassVar = {0: 0.1, 1: 0.9, 2: 0.7, 3: 0.3, 4: 0.5, 5: 0.31, 6: 0.8}
    """By step; what was measured before the first step counts for nothing."""

    @pytest.fixture(autouse=True)
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def validate(*_: Any, **__: Any) -> dict[str, Any]:
            return {"loss": self.LOSSES[self.session.step], "losses": {}, "action_mae": [], "samples": 2}

        enter = Session.__enter__

        def entered(session: Session) -> Session:
            self.session = session
            return enter(session)

        monkeypatch.setattr(Session, "__enter__", entered)
        monkeypatch.setattr(loop, "validate", validate)

    @staticmethod
    def train(data: Path, out: Path, *more: object, **changes: object) -> None:
        values = {"out": out, "keep": 1, "validate-every": 1, "save-every": 100} | changes
        loop.train(parse(recipes.pretrain(), [*clips.flags(data, **values), *map(str, more)], {}))

    def test_it_is_kept_exported_and_begun_with(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        self.train(data, run)
        assert runs.steps(run) == [3, 6]
        assert f"best: {run / 'best'}, of step 3, validation loss 0.3000" in capsys.readouterr().out
        best, last = (load_policy(run / name).learned() for name in ("best", "policy"))
        state = checkpoint.read(checkpoint.path_of(run, 3)).state()
        assert all(best[name].equal(average) for name, average in state.moments["ema"].items())
        assert any(not best[name].equal(last[name]) for name in best)
        AcceleratorState._reset_state(True)
        self.train(data, tmp_path / "next", "--init-from", run / "best", "--stop-after", 1)
        assert checkpoint.read(checkpoint.path_of(tmp_path / "next", 1)).manifest.init_from == str(run / "best")
        AcceleratorState._reset_state(True)
        self.train(data, tmp_path / "on", "--resume-from", run / "best")
        assert [line["step"] for line in runs.lines(tmp_path / "on")] == [4, 5, 6]
        assert "at step 3 of 6" in capsys.readouterr().out
        runs.assert_same_state(runs.at(tmp_path / "on", 6), runs.at(run, 6))

    def test_checkpoints_go_before_what_an_earlier_end_exported(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that has gone on since, and was killed, has a better one than its folder `best`, or no such folder."""
        run = tmp_path / "run"
        self.train(data, run, "--stop-after", 2)
        older = load_policy(run / "best").learned()
        monkeypatch.setattr(session, "exporter", lambda *_: lambda *_: None)
        AcceleratorState._reset_state(True)
        self.train(data, run, "--resume-from", "auto")
        average = checkpoint.read(checkpoint.path_of(run, 3)).state().moments["ema"]
        for _ in range(2):
            origin = read_origin(str(run / "best"), "hash", Accelerator(cpu=True))
            assert all(origin.weights[name].equal(tensor) for name, tensor in average.items())
            assert any(not older[name].equal(tensor) for name, tensor in average.items())
            shutil.rmtree(run / "best", ignore_errors=True)

    def test_without_held_out_episodes_there_is_none(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.train(data, tmp_path / "run", **{"data.validation-share": 0, "stage.steps": 1})
        assert "best: none, as no validation on held-out episodes" in capsys.readouterr().out
        assert not (tmp_path / "run" / "best").exists()

    def test_not_unless_it_is_asked_for(self, data: Path, tmp_path: Path) -> None:
        self.train(data, tmp_path / "run", "--no-keep-best")
        assert runs.steps(tmp_path / "run") == [6]
        assert not (tmp_path / "run" / "best").exists()


def fall_and_rise() -> None:
    """What a rank calls first: the validation loss is lowest at the fourth step."""
    validate = loop.validate

    def measured(engine: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        result = validate(engine, *arguments, **options)
        step = max(engine.adam_steps().values(), default=0)
        return {**result, "loss": 1.0 + abs(step - 4)}

    loop.validate = measured


@pytest.mark.parametrize(
    "fault",
    [
        "rename.before:kill@5",
        "prune.before:kill@3",
        pytest.param("shard.written:kill@4", marks=pytest.mark.deep),
        pytest.param("latest.after:kill@4", marks=pytest.mark.deep),
    ],
)
def test_it_survives_a_kill_at_any_moment(
    server: ForkServer, book: Book, data: Path, tmp_path: Path, fault: str
) -> None:
    """Killed while saving or deleting, a run goes on to the same last and the same best checkpoint, bit for bit."""
    words = clips.flags(data, keep=1, **{"validate-every": 1, "save-every": 100, "stage.steps": 8})
    options: dict[str, Any] = {"recipe": "pretrain", "prepare": f"{__name__}:fall_and_rise"}
    straight, run = book.of(words, **options), tmp_path / "run"
    killed = server.start([*words, "--out", run], environment={"TOUCHSTONE_FAULTS": fault}, **options)
    assert killed.wait() == [runs.KILLED], killed.report()
    assert server.run([*words, "--out", run, "--resume-from", "auto"], **options) == [0]
    assert runs.steps(run) == runs.steps(straight) == [4, 8]
    runs.assert_same(run, straight)
    runs.assert_same_state(runs.at(run, 4), runs.at(straight, 4))
    ours, theirs = (load_policy(folder / "best").learned() for folder in (run, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
