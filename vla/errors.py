"""What a user or the machine can be at fault for, and the exit codes that say so."""

from collections.abc import Sequence

DONE, USAGE, HUNG, STORAGE, CORRUPT, NOT_FINITE, PREEMPTED, REFUSED = 0, 2, 33, 34, 65, 70, 75, 78
"""Exit codes: done; usage; no progress; storage failed; a checkpoint or data file is corrupt; too many steps that were
not finite; pre-empted, resumable; configuration refused."""
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of a command that SIGINT or SIGTERM ended."""


class UsageError(ValueError):
    """The command line is incomplete, or names what there is not."""


class ProgramFailed(Exception):
    """A program that the command has started failed, and has said why; its exit code is the command's."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class CorruptData(ValueError):
    """A file is damaged or contradicts itself: no other option of the user makes it readable."""


class MissingFiles(ValueError):
    """Files that the metadata name are not there."""

    def __init__(self, sentence: str, files: Sequence[str]) -> None:
        super().__init__(sentence)
        self.files = tuple(files)


class StorageFault(OSError):
    """The storage did not give the data; they may be whole. Its text is one sentence."""

    def __str__(self) -> str:
        return str(self.strerror)
