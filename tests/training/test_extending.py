"""More steps than a run was to have: its rates go over without a jump, and a stopped extension resumes bit for bit."""

import json
import math
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from hypothesis import given
from hypothesis import strategies as st

from tests import clips
from tests.faults import runs
from training import loop, recipes
from training.checkpoints import checkpoint
from training.flags import parse
from training.run.resuming import Row
from training.settings import Rates, Stage
from vla.run_folder import Extension, read_schedule

STAGE = Stage(steps=100, lr=Rates(expert=1.0), warmup=0.0, warmup_steps=None, hold=0.0, floor=0.01)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def cosine(step: int, total: int) -> float:
    """The rate after a step of a stage without a warm-up, by its formula."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step + 1) / total))


def test_rates_rise_in_a_straight_line_to_the_longer_schedule() -> None:
    """A finished run of 100 steps is to have 300: over 20 steps from the floor, then the cosine of 300."""
    stage = Stage(steps=100, lr=Rates(expert=1.0), warmup=0.1, hold=0.0, floor=0.01)
    row = Row("x", stage, 0, 300, extended=(Extension(at=100, before=100, to=300),))

    def longer(step: int) -> float:
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - 30 + 1) / 270))  # its own warm-up is 30 steps

    assert [row.factor(step) for step in range(100)] == [stage.factor(step, 100) for step in range(100)]
    assert row.factor(99) == pytest.approx(0.01)
    for step in range(100, 120):
        assert row.factor(step) == pytest.approx(0.01 + (longer(119) - 0.01) * (step - 99) / 20)
    for step in (120, 200, 299):
        assert row.factor(step) == pytest.approx(longer(step))
    assert row.factor(299) == pytest.approx(0.01)


def test_a_second_extension_begins_at_the_rate_of_the_first() -> None:
    first, second = Extension(at=50, before=100, to=200), Extension(at=120, before=200, to=400)
    row = Row("x", STAGE, 0, 400, extended=(first, second))
    once = Row("x", STAGE, 0, 200, extended=(first,))
    assert [row.factor(step) for step in range(120)] == [once.factor(step) for step in range(120)]
    assert once.factor(49) == pytest.approx(cosine(49, 100))
    assert once.factor(50) == pytest.approx(cosine(50, 200)), "without a warm-up, the next step is of the longer one"
    assert row.factor(399) == pytest.approx(0.01)


@given(
    total=st.integers(20, 200),
    at=st.integers(1, 200),
    more=st.integers(1, 300),
    start=st.integers(0, 50),
    warmup=st.sampled_from([0, 7, 40]),
)
def test_no_rate_jumps_on_the_way_over(total: int, at: int, more: int, start: int, warmup: int) -> None:
    stage = Stage(steps=total, lr=Rates(expert=1.0), warmup_steps=warmup, warmup_from=0.1, hold=0.0, floor=0.01)
    at, end = start + min(at, total), start + total + more
    row = Row("x", stage, start, end, extended=(Extension(at=at, before=start + total, to=end),))
    over = max(1, stage.rising(end - at))
    around = [row.factor(step) for step in range(at - 1, min(at + over, end))]
    assert max(abs(later - earlier) for earlier, later in pairwise(around)) <= 1 / over
    assert all(0 < row.factor(step) <= 1 for step in range(start, end))


def test_a_stage_that_has_not_begun_is_simply_longer() -> None:
    row = Row("x", STAGE, 100, 400, extended=(Extension(at=30, before=200, to=400),))
    assert [row.factor(100 + step) for step in (0, 10, 299)] == pytest.approx(
        [cosine(step, 300) for step in (0, 10, 299)]
    )


SAME, ANEW = "Give the same settings", "or start anew from its weights with --init-from$"


class TestRuns:
    """Six steps of a made-up walk, extended to twelve."""

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return clips.write_clips(tmp_path_factory.mktemp("made") / "clips")

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out: Path = tmp_path_factory.mktemp("finished") / "run"
        cls.train(data, out)
        AcceleratorState._reset_state(True)
        return out

    @staticmethod
    def train(data: Path, out: Path, *more: object, **changes: object) -> None:
        words = clips.flags(data, **({"out": out, "keep": 9, "save-every": 3} | changes))
        loop.train(parse(recipes.pretrain(), [*words, *map(str, more)], {}))

    def test_it_goes_on_and_says_how(
        self, data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Stopped in the extension, it goes on without being told again, and ends as one that was not stopped."""
        straight, run = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("straight", "run"))
        self.train(data, straight, "--resume-from", "auto", "--extend-to", 12)
        said = capsys.readouterr().out
        assert "at step 6 of 12" in said
        assert "extended from step 6 to 12: rates go from 0.01 of their peaks to " in said
        AcceleratorState._reset_state(True)
        self.train(data, run, "--resume-from", "auto", "--extend-to", 12, "--stop-after", 8)
        manifest = checkpoint.read(checkpoint.path_of(run, 8)).manifest
        assert manifest.extended == (Extension(at=6, before=6, to=12),)
        assert read_schedule(run).end == 12
        AcceleratorState._reset_state(True)
        self.train(data, run, "--resume-from", "auto")
        assert "extended from" not in capsys.readouterr().out.partition("at step 8 of 12")[2]
        runs.assert_same(run, straight)
        rates = [line["lr"]["expert"] / 3e-4 for line in runs.lines(straight)]
        assert rates[5] == pytest.approx(0.01)
        aim = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (8 - 6 + 1) / 6))  # 6 of 12 steps are warm-up
        assert rates[6:9] == pytest.approx([0.01 + (aim - 0.01) * step / 3 for step in (1, 2, 3)])
        assert rates[11] == pytest.approx(0.01)
        assert json.loads((run / "config.json").read_text())["extend_to"] is None

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (["--stage.steps", 12], f"steps is 12, the checkpoint has 6. {SAME}, --extend-to 12 instead of .*, {ANEW}"),
            (["--stage.steps", 4], f"steps is 4, the checkpoint has 6. {SAME}, {ANEW}"),
            (["--data.horizon", 6], f"data.horizon .*. {SAME}, {ANEW}"),
            (["--extend-to", 6, "--stop-after", 6], None),
            (["--extend-to", 5], "--extend-to 5 is no extension: the run ends at step 6; give more"),
        ],
    )  # fmt: skip
    def test_without_it_both_ways_are_named(
        self, data: Path, finished: Path, tmp_path: Path, more: list[object], said: str | None
    ) -> None:
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        if said is None:
            self.train(data, run, "--resume-from", "auto", *more)
            assert checkpoint.read(checkpoint.path_of(run, 6)).manifest.extended == ()
            return
        with pytest.raises(ValueError, match=said) as refused:
            self.train(data, run, "--resume-from", "auto", *more)
        assert "\n" not in str(refused.value)

    def test_there_must_be_a_run(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="--extend-to 9 goes on with a run: give --resume-from too"):
            self.train(data, tmp_path / "run", "--extend-to", 9)
        with pytest.raises(ValueError, match="there is no checkpoint of one: leave it out, and say how long"):
            self.train(data, tmp_path / "run", "--extend-to", 9, "--resume-from", "auto")

    def test_another_folder_goes_on_from_a_run(self, data: Path, finished: Path, tmp_path: Path) -> None:
        """With everything; the run that it comes from stays as it was."""
        before = runs.steps(finished)
        self.train(data, tmp_path / "other", "--resume-from", finished, "--extend-to", 8)
        assert runs.steps(finished) == before
        assert [line["step"] for line in runs.lines(tmp_path / "other")] == [7, 8]
        moments = checkpoint.read(checkpoint.path_of(tmp_path / "other", 8)).manifest.adam_steps
        assert moments == {"expert": 8}

    def test_an_earlier_version_does_not_go_on_with_it(self, data: Path, finished: Path, tmp_path: Path) -> None:
        """It compares all that a checkpoint holds of the run with its own settings, and knows of no extension."""
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        self.train(data, run, "--resume-from", "auto", "--extend-to", 8)
        meaning = checkpoint.read(checkpoint.path_of(run, 8)).meaning()
        assert meaning.identity["extended"] == [{"at": 6, "before": 6, "to": 8}]
        assert "extended" not in checkpoint.read(checkpoint.path_of(run, 6)).meaning().identity
