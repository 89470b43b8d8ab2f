"""What a run of the checks has cost: every process counts, and too much is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import budget

ROOT = Path(__file__).resolve().parents[1]
BURN = "import time\nwhile time.process_time() < 0.5: pass"
RUN = """
from tests import budget
with budget.group() as group:
    print(group is not None, *budget.run({command!r}, group if {grouped} else None)[:2])
"""


def counted(command: list[str], *, grouped: bool) -> tuple[bool, int, float]:
    """Whether a control group could be made, the exit code of a command, and what its processes used."""
    text = RUN.format(command=command, grouped=grouped)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    made, code, used = done.stdout.split()
    return made == "True", int(code), float(used)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_process_whose_parent_is_gone_is_counted(grouped: bool) -> None:
    """As a loader process of a rank that was killed is."""
    orphan = f"setsid {sys.executable} -c '{BURN}' &"
    made, code, used = counted(["sh", "-c", f"({orphan}) ; exit 3"], grouped=grouped)
    assert code == 3
    assert 0.5 <= used < 5
    if grouped and not made:
        pytest.skip("no control group can be made here; what is waited for was counted")


def test_the_end_of_the_command_is_the_end() -> None:
    assert counted(["sh", "-c", "kill -9 $$"], grouped=False)[1] == 128 + 9
    assert counted(["no-such-command"], grouped=False)[1] == 127


def test_imports_beside_the_command_are_measured_and_not_counted() -> None:
    text = """
from tests import budget
budget.FIRST_S = budget.EVERY_S = 0.1
code, used, imports = budget.run(["sleep", "1"], None)
print(code, used, len(imports), min(imports))
"""
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    code, used, count, shortest = map(float, done.stdout.split())
    assert code == 0
    assert count >= 1
    assert shortest > 0.3
    assert used < 0.2


@pytest.mark.parametrize(
    ("told", "mounted", "usage"),
    [
        ("0::/jobs/slice\n", "jobs/slice", ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n")),
        ("3:memory:/x\n2:cpu,cpuacct:/jobs/slice\n0::/\n", "cpuacct/jobs/slice", ("cpuacct.usage", "2500000000\n")),
    ],
)
def test_both_versions_of_control_groups_are_read(
    tmp_path: Path, told: str, mounted: str, usage: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "groups").write_text(told)
    (tmp_path / mounted).mkdir(parents=True)
    if "cpuacct" not in mounted:
        (tmp_path / "cgroup.controllers").touch()
    make = Path.mkdir

    def made(path: Path, *arguments: object, **options: object) -> None:
        make(path, *arguments, **options)  # type: ignore[arg-type]
        (path / usage[0]).write_text(usage[1])

    monkeypatch.setattr(Path, "mkdir", made)
    with budget.group(str(tmp_path / "groups"), tmp_path) as group:
        assert group is not None
        assert group.folder == tmp_path / mounted / f"touchstone-{os.getpid()}"
        assert group.seconds() == 2.5
        group.enter()
        assert (group.folder / "cgroup.procs").read_text() == str(os.getpid())


def test_where_none_can_be_made_there_is_none(tmp_path: Path) -> None:
    with budget.group(str(tmp_path / "no-file"), tmp_path) as group:
        assert group is None
    (tmp_path / "groups").write_text("0::/\n")
    with budget.group(str(tmp_path / "groups"), tmp_path) as group:  # a tree that is no tree of control groups
        assert group is None


@pytest.mark.parametrize(("used", "kept"), [(2298.0, True), (2302.0, False)])
def test_the_budget_is_counted_in_imports(used: float, kept: bool) -> None:
    # An import takes twice as long as on the machine of 1,150, but for one that something else held up.
    said, held = budget.verdict("test", used, [3.4, 3.6, 3.6, 3.5, 9.9], 9.5)
    assert held is kept
    assert f"make test: {used:.0f} CPU s in 9.5 minutes" in said
    assert f"{used / 2:.0f} of 1150" in said
    assert ("error: " in said) is not kept


@pytest.mark.parametrize(
    ("code", "used", "ends"), [(0, 500.0, 0), (0, 1151.0, budget.OVER), (2, 1.0, 2), (2, 1200.0, 2)]
)
def test_it_ends_with_the_command_or_because_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, code: int, used: float, ends: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["budget.py", "test", "make", "checks"])
    monkeypatch.setattr(budget, "import_s", lambda: budget.IMPORT_S)
    monkeypatch.setattr(budget, "run", lambda command, _: (code if command == ["make", "checks"] else 9, used, []))
    with pytest.raises(SystemExit) as ended:
        budget.main()
    assert ended.value.code == ends
