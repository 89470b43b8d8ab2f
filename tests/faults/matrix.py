"""The fault matrix: one marked test a row, and the table of their outcomes.

    @pytest.mark.fault(7, "SIGTERM to a PID 1 wrapper only", "all ranks end, exit 75")

The number, the fault, what the test asserts. A row that cannot run here skips itself with the reason.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROWS = range(1, 46)
WIDTHS = {"row": 3, "fault": 33, "asserted": 29, "outcome": 7, "s": 4}
"""Columns of the table; with a space between them, 80."""
HERE = Path(__file__).parent


@dataclass(kw_only=True)
class Row:
    """One line of the table."""

    number: int
    fault: str
    asserted: str
    outcome: str = "not run"
    reason: str = ""
    seconds: float = 0.0

    @staticmethod
    def of(item: pytest.Item) -> "Row | None":
        """The row that a test is marked with, if it is."""
        mark = item.get_closest_marker("fault")
        if mark is None:
            return None
        number, fault, asserted = mark.args
        return Row(number=number, fault=fault, asserted=asserted)

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
        elif report.when == "call":
            self.outcome = "passed"


def check_complete(rows: Sequence[Row]) -> None:
    """Refuse a matrix that lost or doubled a row.

    Raises:
        pytest.UsageError: it names the rows.
    """
    counts = Counter(row.number for row in rows)
    if missing := [number for number in ROWS if not counts[number]]:
        raise pytest.UsageError(f"fault matrix: no test is marked with row {', '.join(map(str, missing))}")
    if wrong := sorted(number for number, count in counts.items() if count > 1 or number not in ROWS):
        raise pytest.UsageError(f"fault matrix: row {', '.join(map(str, wrong))} is marked twice or is no row")


def covers(paths: Iterable[Path], files: Iterable[Path]) -> bool:
    """Whether what was collected holds every file with rows, so that a missing row is missing for good."""
    with_rows = {file for file in files if "mark.fault(" in file.read_text()}
    return with_rows <= set(paths)


def table(rows: Iterable[Row]) -> list[str]:
    """The rows as text, 80 columns wide; the reason of a skipped one stands below it."""
    lines = [line(WIDTHS), " ".join("-" * width for width in WIDTHS.values())]
    for row in sorted(rows, key=lambda row: row.number):
        cells = [f"{row.number:>3}", row.fault, row.asserted, row.outcome, f"{row.seconds:4.1f}"]
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
    """The pytest plugin."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Find the rows before anything is deselected."""
        self.rows = {item.nodeid: row for item in items if (row := Row.of(item))}
        selected_by_name = any("::" in argument for argument in config.args)
        if not selected_by_name and covers([item.path for item in items], HERE.glob("test_*.py")):
            check_complete(list(self.rows.values()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in an outcome."""
        if row := self.rows.get(report.nodeid):
            row.add(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of the rows that ran."""
        ran = [row for row in self.rows.values() if row.outcome != "not run"]
        if not ran:
            return
        terminalreporter.section("fault matrix")
        for text in table(ran):
            terminalreporter.write_line(text)
        counts = Counter(row.outcome for row in ran)
        total = sum(row.seconds for row in ran)
        summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"{len(ran)} of {len(ROWS)} rows: {summary}; {total:.0f} s")
