"""Rows 1-5: ranks that are killed, between steps and at every moment of a save."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.faults import runs
from tests.faults.runs import KILLED, SAVE_EVERY
from tests.forkserver import ForkServer
from training.checkpoints import checkpoint, storage

CHUNK = 2**16


def small_chunks() -> None:
    """Cut the shards, which fit in one chunk, into several, and let the probe before them be one."""
    storage.CHUNK = CHUNK
    storage.PROBE = 1


def killed(
    server: ForkServer, argv: Sequence[object], run: Path, fault: str, accelerator: Accelerator, **options: str
) -> int:
    """The step of the newest checkpoint after a life that a fault has ended; every tensor of it has been read."""
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": fault}, **options)
    codes = life.wait()
    assert KILLED in codes and 0 not in codes, f"{fault}: {codes}\n{life.report()}"
    found = checkpoint.newest(run, accelerator)
    if found is None:
        return 0
    assert found.state().weight, "it can be read whole"
    return found.manifest.step


@pytest.mark.fault(1, "kill -9 between steps", "bit-exact resume; lost: an interval and the save under way at most")
def test_kill_between_steps(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run = tmp_path / "run #1; ok? 訓練"  # the name goes through every file and pointer that a resumed run reads
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": runs.hold(runs.STEPS, tmp_path / "never")})
    runs.wait_until(lambda: len(runs.lines(run)) >= runs.STEPS - runs.LAG - 1, life, "most steps are recorded")
    life.signal(signal.SIGKILL)
    assert life.wait() == [KILLED, KILLED]
    reached, saved = len(runs.lines(run)), max(runs.steps(run))
    assert reached < runs.STEPS, "it was killed on the way"
    assert reached - saved < 2 * SAVE_EVERY
    life = server.start(argv, ranks=2)
    assert life.wait() == [0, 0]
    assert f"at step {saved} of" in life.output()
    runs.assert_same(run, golden)


@pytest.mark.fault(2, "kill -9 during the write of a shard", "previous one loads, leftovers go, bit-exact resume")
def test_kill_during_shard_write(
    server: ForkServer, flags: list[str], golden: Path, tmp_path: Path, accelerator: Accelerator
) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    # Each life dies in its first save, at one of five places of the shards of both ranks.
    shard = next(runs.at(golden, SAVE_EVERY).glob("shard-00000*"))
    per_shard = -(-shard.stat().st_size // CHUNK)
    assert per_shard >= 5
    runs.rewind(golden, run, SAVE_EVERY)
    for hit in (1, 2, per_shard // 2, per_shard - 1, per_shard):
        fault = f"storage.chunk:kill@{1 + hit}#{hit % 2}"
        here = "tests.faults.test_kills:small_chunks"
        assert killed(server, argv, run, fault, accelerator, prepare=here) == SAVE_EVERY, fault
        assert runs.steps(run) == [SAVE_EVERY]
        assert [name.split("-")[0] for name in runs.leftovers(run)] == [".staging"], fault
    assert server.run(argv, ranks=2) == [0, 0]
    assert runs.leftovers(run) == []
    runs.assert_same(run, golden)


@pytest.mark.fault(3, "kill -9 after the shards, before the manifest", "previous one loads, bit-exact resume", deep=2)
def test_kill_before_manifest(
    server: ForkServer, flags: list[str], golden: Path, tmp_path: Path, accelerator: Accelerator
) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    # The second save; in the third life both ranks die in it.
    assert killed(server, argv, run, "shard.written:kill@2#0", accelerator) == SAVE_EVERY
    assert killed(server, argv, run, "shard.written:kill@1", accelerator) == SAVE_EVERY
    assert not list((run / "checkpoints").rglob(".staging-*/manifest.json"))
    assert server.run(argv, ranks=2) == [0, 0]
    assert runs.leftovers(run) == []
    runs.assert_same(run, golden)


@pytest.mark.fault(4, "kill -9 after the manifest, around rename, LATEST, retention", "old or new state, never mixed")
def test_kill_around_rename(
    server: ForkServer, flags: list[str], golden: Path, tmp_path: Path, accelerator: Accelerator
) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto", "--keep", 2, "--save-every", 2]
    pointer = run / "checkpoints" / "LATEST"
    first, second, third = 2, 4, 6
    assert killed(server, argv, run, "manifest.written:kill@1", accelerator) == 0
    assert killed(server, argv, run, "rename.before:kill@2", accelerator) == first
    assert pointer.read_text() == f"step-{first:08d}"
    assert killed(server, argv, run, "latest.before:kill@1", accelerator) == second
    assert pointer.read_text() == f"step-{first:08d}", "stale, and only a hint"
    assert killed(server, argv, run, "latest.after:kill@1", accelerator) == third
    assert pointer.read_text() == f"step-{third:08d}"
    assert runs.steps(run) == [first, second, third], "nothing was deleted before the new one was complete"
    assert killed(server, argv, run, "prune.renamed:kill@1", accelerator) == third + 2
    assert killed(server, argv, run, "prune.before:kill@1", accelerator) == third + 4
    common = set(runs.steps(run)) & set(runs.steps(golden))
    assert common
    for step in common:
        runs.assert_same_state(runs.at(run, step), runs.at(golden, step))
    assert server.run(argv, ranks=2) == [0, 0]
    assert runs.leftovers(run) == []
    assert len(runs.steps(run)) == 2
    runs.assert_same(run, golden)


@pytest.mark.fault(5, "rank 1 dies while rank 0 commits", "no commit; rank 0 ends non-zero within its limit", deep=2)
def test_rank_dies_during_commit(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    """B.5 expects exit 33 of rank 0. A rank that sees the other's connection close ends at once, with another code."""
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto", "--hang-seconds", 10]
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": "shard.written:kill@2#1"})
    codes = life.wait()
    assert codes[1] == KILLED
    assert codes[0] not in (0, KILLED)
    assert runs.steps(run) == [SAVE_EVERY]
    assert server.run(argv, ranks=2) == [0, 0]
    runs.assert_same(run, golden)
