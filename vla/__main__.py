"""`vla` on the command line: measure, merge, examine, convert. Training starts with `accelerate launch`."""

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from vla import commandline, printing
from vla.commands.ablate import Ablate, ablate
from vla.commands.convert import Import, convert
from vla.commands.doctor import Doctor, doctor
from vla.commands.evaluate import Evaluate, evaluate
from vla.commands.merge import Merge, merge
from vla.commands.needle import NeedleDemos, record
from vla.commands.report import Report, report
from vla.errors import (
    CORRUPT,
    DONE,
    INTERRUPTED,
    REFUSED,
    STORAGE,
    TERMINATED,
    USAGE,
    CorruptData,
    ProgramFailed,
    StorageFault,
    UsageError,
)
from vla.processes import Terminated, answer_sigterm

FULL = {errno.ENOSPC, errno.EDQUOT}
OWN_LIMITS = {errno.EACCES, errno.EMFILE, errno.ENFILE}
"""What the system refuses for other reasons than its storage."""
UNSUITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
"""What the system says of a path that was given."""
DESCRIPTION = """Tools around trained policies and their data.

Training starts with `accelerate launch training/stage1.py`. Exit codes: 0 done,
2 usage, 34 storage failed, 65 a file is corrupt, 78 refused (it says why)."""

Command = (
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Ablate, tyro.conf.subcommand("ablate")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[NeedleDemos, tyro.conf.subcommand("needle")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def parse(arguments: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ValueError: a value does not fit.
        UsageError: something is missing, or unknown.
    """
    commands = {"evaluate", "ablate", "merge", "doctor", "import", "needle", "report"}
    if not arguments:
        raise UsageError(f"give a command, one of {', '.join(sorted(commands))}; `vla --help` explains them")
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        hint = commandline.nearest(arguments[0], commands, f"give one of {', '.join(sorted(commands))}")
        raise UsageError(f"there is no command {arguments[0]!r}: {hint}")
    help_command = f"vla {arguments[0]} --help"
    command: Command
    command, unknown = commandline.parse(Command, arguments, help_command, prog="vla", description=DESCRIPTION)
    if unknown:
        hint = commandline.nearest(unknown[0], commandline.flags(type(command)), f"`{help_command}` lists all")
        raise UsageError(f"unknown argument {unknown[0]}: {hint}")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; a user's mistake is one sentence on standard error."""
    if arguments is None:
        printing.install()
        answer_sigterm()
    try:
        run(parse(sys.argv[1:] if arguments is None else arguments))
    except (ProgramFailed, ValueError, OSError, KeyboardInterrupt) as error:
        code, sentence = told(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return code
    return DONE


def run(command: Command) -> None:
    """Do what a command says."""
    match command:
        case Evaluate():
            evaluate(command)
        case Ablate():
            ablate(command)
        case Merge():
            merge(command)
        case Doctor():
            doctor(command)
        case Import():
            convert(command)
        case NeedleDemos():
            record(command)
        case Report():
            report(command)


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
        case StorageFault():
            code, sentence = STORAGE, f"error: {error}"
        case OSError() if of_storage(error):
            code, sentence = STORAGE, f"error: {error}; make room or mend the storage, and start again"
        case OSError() if error.errno in UNSUITABLE and error.filename is not None:
            reason = f"error: {error.filename} cannot be used ({error.strerror})"
            code, sentence = REFUSED, f"{reason}; give another, or change its permissions"
        case Terminated():
            code, sentence = TERMINATED, "terminated"
        case KeyboardInterrupt():
            code, sentence = INTERRUPTED, "interrupted"
    return code, sentence


def of_storage(error: OSError) -> bool:
    """Whether the storage is full, or does not answer."""
    from vla.data.reading import REFUSALS

    return error.errno in FULL | (REFUSALS - OWN_LIMITS)


if __name__ == "__main__":
    sys.exit(main())
