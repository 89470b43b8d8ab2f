"""Folders of clips: what is wrong is told each time, what changes is read anew, one clip is held at a time."""

import shutil
import sys
import tracemalloc
from dataclasses import replace
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


LABELS: dict[str, tuple[bytes, str]] = {
    "another encoding": (
        "file,text\n0.npz,gr\u00fc\u00dfe\n".encode("latin-1"),
        r"is no UTF-8 text \(.*save it as UTF-8",
    ),
    "a quote that is not closed": (b'file,text\n0.npz,"walks\n1.npz,runs\n', "is no table .*close its quotes"),
    "semicolons": (b"file;text\n0.npz;walks\n", "has the columns file;text, and needs one called file, separated by"),
    "no column file": (b"name,text\n0.npz,walks\n", "has the columns name, text, and needs one called file"),
    "a column twice": (b"file,text,text\n0.npz,walks,runs\n", "has two columns text: rename or delete one"),
}


@pytest.mark.parametrize("what", LABELS)
def test_labels_that_are_no_table_are_refused(sticks: Path, what: str) -> None:
    content, said = LABELS[what]
    (sticks / "labels.csv").write_bytes(content)
    with pytest.raises(CorruptData, match=rf"labels\.csv {said}"):
        opened(sticks)


def test_labels_of_files_that_are_not_there_are_named(sticks: Path) -> None:
    rows = ["0.npz, walks slowly,walking", "1.npz,,waving", "ghost.npz,runs,running", "2.npz," + "x" * 200_000 + ",a"]
    (sticks / "labels.csv").write_text("\n".join(["file, text,action", *rows]))
    reader = opened(sticks)
    ghosts, silent = [remark for remark in reader.layout.remarks if remark.startswith("labels.csv")]
    assert ghosts.startswith("labels.csv has rows of files that are not there (ghost.npz): write their places below")
    assert silent == "labels.csv has no text of 1 of 3 files: the action is their caption"
    texts = [episode.instructions.different[0] for episode in reader.episodes]
    assert texts == ["walks slowly", "waving", "x" * 200_000]


def test_a_further_caption_takes_nothing_from_what_is_known(sticks: Path) -> None:
    """An empty cell of a second row emptied the action of the first; one that contradicts is said."""
    rows = ["0.npz,walks,walking ,7", "0.npz,strolls,,", "1.npz,waves,waving,8", "1.npz,nods,nodding,8", "2.npz,runs,,"]
    (sticks / "labels.csv").write_text("\n".join(["file,text,action,subject", *rows]))
    reader = opened(sticks)
    told = [(dict(episode.facts)["action"], dict(episode.facts)["subject"]) for episode in reader.episodes]
    assert told == [("walking", "7"), ("nodding", "8"), ("", "")]
    assert reader.episodes[0].instructions.different == ("walks", "strolls")
    (said,) = [remark for remark in reader.layout.remarks if remark.startswith("labels.csv")]
    assert said == (
        "labels.csv says more than one action of 1 files, such as of 1.npz: waving, nodding: the last of them counts"
    )


def test_a_clip_that_does_not_say_its_rate_is_asked_for_it(sticks: Path) -> None:
    """It was no clip at all, and nobody said so."""
    with np.load(sticks / "1.npz") as content:
        without = {key: content[key] for key in content.files if key != "fps"}
    np.savez(sticks / "1.npz", **without)
    with pytest.raises(ValueError, match=r"1\.npz has no `fps`.*give --data\.motion\.source-rate-hz"):
        opened(sticks)
    lengths = [len(episode.timestamps) for episode in opened(sticks, source_rate_hz=10.0).episodes]
    assert lengths == [7, 13, 7], "of the file alone that does not say it"


def test_an_axis_that_is_none_is_refused(sticks: Path) -> None:
    with np.load(sticks / "1.npz") as content:
        np.savez(sticks / "1.npz", **({key: content[key] for key in content.files} | {"up": np.array("w")}))
    with pytest.raises(ValueError, match="`up` is w, which is no axis: write x, y or z, or leave it out"):
        opened(sticks)


@pytest.mark.parametrize("episode", [-1, 3])
def test_clips_are_counted_from_0(sticks: Path, episode: int) -> None:
    with pytest.raises(ValueError, match=rf"has no clip {episode}; it has 0 to 2"):
        open_motion(sticks, Selection(episodes=(episode,)))


def test_a_body_of_another_axis_or_size_is_told(tmp_path: Path, repository: Path) -> None:
    """Of the clips that ship nothing is: flips, cartwheels and jumps are no reason."""
    odd = ("legs are", "hips are hardly")
    for folder in ("cmu/train", "cmu/test", "amp"):
        remarks = opened(repository / "examples/motion" / folder).layout.remarks
        assert not [remark for remark in remarks if any(words in remark for words in odd)]
    still = some_motion(body_of_sticks(), frames=20)
    upright = np.zeros_like(still.turns)
    upright[..., 3] = 1.0
    standing = replace(still, turns=upright)
    for name, legs, up in (("fine", 1.0, "y"), ("inches", 1 / 0.0254, "y"), ("askew", 1.0, "z")):
        (tmp_path / name).mkdir()
        body = replace(standing, skeleton=replace(standing.skeleton, offsets=legs * standing.skeleton.offsets))
        write_npz(tmp_path / name / "a.npz", body, 20.0)
        with np.load(tmp_path / name / "a.npz") as content:
            arrays = {key: content[key] for key in content.files}
        np.savez(tmp_path / name / "a.npz", **(arrays | {"up": np.array(up)}))
        told = [words for words in odd for remark in opened(tmp_path / name).layout.remarks if words in remark]
        assert told == {"fine": [], "inches": ["legs are"], "askew": ["hips are hardly"]}[name]
