"""`vla` on the command line: measure, merge, examine, convert. Training starts with `accelerate launch`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from vla import commandline, printing
from vla.commandline import UsageError
from vla.commands.ablate import Ablate, ablate
from vla.commands.convert import Import, convert
from vla.commands.doctor import Doctor, doctor
from vla.commands.evaluate import Evaluate, evaluate
from vla.commands.merge import Merge, merge
from vla.commands.needle import NeedleDemos, record
from vla.commands.report import Report, report

DONE, USAGE, CORRUPT, REFUSED, INTERRUPTED = 0, 2, 65, 78, 130
"""Exit codes."""
DESCRIPTION = """Tools around trained policies and their data.

Training starts with `accelerate launch training/stage1.py`. Exit codes: 0 done,
2 usage, 65 a file is corrupt, 78 refused (the message says how to fix it)."""

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
        ValueError: a flag is unknown, or a value does not fit.
        UsageError: something is missing.
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
        raise ValueError(f"unknown argument {unknown[0]}: {hint}")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; a user's mistake is one sentence on standard error."""
    if arguments is None:
        printing.install()
    try:
        match parse(sys.argv[1:] if arguments is None else arguments):
            case Evaluate() as command:
                evaluate(command)
            case Ablate() as command:
                ablate(command)
            case Merge() as command:
                merge(command)
            case Doctor() as command:
                doctor(command)
            case Import() as command:
                convert(command)
            case NeedleDemos() as command:
                record(command)
            case Report() as command:
                report(command)
    except UsageError as error:
        print(f"usage: {error}", file=sys.stderr)
        return USAGE
    except ValueError as error:
        from vla.data.episode import CorruptData

        print(f"error: {error}", file=sys.stderr)
        return CORRUPT if isinstance(error, CorruptData) else REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
