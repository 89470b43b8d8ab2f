"""Folders of clips: what is wrong is told each time, what changes is read anew, one clip is held at a time."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.vla.data.motion.clips import body_of_sticks, some_motion
from vla.data.formats.motion.reader import MotionReader, open_motion
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion_settings import MotionConfig


def opened(root: Path, report: Any = None, **asked: Any) -> MotionReader:
    selection = Selection(motion=MotionConfig(**asked))
    return open_motion(root, selection) if report is None else open_motion(root, selection, report)


@pytest.fixture
def sticks(tmp_path: Path) -> Path:
    folder = tmp_path / "sticks"
    folder.mkdir()
    for number in range(3):
        write_npz(folder / f"{number}.npz", some_motion(body_of_sticks(), seed=number), 20.0)
    return folder


@pytest.mark.parametrize("cut", [100, 3000])
def test_a_damaged_clip_is_told_each_time(sticks: Path, cut: int) -> None:
    """Also when what was read is in the cache: it would be left out in silence from the second time on."""
    whole = (sticks / "1.npz").read_bytes()
    (sticks / "1.npz").write_bytes(whole[:cut] + whole[-600:] if cut > 1000 else whole[:cut])
    for _ in range(2):
        with pytest.raises(CorruptData, match=r"1\.npz cannot be read"):
            opened(sticks)
        problems: list[ValueError] = []
        assert len(opened(sticks, problems.append).episodes) == 2
        assert [type(problem) for problem in problems] == [CorruptData]


def held(root: Path) -> int:
    """The most bytes that opening a folder holds at once, above what was held before."""
    tracemalloc.start()
    try:
        opened(root, unit="cm")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["npz"])
def test_one_clip_is_held_at_a_time(tmp_path: Path, ending: str) -> None:
    """Six clips need no more than the largest, and half of it."""
    folder, alone = tmp_path / "six", tmp_path / "one"
    for place in (folder, alone):
        place.mkdir()
    body = some_motion(body_of_sticks(), frames=500)
    for number in range(6):
        path = folder / f"{number}.{ending}"
        write_npz(path, body, 20.0)
    shutil.copy(folder / f"0.{ending}", alone)
    held(alone)  # what is imported on the way
    shutil.copy(folder / f"0.{ending}", alone / f"1.{ending}")
    (alone / f"0.{ending}").unlink()
    largest = held(alone)
    assert largest > body.turns.nbytes
    assert held(folder) <= 1.5 * largest
