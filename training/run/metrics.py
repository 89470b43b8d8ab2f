"""The steps of a run as the hosts learn of them.

A step's loss, norms and verdict stay on the device; the host reads them `LAG` steps later, when they have long been
computed, so that it never waits for the device and may prepare the next step meanwhile. Before each step the ranks
agree, in host memory, on what only some of them know: the weight of the batch, a signal, a save that is due.
"""

import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from training import distributed
from training.engine.guard import Guard, finite_or_none
from training.run.meter import Meter, Work, peak_of
from training.run.progress import Progress
from training.run.records import Records
from training.run.resuming import Row
from training.run.stragglers import Stragglers
from vla.policy import Policy

LAG = 2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How this rank spent a step."""

    seconds: float
    """The whole step."""
    waited: float
    """For data."""
    busy: float
    """On its own: data and forward passes, not the other ranks."""


class Stopwatch:
    """Times a step on the host."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._own, self._running_since = 0.0, self._began
        self.waited = 0.0

    def data_came(self) -> None:
        """The data of the step is there."""
        self.waited = time.perf_counter() - self._began

    def pause(self) -> None:
        """From here the other ranks are waited for."""
        self._own += time.perf_counter() - self._running_since

    def go_on(self) -> None:
        """From here this rank works on its own."""
        self._running_since = time.perf_counter()

    def stop(self) -> Timing:
        """The step is over."""
        return Timing(seconds=time.perf_counter() - self._began, waited=self.waited, busy=self._own)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that was handed to the device."""

    step: int
    """Its number, from 1."""
    stage: str
    batch_size: int
    lr: Mapping[str, float]
    """By group."""
    losses: Mapping[str, Tensor]
    """By part, summed over all ranks."""
    gradient_norms: Mapping[str, Tensor]
    skip: Tensor
    spike: Tensor
    timing: Timing


class Metrics:
    """The steps on their way to metrics.jsonl, of one stage. `agree` and `settle` are collective."""

    def __init__(self, accelerator: Accelerator, records: Records, guard: Guard, row: Row, *, at: int) -> None:
        """The stage is at a step of the run; `progress` shows the steps from there on."""
        main = accelerator.is_main_process
        self.progress = Progress(row.name, start=row.start, end=row.end, at=at, active=main)
        self._accelerator, self._records, self._guard = accelerator, records, guard
        hosts: list[str] = distributed.collect(accelerator, socket.gethostname())
        self._stragglers = Stragglers(hosts)
        self._pending: deque[tuple[Step, distributed.HostCopy, Work]] = deque()
        self._stage = row.stage
        self._meter: Meter | None = None
        self._peak: float | None = None

    def count(self, policy: Policy) -> None:
        """Count from here on what a policy costs, but where an adapter is trained: a teacher has no formula."""
        if self._stage.lr.adapter is None:
            self._meter = Meter(policy, self._stage.objective.draws)
            self._peak = peak_of(self._accelerator, policy)

    def begin(self) -> Stopwatch:
        """A step begins."""
        if self._meter is not None:
            self._meter.clear()
        return Stopwatch()

    def add(self, step: Step) -> None:
        """A step was handed to the device."""
        values = [*step.losses.values(), *step.gradient_norms.values(), step.skip, step.spike]
        numbers = torch.stack([value.detach().double() for value in values])
        own = step.batch_size // self._accelerator.num_processes
        work = Work(0.0, 0, 0) if self._meter is None else self._meter.take(own)
        self._pending.append((step, distributed.HostCopy(numbers), work))

    def before_step(self, *own: float) -> list[float]:
        """The sums of some numbers over all ranks; meanwhile the step that is old enough gets its line."""
        due = len(self._pending) == LAG
        sums = distributed.total(self._accelerator, *own, *(self._timings() if due else []))
        if due:
            self._write(sums[len(own) :])
        return sums[: len(own)]

    def settle(self) -> None:
        """Give every step its line, waiting for the device."""
        while self._pending:
            self._write(distributed.total(self._accelerator, *self._timings()))

    def _timings(self) -> list[float]:
        timing, work = self._pending[0][0].timing, self._pending[0][2]
        busy = [0.0] * self._accelerator.num_processes
        busy[self._accelerator.process_index] = timing.busy
        return [timing.seconds, timing.waited, distributed.memory_mb(self._accelerator), *work, *busy]

    def _write(self, timings: list[float]) -> None:
        """The line of the oldest step."""
        step, copy, _ = self._pending.popleft()
        ranks = self._accelerator.num_processes
        seconds, waited, memory_mb = (value / ranks for value in timings[:3])
        work, busy = Work(*timings[3:6]), timings[6:]
        *values, skip, spike = copy.read()
        losses = dict(zip(step.losses, values, strict=False))
        norms = dict(zip(step.gradient_norms, values[len(losses) :], strict=True))
        loss = sum(losses.values())
        seen = step.step * step.batch_size
        line = {
            "step": step.step,
            "stage": step.stage,
            "loss": finite_or_none(loss),
            "losses": {part: finite_or_none(value) for part, value in losses.items()},
            "lr": step.lr,
            "grad_norm": {group: finite_or_none(value) for group, value in norms.items()},
            "skipped": bool(skip),
            "samples_seen": seen,
            "positions": [seen - step.batch_size, seen - 1],
            "samples_per_s": step.batch_size / seconds,
            "data_wait": waited / seconds,
            "memory_mb": memory_mb,
            **self._speed(work, seconds),
        }
        self._records.add_step(line)
        self.progress.show(line)
        self._guard.observe(bool(skip))
        self._tell(line, norms["all"], loss, skipped=bool(skip), spike=bool(spike))
        if slow := self._stragglers.add(busy):
            self._say(f"step {line['step']}: {slow}")

    def _speed(self, work: Work, seconds: float) -> dict[str, float]:
        """Model FLOP/s of a rank in units of 10^12 and of the peak, and the share of padding: what is known of them."""
        told: dict[str, float] = {}
        if self._meter is not None:
            rate = work.flops / self._accelerator.num_processes / seconds
            told["tflops"] = rate / 1e12
            if self._peak is not None:
                told["mfu"] = rate / self._peak
        if work.places:
            told["padding"] = 1 - work.tokens / work.places
        return told

    def _tell(self, line: Mapping[str, Any], norm: float, loss: float, *, skipped: bool, spike: bool) -> None:
        """Say what was unusual."""
        first, last = line["positions"]
        if spike:
            done = "the step was skipped" if skipped else "the step was taken"
            self._say(f"step {line['step']}: the loss {loss:.4g} is a spike; {done} (positions {first} to {last})")
        elif skipped:
            self._say(
                f"step {line['step']}: loss {loss:.4g}, gradient norm {norm:.4g}: the step was skipped, "
                f"{self._guard.skipped_in_a_row} in a row (positions {first} to {last})"
            )

    def _say(self, text: str) -> None:
        if self._accelerator.is_main_process:
            tqdm.write(text)
