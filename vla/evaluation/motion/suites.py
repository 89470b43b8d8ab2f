"""Prompts that a policy of motion is tried with, in suites: those that ship, and those of a user's file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from vla import documents
from vla.critic.measures import FEWEST_FRAMES, RATE_HZ
from vla.instruction import MAX_INSTRUCTION
from vla.names import hint

SHIPPED = Path(__file__).with_name("prompt_suites.yaml")
SHORTEST_S = FEWEST_FRAMES / RATE_HZ
"""Length from which on the critic judges a motion."""
LONGEST_S = 600.0
NAME = re.compile(r"[\w.-]{1,40}")
"""What a suite or a prompt may be called: a word of a command line, and of a table."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a policy is asked for."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    id: str
    text: str
    seconds: float
    expect: Literal["motion", "refusal"] = "motion"
    """refusal: it is no motion that can be made, and to say so is right."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Prompts of one kind."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    description: str
    expect_degradation: bool
    """Whether they are to put a policy off; those of a baseline are not."""
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True, kw_only=True)
class SuiteFile:
    """A YAML file of suites."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    version: Literal[1]
    suites: dict[str, Suite]


def read_suites(file: Path) -> dict[str, Suite]:
    """The suites of a file, by name.

    Raises:
        ValueError: it cannot be read, or a prompt cannot be asked as it is; says which.
    """
    suites = documents.written(SuiteFile, file).suites
    if not suites:
        raise ValueError(f"{file} holds no suite; write one below `suites`")
    for name, suite in suites.items():
        check_name(name, f"{file}: suites.{name}")
        if not suite.prompts:
            raise ValueError(f"{file}: suites.{name} has no prompt; write one below `prompts`, or leave the suite out")
        known: set[str] = set()
        for prompt in suite.prompts:
            place = f"{file}: suites.{name}, prompt {prompt.id!r},"
            check_name(prompt.id, place)
            if prompt.id in known:
                raise ValueError(f"{place} stands there twice; give each prompt an id of its own")
            known.add(prompt.id)
            check_prompt(prompt, place)
    return suites


def check_name(name: str, place: str) -> None:
    """Refuse what is no word of a command line. ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{place} has no usable name; give 1 to 40 letters, digits, `_`, `-` or `.`")


def check_prompt(prompt: Prompt, place: str) -> None:
    """Refuse what nothing can be made from, unless a refusal is what is expected. ValueError."""
    if not math.isfinite(prompt.seconds) or prompt.seconds > LONGEST_S:
        raise ValueError(f"{place} is of {prompt.seconds:g} seconds; give {SHORTEST_S:g} to {LONGEST_S:g}")
    if prompt.expect == "refusal":
        return
    otherwise = "or say `expect: refusal` where it is to be refused"
    if not prompt.text.strip():
        raise ValueError(f"{place} has an empty text; write what the motion shows, {otherwise}")
    if len(prompt.text) > MAX_INSTRUCTION:
        raise ValueError(
            f"{place} has a text of {len(prompt.text):,} characters, at most {MAX_INSTRUCTION:,} are accepted; shorten "
            f"it, {otherwise}"
        )
    if prompt.seconds < SHORTEST_S:
        raise ValueError(
            f"{place} is of {prompt.seconds:g} seconds, and motions are judged from {SHORTEST_S:g} on; make it longer, "
            f"{otherwise}"
        )


def choose(names: Sequence[str], file: Path | None = None) -> tuple[dict[str, Suite], list[str]]:
    """The suites of some names, of none: all; and remarks on what became of a user's file.

    Suites of the file stand beside those that ship, and in the place of one that has the same name.

    Raises:
        ValueError: there is no suite of a name, or the file does not fit.
    """
    shipped = read_suites(SHIPPED)
    own = {} if file is None else read_suites(file)
    known: Mapping[str, Suite] = shipped | own
    for name in names:
        if name not in known:
            raise ValueError(f"there is no suite {name!r}: {hint(name, list(known))}")
    chosen = {name: known[name] for name in dict.fromkeys(names or known)}
    remarks = [
        f"the suite {name} is that of {file}" + (", in place of the one that ships" if name in shipped else "")
        for name in chosen
        if name in own
    ]
    return chosen, remarks
