"""Clips out again: BVH within its digits, npz to the last bit, `vla export`, and nothing half-written."""

import csv
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from tests.vla.data.motion import test_amc, test_bvh, test_markers
from tests.vla.data.motion.clips import angle_deg, body_of_sticks, by_name, files_of, read, some_motion, tree
from vla.__main__ import main
from vla.commands.export import Export
from vla.data.formats.motion.bvh import write_bvh
from vla.data.formats.motion.exporting import WRITERS
from vla.data.formats.motion.reader import open_motion
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.motion.clip import Clip, Points, Poses
from vla.motion_settings import MotionConfig

FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cmu_walks": (".npz", {}),
    "amp_cmu_motions": (".npz", {}),
    "deepmimic_motions": (".txt", {}),
    "cmu_actions": (".npz", {"up": "y"}),  # its joints have no names
}


def check_bvh(clip: Clip, folder: Path, asked: dict[str, Any]) -> None:
    assert isinstance(clip.body, Poses)
    path = folder / "clip.bvh"
    write_bvh(path, clip.body, clip.rate_hz)
    back = read(path, unit="cm", **asked)
    assert isinstance(back.body, Poses)
    assert back.rate_hz == pytest.approx(clip.rate_hz, rel=1e-9)
    assert np.radians(angle_deg(clip.body, back.body)) <= 1e-5
    own = by_name(back.body)
    assert max(np.abs(own[name] - places).max() for name, places in by_name(clip.body).items()) <= 1e-4


def check_npz(clip: Clip, folder: Path) -> None:
    assert isinstance(clip.body, Poses)
    path = folder / "clip.npz"
    write_npz(path, clip.body, clip.rate_hz, **clip.facts)
    back = read(path, up="y")
    assert isinstance(back.body, Poses)
    assert (back.rate_hz, back.facts) == (clip.rate_hz, clip.facts)
    assert back.body.skeleton == clip.body.skeleton
    assert back.body.root.tobytes() == clip.body.root.tobytes()
    assert back.body.turns.tobytes() == clip.body.turns.tobytes()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_real_clip_comes_back(shared: Path, tmp_path: Path, folder: str) -> None:
    ending, asked = FOLDERS[folder]
    clip = read(files_of(shared, folder, ending)[-1], **asked)
    check_bvh(clip, tmp_path, asked)
    check_npz(clip, tmp_path)


@pytest.mark.deep
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_real_clip_comes_back(shared: Path, tmp_path: Path, folder: str) -> None:
    ending, asked = FOLDERS[folder]
    for file in files_of(shared, folder, ending):
        clip = read(file, **asked)
        check_bvh(clip, tmp_path, asked)
        check_npz(clip, tmp_path)


def test_npz_keeps_what_was_not_measured(tmp_path: Path) -> None:
    body = some_motion(body_of_sticks())
    body.turns[3, 2] = np.nan
    write_npz(tmp_path / "clip.npz", body, 29.97)
    back = read(tmp_path / "clip.npz")
    assert back.valid is not None
    assert back.valid.tolist() == [frame != 3 for frame in range(7)]


# The command.


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of three formats, with labels."""
    folder = tmp_path / "mixed"
    (folder / "below").mkdir(parents=True)
    test_bvh.written(folder, test_bvh.PLAIN.replace("Left Arm", "LeftArm"))
    test_amc.written(folder / "below")
    body = some_motion(body_of_sticks())
    body.root[1] = np.nan
    write_npz(folder / "sticks.npz", body, 50.0, action="nothing", takes=3)
    (folder / "labels.csv").write_text("file,text,subject\nclip.bvh,a person waves,Ann\nsticks.npz,sticks,\n")
    return folder


SAID = ["--data.motion.unit", "cm", "--data.motion.source-rate-hz", "120", "--data.motion.up", "y"]


def test_a_folder_becomes_a_folder_of_bvh(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(mixed), str(out), *SAID]) == 0
    told = capsys.readouterr()
    assert told.out == f"3 clips in {out}\n"
    assert f"{mixed}: BVH says no units and axes: it takes --data.motion.unit cm --data.motion.up y" in told.err
    assert "lengths are inches times 0.45, as CMU's are (1 clips)" in told.err
    assert "frames that were not measured repeat the nearest one (1 clips)" in told.err
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["below/07_01.bvh", "clip.bvh", "labels.csv", "sticks.bvh"]
    with (out / "labels.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows["clip.bvh"] == {
        "file": "clip.bvh",
        "text": "a person waves",
        "subject": "Ann",
        "action": "",
        "takes": "",
    }
    assert (rows["sticks.bvh"]["text"], rows["sticks.bvh"]["takes"]) == ("sticks", "3")
    before, after = read(mixed / "below/07_01.amc", **test_amc.ASKED), read(out / "below/07_01.bvh", unit="cm", up="y")
    assert isinstance(before.body, Poses)
    assert isinstance(after.body, Poses)
    assert np.radians(angle_deg(before.body, after.body)) < 1e-6
    assert read(out / "sticks.bvh", unit="cm").valid.all()


def test_npz_come_out_as_they_went_in(mixed: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["export", str(mixed / "sticks.npz"), str(first), "--format", "npz"]) == 0
    assert main(["export", str(first), str(second), "--format", "npz"]) == 0
    one, other = read(mixed / "sticks.npz"), read(second / "sticks.npz")
    assert isinstance(one.body, Poses)
    assert isinstance(other.body, Poses)
    np.testing.assert_array_equal(one.body.turns, other.body.turns)
    np.testing.assert_array_equal(one.valid, other.valid)
    assert one.facts == other.facts == {"action": "nothing", "takes": 3}


def test_what_is_exported_is_read_as_data(shared: Path, tmp_path: Path) -> None:
    """Captions and numbers of an episode are those of the source."""
    source = tmp_path / "source"
    source.mkdir()
    for file in files_of(shared, "cmu_walks", ".npz")[:2]:
        (source / file.name).write_bytes(file.read_bytes())
    (source / "labels.csv").write_bytes((shared / "data/cmu_walks/labels.csv").read_bytes())
    assert main(["export", str(source), str(tmp_path / "out")]) == 0
    first = open_motion(source)
    second = open_motion(tmp_path / "out", Selection(motion=MotionConfig(unit="cm")))
    for one, other in zip(first.episodes, second.episodes, strict=True):
        assert one.instructions.at(np.arange(3)).different == other.instructions.at(np.arange(3)).different != ("",)
        np.testing.assert_allclose(one.actions.values, other.actions.values, atol=1e-4)


def test_markers_come_out_as_places_of_npz(tmp_path: Path) -> None:
    source = test_markers.written(tmp_path, missing=[(1, 0)])
    assert main(["export", str(source), str(tmp_path / "out"), "--format", "npz"]) == 0
    one, other = read(source), read(tmp_path / "out" / "trial.npz")
    assert isinstance(one.body, Points)
    assert isinstance(other.body, Points)
    assert one.body.names == other.body.names
    assert one.valid is not None
    np.testing.assert_array_equal(one.body.values[one.valid], other.body.values[one.valid])


def test_nothing_is_half_written(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_markers.written(mixed / "below")
    out = tmp_path / "new" / "out"
    assert main(["export", str(mixed), str(out), *SAID]) == 78
    assert f"{mixed}/below/trial.c3d cannot be written as bvh: it has no skeleton" in capsys.readouterr().err
    assert [*out.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mixed"], "--data.motion.source-rate-hz 120"),
        (["mixed/below", "--data.motion.source-rate-hz", "-1"], "give a positive number"),
        (["mixed/labels.csv"], "no clip of human motion"),
        (["nowhere"], "no clip of human motion"),
        (["mixed", "--format", "fbx"], "bvh"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["export", str(mixed.parent / words[0]), str(tmp_path / "out"), *words[1:]]) == 78
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    assert main(["export", str(mixed), str(tmp_path / "out"), *SAID]) == 78
    assert "exists; give a folder that does not" in capsys.readouterr().err
    assert [*(tmp_path / "out").iterdir()] == []


def test_clips_of_one_name_are_refused(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(mixed / "clip.npz", some_motion(tree(["a", "b"], [-1, 0], [[0, 0, 0], [0, 1, 0]])), 30.0)
    assert main(["export", str(mixed), str(tmp_path / "out"), *SAID]) == 78
    assert "clip.npz has the name of another clip" in capsys.readouterr().err


def test_without_pybvh_the_sentence_has_the_command(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pybvh", None)
    assert main(["export", str(mixed), str(tmp_path / "out"), *SAID]) == 78
    assert "pip install 'touchstone-vla[motion]'" in capsys.readouterr().err


def test_the_command_offers_what_can_be_written() -> None:
    assert set(get_args(get_type_hints(Export)["format"])) == set(WRITERS)
