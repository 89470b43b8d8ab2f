"""Launches parts of a training as a user would, and ends them as a machine that is taken away would."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil

from training import variables
from vla.errors import CODE_FILE
from vla.lines import last_line

ROOT = Path(__file__).resolve().parents[2]
MARK = "TOUCHSTONE_LEG"
"""Environment variable that every process of a leg inherits: torchrun puts ranks into sessions of their own, and the
loader processes of a killed rank belong to nobody."""
POLL_S = 0.02


class TimeUp(Exception):
    """A leg was still running at its time limit."""


class Process(Protocol):
    """What a leg asks of the process that it started, as of a subprocess.Popen."""

    def poll(self) -> int | None:
        """Its exit code, -N where signal N ended it; None while it runs."""

    def wait(self) -> int:
        """Its exit code, once it has ended."""

    def send_signal(self, sig: int, /) -> None:
        """Signal it."""

    def kill(self) -> None:
        """End it at once."""


class Start(Protocol):
    """Starts an entry point on some ranks of a topology; its output goes to `log`."""

    def __call__(
        self, recipe: str, flags: Sequence[str], *, topology: str, ranks: int, environment: Mapping[str, str], log: Path
    ) -> Process:
        """The process that ends when all of it has ended."""


def accelerate_launch(
    recipe: str, flags: Sequence[str], *, topology: str, ranks: int, environment: Mapping[str, str], log: Path
) -> Process:
    """`accelerate launch` from the repository's root, as a user types it."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"accelerate_configs/{topology}.yaml", "--num_processes", str(ranks)]
    command += ["--main_process_port", "0", f"training/{recipe}.py", *flags]  # 0: one that is free
    said = {CODE_FILE, *(row.name for row in variables.TABLE)}  # by the configuration of all legs already
    inherited = {name: value for name, value in os.environ.items() if name not in said}
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", **inherited, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Launch:
    """An entry point on some ranks, within a `with`, after which none of its processes is left."""

    def __init__(
        self,
        recipe: str,
        flags: Sequence[str],
        *,
        topology: str,
        ranks: int,
        log: Path,
        limit_s: float,
        start: Start = accelerate_launch,
    ) -> None:
        """Start it; its output goes to `log`; it must end within `limit_s` seconds."""
        self._mark = uuid.uuid4().hex
        self.log = log
        self.limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        environment = {MARK: self._mark}
        self.process = start(recipe, flags, topology=topology, ranks=ranks, environment=environment, log=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def wait(self) -> int:
        """Exit code of the launcher; 128 + N where signal N ended it.

        Raises:
            TimeUp: it is still running at its time limit.
        """
        self.wait_until(lambda: False)
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Wait for something; False when the leg ended before.

        Raises:
            TimeUp: neither came about before the time limit.
        """
        while self.process.poll() is None:
            if happened():
                return True
            if time.monotonic() > self._deadline:
                raise TimeUp(f"not over after {self.limit_s:.0f} s; its output: {self.log}")
            time.sleep(POLL_S)
        return False

    def terminate(self) -> None:
        """Ask the launcher to end, as whoever takes the machine back does."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes of the leg at once, and return when none is left."""
        while processes := marked(self._mark):
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=5)
        self.process.kill()
        self.process.wait()

    def last_words(self, lines: int = 15) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def marked(mark: str) -> list[psutil.Process]:
    """The processes that inherited a mark and have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # another user's, or gone meanwhile
    return found


def last_step(run: Path) -> int:
    """The last step that a run folder records, 0 without one."""
    line = last_line(run / "metrics.jsonl")
    return 0 if line is None else int(line["step"])
