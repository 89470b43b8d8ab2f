"""Which process is meant, long after it may have ended: an identity that no other process ever has."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EXITING = 0x4
"""PF_EXITING among the flags of a process in Linux."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process of some machine."""

    host: str
    boot: str
    """Kernel's boot id: after a restart of the machine no process of before is left."""
    namespace: str
    """Of process ids: two containers of one machine can share a name and see different processes."""
    pid: int
    started: int
    """Clock ticks from boot to the start of the process; tells it from a later one with the same id."""

    @staticmethod
    def own() -> "Identity":
        """This process."""
        return Identity(
            host=socket.gethostname(),
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            namespace=str(Path("/proc/self/ns/pid").readlink()),
            pid=os.getpid(),
            started=_fields("self").started,
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def state(identity: Identity) -> Literal["own", "alive", "exiting", "gone", "elsewhere"]:
    """What can be said of a process from here; "exiting" is killed, but not through with it."""
    own = Identity.own()
    if (identity.host, identity.boot, identity.namespace) != (own.host, own.boot, own.namespace):
        return "elsewhere"
    if identity == own:
        return "own"
    try:
        fields = _fields(identity.pid)
    except (FileNotFoundError, ProcessLookupError):
        return "alive" if _is_hidden(identity.pid) else "gone"
    # A zombie has ended, its parent has only not asked for the exit code yet.
    if fields.started != identity.started or (fields.state in "ZX" and fields.num_threads <= 1):
        return "gone"
    return "exiting" if fields.flags & EXITING else "alive"


@dataclass(frozen=True)
class _Fields:
    state: str
    flags: int
    num_threads: int
    started: int


def _fields(pid: int | Literal["self"]) -> _Fields:
    """What the kernel says of a process: proc_pid_stat(5), fields 3, 9, 20 and 22."""
    # The name stands in brackets and may hold anything; what follows is counted from the last one.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Fields(fields[0], int(fields[6]), int(fields[17]), int(fields[19]))


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show, as other users' are on some systems."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
