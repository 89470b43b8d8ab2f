"""Command lines over dataclasses, through tyro: what does not fit is one sentence instead of a box of several lines."""

import contextlib
import dataclasses
import difflib
import io
import re
import sys
import textwrap
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any, Protocol, get_args, get_origin

import tyro
from tqdm import tqdm

from vla import redaction
from vla.errors import UsageError

WIDTH = 80
LINE_S = 30.0
"""Seconds between lines that say how far something is, where there is no terminal."""


def parse(
    kind: Any,
    arguments: Sequence[str],
    help_command: str,
    *,
    examples: Sequence[str] = (),
    shown: Collection[str] | None = None,
    **settings: Any,
) -> tuple[Any, list[str]]:
    """The value of type `kind` that the arguments describe, and the arguments it does not know.

    `help_command` is what a mistake points to; `settings` are tyro's. Help is printed and ends the process: it begins
    with the examples, and has the flags in `shown`, or all of them.

    Raises:
        ValueError: a value does not fit.
        UsageError: something is missing.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            value, unknown = tyro.cli(kind, args=list(arguments), return_unknown_args=True, **settings)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            whole = printed.getvalue()
            for place, example in enumerate(examples):
                print("" if place else "examples:", *(f"  {line}" for line in example.splitlines()), sep="\n")
            text = whole if shown is None else shortened(whole, shown)
            print("\n" if examples else "", *map(fitted, text.splitlines(keepends=True)), sep="", end="")
            raise
        hidden = [redaction.hide(argument) for argument in arguments]
        if hidden != list(arguments):
            # The box breaks its lines within long words: what is broken, nobody can find and hide any more.
            parse(kind, hidden, help_command, examples=examples, shown=shown, **settings)
            raise ValueError(f"an argument with a secret in it does not fit; `{help_command}` explains") from None
        raise complaint(printed.getvalue(), help_command) from None
    return value, unknown


def fitted(line: str) -> str:
    """A line in 80 columns: tyro leaves descriptions as they are."""
    indent = " " * (len(line) - len(line.lstrip()))
    short = len(line.rstrip()) <= WIDTH
    return line if short else textwrap.fill(line.strip(), WIDTH, initial_indent=indent, subsequent_indent=indent) + "\n"


def shortened(text: str, shown: Collection[str]) -> str:
    """A help page of tyro with some of its flags, and how to see the others."""
    flag_line = re.compile(r"  (-h|--[\w.-]+)")
    head, *sections = re.split(r"(?m)^(?= \S.*\n -{5,})", text)
    kept, others = [head], 0
    for section in sections:
        before, *entries = re.split(r"(?m)^(?=  --?\w)", section)
        names = [found[1] for entry in entries if (found := flag_line.match(entry))]
        chosen = [entry for entry, name in zip(entries, names, strict=True) if name in shown or name == "-h"]
        others += len(entries) - len(chosen)
        kept += [before, *(f"{entry.rstrip()}\n" for entry in chosen), "\n"] if chosen else []
    return "".join([*kept, f"--help-all shows {others} more.\n"])


def complaint(printed: str, help_command: str) -> ValueError:
    """What tyro's box says, as one sentence."""
    words = re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e]+|-{5,}", " ", printed)).strip()
    words = re.split(r" (?:For full helptext|Argument helptext|Usage:)", words)[0]
    if words.startswith("Required options"):
        options = r"(--[\w.-]+|\b[A-Z]{3,}\b) (?:(?!\(required\)).)*\(required\)"
        lacking = re.findall(options, re.sub(r"\[.*?\]+", "", words))
        return UsageError(f"{' and '.join(lacking)} must be given; `{help_command}` explains")
    if found := re.search(r"invalid choice (\S+) for argument '([\w.-]+)'. Expected one of \((.*?)\)", words):
        return ValueError(f"{found[2]} cannot be {found[1]}; give one of {found[3]}")
    if found := re.search(r"Error parsing (\S+?): no type matching (\S+) could be instantiated from \[(.*?)\]", words):
        kinds = found[2].translate({ord("{"): None, ord("}"): None, ord("|"): " or "})
        return ValueError(f"{found[1]} cannot be {found[3]}; give {kinds}")
    if found := re.search(r"Error parsing (\S+?): (.*)", words):
        # What a class of ours refuses is a sentence already; tyro only puts the name of the class before it.
        refused = found[2].strip()
        return ValueError(f"{found[1]} does not fit: {refused}" if found[1].startswith("-") else refused)
    return UsageError(f"{words.removeprefix('Missing argument ')}; `{help_command}` explains")


def flags(kind: Any, prefix: str = "--") -> list[str]:
    """The flags of a dataclass, those of the dataclasses within it too."""
    names = []
    for entry in dataclasses.fields(kind):
        name, kind_of = f"{prefix}{entry.name.replace('_', '-')}", entry.type
        if tyro.conf.Suppress in get_args(kind_of):
            continue
        if get_origin(kind_of) is Annotated and dataclasses.is_dataclass(get_args(kind_of)[0]):
            names += flags(get_args(kind_of)[0], prefix)  # it is annotated to have no prefix of its own
        else:
            names += flags(kind_of, f"{name}.") if dataclasses.is_dataclass(kind_of) else [name]
    return names


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean X?`, or what to say where nothing is near."""
    close = difflib.get_close_matches(name.replace("_", "-"), list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise


class Progress(Protocol):
    """Shows how far something is."""

    def update(self, count: int = 1, /) -> object:
        """So many more are done."""
        ...


@dataclasses.dataclass
class Lines:
    """How far something is as lines on standard error, at a steady pace."""

    total: int
    unit: str
    done: int = 0
    said_at: float = dataclasses.field(default_factory=time.monotonic)

    def update(self, count: int = 1, /) -> None:
        """So many more are done."""
        self.done += count
        now = time.monotonic()
        if now - self.said_at >= LINE_S:
            self.said_at = now
            print(f"{self.done:,} of {self.total:,} {self.unit}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int, unit: str) -> Iterator[Progress]:
    """A bar on standard error where that is a terminal; elsewhere lines of what takes long."""
    if not sys.stderr.isatty():
        yield Lines(total, unit)
        return
    with tqdm(total=total, unit=f" {unit}", leave=False) as bar:
        yield bar
