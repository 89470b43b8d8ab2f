"""Tables of what is proven, one marked test a row: the fault matrix, and the promises beside it.

    @pytest.mark.fault(7, "SIGTERM to a PID 1 wrapper only", "all ranks end, exit 75")
    @pytest.mark.fault(16, "LATEST missing", "the scan finds the newest", deep=4)
    @pytest.mark.promise(1, "topologies agree", "losses to 1e-5 of one rank's")

The number, the fault or promise, what the test asserts. A row that cannot run here skips itself with the reason. A
row of `make test-all` alone is `deep` and names the row of `make test` that fails for the same kind of bug; no other
row may be left out of `make test`.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

FAULTS, PROMISES = range(1, 46), range(1, 30)
"""The rows of the two tables."""
WIDTHS = {"row": 3, "tier": 5, "what": 31, "asserted": 24, "outcome": 8, "s": 4}
"""Columns of the table; with a space between them, 80."""
NOT_DEEP = "not deep"
"""What `make test` selects."""
TESTS = Path(__file__).parents[1]


@dataclass(kw_only=True)
class Row:
    """One line of the table."""

    number: int
    what: str
    asserted: str
    guard: int | None = None
    """Of a deep row: the row of `make test` that fails for the same kind of bug."""
    outcome: str = "not run"
    reason: str = ""
    seconds: float = 0.0

    @staticmethod
    def of(item: pytest.Item, marker: str) -> "Row | None":
        """The row that a test is marked with, if it is."""
        mark = item.get_closest_marker(marker)
        if mark is None:
            return None
        number, what, asserted = mark.args
        return Row(number=number, what=what, asserted=asserted, guard=mark.kwargs.get("deep"))

    def add(self, report: pytest.TestReport) -> None:
        """Take in the set-up, the call or the tear-down of the test."""
        self.seconds += report.duration
        if report.failed:
            self.outcome = "FAILED" if report.when == "call" else "ERROR"
            self.reason = ""
        elif report.skipped:
            self.outcome = "skipped"
            self.reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            self.reason = self.reason.removeprefix("Skipped: ")
        elif report.when == "call" and self.outcome not in ("FAILED", "ERROR"):  # a row may have parameters
            self.outcome = "passed"


def check_complete(rows: Sequence[Row], numbers: Sequence[int], title: str) -> None:
    """Refuse a table that lost or doubled a row, or has a deep row without a guard.

    Raises:
        pytest.UsageError: it names the rows.
    """
    counts = Counter(row.number for row in rows)
    if missing := [number for number in numbers if not counts[number]]:
        raise pytest.UsageError(f"{title}: no test is marked with row {', '.join(map(str, missing))}")
    if wrong := sorted(number for number, count in counts.items() if count > 1 or number not in numbers):
        raise pytest.UsageError(f"{title}: row {', '.join(map(str, wrong))} is marked twice or is no row")
    first_tier = {row.number for row in rows if row.guard is None}
    for row in rows:
        if row.guard is not None and row.guard not in first_tier:
            raise pytest.UsageError(f"{title}: row {row.number} is deep, and its guard {row.guard} is no row of tier 1")


def covers(paths: Iterable[Path], files: Iterable[Path], marker: str = "fault") -> bool:
    """Whether what was collected holds every file with rows, so that a missing row is missing for good."""
    with_rows = {file for file in files if re.search(rf"mark\.{marker}\(", file.read_text())}
    return with_rows <= set(paths)


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as text, 80 columns wide; the reason of a skipped one stands below it."""
    lines = [line(WIDTHS), " ".join("-" * width for width in WIDTHS.values())]
    for row in sorted(rows, key=lambda row: row.number):
        tier = "1" if row.guard is None else f"2: {row.guard}"
        cells = [f"{row.number:>3}", tier, row.what, row.asserted, row.outcome, f"{row.seconds:4.1f}"]
        columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS.values(), strict=True)]
        columns[0] = cells[:1]
        columns[-1] = cells[-1:]
        height = max(map(len, columns))
        lines += [line(column[place] if place < len(column) else "" for column in columns) for place in range(height)]
        lines += textwrap.wrap(row.reason, 76, initial_indent="    ", subsequent_indent="    ")
    return lines


def line(cells: Iterable[str]) -> str:
    """One line of the table."""
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True)]
    return " ".join(padded).rstrip()


class Matrix:
    """The pytest plugin of one table; beside pytest-xdist's workers, which tell what they ran, it only prints."""

    def __init__(self, marker: str, title: str, numbers: Sequence[int]) -> None:
        """A table of the tests that are marked with `marker`; it has the rows `numbers`."""
        self.marker = marker
        self.title = title
        self.numbers = numbers
        self.rows: dict[int, Row] = {}
        self.places: dict[str, int] = {}
        """Rows by the name of their tests; several where a test has parameters."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Find the rows, and mark the deep ones, before anything is deselected."""
        tests: dict[str, Row] = {}
        for item in items:
            if row := Row.of(item, self.marker):
                tests.setdefault(item.nodeid.partition("[")[0], row)
                self.places[item.nodeid] = row.number
                if row.guard is not None:
                    item.add_marker(pytest.mark.deep)
        self.rows = {row.number: row for row in tests.values()}
        selected_by_name = any("::" in argument for argument in config.args)
        files = [file for file in TESTS.rglob("test_*.py") if file.name != "test_matrix.py"]
        if not selected_by_name and covers([item.path for item in items], files, self.marker):
            check_complete(list(tests.values()), self.numbers, self.title)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in an outcome."""
        if report.nodeid in self.places:
            self.rows[self.places[report.nodeid]].add(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the process that prints, where this is one of several."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[self.title] = [asdict(row) for row in self.rows.values()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what one of several processes tells."""
        for fields in getattr(node, "workeroutput", {}).get(self.title, ()):
            row = Row(**fields)
            if row.outcome != "not run" or row.number not in self.rows:
                self.rows[row.number] = row

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Print the table of the rows that ran; in `make test`, of all."""
        ran = [row for row in self.rows.values() if row.outcome != "not run"]
        if not ran:
            return
        deep = [row for row in self.rows.values() if row.guard is not None and row.outcome == "not run"]
        deep = deep if config.option.markexpr == NOT_DEEP else []
        for row in deep:
            row.outcome = "deep, see test-all"
        terminalreporter.section(self.title)
        for text in table([*ran, *deep]):
            terminalreporter.write_line(text)
        counts = Counter(row.outcome for row in ran)
        summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        total = sum(row.seconds for row in ran)
        left = f"; {len(deep)} are deep, see make test-all" if deep else ""
        terminalreporter.write_line(f"{len(ran)} of {len(self.numbers)} rows: {summary}; {total:.0f} s{left}")
