"""Rows 9-12, 30, 42-44: storage that is full, flaky, slow to show, shared, read-only, or oddly named."""

import contextlib
import errno
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from tests.faults import runs
from tests.faults.runs import KILLED, SAVE_EVERY
from tests.forkserver import ForkServer
from training.checkpoints import checkpoint, storage

STORAGE, REFUSED = 34, 78
HELD = runs.hold(2 * SAVE_EVERY, Path("/never"))
"""A run that has saved once goes no further than this."""


@contextlib.contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[bool]:
    """Whether `mount ARGUMENTS place` worked; undone at the end."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(place)], capture_output=True).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


@pytest.mark.fault(9, "ENOSPC during a save", "training goes on, old ones kept, next save works; after N exit 34")
def test_full(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    """The alert is a line of the log; it says how many saves in a row failed."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as real:
        if real:  # as root
            run = tmp_path / "small" / "run"
            life = server.start(
                [*flags, "--out", run],
                ranks=2,
                prepare="tests.faults.watch:full_volume",
                environment={"FULL_FOLDER": str(tmp_path / "small"), "FULL_AT": str(2 * SAVE_EVERY)},
            )
            assert life.wait() == [0, 0], life.report()
            [failed] = [line for line in life.output().splitlines() if "no checkpoint: " in line]
            assert failed.startswith(f"step {2 * SAVE_EVERY}: ") and os.strerror(errno.ENOSPC) in failed
            assert "1 of 3 failures in a row" in failed
            assert f"step {SAVE_EVERY}: saved" in life.output() and f"step {3 * SAVE_EVERY}: saved" in life.output()
            assert runs.leftovers(run) == []
            runs.assert_same(run, golden)
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    # The first shard (after the probe) is written; from then on rank 1 has no room.
    fault = "storage.chunk:raise=ENOSPC@3-99#1"
    life = server.start([*argv, "--save-failures", 2], ranks=2, environment={"TOUCHSTONE_FAULTS": fault})
    assert life.wait() == [STORAGE, STORAGE], life.report()
    assert "2 of 2 failures in a row" in life.output()
    assert runs.steps(run) == [SAVE_EVERY]
    assert runs.leftovers(run) == []
    assert server.run(argv, ranks=2) == [0, 0]
    runs.assert_same(run, golden)


@pytest.mark.fault(
    10, "EDQUOT while df shows 404 TB free", "like a full disk; a start without room is refused (78)", deep=9
)
def test_quota(
    server: ForkServer, flags: list[str], golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    fault = "storage.chunk:raise=EDQUOT@3#0"
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": fault})
    assert life.wait() == [0, 0], life.report()
    assert os.strerror(errno.EDQUOT) in life.output()
    assert "1 of 3 failures in a row" in life.output()
    assert len(runs.steps(run)) == runs.STEPS // SAVE_EVERY - 1
    runs.assert_same(run, golden)
    life = server.start([*flags, "--out", tmp_path / "none"], prepare="tests.faults.watch:quota")
    assert life.wait() == [REFUSED], life.report()
    assert "quota" in life.output() and "Traceback" not in life.output()
    assert not (tmp_path / "none").exists()
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(404 << 40, 0, 404 << 40))
    monkeypatch.setattr(os, "statvfs", lambda _: pytest.fail("free space is not to be believed"))

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(ValueError, match="quota is full"):
        storage.probe(tmp_path, 100)


@pytest.mark.fault(11, "EIO / ESTALE once or twice, then fine", "tried again under a new name; no torn file", deep=9)
def test_flaky(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    faults = "storage.chunk:raise=EIO@3#0; storage.chunk:raise=ESTALE@5-6#1"
    life = server.start([*flags, "--out", run], ranks=2, environment={"TOUCHSTONE_FAULTS": faults})
    assert life.wait() == [0, 0], life.report()
    assert "no checkpoint" not in life.output()
    assert runs.steps(run) == runs.steps(golden)
    assert not [path for path in runs.files(run) if path.name.endswith(".tmp")]
    for step in runs.steps(run):
        runs.assert_same_state(runs.at(run, step), runs.at(golden, step))
    runs.assert_same(run, golden)


@pytest.mark.fault(12, "a rename that others see late; stale reads", "waited for and read again; else the one before")
def test_late(golden: Path, tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(golden, run)
    last, before = runs.STEPS, runs.STEPS - SAVE_EVERY

    def newest() -> int:
        found = checkpoint.newest(run, accelerator)
        assert found is not None
        return found.manifest.step

    # The pointer is seen before the folder it names, which appears after 2 s of waiting.
    hidden, waited = run / "elsewhere", [0.0]
    runs.at(run, last).rename(hidden)

    def wait(seconds: float) -> None:
        waited[0] += seconds
        if hidden.exists() and waited[0] >= 2:
            hidden.rename(runs.at(run, last))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "settled", functools.partial(storage.settled, sleep=wait, clock=lambda: waited[0]))
        assert newest() == last
    assert 2 <= waited[0] < 3
    # The first reading returns what the file held before.
    shard = next(runs.at(run, last).glob("shard-00001*"))
    content = shard.read_bytes()
    stale = bytearray(content)
    stale[-100] ^= 1
    shard.write_bytes(stale)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "time", SimpleNamespace(sleep=lambda _: shard.write_bytes(content)))
        assert newest() == last
    # It never shows the right bytes, or never appears.
    monkeypatch.setattr(checkpoint, "STALE_S", 0.05)
    monkeypatch.setattr(checkpoint, "VISIBLE_S", 0.2)
    shard.write_bytes(stale)
    assert newest() == before
    shutil.rmtree(runs.at(run, last))
    assert (run / "checkpoints" / "LATEST").read_text() == f"step-{last:08d}"
    assert newest() == before


@pytest.mark.fault(30, "two writers on one run folder", "the second is refused (78); a dead one's lease is taken over")
def test_two_writers(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    go = tmp_path / "go"
    first = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": runs.hold(2 * SAVE_EVERY, go)})
    runs.wait_until(lambda: SAVE_EVERY in runs.steps(run), first, "it has saved once")
    first.signal(signal.SIGSTOP)  # so that it is on its way, whenever the other one starts
    second = server.start(argv, ranks=2)
    assert second.wait() == [REFUSED, REFUSED], second.report()
    assert f"process {first.pids[0]} on " in second.output()
    go.touch()
    first.signal(signal.SIGCONT)
    assert first.wait() == [0, 0], first.report()
    runs.assert_same(run, golden)
    assert not (run / "lease.json").exists()
    # Two at the same time: one of them.
    run = tmp_path / "race"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    lives = [server.start(argv, environment={"TOUCHSTONE_FAULTS": HELD}) for _ in range(2)]
    runs.wait_until(lambda: any(life.codes() != [None] for life in lives), lives[0], "one of them ends")
    loser, winner = sorted(lives, key=lambda life: life.codes() == [None])
    assert loser.codes() == [REFUSED], loser.report()
    runs.wait_until(lambda: SAVE_EVERY in runs.steps(run), winner, "it has saved once")
    # A killed writer leaves its lease; nobody waits for it, as for one of another machine.
    winner.signal(signal.SIGKILL)
    assert winner.wait() == [KILLED]
    assert (run / "lease.json").exists()
    life = server.start(argv)
    assert life.wait() == [0], life.report()
    assert "sign of life" not in life.output()


@pytest.mark.fault(42, "read-only run folder, from the start or suddenly", "78 and a sentence; suddenly: 34", deep=9)
def test_read_only(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "read-only"
    source.mkdir()
    shutil.copytree(golden, source / "run")
    with mounted(place, "--bind", str(source)) as bound:
        if bound:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        else:
            assert os.geteuid() != 0, "root can mount, or nothing here is read-only for it"
            shutil.rmtree(place)
            source.rename(place)
            for path in (place, place / "run", place / "run" / "checkpoints"):
                path.chmod(0o555)
        for words in (("--out", place / "new"), ("--out", place / "run", "--resume-from", "auto")):
            life = server.start([*flags, *words], ranks=2)
            assert life.wait() == [REFUSED, REFUSED], life.report()
            [sentence] = [line for line in life.output().splitlines() if line.startswith("error: ")]
            assert str(place) in sentence and "another" in sentence
            assert "Traceback" not in life.output()
        # What lies there can be gone on from elsewhere.
        words = ["--out", tmp_path / "out", "--resume-from", runs.at(place / "run", 3 * SAVE_EVERY)]
        assert server.run([*flags, *words], ranks=2) == [0, 0]
        runs.assert_same_state(runs.at(tmp_path / "out", runs.STEPS), runs.at(golden, runs.STEPS))
        if not bound:
            for path in (place, place / "run", place / "run" / "checkpoints"):
                path.chmod(0o755)
    life = server.start(
        [*flags, "--out", tmp_path / "run", "--save-failures", 1],
        ranks=2,
        environment={"TOUCHSTONE_FAULTS": "storage.chunk:raise=EROFS@3-99"},
    )
    assert life.wait() == [STORAGE, STORAGE], life.report()
    assert os.strerror(errno.EROFS) in life.output()


@pytest.mark.fault(43, "paths with spaces and unicode", "trained, killed, resumed bit-exact, handed to stage 2", deep=1)
def test_odd_paths(server: ForkServer, needle: Path, golden: Path, tmp_path: Path) -> None:
    odd = tmp_path / "Läufe und Daten '1' & \"2\" 訓練"
    odd.mkdir()
    shutil.copytree(needle, odd / "needle set")
    run = odd / "run #1; ok?"
    argv = [*runs.flags(odd / "needle set"), "--out", run, "--resume-from", "auto"]
    life = server.start(argv, ranks=2, environment={"TOUCHSTONE_FAULTS": "shard.written:kill@3"})
    assert KILLED in life.wait(), life.report()
    assert server.run(argv, ranks=2) == [0, 0]
    runs.assert_same(run, golden)
    words = ["--out", odd / "second", "--init-from", run, "--stage.lr.lora", 1e-4, "--stage.steps", 2]
    life = server.start([*runs.flags(odd / "needle set"), *words], recipe="stage2")
    assert life.wait() == [0], life.report()
    assert (odd / "second" / "policy" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.fault(44, "symlinked run folder and checkpoints folder", "killed and resumed through either name", deep=30)
def test_links(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    volume, link = tmp_path / "volume", tmp_path / "link"
    (volume / "run").mkdir(parents=True)
    (volume / "elsewhere").mkdir()
    link.symlink_to(volume / "run")
    (volume / "run" / "checkpoints").symlink_to(volume / "elsewhere")

    def argv(run: Path) -> list[object]:
        return [*flags, "--out", run, "--resume-from", "auto", "--keep", 3]

    life = server.start(argv(link), ranks=2, environment={"TOUCHSTONE_FAULTS": "latest.before:kill@2"})
    assert KILLED in life.wait()
    first = server.start(argv(volume / "run"), ranks=2, environment={"TOUCHSTONE_FAULTS": HELD})
    runs.wait_until(lambda: 3 * SAVE_EVERY in runs.steps(link), first, "it has saved once")
    second = server.start(argv(link), ranks=2)
    assert second.wait() == [REFUSED, REFUSED], "the same folder under another name"
    first.signal(signal.SIGKILL)
    assert first.wait() == [KILLED, KILLED], "it was still on its way"
    assert server.run(argv(link), ranks=2) == [0, 0]
    runs.assert_same(link, golden)
    assert link.is_symlink() and (volume / "run" / "checkpoints").is_symlink()
    assert len(runs.steps(link)) == 3
    assert sorted(path.name for path in (volume / "elsewhere").glob("step-*")) == [
        f"step-{step:08d}" for step in runs.steps(link)
    ]
