"""Keeps secrets out of what is printed and written.

A secret is the value of an environment variable that is named like one, a password in an address, or a text of a shape
that only tokens have. `hide` and `hide_tree` replace it by HIDDEN; vla/printing.py sends everything that
Python prints through `hide`.

What is no secret whatever its name: a value of fewer than six characters ("1", "true"), a path (`SSH_KEY=~/.ssh/id`),
and the words of PLAIN. A value of only letters or only digits that is shorter than twelve is hidden where it stands
alone, so that MAX_TOKENS=100000 does not eat into larger numbers.
"""

import json
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

HIDDEN = "HIDDEN"
MIN_LENGTH = 6
"""Characters from which on a value may be a secret."""
STRONG_LENGTH = 12
"""Characters from which on a value of only letters or only digits is hidden within longer words too."""
PLAIN = {"anonymous", "default", "disabled", "enabled", "hidden", "offline", "online", "optional", "required"}
"""Words that such variables hold and that hide nothing."""

NAMED = re.compile(
    r"((TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY)S?(_|$)|(^|_)(KEY|PAT|AUTH)S?(_|$)|_PWD$)"
)
"""Names of environment variables, in capitals, that hold a secret; runpod/entrypoint.sh has the same rule."""
NAMED_IN_TREE = re.compile(
    r"((^|_)(TOKEN|PAT)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|APIKEY|(API|ACCESS|SECRET|PRIVATE|AUTH)_KEY)S?$"
)
"""Names of settings that hold a secret: narrower, since `key` is an ordinary word there."""

SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}|rpa_[A-Za-z0-9]{20,}|wandb_v\d_[A-Za-z0-9_]{30,}"
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|sk-(?=[\w-]{0,200}\d)[\w-]{20,}|xox[a-z]-[\w-]{10,}"
    r"|A(?:KIA|SIA)[0-9A-Z]{16}|AIza[\w-]{35}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r")"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""Tokens of Hugging Face, RunPod, Weights & Biases, GitHub, GitLab, OpenAI and its like, Slack, AWS, Google; JSON web
tokens; private keys. The Weights & Biases keys of 40 hexadecimal digits look like any digest and are not among them."""

FLAGS = r"token|secret|password|passwd|passphrase|credentials?|api[-_]?key|access[-_]?key|private[-_]?key"
CONTEXTS = re.compile(
    r"(?P<before>"
    r":/{1,2}[^\s/@:\"']{0,256}:(?=[^\s/@]+@)"  # scheme://user:password@host; a Path has one slash there
    r"|:/{1,2}(?=[^\s/@:]{16,}@)"  # scheme://token@host
    r"|(?i:\b(?:Bearer|authorization:\s*(?:basic|token|bearer))\s+(?=[\w.~+/=-]{0,200}\d))"
    r"|(?i:[?&](?:[\w-]{0,64}(?:token|secret|password|signature|credential|api[_-]?key)|sig|key)=)"
    rf"|(?<![\w-])--[\w.-]{{0,64}}(?:{FLAGS})=(?!\d+(?:\s|$))"
    r"|(?<![A-Za-z0-9_])[A-Z0-9_]{0,64}(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|_KEY)=(?!\d+(?:\s|$))"
    rf"|[\"'](?i:[\w-]{{0,64}}(?:{FLAGS}))[\"']:\s*[\"'](?![<\[])"
    r")"
    r"(?P<secret>(?<=:)[^\s/@]+(?=@)|[^\s\"'&@,;]{6,})"
)
"""Places where whatever stands there is a secret."""
OPEN = re.compile(
    r"(?:(?<![A-Za-z0-9])(?:hf_|api_org_|rpa_|wandb_v|gh[pousr]_|github_pat_|glpat-|sk-|xox|AKIA|ASIA|AIza|eyJ)|:/"
    r"|(?i:bearer |token=|secret=|password=|key=))\S{0,500}$"
)
"""A last word that may still grow into a secret."""


def hide(text: str) -> str:
    """The text with every secret replaced by HIDDEN."""
    if (known := _pattern(secrets())) is not None:
        text = known.sub(HIDDEN, text)
    text = SHAPES.sub(HIDDEN, text)
    return CONTEXTS.sub(lambda found: found["before"] + HIDDEN, text)


def hide_tree(tree: Any) -> Any:
    """A tree of JSON values with every secret replaced by HIDDEN; keys, numbers and shape stay (tuples become lists).

    What stands under a name like `api_key` is hidden whatever it is, but for special tokens such as `<|image_pad|>`.
    """
    return _hide_below(tree, named=False)


def _hide_below(tree: Any, *, named: bool) -> Any:
    match tree:
        case str():
            special = tree.startswith(("<", "[")) and tree.endswith((">", "]"))
            return HIDDEN if named and not special and telling(tree) else hide(tree)
        case Mapping():
            return {key: _hide_below(value, named=named or is_secret_setting(str(key))) for key, value in tree.items()}
        case list() | tuple():
            return [_hide_below(value, named=named) for value in tree]
        case _:
            return tree


@lru_cache(1024)
def is_secret_setting(name: str) -> bool:
    """Whether a setting of this name (`wandb.api-key`, `apiKey`) holds a secret."""
    last = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.rsplit(".", 1)[-1])
    return NAMED_IN_TREE.search(last.replace("-", "_").upper()) is not None


@lru_cache(1024)
def is_secret_variable(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return NAMED.search(name.upper()) is not None


def secrets() -> tuple[str, ...]:
    """The secrets of the environment as it is now."""
    return tuple(os.environ[name] for name in os.environ if is_secret_variable(name))


def telling(value: str) -> bool:
    """Whether a value would give something away: long enough, no ordinary word, no path."""
    return len(value) >= MIN_LENGTH and value.lower() not in PLAIN and not is_path(value)


def is_path(value: str) -> bool:
    """Whether a value is a path: below a folder of the root that exists (a secret may start with a slash, too)."""
    if value.startswith("/"):
        return Path("/", value.split("/")[1][:255]).exists()
    return value.startswith(("~/", "./", "../"))


@lru_cache(16)
def spellings(values: tuple[str, ...]) -> tuple[str, ...]:
    """The texts that give values away, longest first: each line, as it is and as JSON, Python and addresses write it.

    Lines, because output comes by lines: no line of a private key in the environment is shown.
    """
    lines = {line.strip() for value in values for line in value.splitlines() if not line.startswith("-----")}
    told = {
        spelling
        for line in lines
        if telling(line)
        for spelling in (line, json.dumps(line)[1:-1], repr(line)[1:-1], urllib.parse.quote(line, safe=""))
    }
    return tuple(sorted(told, key=lambda text: (-len(text), text)))


@lru_cache(16)
def _pattern(values: tuple[str, ...]) -> re.Pattern[str] | None:
    texts = spellings(values)
    return re.compile("|".join(map(_expression, texts))) if texts else None


def _expression(text: str) -> str:
    weak = len(text) < STRONG_LENGTH and (text.isalpha() or text.isdecimal())
    return rf"(?<![A-Za-z0-9]){re.escape(text)}(?![A-Za-z0-9])" if weak else re.escape(text)


def unfinished(text: str, *, known_only: bool = False) -> int:
    """Characters at the end of a text that may be the start of a secret whose rest is still to come.

    `known_only` leaves out those of which only the shape is known.
    """
    values = secrets()
    start = len(text) - max((_overlap(text, secret) for secret in spellings(values)), default=0)
    if not known_only and (found := OPEN.search(text, max(0, len(text) - 600))):
        start = min(start, found.start())
    pattern = _pattern(values)
    for found in pattern.finditer(text) if pattern is not None else ():
        if found.start() < start < found.end():  # a whole secret whose end is also the start of another
            start = found.start()
    return len(text) - start


def _overlap(text: str, secret: str) -> int:
    """Length of the longest end of the text that begins, but does not complete, the secret."""
    tail = text[-(len(secret) - 1) :]
    for start in _places(tail, secret[0]):
        if secret.startswith(tail[start:]):
            return len(tail) - start
    return 0


def _places(text: str, character: str) -> Iterable[int]:
    place = text.find(character)
    while place >= 0:
        yield place
        place = text.find(character, place + 1)
