"""Takes out of a text what tells who and where: for what people paste into a bug report.

A home becomes `~`, any other absolute path its last part after `.../`, the names of the user and of the machine become
USER and HOST; secrets are hidden as everywhere (vla/redaction.py).
"""

import os
import pwd
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla import redaction

USER_VARIABLES = ("USER", "LOGNAME", "USERNAME", "SUDO_USER")
HOST_VARIABLES = ("HOSTNAME", "HOST")
SHARED = {"root", "user", "nobody", "admin", "localhost"}
"""Names that tell nothing of a person or a machine."""
HOMES = re.compile(r"(?<![\w.~-])(?:/[\w.-]+)*?/(?:home|Users)/[^/\s'\":;,()]+|(?<![\w.~-])/root(?![\w.-])")
"""Home folders wherever the text was written, another machine's too."""
ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?:[^/\s'\":;,()]+/)*([^/\s'\":;,()]+)/?")


def anonymous(tree: Any) -> Any:
    """A tree of JSON values whose texts tell neither who nor where; keys, numbers and shape stay."""
    return _anonymous(redaction.hide_tree(tree), _names())


def _anonymous(tree: Any, names: Mapping[str, re.Pattern[str]]) -> Any:
    match tree:
        case str():
            return _without(tree, names)
        case Mapping():
            return {key: _anonymous(value, names) for key, value in tree.items()}
        case list() | tuple():
            return [_anonymous(value, names) for value in tree]
        case _:
            return tree


def _without(text: str, names: Mapping[str, re.Pattern[str]]) -> str:
    for home in _homes():
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    text = ABSOLUTE.sub(r".../\1", HOMES.sub("~", text))
    for word, pattern in names.items():
        text = pattern.sub(word, text)
    return text


def _account() -> tuple[str, str]:
    """Name and home of the user as the system knows them; empty where it does not, as in some containers."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return "", ""
    return entry.pw_name, entry.pw_dir


def _homes() -> list[str]:
    """The user's home, as it is called and as it is; longest first. The root of the file system is nobody's."""
    homes = {os.environ.get("HOME", ""), _account()[1]}
    homes |= {str(Path(home).resolve()) for home in homes if home}
    return sorted((home.rstrip("/") for home in homes if len(home) > 1), key=len, reverse=True)


def _names() -> dict[str, re.Pattern[str]]:
    """What finds the names of the user and of this machine, by what takes their place."""
    users = {os.environ.get(name, "") for name in USER_VARIABLES} | {_account()[0]}
    hosts = {os.environ.get(name, "") for name in HOST_VARIABLES} | {socket.gethostname()}
    hosts |= {host.partition(".")[0] for host in hosts}
    found = {}
    for word, names in (("USER", users), ("HOST", hosts)):
        if told := sorted((name for name in names if name and name.lower() not in SHARED), key=len, reverse=True):
            either = "|".join(map(re.escape, told))
            found[word] = re.compile(rf"(?<![A-Za-z0-9])(?:{either})(?![A-Za-z0-9])", re.IGNORECASE)
    return found
