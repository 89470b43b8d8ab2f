"""What ranks call before they train (`prepare`): to note what they read, or to change what no flag reaches.

Each reads its settings from the environment that the test gives the life.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import adapted
from training.checkpoints import storage
from training.checkpoints.saving import Outcome, Saver
from training.run import tracking
from vla.batch import Sample
from vla.data import numbers
from vla.data.dataset import TrainSamples
from vla.data.episode import Episode
from vla.data.window import Window
from vla.errors import CorruptData


def on_sample(act: Callable[[TrainSamples, int, Sample], Sample]) -> None:
    """Let `act` have every training sample that is read, before the training does."""
    read = TrainSamples.__getitem__

    def changed(self: TrainSamples, position: int) -> Sample:
        return act(self, position, read(self, position))

    TrainSamples.__getitem__ = changed  # type: ignore[method-assign]


def samples() -> None:
    """Append a line for every training sample that is read: rank, position, episode and frame (NOTE_SAMPLES)."""
    path = Path(os.environ["NOTE_SAMPLES"])

    def note(data: TrainSamples, position: int, sample: Sample) -> Sample:
        episode, frame = data.locate(position)
        line = json.dumps({"rank": os.environ["RANK"], "position": position, "episode": episode, "frame": frame})
        with path.open("a") as file:
            file.write(line + "\n")
        return sample

    on_sample(note)


def spoiled_actions() -> None:
    """Multiply the actions of the samples at positions SPOIL_FROM to SPOIL_TO by SPOIL_BY; SPOIL_ONCE: once each."""
    first, last = int(os.environ["SPOIL_FROM"]), int(os.environ["SPOIL_TO"])
    factor, once, seen = float(os.environ["SPOIL_BY"]), "SPOIL_ONCE" in os.environ, set[int]()

    def spoil(_: TrainSamples, position: int, sample: Sample) -> Sample:
        if not first <= position <= last or (once and position in seen):
            return sample
        seen.add(position)
        return dataclasses.replace(sample, actions=sample.actions * factor)

    on_sample(spoil)


def infinite_gradient() -> None:
    """Make the gradient of one parameter infinite in the INFINITE_AT-th backward pass of rank 1."""
    assemble, count, at = adapted.assemble, [0], int(os.environ["INFINITE_AT"])

    def spoil(gradient: Tensor) -> Tensor:
        count[0] += 1
        return torch.full_like(gradient, torch.inf) if count[0] == at else gradient

    def assembled(*arguments: Any, **options: Any) -> Any:
        policy = assemble(*arguments, **options)
        parameter = next(policy.expert.parameters())
        if os.environ["RANK"] == "1":
            parameter.register_hook(spoil)
        return policy

    adapted.assemble = assembled


def gone() -> None:
    """Rank GONE is killed before the ranks have met."""
    if os.environ["RANK"] == os.environ["GONE"]:
        os.kill(os.getpid(), signal.SIGKILL)


def numbers_read() -> None:
    """Print when all numbers of the data are read."""
    fit_statistics = numbers.fit_statistics

    def told(*arguments: Any, **options: Any) -> Any:
        print("all numbers are read", flush=True)
        return fit_statistics(*arguments, **options)

    numbers.fit_statistics = told


def failing_forward() -> None:
    """Raise on rank 1 at position FAIL_AT, where rank 0 goes on to the collective."""

    def fail(_: TrainSamples, position: int, sample: Sample) -> Sample:
        if position == int(os.environ["FAIL_AT"]):
            raise RuntimeError("rank 1 alone goes another way")
        return sample

    on_sample(fail)


def quota() -> None:
    """No room can be reserved, while the file system says that there is plenty."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    storage.os.posix_fallocate = refuse  # type: ignore[attr-defined]


def full_volume() -> None:
    """Take up all room of the folder FULL_FOLDER while step FULL_AT is saved."""
    ballast, at = Path(os.environ["FULL_FOLDER"]) / "ballast", int(os.environ["FULL_AT"])
    save, finish = Saver.save, Saver.finish

    def full(saver: Saver, *arguments: Any, manifest: Any, **options: Any) -> None:
        if manifest.step == at:
            fill(ballast)
        save(saver, *arguments, manifest=manifest, **options)

    def emptied(saver: Saver, seconds: float | None = None) -> Outcome | None:
        outcome = finish(saver, seconds)
        if outcome is not None and outcome.step == at:
            ballast.unlink()
        return outcome

    if os.environ["RANK"] == "0":
        Saver.save, Saver.finish = full, emptied  # type: ignore[method-assign]


def fill(path: Path) -> None:
    """Take up what room there is."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def backward_clock() -> None:
    """The wall clock jumps back by an hour every half second."""
    real = time.time
    began = time.monotonic()
    time.time = lambda: real() - 3600.0 * int(2 * (time.monotonic() - began))


def worker_fault() -> None:
    """A loader process that reaches position WORKER_AT is killed, raises or hangs (WORKER_HOW).

    It happens WORKER_TIMES times in all; the file WORKER_COUNT counts.
    """
    at, how, times = int(os.environ["WORKER_AT"]), os.environ["WORKER_HOW"], int(os.environ["WORKER_TIMES"])
    count, rank = Path(os.environ["WORKER_COUNT"]), os.getpid()

    def fail(_: TrainSamples, position: int, sample: Sample) -> Sample:
        if position != at or os.getpid() == rank:
            return sample
        with count.open("a") as file:
            file.write("x")
        if len(count.read_text()) > times:
            return sample
        match how:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raises":
                raise RuntimeError("a fault of the reader")
            case "hangs":
                time.sleep(600)
        return sample

    on_sample(fail)


def corrupt_sample() -> None:
    """Frame CORRUPT_FRAME of episode CORRUPT_EPISODE cannot be read, by any process."""
    target = os.environ["CORRUPT_EPISODE"], int(os.environ["CORRUPT_FRAME"])
    cut = Window.cut

    def damaged(self: Window, episode: Episode, frame: int, position: int) -> Sample:
        if (episode.name, frame) == target:
            raise CorruptData(f"{episode.name}, frame {frame}: the row cannot be read")
        return cut(self, episode, frame, position)

    Window.cut = damaged  # type: ignore[method-assign]


def print_secrets() -> None:
    """Print what no log may hold: the values of the environment variables that SECRETS names."""
    print("a library prints", *(os.environ[name] for name in os.environ["SECRETS"].split()))


def crash_with_secrets() -> None:
    """Raise an error whose text holds the values of the environment variables that SECRETS names."""
    raise RuntimeError("cannot reach https://user:" + "@".join(os.environ[n] for n in os.environ["SECRETS"].split()))


def impatient_tracker() -> None:
    """Wait for the tracker for 2 s instead of 30 s, and say how long a step had to wait for it."""
    seconds: list[float] = []
    initialize, log, close = tracking.Wandb.__init__, tracking.Wandb.log, tracking.Wandb.close

    def timed(self: tracking.Wandb, *arguments: Any) -> None:
        began = time.perf_counter()
        log(self, *arguments)
        seconds.append(time.perf_counter() - began)

    def told(self: tracking.Wandb) -> None:
        close(self, timeout_s=150)  # a machine with other work starts the tracker's own process slowly
        print(f"the tracker took {1000 * statistics.median(seconds):.3f} ms a step")

    tracking.Wandb.__init__ = functools.partialmethod(initialize, start_s=2.0)  # type: ignore[method-assign]
    tracking.Wandb.log, tracking.Wandb.close = timed, told  # type: ignore[method-assign]
