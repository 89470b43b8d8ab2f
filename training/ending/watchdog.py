"""Ends a process that makes no progress, and says where it stood.

Training is synchronous: when one rank hangs, all of them wait in the next collective, and nothing ever fails. Every
rank therefore watches itself. Where a rank says "waiting for the other ranks", another one hangs.
"""

import contextlib
import faulthandler
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from training.ending import exits, last_words
from vla import errors

WRITING_S, FOR_THE_OTHERS_S = 4.0, 4.0
"""How long the stacks may take to be written, and how long an overdue rank then waits before it leaves: the others are
overdue at nearly the same time and write theirs, and the first that leaves takes them all down."""
BACKSTOP_S = 20.0
"""How much later than this module's own thread the system ends the process (SIGALRM), for a thread that cannot run:
code outside Python holds the interpreter's lock, or an output does not take what is left to write. This clock goes on
while a process is stopped, so one that was stopped longer than its limit and this may be ended by it on waking."""
START_ALLOWANCE, SAVE_ALLOWANCE = 6.0, 6.0
"""How many times --hang-seconds opening a stage and ending a save may take."""


class Watchdog:
    """Watches the progress of this process."""

    def __init__(
        self,
        limit_s: float,
        folder: Path,
        rank: int,
        leave: Callable[[int], None] = exits.leave,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch for `limit_s` seconds without progress; stacks go to `folder`/rank-00001.txt."""
        self.limit_s, self.rank = limit_s, rank
        self.path = folder / f"rank-{rank:05d}.txt"
        self._leave, self._clock = leave, clock
        self._lost_s = 0.0
        self._step: int | None = None
        self._current = ("start", clock(), 1.0)
        self._opened = contextlib.ExitStack()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, section: str, allowance: float = 1.0, step: int | None = None) -> None:
        """Progress was made, and what begins now is `section`, which may take `allowance` times the limit."""
        if step is not None:
            self._step = step
        self._current = (section, self._clock() - self._lost_s, allowance)

    def start(self) -> None:
        """Begin to watch."""
        assert self._thread is None, "start() is called once"
        descriptor = self._opened.enter_context(last_words.stderr())
        faulthandler.register(signal.SIGALRM, file=descriptor, all_threads=True, chain=True)
        self.beat("start")
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.unregister(signal.SIGALRM)
        self._opened.close()

    def overdue_s(self) -> float:
        """Seconds beyond what the current section may take; negative while there is time left."""
        _, began, allowance = self._current
        return self._clock() - self._lost_s - began - allowance * self.limit_s

    def forgive(self, asked_s: float, took_s: float) -> None:
        """Do not count time in which this process did not run at all: a wait of `asked_s` took `took_s` seconds.

        A stopped process (SIGSTOP, a frozen container) finds on waking that the clock went on without it.
        """
        if took_s > 2 * asked_s + 0.5:
            self._lost_s += took_s - asked_s

    def _watch(self) -> None:
        """The thread; every look also puts off the alarm, which goes off when there is no next look."""
        pause = min(1.0, self.limit_s / 20)
        while True:
            signal.setitimer(signal.ITIMER_REAL, max(0.0, -self.overdue_s()) + BACKSTOP_S)
            asked = self._clock()
            if self._stopped.wait(pause):
                return
            self.forgive(pause, self._clock() - asked)
            if self.overdue_s() > 0:
                self._end()
                return

    def _end(self) -> None:
        """Write the stacks, say so, and leave."""
        section, began, _ = self._current
        idle_s = self._clock() - self._lost_s - began
        signal.setitimer(signal.ITIMER_REAL, BACKSTOP_S)
        # The file system may be what hangs.
        written = threading.Event()
        threading.Thread(target=self._write, args=(section, idle_s, written), daemon=True).start()
        place = f"its stacks are in {self.path}"
        if not written.wait(WRITING_S):
            place = f"its stacks could not be written to {self.path} and stand above"
            with last_words.stderr() as descriptor:
                faulthandler.dump_traceback(file=descriptor, all_threads=True)
        at = "" if self._step is None else f" at step {self._step}"
        last_words.say(f"rank {self.rank}: no progress for {idle_s:.1f} s in {section!r}{at}; {place}")
        time.sleep(FOR_THE_OTHERS_S)
        self._leave(errors.HUNG)

    def _write(self, section: str, idle_s: float, written: threading.Event) -> None:
        """Write the header and the stacks of all threads, over those of an earlier run."""
        header = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "step": self._step,
            "section": section,
            "seconds": f"{idle_s:.1f}",
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w") as file:
            file.writelines(f"{name}: {value}\n" for name, value in header.items() if value is not None)
            file.write("\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        written.set()
