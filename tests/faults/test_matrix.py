"""The matrix itself: it is whole, and its table can be read."""

from pathlib import Path

import pytest

from tests.faults.matrix import HERE, ROWS, Row, check_complete, covers, table


def rows(*numbers: int) -> list[Row]:
    return [Row(number=number, fault="a fault", asserted="what holds") for number in numbers]


def test_a_lost_row_is_named() -> None:
    check_complete(rows(*ROWS))
    with pytest.raises(pytest.UsageError, match="row 7, 45$"):
        check_complete(rows(*(number for number in ROWS if number not in (7, 45))))
    with pytest.raises(pytest.UsageError, match="row 3, 46 is marked twice or is no row"):
        check_complete(rows(*ROWS, 3, 46))


def test_a_part_of_the_files_need_not_have_all_rows() -> None:
    files = sorted(HERE.glob("test_*.py"))
    assert covers(files, files)
    assert covers([file for file in files if file.name != "test_soak.py"], files), "a file without rows may be left out"
    assert not covers([HERE / "test_kills.py"], files)


def test_the_table_fits_80_columns(tmp_path: Path) -> None:
    row = Row(number=12, fault="a fault " * 9, asserted="something " * 6, outcome="skipped", reason="because " * 30)
    lines = table([row, *rows(3)])
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("  3 a fault")
    assert lines[3].startswith(" 12 a fault")
    assert " ".join(" ".join(lines).split()).count("because") == 30
