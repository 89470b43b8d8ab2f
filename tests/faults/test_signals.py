"""Rows 6-8: signals that end a run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.runs import SAVE_EVERY
from tests.forkserver import LIFE_S, ForkServer
from tests.training.launch import ROOT

PREEMPTED = 75
LATE_S = 15.0
"""How much later than it should an end may be seen, on a machine that does other work."""


@pytest.mark.fault(6, "SIGTERM, grace 3 s", "exit 75 in time, a valid checkpoint, the log says which")
def test_sigterm(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    def ended(run: Path, signalled: int | None, grace_s: float, held: int, faults: str = "") -> str:
        argv = [*flags, "--out", run, "--resume-from", "auto", "--save-every", 1000, "--grace-seconds", grace_s]
        go = tmp_path / f"go-{run.name}"
        life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": f"{runs.hold(held, go)}; {faults}"})
        runs.wait_until(lambda: bool(losses := runs.losses(run)) and max(losses) >= 7, life, "step 7 is recorded")
        began = time.monotonic()
        life.signal(signal.SIGTERM, signalled)
        life.wait_for("SIGTERM; this run ends within", rank=signalled or 0)
        go.touch()
        assert life.wait() == [PREEMPTED, PREEMPTED], life.report()
        assert time.monotonic() - began < grace_s + LATE_S
        return life.output()

    held = 7 + runs.LAG + 1
    # There is time for an emergency save, whichever rank the signal reaches.
    runs_of = {name: tmp_path / name for name in ("quick", "slow", "stuck")}
    said = ended(runs_of["quick"], 1, 30, held)
    [saved] = runs.steps(runs_of["quick"])
    assert 7 <= saved < runs.STEPS
    assert f"SIGTERM at step {saved}: saved; the last checkpoint is step {saved}" in said
    # A write takes 5 s, as the probe has found out; or the emergency save is begun and never ends.
    slow = ("slow", 8, "storage.chunk:sleep=5", ": not saved; a save would take ")
    stuck = ("stuck", 3, "emergency:sleep=600", "the grace time is over in the middle of step ")
    for name, grace_s, faults, sentence in (slow, stuck):
        run = runs_of[name]
        runs.rewind(golden, run, SAVE_EVERY)
        (run / "metrics.jsonl").unlink()  # its lines are counted
        said = ended(run, None, grace_s, held - SAVE_EVERY, faults)
        assert sentence in said, name
        assert f"the last checkpoint is step {SAVE_EVERY}" in said, name
        assert runs.steps(run) == [SAVE_EVERY], name
    assert server.run([*flags, "--out", runs_of["quick"], "--resume-from", "auto"], ranks=2) == [0, 0]
    runs.assert_same(runs_of["quick"], golden)


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_to_one_rank_that_is_stuck_at_its_start(
    server: ForkServer, flags: list[str], tmp_path: Path, workers: int
) -> None:
    """Its grace time ends before the others can know; they see a connection break, and that it was pre-empted."""
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--data.workers", workers, "--grace-seconds", 2]
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": "data:sleep=600@1#1"})
    runs.wait_until((run / "config.json").exists, life, "the run is open")
    life.signal(signal.SIGTERM, 1)
    assert life.wait() == [PREEMPTED, PREEMPTED], life.report()
    assert "rank 1: the grace time is over in the middle of step 1; the last checkpoint is none" in life.output(1)
    assert "Traceback" not in life.output(0)


@pytest.mark.fault(7, "SIGTERM to a PID 1 wrapper only", "forwarded to all ranks, exit 75, nothing left running")
@pytest.mark.promise(18, "a real accelerate launch", "ZeRO-2 on 2 ranks, ended through the wrapper: 75, and saved")
def test_sigterm_to_wrapper(needle: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    isolated = ["unshare", "--pid", "--fork", "--mount-proc"]
    possible = shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0
    extra = " ".join(runs.flags(needle)[runs.flags(needle).index("--expert.width") :])
    environment = os.environ | {
        "TRAIN_DATA_PATH": str(needle),
        "CHECKPOINT_DIR": str(run),
        "MODEL_VARIANT": "tiny",
        "STAGE": "1",
        "NUM_PROCESSES": "2",
        "ACCELERATE_CONFIG": "zero2",
        "GRACE_SECONDS": "15",
        "EXTRA_ARGS": f"{extra} --stage.steps 100000 --data.workers 0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    wrapper = subprocess.Popen(
        [*(isolated if possible else []), "bash", str(ROOT / "runpod" / "entrypoint.sh")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + LIFE_S
        while len(runs.lines(run)) < 8:
            assert wrapper.poll() is None and time.monotonic() < deadline, "it never reached step 8"
            time.sleep(0.05)
        # Within its own process namespace the wrapper is PID 1: nobody else is signalled, nobody forwards for it.
        only = int(children(wrapper.pid)[0]) if possible else wrapper.pid
        began = time.monotonic()
        os.kill(only, signal.SIGTERM)
        output, _ = wrapper.communicate(timeout=LIFE_S)
        seconds = time.monotonic() - began
    finally:
        if wrapper.poll() is None:
            os.killpg(wrapper.pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):  # all of it has been read
            wrapper.communicate()
    assert wrapper.returncode == PREEMPTED, output[-3000:]
    assert seconds < 15 + LATE_S
    manifest = json.loads((runs.at(run, max(runs.steps(run))) / "manifest.json").read_text())
    assert manifest["ranks"] == 2
    reached = len(runs.lines(run))
    time.sleep(0.3)
    assert len(runs.lines(run)) == reached, "no rank trains on"


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.fault(8, "second SIGTERM / SIGINT during the emergency save", "immediate exit, checkpoints whole", deep=6)
def test_second_signal(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    patient = ["--grace-seconds", 300]
    for saved, (first, second) in zip(
        (SAVE_EVERY, 2 * SAVE_EVERY), ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)), strict=True
    ):
        go = tmp_path / f"go-{saved}"
        faults = f"{runs.hold(SAVE_EVERY + 2, go)}; emergency:sleep=300"
        life = server.start([*argv, *patient], ranks=2, environment={"TOUCHSTONE_FAULTS": faults})
        runs.wait_until(lambda saved=saved: saved in runs.steps(run), life, f"step {saved} is saved")
        life.signal(first)
        for rank in (0, 1):  # two of a number that nobody has answered yet are one
            life.wait_for(f"rank {rank}: {first.name}; this run ends within", rank=rank)
        go.touch()
        time.sleep(0.1)
        began = time.monotonic()
        life.signal(second)
        assert life.wait() == [PREEMPTED, PREEMPTED], life.report()
        assert time.monotonic() - began < LATE_S, "long before the grace time is over"
        assert all(step % SAVE_EVERY == 0 for step in runs.steps(run)), "the emergency save was cut off"
        for step in runs.steps(run):
            runs.assert_same_state(runs.at(run, step), runs.at(golden, step))
    assert server.run(argv, ranks=2) == [0, 0]
    assert runs.leftovers(run) == []
    runs.assert_same(run, golden)
