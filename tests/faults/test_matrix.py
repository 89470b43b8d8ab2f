"""The matrix itself: it is whole, and its table can be read."""

from pathlib import Path

import pytest

from tests.faults.matrix import FAULTS as ROWS
from tests.faults.matrix import Row, check_complete, covers, table

HERE = Path(__file__).parent


def rows(*numbers: int) -> list[Row]:
    return [Row(number=number, what="a fault", asserted="what holds") for number in numbers]


def test_a_lost_row_is_named() -> None:
    check_complete(rows(*ROWS), ROWS, "faults")
    with pytest.raises(pytest.UsageError, match="row 7, 45$"):
        check_complete(rows(*(number for number in ROWS if number not in (7, 45))), ROWS, "faults")
    with pytest.raises(pytest.UsageError, match="row 3, 46 is marked twice or is no row"):
        check_complete(rows(*ROWS, 3, 46), ROWS, "faults")


def test_a_deep_row_has_a_guard_in_the_first_tier() -> None:
    guarded = Row(number=3, what="a fault", asserted="what holds", guard=2)
    check_complete([*rows(1, 2), guarded], range(1, 4), "faults")
    for guard in (3, 4):
        guarded.guard = guard
        with pytest.raises(pytest.UsageError, match=f"row 3 is deep, and its guard {guard} is no row of tier 1"):
            check_complete([*rows(1, 2), guarded], range(1, 4), "faults")


def test_a_part_of_the_files_need_not_have_all_rows() -> None:
    files = sorted(HERE.glob("test_*.py"))
    assert covers(files, files)
    assert covers([file for file in files if file.name != "test_soak.py"], files), "a file without rows may be left out"
    assert not covers([HERE / "test_kills.py"], files)


def test_the_table_fits_80_columns(tmp_path: Path) -> None:
    row = Row(
        number=12, guard=3, what="a fault " * 9, asserted="something " * 6, outcome="skipped", reason="because " * 30
    )
    lines = table([row, *rows(3)])
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("  3 1     a fault")
    assert lines[3].startswith(" 12 2: 3  a fault")
    assert " ".join(" ".join(lines).split()).count("because") == 30
