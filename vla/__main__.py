"""`vla` on the command line: measure, merge, examine, convert. Training starts with `accelerate launch`."""

import functools
import operator
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from vla import commandline, printing, provenance
from vla.commands.ablate import Ablate, ablate
from vla.commands.cache import Cache, cache
from vla.commands.calibrate import Calibrate, calibrate
from vla.commands.convert import Import, convert
from vla.commands.curate import Curate, curate
from vla.commands.doctor import Doctor, doctor
from vla.commands.embed import Embed, embed
from vla.commands.evaluate import Evaluate, evaluate
from vla.commands.export import Export, export
from vla.commands.forces import ForcesOf, forces
from vla.commands.info import Info, info
from vla.commands.merge import Merge, merge
from vla.commands.needle import NeedleDemos, record
from vla.commands.plan import PlanOf, plan
from vla.commands.report import Report, report
from vla.commands.sample import Sample, sample
from vla.commands.view import View, view
from vla.errors import DONE, UNREAD, OutputClosed, ProgramFailed, UsageError, told
from vla.examples import EXAMPLES
from vla.processes import answer_sigterm

DESCRIPTION = """Tools around trained policies and their data.

Training starts with `accelerate launch training/stage1.py`. Exit codes: 0 done,
2 usage, 34 storage failed, 65 a file is corrupt, 78 refused (it says why),
141 nobody reads the output any more."""

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int | None]]] = {
    "evaluate": (Evaluate, evaluate),
    "ablate": (Ablate, ablate),
    "calibrate": (Calibrate, calibrate),
    "merge": (Merge, merge),
    "doctor": (Doctor, doctor),
    "info": (Info, info),
    "embed": (Embed, embed),
    "cache": (Cache, cache),
    "import": (Import, convert),
    "export": (Export, export),
    "curate": (Curate, curate),
    "needle": (NeedleDemos, record),
    "report": (Report, report),
    "sample": (Sample, sample),
    "forces": (ForcesOf, forces),
    "view": (View, view),
    "plan": (PlanOf, plan),
}
"""The settings of each command, and what does it and may give an exit code. Heavy packages are loaded by the latter."""


def parse(arguments: Sequence[str]) -> Any:
    """The settings of the command of a command line. Help and version are printed and end the process.

    Raises:
        ValueError: a value does not fit.
        UsageError: something is missing, or unknown.
    """
    if not arguments:
        raise UsageError(f"give a command, one of {', '.join(sorted(COMMANDS))}; `vla --help` explains them")
    name = arguments[0]
    if name == "--version":
        print(f"{provenance.DISTRIBUTION} {provenance.code()}, Python {platform.python_version()}")
        raise SystemExit
    if name not in COMMANDS and not name.startswith("-"):
        hint = commandline.nearest(name, COMMANDS, f"give one of {', '.join(sorted(COMMANDS))}")
        raise UsageError(f"there is no command {name!r}: {hint}")
    help_command = f"vla {name} --help"
    # The types are those of a table: no union of them can be written down.
    kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(of)] for of, (kind, _) in COMMANDS.items()]
    known: Any = functools.reduce(operator.or_, kinds)
    settings, unknown = commandline.parse(
        known, arguments, help_command, examples=EXAMPLES[name if name in COMMANDS else ""], prog="vla",
        description=DESCRIPTION,
    )  # fmt: skip
    if unknown:
        hint = commandline.nearest(unknown[0], commandline.flags(type(settings)), f"`{help_command}` lists all")
        raise UsageError(f"unknown argument {unknown[0]}: {hint}")
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; a user's mistake is one sentence on standard error."""
    if arguments is None:
        printing.install()
        answer_sigterm()
    try:
        code = answer(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # before the code is given: a pipe may have closed
    except OutputClosed:
        return UNREAD
    return code


def answer(arguments: Sequence[str]) -> int:
    """The exit code of a command line, once it is done and what went wrong is said."""
    try:
        settings = parse(arguments)
        command = next(command for kind, command in COMMANDS.values() if kind is type(settings))
        return command(settings) or DONE
    except (ProgramFailed, ValueError, OSError, KeyboardInterrupt) as error:
        code, sentence = told(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
