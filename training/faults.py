"""Faults on demand: named points in the code where a test makes the process die, stall or fail.

    TOUCHSTONE_FAULTS="storage.chunk:kill@3#1; latest.before:raise=EDQUOT@1-2; backward:sleep=600@7"

Each entry is point:action[@hit][#rank]. Hits of a point are counted from 1 in every process; without @ every hit acts,
@2-5 is a range, and without # every RANK takes part. The actions are kill (SIGKILL, which flushes nothing), terminate
(SIGTERM), interrupt (SIGINT), sleep=SECONDS, wait=FILE (until there is one) and raise=ERRNO. Unarmed, a point costs one
look at an empty dictionary.
"""

import contextlib
import difflib
import errno
import math
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.ranks import rank

POINTS = (
    "start",
    "data",
    "forward",
    "backward",
    "snapshot",
    "storage.chunk",
    "shard.written",
    "manifest.written",
    "rename.before",
    "latest.before",
    "latest.after",
    "prune.before",
    "prune.renamed",
    "emergency",
    "validate",
)
ERRNOS = (
    "EACCES",
    "EAGAIN",
    "EBUSY",
    "EDQUOT",
    "EEXIST",
    "EINTR",
    "EINVAL",
    "EIO",
    "ENOENT",
    "ENOSPC",
    "ENOSYS",
    "ENOTEMPTY",
    "EOPNOTSUPP",
    "EPERM",
    "EROFS",
    "ESTALE",
    "ETIMEDOUT",
)
SIGNALS = MappingProxyType({"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT})
ACTIONS = (*SIGNALS, "sleep", "wait", "raise")
ENTRY = re.compile(
    r"(?P<point>[^:=@#]+):(?P<action>[^:=@#]+)(=(?P<value>[^:=@#]+))?"
    r"(@(?P<first>[1-9]\d*)(-(?P<last>[1-9]\d*))?)?(#(?P<rank>\d+))?",
    re.ASCII,
)
SECONDS = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One entry: what happens at the hits `first` to `last` of a point."""

    point: str
    action: str
    value: str
    first: int
    last: float
    rank: int | None


_armed: dict[str, list[Fault]] = {}
_hits: Counter[str] = Counter()
_lock = threading.Lock()


def hit(point: str) -> None:
    """Do what is armed for this point; nothing otherwise.

    Raises:
        OSError: a `raise` action is armed for this hit.
    """
    if _armed:
        _act(point)


def arm(text: str | None = None) -> None:
    """Replace what is armed by these entries, or by those of the environment, and count hits anew.

    An empty text disarms. A process that was forked after this module was imported calls it without arguments.

    Raises:
        ValueError: an entry names an unknown point, action or errno, or cannot be read.
    """
    entries = os.environ.get("TOUCHSTONE_FAULTS", "") if text is None else text
    faults = [fault for fault in parse(entries) if fault.rank in (None, rank())]
    with _lock:
        _hits.clear()
        _armed.clear()
        for fault in faults:
            _armed.setdefault(fault.point, []).append(fault)


@contextlib.contextmanager
def armed(text: str) -> Iterator[None]:
    """Within this context these entries are armed, afterwards none."""
    arm(text)
    try:
        yield
    finally:
        arm("")


def parse(text: str) -> list[Fault]:
    """The entries of a TOUCHSTONE_FAULTS text, for all ranks.

    Raises:
        ValueError: an entry names an unknown point, action or errno, or cannot be read.
    """
    return [_parse_entry(entry.strip()) for entry in text.split(";") if entry.strip()]


def _parse_entry(entry: str) -> Fault:
    found = ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError(f"TOUCHSTONE_FAULTS has {entry!r}; write point:action[@hit][#rank], hits counted from 1")
    point, action, value = found["point"].strip(), found["action"].strip(), (found["value"] or "").strip()
    _known(point, POINTS, "point")
    _known(action, ACTIONS, "action")
    if action == "raise":
        _known(value, ERRNOS, "errno")
    elif action == "sleep":
        if not SECONDS.fullmatch(value):
            raise ValueError(f"TOUCHSTONE_FAULTS has {entry!r}; write the seconds to sleep, as in {point}:sleep=0.5")
    elif action == "wait":
        if not value:
            raise ValueError(f"TOUCHSTONE_FAULTS has {entry!r}; write the file to wait for, as in {point}:wait=FILE")
    elif value:
        raise ValueError(f"TOUCHSTONE_FAULTS has {entry!r}; {action} takes no value, write {point}:{action}")
    first = int(found["first"] or 1)
    last = int(found["last"]) if found["last"] else first if found["first"] else math.inf
    if last < first:
        raise ValueError(f"TOUCHSTONE_FAULTS has {entry!r}; write the smaller hit first, @{last}-{first}")
    rank = None if found["rank"] is None else int(found["rank"])
    return Fault(point=point, action=action, value=value, first=first, last=last, rank=rank)


def _known(given: str, names: Collection[str], kind: str) -> None:
    if given not in names:
        near = difflib.get_close_matches(given, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"TOUCHSTONE_FAULTS names an unknown {kind} {given!r}; known are {', '.join(names)}{hint}")


def _act(point: str) -> None:
    assert point in POINTS, f"{point} is missing in faults.POINTS"
    with _lock:
        _hits[point] += 1
        number = _hits[point]
        due = [fault for fault in _armed.get(point, ()) if fault.first <= number <= fault.last]
    # Outside of the lock: other threads go on while this one sleeps.
    for fault in due:
        if fault.action in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fault.action])
        elif fault.action == "sleep":
            time.sleep(float(fault.value))
        elif fault.action == "wait":
            while not Path(fault.value).exists():
                time.sleep(0.01)
        else:
            code = getattr(errno, fault.value)
            raise OSError(code, os.strerror(code), f"fault at {point}")


arm()
