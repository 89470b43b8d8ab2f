"""Lets `accelerate launch` end with the exit code of the training process, and without a traceback of its own.

torchrun, on which accelerate launches, reports every failed process as exit code 1 under a page of traceback. Whoever
restarts runs by exit code (75 resumable, 78 refused, 65 corrupt) and whoever reads the one sentence that says what to
fix needs neither. torch loads the entry points of group `torchrun.handlers` in the launching process; this package
registers one there, only to be called: when the launched script is one of ours, it replaces the hook for uncaught
errors. Other scripts keep torchrun's report.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


def register() -> Any:
    """Called by torch when it collects rendezvous handlers; returns one that is never chosen."""
    if launches_ours(sys.argv):
        sys.excepthook = report
        logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    return unused


def launches_ours(argv: list[str]) -> bool:
    """Whether this process is a launcher, and what it launches is an entry point of this package."""
    launcher = bool(argv) and Path(argv[0]).name in ("launch.py", "accelerate", "run.py", "torchrun", "-m")
    return launcher and any(
        argument.endswith(".py") and Path(argument).resolve().parent == HERE for argument in argv[1:]
    )


def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End with the exit code of the process that failed first; the process itself has said why."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        sys.__excepthook__(kind, error, traceback)
        return
    rank, failure = error.get_first_failure()
    code = int(failure.exitcode)
    if code < 0:
        print(f"rank {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        code = 128 - code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def unused(_: Any) -> NoReturn:
    """The rendezvous handler that registering has to offer."""
    raise ValueError("'touchstone' is no rendezvous backend; leave rdzv_backend at static")
