"""Processes of their own for what a test process cannot do to itself: be signalled, hang, end.

They come from a server that has the libraries imported, so that one takes a fraction of a second.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "training.run.lease",
        "training.ending.preemption",
        "training.ending.watchdog",
        "torch.utils.data",
        "torch.distributed.run",
    ]
)
LIMIT_S = 240.0
"""Of everything that is waited for: the machine may be doing much other work."""


def begin(output: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In the child: its own session, and both outputs in a file."""
    os.setsid()
    file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*arguments)


class Child:
    """A process that runs a function of a test module."""

    def __init__(self, output: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.output = output
        self.process = CONTEXT.Process(target=begin, args=(output, function, arguments))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def said(self) -> str:
        """What it has printed."""
        return self.output.read_text() if self.output.exists() else ""

    def wait_for(self, text: str) -> None:
        """Return once it has printed `text`."""
        wait_until(lambda: text in self.said() or not self.process.is_alive(), self.said)
        assert text in self.said(), f"exit {self.process.exitcode}: {self.said()}"

    def code(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code, once it has ended; -N when signal N ended it."""
        self.process.join(limit_s)
        assert self.process.exitcode is not None, f"still alive after {limit_s:g} s: {self.said()}"
        return self.process.exitcode


@contextmanager
def child(folder: Path, function: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """A process, killed in the end if it still lives."""
    number = len(list(folder.glob("output-*")))
    started = Child(folder / f"output-{number}", function, arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.join(LIMIT_S)
        started.process.close()


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str, limit_s: float = LIMIT_S) -> None:
    """Return once a condition holds."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"it never happened: {explain()}"
        time.sleep(0.01)
