"""Folders of clips: what is wrong is told each time, what changes is read anew, one clip is held at a time."""

import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vla.data.motion import test_amc
from tests.vla.data.motion.clips import body_of_sticks, some_motion
from vla.data.formats.motion.bvh import write_bvh
from vla.data.formats.motion.files import KINDS
from vla.data.formats.motion.reader import MotionReader, open_motion
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.errors import CorruptData, MissingPackage
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


def test_what_no_file_says_is_told_each_time(sticks: Path) -> None:
    write_bvh(sticks / "3.bvh", some_motion(body_of_sticks()), 20.0)
    for _ in range(2):
        problems: list[ValueError] = []
        assert len(opened(sticks, problems.append).episodes) == 3
        assert not isinstance(problems[0], CorruptData)
        assert "--data.motion.unit" in str(problems[0])
    assert len(opened(sticks, unit="cm").episodes) == 4


def test_a_package_that_lacks_says_nothing_of_the_data(sticks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no problem of a clip, and is not remembered once the package is installed."""
    from tests.vla.data.motion.test_markers import written

    shutil.rmtree(sticks)
    sticks.mkdir()
    written(sticks)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "c3d", None)
        with pytest.raises(MissingPackage):
            opened(sticks, lambda _: None)
    assert len(opened(sticks).episodes) == 1


def test_another_skeleton_beside_a_motion_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "acclaim"
    folder.mkdir()
    test_amc.written(folder)
    asked: dict[str, Any] = {**test_amc.ASKED, "joints": ("all",)}
    before = opened(folder, **asked).episodes[0].state
    test_amc.written(folder, skeleton=test_amc.SKELETON.replace("length 1.8", "length 3.6"))
    after = opened(folder, **asked).episodes[0].state
    assert before is not None
    assert after is not None
    assert np.abs(after.values - before.values).max() == pytest.approx(4 * 0.0254, abs=1e-6)


def test_a_folder_of_several_formats_is_one_body(sticks: Path) -> None:
    write_bvh(sticks / "4.bvh", some_motion(body_of_sticks(), seed=1), 20.0)
    reader = opened(sticks, unit="cm")
    assert reader.layout.format == "human motion (BVH, skeleton npz)"
    np.testing.assert_allclose(reader.episodes[3].actions.values, reader.episodes[1].actions.values, atol=1e-4)


def held(root: Path) -> int:
    """The most bytes that opening a folder holds at once, above what was held before."""
    tracemalloc.start()
    try:
        opened(root, unit="cm")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["npz", "bvh"])
def test_one_clip_is_held_at_a_time(tmp_path: Path, ending: str) -> None:
    """Six clips need no more than the largest, and half of it."""
    folder, alone = tmp_path / "six", tmp_path / "one"
    for place in (folder, alone):
        place.mkdir()
    body = some_motion(body_of_sticks(), frames=500)
    for number in range(6):
        path = folder / f"{number}.{ending}"
        write_npz(path, body, 20.0) if ending == "npz" else write_bvh(path, body, 20.0)
    shutil.copy(folder / f"0.{ending}", alone)
    held(alone)  # what is imported on the way
    shutil.copy(folder / f"0.{ending}", alone / f"1.{ending}")
    (alone / f"0.{ending}").unlink()
    largest = held(alone)
    assert largest > body.turns.nbytes
    assert held(folder) <= 1.5 * largest


def test_every_kind_says_what_it_holds() -> None:
    assert len({kind.words for kind in KINDS.values()}) == len(KINDS)
