"""What a launcher starts in its tests: `launched.py HOW FOLDER` ends in many ways, and notes the signals it got.

It imports nothing of ours unless HOW begins with "training", so that it starts at once.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

RANK = int(os.environ["RANK"])


def leave(code: int) -> None:
    """As exits.leave."""
    file = Path(os.environ["TOUCHSTONE_EXIT_CODE_FILE"])
    if not file.exists() or not file.read_text():
        file.write_text(str(code))
    os._exit(code)


def give_way(code: int, folder: Path) -> None:
    """End with `code` 0.3 s after a signal, at once after a second one."""
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        received.append(number)
        (folder / f"signals-{RANK}").write_text(" ".join(signal.Signals(each).name for each in received))
        if len(received) > 1:
            leave(code)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)
    ready(folder)
    while not received:
        time.sleep(0.01)
    time.sleep(60 if code == 76 else 0.3)
    leave(code)


def train(folder: Path, workers: int) -> None:
    """Take samples until a signal comes, as the loop does."""
    from torch import arange
    from torch.utils.data import DataLoader, TensorDataset

    from training.ending import exits
    from training.ending.preemption import Preemption, outlive_the_job
    from vla import errors

    preemption = Preemption(20, RANK, lambda: "expired")
    preemption.install()
    numbers = TensorDataset(arange(100_000))
    loader = DataLoader(numbers, batch_size=2, num_workers=workers, worker_init_fn=lambda _: outlive_the_job())
    for number, _ in enumerate(loader):
        if number == 2:
            ready(folder)
        if preemption.requested:
            print(f"rank {RANK} gives way to {preemption.name}", flush=True)
            exits.leave(errors.PREEMPTED)
        time.sleep(0.01)


def ready(folder: Path) -> None:
    """Tell the test that a signal may come."""
    (folder / f"ready-{RANK}").write_text(str(os.getpid()))


def end(folder: Path, number: int) -> None:
    """Rank 1 ends by a signal; the other one is then signalled by the launcher."""
    if RANK == 1:
        os.kill(os.getpid(), number)
    give_way(75, folder)


def sleep(folder: Path) -> None:
    """Die of signals."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ready(folder)
    time.sleep(60)


def take_down() -> None:
    """Rank 1 fails, and rank 0 in their collective because of it, seen first."""
    if RANK == 0:
        file = Path(os.environ["TOUCHSTONE_EXIT_CODE_FILE"])
        while not file.read_text():
            time.sleep(0.01)
        os._exit(1)
    leave(34)


HOW = {
    "training": lambda folder: train(folder, workers=0),
    "training with loaders": lambda folder: train(folder, workers=2),
    "gives way": lambda folder: give_way(75, folder),
    "gives way slowly": lambda folder: give_way(76, folder),
    "fails to save": lambda folder: give_way(34, folder),
    "knows no signals": sleep,
    "finishes": lambda _: None,
    "is refused": lambda _: leave(78),
    "is killed": lambda folder: end(folder, signal.SIGKILL),
    "is ended by its watchdog": lambda folder: end(folder, signal.SIGALRM),
    "takes its peer down": lambda _: take_down(),
}

if __name__ == "__main__":
    HOW[sys.argv[1]](Path(sys.argv[2]))
