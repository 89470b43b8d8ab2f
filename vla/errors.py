"""What a user or the machine can be at fault for: the errors, their exit codes and the sentence for a person."""

import errno
from collections.abc import Sequence

DONE, USAGE, HUNG, STORAGE, CORRUPT, NOT_FINITE, PREEMPTED, REFUSED = 0, 2, 33, 34, 65, 70, 75, 78
"""Exit codes: done; usage; no progress; storage failed; a checkpoint or data file is corrupt; too many steps that were
not finite; pre-empted, resumable; configuration refused."""
INTERRUPTED, UNREAD, TERMINATED = 130, 141, 143
"""Exit codes of a command that SIGINT or SIGTERM ended, or whose output nobody reads any more, as of SIGPIPE."""

CODE_FILE = "TOUCHSTONE_EXIT_CODE_FILE"
"""Environment variable: names a file into which a training writes its exit code, which launchers replace."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of storage, or a quota on it, that is used up."""
UNANSWERED = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.ENXIO, errno.EREMOTEIO),
        *(errno.ENOTCONN, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
"""What it says of storage that does not answer, which may pass."""
UNSUITABLE = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST),
        *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    }
)
"""What it says of a path that was given."""


class UsageError(ValueError):
    """The command line is incomplete, or names what there is not."""


class ProgramFailed(Exception):
    """A program that the command has started failed, and has said why; its exit code is the command's."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class CorruptData(ValueError):
    """A file is damaged or contradicts itself: no other option of the user makes it readable."""


class ForeignLayout(ValueError):
    """A file is whole, but another program's: nothing here reads its layout."""


class MissingPackage(ValueError):
    """What is read or written needs a package that is not installed: it is of no clip, and says nothing of the data."""


class UnsuitableFrame(ValueError):
    """A camera's frames have a shape that a policy cannot look at."""


class MissingFiles(ValueError):
    """Files that the metadata name are not there."""

    def __init__(self, sentence: str, files: Sequence[str]) -> None:
        super().__init__(sentence)
        self.files = tuple(files)


class StorageFault(OSError):
    """The storage did not give the data; they may be whole. Its text is one sentence."""

    def __str__(self) -> str:
        return str(self.strerror)


class StorageFailed(RuntimeError):
    """Checkpoints could not be written several times in a row."""


class LoaderFailed(RuntimeError):
    """Loader processes died or hung too often, or making a sample raised an error; its text is one sentence."""


class OutputClosed(Exception):
    """Nobody reads what is printed any more: the reader of a pipe has ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asks for the end, as Ctrl-C does; but it reaches this process alone, which ends those it started."""


def told(error: BaseException) -> tuple[int, str | None]:
    """The exit code of an error and the sentence for it; a mistake of ours has none and shows its traceback."""
    code, sentence = 1, None
    match error:
        case UsageError():
            code, sentence = USAGE, f"usage: {error}"
        case ProgramFailed():
            code, sentence = error.code, f"error: {error}"
        case CorruptData():
            code, sentence = CORRUPT, f"error: {error}"
        case ValueError():
            code, sentence = REFUSED, f"error: {error}"
        case FloatingPointError():
            code, sentence = NOT_FINITE, f"error: {error}"
        case StorageFailed() | StorageFault():
            code, sentence = STORAGE, f"error: {error}"
        case OSError() if error.errno in FULL | UNANSWERED:
            code, sentence = STORAGE, f"error: {error}; make room or mend the storage, and start again"
        case OSError() if error.errno in UNSUITABLE and error.filename is not None:
            reason = f"error: {error.filename} cannot be used ({error.strerror})"
            code, sentence = REFUSED, f"{reason}; give another, or change its permissions"
        case LoaderFailed():
            sentence = f"error: {error}"
        case Terminated():
            code, sentence = TERMINATED, "terminated"
        case KeyboardInterrupt():
            code, sentence = INTERRUPTED, "interrupted"
    return code, sentence
