"""A run without progress ends, says where it stood, and is never ended while it moves."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.forkserver import ForkServer
from tests.training.children import LIMIT_S, child, wait_until
from training.ending import watchdog
from training.ending.watchdog import Watchdog
from vla import errors


@pytest.fixture
def left() -> list[int]:
    """The exit codes with which a process would have ended."""
    return []


@pytest.fixture
def start(tmp_path: Path, left: list[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watchdog]]:
    """Starts watchdogs in this process, whose end is only noted."""
    monkeypatch.setattr(watchdog, "WRITING_S", LIMIT_S)
    monkeypatch.setattr(watchdog, "FOR_THE_OTHERS_S", 0.1)
    monkeypatch.setattr(watchdog, "BACKSTOP_S", 10 * LIMIT_S)  # it would end the tests
    started: list[Watchdog] = []

    def watch(limit_s: float, clock: Callable[[], float] = time.monotonic) -> Watchdog:
        started.append(Watchdog(limit_s, tmp_path / "stacks", 1, leave=left.append, clock=clock))
        started[-1].start()
        return started[-1]

    yield watch
    for each in started:
        each.stop()


def waits_for_a_disk(left: list[int]) -> None:
    """A name to look for in stacks, there until the process would have ended: its file exists before it is whole."""
    wait_until(lambda: bool(left))


def test_without_progress_it_ends_and_shows_all_stacks(
    tmp_path: Path, start: Callable[..., Watchdog], left: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    other = threading.Thread(target=waits_for_a_disk, args=(left,))
    other.start()
    dog = start(0.3)
    dog.beat("forward", step=12)
    wait_until(lambda: bool(left))
    other.join()
    assert left == [errors.HUNG]
    path = tmp_path / "stacks" / "rank-00001.txt"
    header, _, stacks = path.read_text().partition("\n\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    assert fields["rank"] == "1"
    assert fields["pid"] == str(os.getpid())
    assert fields["step"] == "12"
    assert fields["section"] == "forward"
    assert 0.3 <= float(fields["seconds"]) < LIMIT_S
    assert "waits_for_a_disk" in stacks
    assert "test_without_progress" in stacks
    said = capfd.readouterr().err
    assert said.startswith("rank 1: no progress for ")
    assert said.endswith(f" s in 'forward' at step 12; its stacks are in {path}\n")


def test_whoever_beats_lives(start: Callable[..., Watchdog], left: list[int]) -> None:
    now = 0.0
    dog = start(1.0, lambda: now)
    while now < 2:
        dog.beat("data")
        now += 0.005  # a clock that stands while this thread does
        time.sleep(0.005)
    assert left == []
    while not left:
        now += 0.005
        time.sleep(0.005)
    assert now > 3


def test_a_section_has_its_own_allowance() -> None:
    now = 0.0
    dog = Watchdog(10, Path("unused"), 0, clock=lambda: now)
    dog.beat("saving", 3)
    now = 29.0
    assert dog.overdue_s() == -1.0
    now = 31.0
    assert dog.overdue_s() == 1.0
    dog.beat("data")
    now = 40.0
    assert dog.overdue_s() == -1.0
    now = 42.0
    assert dog.overdue_s() == 1.0


def test_time_that_the_process_did_not_live_is_forgiven() -> None:
    now = 0.0
    dog = Watchdog(10, Path("unused"), 0, clock=lambda: now)
    now = 5.0
    dog.beat("data")
    now = 9.0
    dog.forgive(1.0, 1.2)  # as late as a busy machine may be
    assert dog.overdue_s() == -6.0
    now = 1009.0
    dog.forgive(1.0, 1001.0)
    assert dog.overdue_s() == -6.0
    dog.beat("forward")
    now = 1019.0
    assert dog.overdue_s() == 0.0


def test_after_stop_nothing_happens(start: Callable[..., Watchdog], left: list[int]) -> None:
    dog = start(0.2)
    dog.stop()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    time.sleep(0.5)
    assert left == []


def test_a_beat_is_cheap() -> None:
    dog = Watchdog(10, Path("unused"), 0)
    began = time.process_time()
    for _ in range(10_000):
        dog.beat("forward")
    assert time.process_time() - began < 0.5  # 50 microseconds each; it takes less than one


def test_stacks_that_cannot_be_written_are_printed(
    tmp_path: Path,
    start: Callable[..., Watchdog],
    left: list[int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "WRITING_S", 0.1)
    (tmp_path / "stacks").mkdir()
    os.mkfifo(tmp_path / "stacks" / "rank-00001.txt")  # opening it waits for a reader, like a volume that is gone
    start(0.2)
    wait_until(lambda: bool(left))
    assert left == [errors.HUNG]
    said = capfd.readouterr().err
    assert "test_stacks_that_cannot_be_written_are_printed" in said
    assert "could not be written" in said
    with (tmp_path / "stacks" / "rank-00001.txt").open() as reader:  # lets the thread go on and end
        reader.read()


# What follows stops, hangs or kills a process.


def run(folder: str, limit_s: float, how: str) -> None:
    """A watched process whose main thread never comes back."""
    watchdog.FOR_THE_OTHERS_S = 0.1
    if how == "holding the lock":
        watchdog.BACKSTOP_S = 1.5
    Watchdog(limit_s, Path(folder) / "stacks", 1).start()
    match how:
        case "sleeping":
            time.sleep(600)
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
        case "holding the lock":
            ctypes.PyDLL(None).sleep(600)
        case "deaf stderr":
            clog(2)
            time.sleep(600)
        case "deaf stdout":
            clog(1)
            sys.stdout.write("never read")
            time.sleep(600)


def clog(descriptor: int) -> None:
    """Make an output a full pipe that nobody reads."""
    read, write = os.pipe()
    os.set_inheritable(read, True)  # and never closed
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    os.dup2(write, descriptor)


def test_a_hung_process_ends_with_its_code(server: ForkServer, tmp_path: Path) -> None:
    with child(server, run, tmp_path, 0.5, "sleeping") as hung:
        assert hung.code() == errors.HUNG
        assert "no progress for" in hung.said()


def test_where_python_cannot_run_the_system_ends_it(server: ForkServer, tmp_path: Path) -> None:
    with child(server, run, tmp_path, 0.5, "holding the lock") as hung:
        assert hung.code() == -signal.SIGALRM
        assert "in run\n" in hung.said()


@pytest.mark.parametrize("how", ["deaf stderr", "deaf stdout"])
def test_an_output_that_nobody_reads_stops_no_end(server: ForkServer, tmp_path: Path, how: str) -> None:
    with child(server, run, tmp_path, 0.5, how) as hung:
        assert hung.code() in (errors.HUNG, -signal.SIGALRM)  # whichever way; the launcher makes 33 of both
    assert "section: start" in (tmp_path / "stacks" / "rank-00001.txt").read_text()


def test_a_stopped_process_is_no_hung_one(server: ForkServer, tmp_path: Path) -> None:
    with child(server, run, tmp_path, 2.0, "stopped") as stopped:
        state = Path(f"/proc/{stopped.pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        time.sleep(2.5)
        began = time.monotonic()
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.code() == errors.HUNG
        # Of its 2 s it had lived through next to none. One that counts the stop leaves at once after waking.
        assert time.monotonic() - began > 1
