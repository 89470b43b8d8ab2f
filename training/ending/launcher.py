"""Lets `accelerate launch` end with the exit code of the training processes, and without a traceback of its own.

torchrun, on which accelerate launches, reports every failed process as exit code 1 under a page of traceback, and a
signal that it passed on as an error of its own. Whoever restarts runs by exit code (75 resumable, 78 refused, 65
corrupt) and whoever reads the one sentence that says what to fix needs neither. torch loads the entry points of group
`torchrun.handlers` in the launching process; this package registers one there, only to be called: when the launched
script is one of ours, it replaces the hook for uncaught errors. Other scripts keep torchrun's report.
"""

import atexit
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from training.launching import ASKED, PID, asked_of
from vla.errors import CODE_FILE, CORRUPT, HUNG, NOT_FINITE, PREEMPTED, REFUSED, STORAGE, USAGE

ENTRY_POINTS = Path(__file__).resolve().parents[1]
"""The folder of the scripts that this launcher knows as ours."""
OWN_PREFIX = "touchstone-exit-code-of-launcher-"
TELLING = (USAGE, STORAGE, CORRUPT, NOT_FINITE, REFUSED)
"""What a rank ends with for a reason of its own, never because of another rank."""


def register() -> Any:
    """Called by torch when it collects rendezvous handlers; returns one that is never chosen."""
    if launches_ours(sys.argv):
        sys.excepthook = report
        quieten()
        # A rank ends by itself when its grace time is over; torchrun would kill it after 30 s.
        os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
        os.environ[PID] = str(os.getpid())
        prepare_code_file()
        count_signals()
        note_what_is_asked()
    return unused


def note_what_is_asked() -> None:
    """Tell the training processes what the launcher was asked for, or end before it starts another that drops it."""
    try:
        asked = asked_of(sys.argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        conclude(REFUSED)
    os.environ.pop(ASKED, None)  # an outer launcher's
    if asked is not None:
        os.environ[ASKED] = f"{asked.machines} {asked.processes} {asked.machine}"


def quieten() -> None:
    """Drop what torchrun logs of ends and signals, which the training processes say better.

    Filters last; torch sets the levels of its loggers when it loads the modules.
    """
    logger = "torch.distributed.elastic."
    logging.getLogger(logger + "multiprocessing.api").addFilter(lambda _: False)
    logging.getLogger(logger + "agent.server.api").addFilter(lambda record: "death signal" not in record.getMessage())


def launches_ours(argv: list[str]) -> bool:
    """Whether this process is a launcher, and what it launches is an entry point of this package."""
    launchers = ("launch.py", "accelerate", "accelerate-launch", "run.py", "torchrun", "-m")
    launcher = bool(argv) and Path(argv[0]).name in launchers
    return launcher and any(
        argument.endswith(".py") and Path(argument).resolve().parent == ENTRY_POINTS for argument in argv[1:]
    )


def prepare_code_file() -> None:
    """Have a file for the exit code: the user's, emptied of an earlier run's, or one of this launcher's own."""
    if CODE_FILE in os.environ:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(os.environ[CODE_FILE], 0)
        discard(signals_file())
        atexit.register(discard, signals_file())
        return
    with contextlib.suppress(OSError):  # nowhere to write: signals then end in their own number
        for left in Path(tempfile.gettempdir()).glob(f"{OWN_PREFIX}*"):  # by launchers that were killed
            if not Path("/proc", left.name.removeprefix(OWN_PREFIX).split("-")[0]).exists():
                left.unlink()
        descriptor, path = tempfile.mkstemp(prefix=f"{OWN_PREFIX}{os.getpid()}-")
        os.close(descriptor)
        os.environ[CODE_FILE] = path
        atexit.register(Path(path).unlink, missing_ok=True)
        atexit.register(discard, signals_file())


def count_signals() -> None:
    """Let the ranks know which signals are passed on; torchrun passes on each that it gets.

    Under nohup the run outlives its terminal; torchrun would end at the hang-up that nohup ignores.
    """
    from torch.distributed.elastic.multiprocessing import api

    terminate, deaf = api._terminate_process_handler, signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def count_and_terminate(signum: int, frame: FrameType | None) -> None:
        if deaf and signum == signal.SIGHUP:
            return
        with contextlib.suppress(KeyError, OSError), signals_file().open("ab") as file:
            file.write(b".")
        terminate(signum, frame)

    api._terminate_process_handler = count_and_terminate  # torchrun has no hook for it


def discard(path: Path) -> None:
    """Delete a file, if it is there and can be."""
    with contextlib.suppress(OSError):
        path.unlink()


def signals_file() -> Path:
    """The file beside that of the exit code to which the launcher adds a byte for each signal that it passes on."""
    return Path(os.environ[CODE_FILE] + ".signals")


def passed_on() -> int:
    """How many signals the launcher of this process has passed on, or is about to."""
    try:
        return signals_file().stat().st_size
    except (KeyError, OSError):
        return 0


def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End with the exit code that the training processes had a reason for; they themselves have said which."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    match error:
        case ChildFailedError():
            failures = error.failures
            began = min(failure.timestamp for failure in failures.values())
            # What comes later is torchrun's doing: SIGTERM to the ranks that are left, SIGKILL much later.
            first = {rank: failures[rank].exitcode for rank in failures if failures[rank].timestamp <= began + 1}
            for rank, code in sorted(first.items()):
                if code < 0 and code != -signal.SIGTERM:
                    print(f"rank {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
            conclude(choose(written(), list(first.values())))
        case SignalException():
            # torchrun has passed the signal on and waited until every process was gone. One that had not even begun
            # to answer signals leaves nothing behind that starting again would not find.
            conclude(written() or PREEMPTED)
        case _:
            sys.__excepthook__(kind, error, traceback)


def conclude(code: int) -> NoReturn:
    """End with `code`, and leave it in the user's file too."""
    if path := os.environ.get(CODE_FILE):
        discard(signals_file())
        with contextlib.suppress(OSError):
            if Path(path).name.startswith(OWN_PREFIX):
                Path(path).unlink()
            else:
                Path(path).write_text(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def written() -> int | None:
    """The exit code that a training process left in the file, the first that failed."""
    try:
        text = Path(os.environ[CODE_FILE]).read_text()
    except (OSError, KeyError):
        return None
    return int(text) if text.isdecimal() and int(text) != 0 else None


def choose(told: int | None, codes: list[int]) -> int:
    """The exit code of a run whose processes ended with `codes` (-N: by signal N), and of which one told its own.

    A rank that ends takes the others with it: they fail in their next collective, or torchrun ends them with SIGTERM.
    A rank that was killed can tell nothing, and those that follow it tell 33 (it does not answer) or 75. The watchdog's
    last resort is SIGALRM, and SIGTERM ends a rank that does not answer signals yet: pre-empted before it began.
    """
    meaning = {-signal.SIGALRM: HUNG, -signal.SIGTERM: PREEMPTED}
    known = ([told] if told else []) + [meaning.get(code, code) for code in codes]
    telling = [code for code in known if code in TELLING]
    killed = [128 - code for code in known if code < 0]
    hung = [code for code in known if code == HUNG]
    return [*telling, *killed, *hung, *known][0]


def unused(_: Any) -> NoReturn:
    """The rendezvous handler that registering has to offer."""
    raise ValueError("'touchstone' is no rendezvous backend; leave rdzv_backend at static")
