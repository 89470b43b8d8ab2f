"""Rows 31-33: losses and gradients that would do harm."""

import math
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.runs import SAVE_EVERY
from tests.forkserver import ForkServer, Life

NOT_FINITE = 70
NOISE = "tests.faults.watch:spoiled_actions"


def spoil(first: int, last: int, by: float, **more: str) -> dict[str, str]:
    return {"SPOIL_FROM": str(first), "SPOIL_TO": str(last), "SPOIL_BY": str(by)} | more


def skipped(run: Path) -> list[int]:
    return [line["step"] for line in runs.lines(run) if line["skipped"]]


@pytest.mark.fault(31, "NaN loss on one rank", "all skip together, state untouched; N in a row: back once, then 70")
def test_not_finite(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    # A step takes 4 positions; the last two are rank 1's.
    step = SAVE_EVERY + 1
    position = 4 * step - 1
    for topology in ("ddp", "zero2"):
        run = tmp_path / topology
        runs.rewind(golden, run, SAVE_EVERY)
        life = server.start(
            [*flags, "--out", run, "--resume-from", "auto", "--stop-after", step],
            ranks=2,
            topology=topology,
            prepare=NOISE,
            environment=spoil(position, position, math.nan),
        )
        assert life.wait() == [0, 0], life.report()
        runs.assert_same_state(runs.at(run, step), runs.at(run, SAVE_EVERY))
        line = runs.lines(run)[-1]
        assert line["skipped"] and line["loss"] is None and line["positions"] == [position - 3, position]
        assert f"positions {position - 3} to {position}" in life.output()
    assert server.run([*flags, "--out", tmp_path / "ddp", "--resume-from", "auto"], ranks=2) == [0, 0]
    assert skipped(tmp_path / "ddp") == [step]
    assert all(math.isfinite(line["loss"]) for line in runs.lines(tmp_path / "ddp")[step:])

    # The third of three steps is one that is saved, where the host learns what the device has skipped.
    first_of_three, last_of_three = 4 * (3 * SAVE_EVERY - 3) + 3, 4 * 3 * SAVE_EVERY - 1

    def ended(run: Path, last: int, **more: str) -> Life:
        words = ["--out", run, "--guard.max-skipped", 3]
        environment = spoil(first_of_three, last, math.nan, **more)
        life = server.start([*flags, *words], ranks=2, prepare=NOISE, environment=environment)
        life.wait()
        return life

    # It passes: after three steps in a row the run goes back, and ends as if nothing had been.
    life = ended(tmp_path / "passing", last_of_three, SPOIL_ONCE="1")
    assert life.codes() == [0, 0], life.report()
    assert f"going back to step-{2 * SAVE_EVERY:08d}" in life.output()
    runs.assert_same(tmp_path / "passing", golden)
    # It stays: the run goes back once, and then ends.
    life = ended(tmp_path / "staying", 10_000)
    assert life.codes() == [NOT_FINITE, NOT_FINITE], life.report()
    assert life.output().count(": going back to step-") == 1
    assert "Traceback" not in life.output()
    assert runs.steps(tmp_path / "staying") == [SAVE_EVERY, 2 * SAVE_EVERY]
    for step in runs.steps(tmp_path / "staying"):
        runs.assert_same_state(runs.at(tmp_path / "staying", step), runs.at(golden, step))


@pytest.mark.fault(32, "infinite gradient, finite loss", "the norm gives it away: skipped on all ranks", deep=31)
def test_infinite_gradient(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    at = SAVE_EVERY + 1
    for topology in ("ddp", "zero2"):
        run = tmp_path / topology
        runs.rewind(golden, run, SAVE_EVERY)
        life = server.start(
            [*flags, "--out", run, "--resume-from", "auto", "--stop-after", at],
            ranks=2,
            topology=topology,
            prepare="tests.faults.watch:infinite_gradient",
            environment={"INFINITE_AT": "1"},
        )
        assert life.wait() == [0, 0], life.report()
        line = runs.lines(run)[-1]
        assert (line["step"], line["skipped"], line["grad_norm"]["all"]) == (at, True, None)
        assert math.isfinite(line["loss"])
        runs.assert_same_state(runs.at(run, at), runs.at(run, SAVE_EVERY))


@pytest.mark.fault(33, "loss spike", "logged or skipped as asked; a resumed run decides the same", deep=31)
def test_spike(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    """B.5 names a third way, rolling back; --guard.spike offers log and skip."""
    spike, steps = 56, 60
    flags = runs.flags(needle, **{"stage.steps": steps, "save-every": 1000, "dropout": 0.1, "micro-batch": 4})
    flags.append("--data.no-clamp")  # which would keep what is spoilt within the range of the data
    environment = spoil(4 * (spike - 1), 4 * spike - 1, 100.0)

    def train(run: Path, *words: object) -> str:
        argv = [*flags, "--out", run, "--resume-from", "auto", *words]
        life = server.start(argv, prepare=NOISE, environment=environment)
        assert life.wait() == [0], life.report()
        return life.output()

    said = train(tmp_path / "log")
    assert skipped(tmp_path / "log") == []
    assert f"step {spike}: the loss" in said and "spike; the step was taken" in said
    said = train(tmp_path / "skip", "--guard.spike", "skip")
    assert skipped(tmp_path / "skip") == [spike]
    assert "spike; the step was skipped" in said
    assert runs.lines(tmp_path / "skip")[spike - 1]["loss"] > 10 * runs.lines(tmp_path / "skip")[spike - 2]["loss"]
    # Stopped at a step before the running average counts, just before the spike, and just after it.
    for stop in (30, spike - 1, spike):
        train(tmp_path / "stopped", "--guard.spike", "skip", "--stop-after", stop)
    train(tmp_path / "stopped", "--guard.spike", "skip")
    runs.assert_same(tmp_path / "stopped", tmp_path / "skip")
    assert skipped(tmp_path / "stopped") == [spike]
