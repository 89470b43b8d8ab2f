"""Workers that outlive nobody: after an error, SIGTERM, SIGKILL, and in a command that records."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from vla.processes import pool

SCRIPT = """
    import functools, os, pathlib, sys, time
    from multiprocessing import active_children
    from vla.errors import Terminated
    from vla.processes import answer_sigterm, pool

    answer_sigterm()
    try:
        with pool(2, functools.partial(os.open, sys.argv[1], os.O_CREAT)) as executor:
            executor.submit(time.sleep, 600)
            executor.submit(os.getpid).result()  # the second has begun
            print(*(worker.pid for worker in active_children()), flush=True)
            executor.submit(time.sleep, 600).result()
    except Terminated:
        print("cleaned up", flush=True)
        sys.exit(143)
"""


def start(closed: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process with two workers, both busy for ten minutes, and the workers' numbers; closing, they make a file."""
    words = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(closed)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = list(map(int, process.stdout.readline().split()))
    assert len(workers) == 2
    return process, workers


def alive(number: int) -> bool:
    """Whether a process runs; one that waits to be collected does not."""
    try:
        return "\nState:\tZ" not in Path("/proc", str(number), "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(workers: list[int]) -> None:
    end = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < end, "workers go on"
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGTERM, 143, "cleaned up\n"), (signal.SIGKILL, -9, "")])
def test_workers_end_with_their_parent(number: signal.Signals, code: int, said: str, tmp_path: Path) -> None:
    process, workers = start(tmp_path / "closed")
    with process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (code, said)
    wait_for_end(workers)
    assert (tmp_path / "closed").exists()


def test_workers_end_at_once_where_the_block_fails(tmp_path: Path) -> None:
    began = time.monotonic()

    def fail() -> None:
        with pool(1, partial(os.open, tmp_path / "closed", os.O_CREAT)) as executor:
            executor.submit(os.getpid).result()
            executor.submit(time.sleep, 600)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert time.monotonic() - began < 300
    assert (tmp_path / "closed").exists()


def test_what_was_asked_for_is_finished_where_it_does_not(tmp_path: Path) -> None:
    with pool(1, partial(os.open, tmp_path / "closed", os.O_CREAT)) as executor:
        number = executor.submit(os.getpid)
        assert number.result() != os.getpid()
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


@pytest.mark.deep
def test_a_command_that_is_terminated_leaves_nothing_half_done(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    words = ["needle", "demos", "--episodes", "5000", "--seed", "0", "--workers", "2", "--out", str(tmp_path / "demos")]
    with subprocess.Popen(
        [sys.executable, "-m", "vla", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        end = time.monotonic() + 240
        while not any(tmp_path.glob(".demos.*/*/*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (143, "terminated")
    assert list(tmp_path.iterdir()) == []
