"""Processes of their own for what a test process cannot do to itself: be signalled, hang, end."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.forkserver import ForkServer, Life

LIMIT_S = 240.0
"""Of everything that is waited for: the machine may be doing much other work."""


class Child:
    """A process that runs a function of a test module, in a process group of its own."""

    def __init__(self, server: ForkServer, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.life: Life = server.call(function, *arguments)
        (self.pid,) = self.life.pids

    def said(self) -> str:
        """What it has printed."""
        return self.life.output()

    def wait_for(self, text: str) -> None:
        """Return once it has printed `text`."""
        self.life.wait_for(text, limit_s=LIMIT_S)

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.life.codes() == [None]

    def code(self, limit_s: float = LIMIT_S) -> int:
        """Its exit code, once it has ended; -N when signal N ended it."""
        (code,) = self.life.wait(limit_s)
        return code

    def kill(self) -> None:
        """End it, and nothing that it has started."""
        os.kill(self.pid, signal.SIGKILL)
        self.code()


@contextmanager
def child(server: ForkServer, function: Callable[..., None], *arguments: Any) -> Iterator[Child]:
    """A process, killed in the end with its group if it still lives."""
    started = Child(server, function, arguments)
    try:
        yield started
    finally:
        started.life.kill()


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str, limit_s: float = LIMIT_S) -> None:
    """Return once a condition holds."""
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, f"it never happened: {explain()}"
        time.sleep(0.01)
