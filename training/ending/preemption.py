"""What a signal that ends the run does: it is remembered, answered within the grace time, and never waited on.

A scheduler that takes the machine back sends SIGTERM and, some seconds later, SIGKILL; a person presses Ctrl-C. The
loop asks `requested` between steps. The main thread may be in a collective that no longer returns, where Python runs no
handler of its own; what must happen in time therefore happens in a thread, which the signal wakes through a pipe.
"""

import ctypes
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from training import launching
from training.ending import exits, last_words, launcher
from vla import errors

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ONE_DELIVERY_S = 0.05
"""A signal that comes again within this time is the same one."""
SHARE_FOR_SAVING = 0.6
"""Of the grace time that is left, what an emergency save may be expected to take."""
SHARE_OF_GRACE = 0.9
"""Of the grace time, what may be used; the rest is for the system to take the process down."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when the one that started it ends."""


class Preemption:
    """The end of this process that SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal is gone) asks for."""

    def __init__(
        self,
        grace_s: float,
        rank: int,
        say_expired: Callable[[], str],
        *,
        leave: Callable[[int], None] = exits.leave,
        clock: Callable[[], float] = time.monotonic,
        passed_on: Callable[[], int] = launcher.passed_on,
    ) -> None:
        """Prepare to end within `grace_s` seconds of a signal.

        `say_expired` gives the sentence for a run that is not through by then; it is called from a thread and must not
        wait for anything. `passed_on` says how many signals the launcher has sent here.
        """
        self.grace_s, self.rank = grace_s, rank
        self._say_expired, self._leave, self._clock, self._passed_on = say_expired, leave, clock, passed_on
        self._heard = 0
        self._first: tuple[signal.Signals, float] | None = None
        self._latest: tuple[int, float] | None = None
        self._earlier: dict[int, Any] = {}
        self._pipe = (-1, -1)
        self._earlier_wakeup = -1
        self._thread: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether this run is to end."""
        return self._first is not None

    @property
    def name(self) -> str:
        """The signal that asked for the end, such as SIGTERM; empty when none did."""
        return "" if self._first is None else self._first[0].name

    def remaining_s(self) -> float:
        """Seconds that may still be used, never below 0; infinite when the run is not to end."""
        if self._first is None:
            return float("inf")
        return max(0.0, self._first[1] + SHARE_OF_GRACE * self.grace_s - self._clock())

    def install(self) -> None:
        """Answer the signals from now on; call it in the main thread."""
        assert not self._earlier, "install() is called once"
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._thread = threading.Thread(target=self._listen, name="preemption", daemon=True)
        self._thread.start()
        self._earlier_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._earlier = {number: signal.signal(number, self._handle) for number in SIGNALS}
        _in_force.append(self)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # A launcher that is killed outright ends nobody: its ranks would go on, holding the GPU and the run folder.
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            parent = str(os.getppid())
            if os.environ.get(launching.PID, parent) != parent:
                signal.raise_signal(signal.SIGTERM)  # it was killed before: nobody will say so any more

    def restore(self) -> None:
        """Put back the handlers that stood before `install`."""
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._earlier_wakeup)
        os.close(self._pipe[1])  # the thread finds the end of the pipe and returns
        if self._thread is not None:
            self._thread.join()
        os.close(self._pipe[0])
        self._earlier, self._pipe = {}, (-1, -1)
        _in_force.clear()

    def give_up(self) -> None:
        """In a forked child: die of SIGTERM as any process does, and leave what a terminal sends to the parent."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for end in self._pipe:
            os.close(end)

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Python's handler; what the thread does too, so that the main thread never misses its own signal."""
        self._remember(number)

    def _remember(self, number: int) -> bool:
        """Whether this is the first signal."""
        if self._first is not None:
            return False
        self._first = signal.Signals(number), self._clock()
        return True

    def _listen(self) -> None:
        """The thread: waits for signals, and for the end of the grace time once one has come."""
        source = self._pipe[0]
        while True:
            timeout = None if self._latest is None else self.remaining_s()
            if not select.select([source], [], [], timeout)[0]:
                self._end(self._say_expired)
                return
            received = os.read(source, 64)
            if not received:
                return
            for number in received:
                if number in SIGNALS and self._receive(number):
                    return

    def _receive(self, number: int) -> bool:
        """Answer one delivery; whether it ended the process.

        Who signals every process of a job signals its launcher too, which passes that on: one request, heard twice.
        """
        now = self._clock()
        self._heard += 1
        earlier, self._latest = self._latest, (number, now)
        if earlier is None:
            self._remember(number)
            last_words.say(f"rank {self.rank}: {self.name}; this run ends within {self.grace_s:g} s and can be resumed")
            return False
        if earlier[0] == number and now - earlier[1] < ONE_DELIVERY_S:
            self._latest = earlier
            return False
        passed_on = self._passed_on()
        if max(passed_on, self._heard - passed_on) < 2:
            return False
        self._end(lambda: f"{signal.Signals(number).name} while it ends; leaving at once")
        return True

    def _end(self, sentence: Callable[[], str]) -> None:
        """Say why, and leave whatever the rest of the process is doing."""
        try:
            last_words.say(f"rank {self.rank}: {sentence()}")
        finally:
            self._leave(errors.PREEMPTED)


_in_force: list[Preemption] = []
"""The one that is installed, if any."""


def _after_fork() -> None:
    while _in_force:  # the child's own children find nothing to give up
        _in_force.pop().give_up()


os.register_at_fork(after_in_child=_after_fork)  # once, for it cannot be taken back


def outlive_the_job() -> None:
    """Called in a loader process: only the process it loads for ends it.

    torchrun passes a signal on to the process group of a rank, schedulers signal every process of a job. A loader
    process that died of it would be an error in the rank, which still needs its samples to finish the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, name="signals", daemon=True).start()


def _end_with_parent() -> None:
    """Wait for a SIGTERM from the parent; only a waiting thread learns whose it is."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a loader process"
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)
