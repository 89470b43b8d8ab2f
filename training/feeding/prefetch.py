"""Micro-batches made ahead of time by loader processes: one set of them, up to the first that dies or hangs.

training process   task (where to start) ->     loader process   samples -> collate -> one buffer of shared memory
                   batch, or what failed <-
"""

import contextlib
import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch
from torch import Tensor

from training.ending.preemption import SIGNALS, outlive_the_job
from training.feeding.packing import Packed, pack
from vla.batch import Batch, Sample
from vla.errors import CorruptData, StorageFault, UnsuitableFrame

LOOK_S = 1.0
"""Longest wait at once: a process that was stopped meanwhile has waited this long, whatever the clock says."""
ORPHAN_S = 1.0
"""How often a loader process looks whether the training process is still there."""
END_S = 10.0
"""How long it may take until all is known of the end of a loader process that has ended."""


KINDS = (CorruptData, StorageFault, UnsuitableFrame)
"""Errors that say something of the data, in a sentence of their own."""


class OriginalError(Exception):
    """What a loader process raised, as the text of its traceback."""


class Samples(Protocol):
    """Samples by their position in the stream."""

    def __getitem__(self, position: int) -> Sample:
        """The sample."""
        ...

    def locate(self, position: int) -> tuple[str, int]:
        """Name of its episode and index of its frame."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is made of what."""

    samples: Samples
    collate: Callable[[Sequence[Sample]], Batch]
    size: int
    """Positions of a micro-batch."""

    def name(self, position: int) -> str:
        """Position, episode and frame of a sample."""
        episode, frame = self.samples.locate(position)
        return f"position {position} ({episode}, frame {frame})"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a micro-batch could not be made."""

    position: int
    kind: type[CorruptData | StorageFault | UnsuitableFrame] | None
    """None for an error that says nothing of the data."""
    code: int
    """The errno of a StorageFault."""
    sentence: str
    error: BaseException | None
    """What was raised; None when it was in another process, which it may not survive the way from."""
    trace: str


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A micro-batch that is being made."""

    start: int
    slot: int
    """Where the loader process that makes it says so."""
    future: "Future[Packed | Fault]"


def make(task: Task, start: int, begin: Callable[[int], object] = int) -> Batch | Fault:
    """The micro-batch that starts at a position, or why there is none; `begin` is called with each position first."""
    position = start
    try:
        samples = []
        for position in range(start, start + task.size):
            begin(position)
            samples.append(task.samples[position])
        return task.collate(samples)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is raised in the training process)
        kind = next((kind for kind in KINDS if isinstance(error, kind)), None)
        return Fault(
            position=position,
            kind=kind,
            code=error.errno or 0 if isinstance(error, StorageFault) else 0,
            sentence=str(error) if kind else f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}",
            error=error,
            trace=traceback.format_exc(),
        )


class Trouble(RuntimeError):
    """Loader processes are of no more use; its text says which of them, and why."""


class Prefetch:
    """A set of loader processes that make the micro-batches starting at these positions, in this order."""

    def __init__(self, task: Task, starts: Sequence[int], *, workers: int, depth: int, timeout_s: float) -> None:
        """Make at most `depth` micro-batches ahead, each within `timeout_s` from when it is waited for."""
        self.task, self.timeout_s, self._depth = task, timeout_s, depth
        self._starts = iter(starts)
        self._pending: deque[Pending] = deque()
        self._count = 0
        # For each slot the loader process at work and the position it reads, so that its end tells of which sample.
        self._notes = memoryview(mmap.mmap(-1, 16 * depth)).cast("q")
        self._processes: list[BaseProcess] = []
        self._pool = ProcessPoolExecutor(
            workers,
            # Forked: nothing of the data set is copied. The pool forks all of them before it starts a thread.
            multiprocessing.get_context("fork"),
            initializer=begin_work,
            initargs=(task, self._notes, os.getpid()),
        )

    def __iter__(self) -> Iterator[Packed | Fault]:
        """What is made, in order.

        Raises:
            Trouble: a loader process died, hung or could not be started; the rest is not made.
        """
        try:
            self._start()
            while self._pending:
                made = wait(self._pending[0].future, self.timeout_s)
                self._pending.popleft()
                self._fill()
                yield made
        except BrokenProcessPool as error:
            raise Trouble(self._who_died()) from error
        except TimeoutError as error:
            raise Trouble(self._who_hangs()) from error

    def close(self) -> None:
        """End the processes at once: they hold nothing that is missed."""
        for process in self._processes:
            process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.join(5)

    def _start(self) -> None:
        """Ask for the first micro-batches, with which the pool starts its processes."""
        earlier = set(multiprocessing.active_children())
        # The processes begin without signals, so that none meets one before it is shielded from it.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._fill()
        except OSError as error:
            raise Trouble(f"loader processes could not be started ({error})") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            self._processes = [child for child in multiprocessing.active_children() if child not in earlier]

    def _fill(self) -> None:
        """Ask for as many micro-batches as there is room for."""
        while len(self._pending) < self._depth and (start := next(self._starts, None)) is not None:
            slot = self._count % self._depth
            self._notes[2 * slot] = 0
            self._pending.append(Pending(start=start, slot=slot, future=self._pool.submit(work, start, slot)))
            self._count += 1

    def _who_hangs(self) -> str:
        """Which loader process has not delivered, and what it reads."""
        late = self._pending[0]
        pid = self._notes[2 * late.slot]
        if pid == 0:
            return f"no loader process began with {self.task.name(late.start)} within {self.timeout_s:g} s"
        # It may have made that one, stand in a later one, and not hand over either: memory is fetched from its maker.
        slots = [pending.slot for pending in self._pending]
        position = max(self._notes[2 * slot + 1] for slot in slots if self._notes[2 * slot] == pid)
        return f"loader process {pid} did not come back from {self.task.name(position)} within {self.timeout_s:g} s"

    def _who_died(self) -> str:
        """Which loader processes have died, of what, and what they read."""
        reading = {self._notes[2 * slot]: self._notes[2 * slot + 1] for slot in self._unfinished()}
        told = [
            f"loader process {pid} {end_of(code)}"
            + (f" while it read {self.task.name(reading[pid])}" if pid in reading else "")
            for pid, code in sorted(self._exit_codes().items())
        ]
        return " and ".join(told) or "a loader process ended"

    def _unfinished(self) -> list[int]:
        """Slots of the micro-batches that were not made."""
        futures = {pending.slot: pending.future for pending in self._pending}
        return [slot for slot, future in futures.items() if not future.done() or future.exception() is not None]

    def _exit_codes(self) -> dict[int, int]:
        """How each loader process ended; those that the pool ended after others died are left out."""
        limit = time.monotonic() + END_S
        while True:
            codes = {process.pid or 0: process.exitcode or 0 for process in self._processes}
            ended = {pid: code for pid, code in codes.items() if code != 0}
            causes = {pid: code for pid, code in ended.items() if code != -signal.SIGTERM}
            # The thread of the pool may be the one to learn of an end, and pass it on a moment later.
            if causes or time.monotonic() > limit:
                return causes or ended
            time.sleep(0.01)


def wait(future: "Future[Packed | Fault]", timeout_s: float) -> Packed | Fault:
    """What a loader process has made. TimeoutError after this long."""
    waited_s = 0.0
    while waited_s < timeout_s:
        with contextlib.suppress(TimeoutError):
            return future.result(LOOK_S)
        waited_s += LOOK_S
    raise TimeoutError


def end_of(code: int) -> str:
    """How a process ended, in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


# In the loader processes.


class Worker:
    """What a loader process knows from `begin_work` on; a task of a pool gets at it in no other way."""

    task: Task
    notes: memoryview


worker = Worker()


def begin_work(task: Task, notes: memoryview, parent: int) -> None:
    """What a loader process does first: signals are for the training process, which ends this one."""
    worker.task, worker.notes = task, notes
    outlive_the_job()
    torch.set_num_threads(1)
    threading.Thread(target=end_with, args=(parent,), name="parent", daemon=True).start()


def end_with(parent: int) -> None:
    """End this process when the training process is gone."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(0)


def work(start: int, slot: int) -> Packed | Fault:
    """Make one micro-batch."""
    notes = worker.notes

    def begin(position: int) -> None:
        notes[2 * slot + 1] = position
        notes[2 * slot] = os.getpid()

    made = make(worker.task, start, begin)
    return replace(made, error=None) if isinstance(made, Fault) else pack(made, in_shared_memory)


def in_shared_memory(size: int) -> Tensor:
    """A buffer that other processes can map.

    Raises:
        Trouble: there is no room for it.
    """
    try:
        buffer: Tensor = torch.empty(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise Trouble(f"loader process {os.getpid()} got no shared memory ({error})") from None
    return buffer
