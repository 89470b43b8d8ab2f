"""Lines of JSON: whole ones are read and kept, torn ones are neither."""

import errno
import json
import resource
from pathlib import Path

import pytest

from vla.errors import CorruptData
from vla.lines import append, last_line, read_lines

WHOLE = '{"step": 1}\n{"step": 2}\n'


def test_what_is_being_written_is_left_out_and_then_written_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(read_lines(path)) == []
    assert last_line(path) is None
    path.write_text(WHOLE + '{"ste')
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    assert last_line(path) == {"step": 2}
    append(path, '{"step": 3}\n')
    assert path.read_text() == WHOLE + '{"step": 3}\n'
    path.write_text('{"ste')
    assert list(read_lines(path)) == []
    append(path, WHOLE)
    assert path.read_text() == WHOLE


def test_the_end_of_a_finished_file_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(WHOLE + '\n{"step": 3}')
    assert [line["step"] for line in read_lines(path, finished=True)] == [1, 2, 3]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    path, text = tmp_path / "tasks.jsonl", "put it\u2028into\x85the box"
    path.write_text(json.dumps({"task": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_lines(path)) == [{"task": text}]


@pytest.mark.parametrize("damaged", ["{", "[1]", '"step"'])
def test_a_damaged_line_is_named(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{damaged}\n')
    with pytest.raises(CorruptData, match=r"metrics\.jsonl is damaged: line 2 "):
        list(read_lines(path))


def test_a_full_volume_leaves_nothing_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(WHOLE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(WHOLE) + 5, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"Errno {errno.EFBIG}"):
            append(path, '{"step": 3}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == WHOLE
