"""Runs a command, tells the CPU seconds of all its processes, and fails when they are more than its budget.

    python -m tests.budget test make checks

Seconds of a processor differ from machine to machine, and on one machine by what else its cores do: the same import of
torch takes 1.4 s alone and 2.0 beside others. A budget is therefore counted in such imports, the median of one a minute
beside the command: 880 are seconds where one takes 1.8. Minutes would measure what else a machine does.

No process is missed: where a control group can be made, all that the command starts is counted in it; elsewhere every
process is waited for, by its parent or, when that is gone, by this one, and what its end tells is added up. What is
said goes to stderr, so that the command's last line is the last line of stdout.
"""

import contextlib
import ctypes
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

BUDGETS = {"test": 1150.0, "test-all": 2400.0}
"""Seconds on a machine that imports torch in IMPORT_S."""
IMPORT_S = 1.8
FIRST_S, EVERY_S = 5.0, 60.0
"""When an import is measured beside the command: after so many seconds, and again and again after so many more."""
LEFT_S = 20.0
"""How long processes may go on after the command has ended."""
OVER = 1
"""Exit code of a command that succeeded beyond its budget."""
PR_SET_CHILD_SUBREAPER = 36


class Group:
    """A control group of its own for all that is started from here: version 2, or 1 with cpuacct."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the new group's."""
        self.folder = folder

    def enter(self) -> None:
        """Let the calling process and all that it will start belong to the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self) -> float:
        """What the processes of the group have used so far."""
        if (usage := self.folder / "cpuacct.usage").exists():
            return int(usage.read_text()) / 1e9
        fields = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6


@contextlib.contextmanager
def group(groups: str = "/proc/self/cgroup", root: Path = Path("/sys/fs/cgroup")) -> Iterator[Group | None]:
    """A new group below the one that this process belongs to, or None where none can be made; removed afterwards."""
    folder = None
    for line in Path(groups).read_text().splitlines() if Path(groups).exists() else ():
        number, controllers, place = line.split(":", 2)
        if number == "0" and (root / "cgroup.controllers").exists():
            folder = root / place.lstrip("/")
        elif "cpuacct" in controllers.split(","):
            folder = root / "cpuacct" / place.lstrip("/")
            break
    made = None
    if folder is not None:
        with contextlib.suppress(OSError):  # no rights to, or a tree that others own
            made = folder / f"touchstone-{os.getpid()}"
            made.mkdir()
    usable = made is not None and any((made / name).exists() for name in ("cpuacct.usage", "cpu.stat"))
    try:
        yield Group(made) if made is not None and usable else None
    finally:
        if made is not None:
            with contextlib.suppress(OSError):  # somebody in it still runs
                made.rmdir()


def run(command: Sequence[str], counted: Group | None) -> tuple[int, float, list[float]]:
    """The exit code of a command, the CPU seconds of all its processes, and those of imports of torch beside it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # whoever loses its parent becomes a child of this process
    before = children_s()
    pid = os.fork()
    if pid == 0:
        try:
            if counted is not None:
                with contextlib.suppress(OSError):  # counted by its end instead
                    counted.enter()
            os.execvp(command[0], command)
        except OSError as error:
            print(f"error: cannot run {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command too, whose end is waited for
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
    code, deadline = None, float("inf")
    imports, due = list[float](), time.monotonic() + FIRST_S
    while time.monotonic() < deadline:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            deadline = time.monotonic() + LEFT_S
        elif ended == 0 and code is None and time.monotonic() >= due:
            imports.append(import_s())
            due += EVERY_S
        elif ended == 0:
            time.sleep(0.05)
    assert code is not None
    used = max(children_s() - before - sum(imports), 0.0 if counted is None else counted.seconds())
    return code if code >= 0 else 128 - code, used, imports


def children_s() -> float:
    """CPU seconds of all processes below this one that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def import_s() -> float:
    """CPU seconds of an import of torch."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import torch"], os.environ)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, "torch cannot be imported"
    return usage.ru_utime + usage.ru_stime


def verdict(name: str, used: float, imports: Sequence[float], minutes: float) -> tuple[str, bool]:
    """What is said at the end, and whether the budget was kept."""
    unit = statistics.median(imports) / IMPORT_S
    allowed = BUDGETS[name] * unit
    kept = used <= allowed
    said = (
        f"make {name}: {used:.0f} CPU s in {minutes:.1f} minutes, of {allowed:.0f} that it may use where an import of"
        f" torch takes {unit * IMPORT_S:.2f} s; as if it took {IMPORT_S} s: {used / unit:.0f} of {BUDGETS[name]:.0f}"
    )
    if not kept:
        said += "\nerror: the checks cost more than their budget; make them cheaper, or raise it in tests/budget.py"
    return said, kept


def main() -> None:
    """Command line: a name of BUDGETS, and the command."""
    name, *command = sys.argv[1:]
    import_s()  # reads the disk, which the others need not
    began = time.monotonic()
    with group() as counted:
        code, used, imports = run(command, counted)
    minutes = (time.monotonic() - began) / 60
    said, kept = verdict(name, used, imports or [import_s()], minutes)
    print(said, file=sys.stderr)
    sys.exit(code or (0 if kept else OVER))


if __name__ == "__main__":
    main()
