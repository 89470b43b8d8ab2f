"""How a process of a training ends: its exit code, and the sentence for a person; no heavy package is loaded for it."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

from training.ranks import rank
from vla import errors, printing
from vla.errors import CODE_FILE, DONE, HUNG, REFUSED

FLUSH_S = 1.0
"""How long a process that ends waits for its output to be taken."""
Result = TypeVar("Result")


def leave(code: int) -> NoReturn:
    """End the process at once, with everything written.

    `accelerate launch` replaces exit codes; whoever needs them names a file in TOUCHSTONE_EXIT_CODE_FILE. The first
    failure stands there: the ranks that the launcher ends because of it have nothing to add.
    """
    with contextlib.suppress(OSError):  # nothing may keep a process from ending
        tell(code)
    # Nobody may be reading what is printed any more.
    last_words = threading.Thread(target=flush, daemon=True)
    last_words.start()
    last_words.join(FLUSH_S)
    os._exit(code)


def answer(entry: Callable[[], Result]) -> Result:
    """What `entry` returns; where it raises, the process ends with the exit code of the interface.

    A user's mistake (ValueError) becomes one sentence and no traceback. The process leaves through os._exit: after a
    finished gloo job the interpreter's own exit sometimes aborts, and a rank that fails must not wait for the others.
    A training goes on where nobody reads what it prints: metrics.jsonl is what counts.
    """
    printing.install(outlives_readers=True)
    with Leaving():
        return entry()


class Leaving:
    """Ends the process where its block raises, whatever that is: no rank may hang at exit because of it."""

    def __enter__(self) -> None:
        """Nothing is needed before."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say what went wrong, and leave with its exit code."""
        if kind is None or error is None:
            return
        if isinstance(error, SystemExit):
            leave(error.code if isinstance(error.code, int) else DONE if error.code is None else 1)
        code, sentence = told(error) if isinstance(error, Exception) else (1, None)
        if sentence is None:
            sys.excepthook(kind, error, traceback)
        else:
            if rank() > 0:
                # What all ranks share is rank 0's to print, and what it fails at alone, it says; the launcher ends this
                # process before the sentence comes.
                time.sleep(2)
            print(sentence, file=sys.stderr)
        leave(code)


def main(entry: Callable[[], None]) -> NoReturn:
    """Run an entry point and end the process with the exit code of the interface, as `answer` does."""
    answer(entry)
    leave(DONE)


def told(error: BaseException) -> tuple[int, str | None]:
    """As `errors.told`; a rank that only finds another one gone says so, and what takes less memory is named."""
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return REFUSED, (
            f"the memory does not hold a step ({str(error).splitlines()[0][:200]}): go on with a smaller "
            "--micro-batch, which changes nothing that is learned, or with --backbone.gradient-checkpointing"
        )
    if isinstance(error, RuntimeError) and lost_peer(error):
        return HUNG, f"another rank is gone, or does not answer ({str(error).splitlines()[0][:200]})"
    return errors.told(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left for a tensor."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def flush() -> None:
    """Write what is left to be printed, also what was held back as the possible start of a secret."""
    printing.uninstall()
    sys.stdout.flush()
    sys.stderr.flush()


def tell(code: int) -> None:
    """Write the exit code where TOUCHSTONE_EXIT_CODE_FILE says, unless a failure stands there already."""
    path = os.environ.get(CODE_FILE)
    if path and code_told() in (None, DONE) and (code != DONE or rank() == 0):
        Path(path).write_text(str(code))


def code_told() -> int | None:
    """The exit code that a rank of this machine has written there; None while there is none."""
    try:
        text = Path(os.environ[CODE_FILE]).read_text()
    except (KeyError, OSError):
        return None
    return int(text) if text.isdecimal() else None
