"""Processes beside this one, none of which outlives it, and the signals that end them all."""

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import FrameType
from typing import NoReturn

from vla.errors import Terminated

CLOSING_S = 10.0
"""How long a worker that is to end at once may take to close what it has open."""


def answer_sigterm() -> None:
    """From now on SIGTERM raises `Terminated`, so that what was begun is cleaned up; call it in the main thread."""
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        os._exit(128 + number)  # a forked child has nothing to clean up

    signal.signal(signal.SIGTERM, end)


@contextlib.contextmanager
def pool(workers: int, close: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that end with the block, at once where it is left early, and with this process if it is killed.

    They are spawned: a forked child must not use the threads and graphics contexts of its parent. Each calls `close`,
    where it is given, before it ends.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(close,))
    finished = False
    try:
        yield executor
        finished = True
    finally:
        children = [child for child in multiprocessing.active_children() if isinstance(child, context.Process)]
        for child in () if finished else children:
            child.terminate()
        for child in () if finished else children:
            child.join(CLOSING_S)
            child.kill()
        executor.shutdown(cancel_futures=True)


def _begin(close: Callable[[], object] | None) -> None:
    """In a worker: leave Ctrl-C to the parent, which sends SIGTERM, and follow it if it is killed."""

    def end(number: int, _frame: FrameType | None) -> None:
        try:
            if close is not None:
                close()
        finally:
            os._exit(128 + number)

    if close is not None:
        # A finalizer of multiprocessing comes before what is registered with atexit, by which MuJoCo ends EGL.
        multiprocessing.util.Finalize(None, close, exitpriority=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> NoReturn:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLOSING_S)
    os._exit(1)
