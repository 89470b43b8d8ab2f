"""Scores on disk as they are found, so that a curation that is killed goes on where it was."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vla.critic_settings import CriticConfig
from vla.curation.scores import Scores
from vla.documents import from_json, to_json
from vla.errors import CorruptData

LAYOUT = 1
"""Raise it when the same data would have other scores."""


class Journal:
    """Scores by the digest of what they are of; a line each, of which a kill may leave the last one in half."""

    def __init__(self, path: Path, file: BinaryIO, known: dict[str, Scores]) -> None:
        self.path, self.file, self.known = path, file, known

    def keep(self, digest: str, scores: Scores) -> Scores:
        """Write a line."""
        self.file.write(json.dumps({"digest": digest, "scores": to_json(scores)}).encode() + b"\n")
        self.file.flush()
        self.known[digest] = scores
        return scores


@contextlib.contextmanager
def open_journal(destination: Path, config: CriticConfig) -> Iterator[Journal]:
    """The journal beside a destination, with what an earlier start found by the same settings of the critic.

    ValueError where another process writes it, or it cannot be written.
    """
    path = destination.with_name(f".{destination.name}.scores")
    head = json.dumps({"layout": LAYOUT, "critic": to_json(config)}).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise ValueError(f"cannot write to {path.parent} ({error.strerror}); give another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another vla curate writes {destination}; wait for it, or give another folder") from error
        file.seek(0)
        content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        known = read_lines(path, whole.removeprefix(head)) if whole.startswith(head) else {}
        file.truncate(len(whole) if known else 0)
        if not known:
            file.write(head)
        yield Journal(path, file, known)


def read_lines(path: Path, content: bytes) -> dict[str, Scores]:
    """What whole lines say. CorruptData where one does not say it."""
    found = {}
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            found[str(entry["digest"])] = from_json(Scores, json.dumps(entry["scores"]), path)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"{path} is damaged; remove it, and what it held is found anew") from error
    return found
