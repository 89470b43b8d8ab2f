"""A signal ends a run in time, once, and nothing but the run."""

import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.forkserver import ForkServer
from tests.training.children import child, wait_until
from training import launching
from training.ending.preemption import ONE_DELIVERY_S, SHARE_OF_GRACE, Preemption, outlive_the_job
from vla import errors


def expired() -> str:
    return "the grace time is over; the last checkpoint is step 5"


@pytest.fixture
def left() -> list[int]:
    """The exit codes with which a process would have ended."""
    return []


@pytest.fixture
def preemption(left: list[int]) -> Iterator[Preemption]:
    """One in this process, whose end is only noted."""
    made = Preemption(60, 1, expired, leave=left.append)
    made.install()
    yield made
    made.restore()


def test_the_first_signal_is_remembered_and_said(
    preemption: Preemption, left: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert (preemption.requested, preemption.name, preemption.remaining_s()) == (False, "", float("inf"))
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested  # at once, in the thread that sent it to itself
    assert preemption.name == "SIGTERM"
    assert 0 < preemption.remaining_s() <= SHARE_OF_GRACE * 60
    said = ""
    while not said:
        said = capfd.readouterr().err
    assert said == "rank 1: SIGTERM; this run ends within 60 s and can be resumed\n"
    assert left == []


def test_the_time_left_is_counted_from_the_signal() -> None:
    now = 100.0
    preemption = Preemption(5, 0, expired, clock=lambda: now)
    preemption._receive(signal.SIGINT)
    assert (preemption.name, preemption.remaining_s()) == ("SIGINT", SHARE_OF_GRACE * 5)
    now += 4
    assert preemption.remaining_s() == pytest.approx(SHARE_OF_GRACE * 5 - 4)
    now += 4
    assert preemption.remaining_s() == 0


@pytest.mark.parametrize(
    ("later", "number", "ends"),
    [
        (0.8 * ONE_DELIVERY_S, signal.SIGTERM, False),
        (1.2 * ONE_DELIVERY_S, signal.SIGTERM, True),
        (0.0, signal.SIGINT, True),
    ],
)
def test_a_signal_sent_twice_at_once_is_one(left: list[int], later: float, number: int, ends: bool) -> None:
    now = 100.0
    preemption = Preemption(5, 0, expired, leave=left.append, clock=lambda: now)
    preemption._receive(signal.SIGTERM)
    now += later
    preemption._receive(number)
    assert left == [errors.PREEMPTED] * ends


@pytest.mark.parametrize(
    ("passed_on", "ends"),
    [
        ([0, 0], [False, True]),
        ([0, 1, 1], [False, False, True]),  # a scheduler signals launcher and ranks, and then the ranks again
        ([1, 1, 2], [False, False, True]),  # or the launcher again
        ([1, 2], [False, True]),  # Ctrl-C twice
    ],
)
def test_signals_of_a_scheduler_and_its_launcher_are_one(
    left: list[int], passed_on: list[int], ends: list[bool]
) -> None:
    now, told = 100.0, iter(passed_on[1:])
    preemption = Preemption(50, 0, expired, leave=left.append, clock=lambda: now, passed_on=lambda: next(told))
    for end in ends:
        now += 1  # on a machine that does other work
        preemption._receive(signal.SIGTERM)
        assert left == [errors.PREEMPTED] * end


def test_a_signal_after_the_first_one_ends(preemption: Preemption, left: list[int]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: preemption._heard == 1)
    time.sleep(2 * ONE_DELIVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: left == [errors.PREEMPTED])


def test_earlier_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    preemption = Preemption(60, 0, expired)
    preemption.install()
    preemption.restore()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (threads, files)


# What follows ends processes.


def run_on(grace_s: float, how: str) -> None:
    """A process that answers signals, and whose main thread does something that lasts."""

    def fail() -> str:
        raise OSError("no sentence")

    preemption = Preemption(grace_s, 1, fail if how == "failing" else expired)
    preemption.install()
    if how == "silent":
        print("ready", flush=True)
        os.close(2)
    else:
        os.write(2, b"ready\n")
    if how == "native":
        ctypes.CDLL(None).sleep(60)  # gives Python's lock back, as a collective that waits does
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if how == "printing":
            print("x" * 1000)
        else:
            time.sleep(0.01)


@pytest.mark.parametrize("how", ["python", "native", "printing", "failing", "silent"])
def test_a_run_that_is_not_through_in_time_is_ended(server: ForkServer, how: str) -> None:
    with child(server, run_on, 1.0, how) as run:
        run.wait_for("ready")
        began = time.monotonic()
        os.kill(run.pid, signal.SIGTERM)
        assert run.code() == errors.PREEMPTED
        assert time.monotonic() - began >= 0.85
        if how in ("python", "native"):
            assert run.said().splitlines() == [
                "ready",
                "rank 1: SIGTERM; this run ends within 1 s and can be resumed",
                f"rank 1: {expired()}",
            ]


@pytest.mark.parametrize("how", ["python", "native", "printing"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_second_signal_ends_it_at_once(server: ForkServer, how: str, second: signal.Signals) -> None:
    with child(server, run_on, 600.0, how) as run:
        run.wait_for("ready")
        os.kill(run.pid, signal.SIGTERM)
        run.wait_for("rank 1: SIGTERM")
        time.sleep(2 * ONE_DELIVERY_S)
        os.kill(run.pid, second)
        assert run.code() == errors.PREEMPTED
        assert f"rank 1: {second.name} while it ends; leaving at once" in run.said()


def fork_once() -> None:
    """A process that forks one of its own, which reports how it takes signals."""
    preemption = Preemption(60, 0, expired)
    preemption.install()
    pid = os.fork()
    if pid == 0:
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]  # they take the numbers of what was closed
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(int([os.fstat(file).st_rdev for file in files] != [Path("/dev/null").stat().st_rdev] * 4))
        os.write(1, f"grandchild {os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])}\n".encode())
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        os.write(1, b"the child lives\n")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    time.sleep(4 * ONE_DELIVERY_S)
    os.write(1, f"child {os.waitstatus_to_exitcode(status)}, requested {preemption.requested}\n".encode())


def test_a_forked_process_has_signals_of_its_own(server: ForkServer) -> None:
    with child(server, fork_once) as run:
        assert run.code() == 0
        assert run.said() == f"grandchild 0\nthe child lives\nchild {-signal.SIGTERM}, requested False\n"


LOST = r"DataLoader worker \(pid.*(killed by signal|exited unexpectedly)|ConnectionResetError|EOFError"
"""How torch tells that a loader process is gone; the others where it fetches memory from it at that moment."""


def launched(parent: int) -> None:
    """A rank of a launcher with this process number; 0 is its own parent."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "none", launching.PID: str(parent or os.getppid())}
    preemption = Preemption(60, 0, expired)
    preemption.install()
    os.write(1, f"requested {preemption.requested}\n".encode())


@pytest.mark.parametrize(("parent", "requested"), [(0, False), (2**22 + 1, True)])
def test_a_launcher_killed_before_its_ranks_listened_ends_them(
    server: ForkServer, parent: int, requested: bool
) -> None:
    with child(server, launched, parent) as run:
        run.wait_for(f"requested {requested}\n")


def slowly(samples: list[tuple[Tensor]]) -> Tensor:
    """Collates; slow enough that samples remain to be loaded when signals come."""
    time.sleep(0.02)
    return torch.stack([sample for (sample,) in samples])


def load(installed: bool, shielded: bool, then: str) -> None:
    """A process that takes samples from two loader processes, and does something to them half-way."""
    preemption = Preemption(60, 0, expired)
    if installed:
        preemption.install()
    loader = DataLoader(
        TensorDataset(torch.arange(40)),
        batch_size=2,
        num_workers=2,
        collate_fn=slowly,
        multiprocessing_context="fork",  # as in a run; a child of a fork server would inherit that
        worker_init_fn=(lambda _: outlive_the_job()) if shielded else None,
    )
    stream = iter(loader)
    taken = [next(stream) for _ in range(2)]
    workers = stream._workers  # type: ignore[attr-defined]
    try:
        match then:
            case "TERM" | "INT" | "HUP":  # from outside, to the whole process group
                subprocess.run(["bash", "-c", f"kill -{then} -{os.getpid()}"], start_new_session=True, check=True)
            case "kill":
                os.kill(workers[0].pid, signal.SIGKILL)
            case "terminate":
                workers[0].terminate()
                workers[0].join()
                os.write(1, f"worker {workers[0].exitcode}\n".encode())
        taken += list(stream)
        order = torch.cat(taken).tolist()
        text = "all samples" if order == list(range(40)) else f"{order}"
        del stream
    except RuntimeError as error:
        text = str(error)
    codes = [worker.exitcode for worker in workers]
    os.write(1, f"{text}; {preemption.name or 'no signal'}; {codes}\n".encode())
    os._exit(0)


@pytest.mark.parametrize("shielded", [False, True])
@pytest.mark.parametrize("installed", [False, True])
def test_loader_processes_end_as_ever(server: ForkServer, installed: bool, shielded: bool) -> None:
    with child(server, load, installed, shielded, "nothing") as run:
        assert run.code() == 0
        assert run.said() == "all samples; no signal; [0, 0]\n"


@pytest.mark.parametrize("shielded", [False, True])
@pytest.mark.parametrize("installed", [False, True])
def test_a_killed_loader_process_is_noticed_as_ever(server: ForkServer, installed: bool, shielded: bool) -> None:
    with child(server, load, installed, shielded, "kill") as run:
        assert run.code() in (0, 1)  # torch's handler raises wherever the main thread is
        assert re.search(LOST, run.said())


@pytest.mark.deep
@pytest.mark.parametrize("shielded", [False, True])
def test_a_loader_process_is_ended_by_its_own(server: ForkServer, shielded: bool) -> None:
    with child(server, load, True, shielded, "terminate") as run:
        assert run.code() == 0
        assert "worker 0\n" in run.said()  # torch's handler, too, takes a parent's SIGTERM for a normal end


@pytest.mark.parametrize("then", ["TERM", "INT", "HUP"])
def test_a_signal_to_all_processes_takes_no_samples_away(server: ForkServer, then: str) -> None:
    with child(server, load, True, True, then) as run:
        assert run.code() == 0
        assert run.said().splitlines()[-1] == f"all samples; SIG{then}; [0, 0]"


def test_without_the_shield_it_would(server: ForkServer) -> None:
    with child(server, load, True, False, "TERM") as run:
        assert run.code() in (0, 1)
        assert re.search(LOST, run.said())
