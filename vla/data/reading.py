"""What a read that failed means: damaged content, which stays so, or storage that does not answer, which passes.

Only damage may make a sample void: it is the same on every rank, at every try. What the storage refuses is tried again
and then ends the run, because the same sample may be whole a minute later.
"""

import errno
import re
import time
from collections.abc import Callable
from typing import TypeVar

from vla.errors import UNANSWERED, CorruptData, StorageFault

DELAYS_S = (0.1, 0.5, 2.0)
"""Seconds before the second, third and fourth attempt."""

REFUSALS = UNANSWERED | {errno.EACCES, errno.EMFILE, errno.ENFILE}
"""What the system says of storage, permissions and its own limits, never of a file's content. A file that is not there
(ENOENT) is damage: it was there when the data were opened. FFmpeg's decoders answer damage with -1, which is EPERM."""

HDF5_ERRNO = re.compile(r"\berrno = (\d+)")
"""HDF5 gives the system's error in its text alone."""

Result = TypeVar("Result")


def refused(error: BaseException) -> int | None:
    """The errno with which the system refused a read; None where the content is what is wrong."""
    if not isinstance(error, OSError):
        return None
    code = error.errno
    if code is None and (found := HDF5_ERRNO.search(str(error))):
        code = int(found[1])
    return code if code in REFUSALS else None


def unreadable(error: BaseException, what: str, fix: str = "copy or record it again") -> Exception:
    """The error to raise where reading failed: CorruptData, or StorageFault where the system refused.

    `what` says which file cannot be read and why; `fix` is the user's remedy for damage.
    """
    code = refused(error)
    if code is None:
        return CorruptData(f"{what}; {fix}")
    return StorageFault(code, what)


def read_again(read: Callable[[], Result], name: Callable[[], str]) -> Result:
    """The result of a read, which is tried up to four times where the system refuses it.

    `name` says whose data they are.

    Raises:
        StorageFault: it was refused each time.
    """
    for attempt in range(len(DELAYS_S) + 1):
        try:
            return read()
        except OSError as error:
            code = refused(error)
            if code is None:
                raise
            if attempt == len(DELAYS_S):
                raise StorageFault(
                    code,
                    f"{name()} could not be read in {attempt + 1} attempts ({error}); "
                    "see that the storage is mounted and answers, and start again",
                ) from error
        time.sleep(DELAYS_S[attempt])
    raise AssertionError("the last attempt returns or raises")
