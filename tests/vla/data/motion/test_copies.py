"""`vla import motion`: what a LeRobot data set of each kind of clips keeps, and what it says that it does not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests.vla.data.motion import test_amc, test_clip_list, test_gait_npz, test_humanml, test_opensim
from tests.vla.data.motion.clips import body_of_sticks, some_motion
from vla.__main__ import main
from vla.data.dataset import open_dataset
from vla.data.episode import Episode
from vla.data.formats import open_folder
from vla.data.formats.motion.bvh import write_bvh
from vla.data.formats.motion.files import KINDS, find_files
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion.clip import Points
from vla.motion_settings import MotionConfig, MotionFiles
from vla.settings import DataConfig

Made = Callable[[Path, Path], None]


def gait(_: Path, root: Path) -> None:
    for place in range(2):
        test_gait_npz.stored(root, test_gait_npz.trial_of(seed=place)[0], f"S00{place}/crouch/trial.npz")


def figures(_: Path, root: Path) -> None:
    test_clip_list.saved(root / "a.pt", [test_clip_list.sample(seed=1, actors=2), test_clip_list.sample(seed=2)])


def described(shared: Path, root: Path) -> None:
    places = test_humanml.real_walk(shared)
    test_humanml.written(root, places, test_humanml.LINES)
    test_humanml.written(root, places, test_humanml.LINES, vectors=True, name="000002")


def trials(shared: Path, root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("walking1_ik", "walking1_grf", "walking2_ik", "walking2_grf"):
        (root / f"{name}.mot").write_bytes((shared / f"data/nimble_gait/Subject4/{name}.mot").read_bytes())
    (root / "labels.csv").write_text("file,text,style\nwalking1_ik.mot,walks,normal\nwalking2_ik.mot,walks on,normal\n")


def markers(shared: Path, root: Path) -> None:
    root.mkdir(parents=True)
    test_opensim.trc(root / "a.trc", test_opensim.standing(60), test_opensim.MARKERS)
    test_opensim.trc(root / "b.trc", test_opensim.standing(50), test_opensim.MARKERS)


def skeletons(shared: Path, root: Path) -> None:
    root.mkdir(parents=True)
    for name in ("02_01.npz", "05_01.npz"):
        (root / name).write_bytes((shared / "data/cmu_walks" / name).read_bytes())


MADE: dict[str, tuple[Made, str, list[str]]] = {
    "gait npz": (gait, "coordinates", ["the names of the clips", "condition, height_m, subject, weight_kg"]),
    "clip list": (figures, "plane", ["enhanced_meta, meta, source"]),
    "humanml3d": (described, "positions", ["the names of the clips"]),
    "opensim": (trials, "coordinates", ["what is said of whole clips (style)"]),
    "markers": (markers, "positions", ["the names of the clips"]),
    "skeleton npz": (skeletons, "rotations", ["the names of the clips"]),
}


def acclaims(_: Path, root: Path) -> None:
    root.mkdir(parents=True)
    test_amc.written(root)


def others(shared: Path, root: Path) -> None:
    """Of the kinds that need no further word in a copy."""
    skeletons(shared, root)
    write_bvh(root / "a.bvh", some_motion(body_of_sticks()), 20.0)
    write_npz(root / "b.npz", Points(names=("a", "b"), parents=(-1, 0), values=np.zeros((5, 2, 3))), 20.0)
    shutil.copy(shared / "data/deepmimic_motions/humanoid3d_walk.txt", root)


class Watched(MotionConfig):
    """Settings that note which of their fields are asked for."""

    asked: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Watched.asked.add(name)
        return super().__getattribute__(name)


def test_the_table_of_kinds_says_which_settings_each_reads(shared: Path, tmp_path: Path) -> None:
    """So that the others can be told to change nothing: of each kind that the tests have a file of."""
    names = {field.name for field in fields(MotionFiles)}
    found: dict[str, set[str]] = {}
    for place, make in enumerate([gait, figures, described, trials, markers, acclaims, others]):
        root = tmp_path / str(place)
        make(shared, root)
        for file, kind in find_files(root).items():
            given = Watched(up="y", unit="m", angles="deg", source_rate_hz=30.0)
            Watched.asked.clear()
            list(KINDS[kind].read(file, given))
            found.setdefault(kind, set()).update(Watched.asked & names)
    found["skeleton npz"] &= {"up"}  # copies all of them, with the axis that the file says
    said = {"trc": {"unit"}, "OpenSim": {"angles"}, "AMC": {"unit", "angles"}}
    said |= {kind: {"source_rate_hz"} for kind in ("skeleton npz", "points npz")}
    for kind, own in said.items():
        found[kind] |= own  # by these files themselves
    assert found == {kind: set(KINDS[kind].unsaid) for kind in found}
    assert set(KINDS) - set(found) == {"c3d", "poselib"}


def test_a_setting_that_changes_nothing_is_told(shared: Path, tmp_path: Path) -> None:
    figures(shared, tmp_path / "a")
    given = Selection(motion=MotionConfig(up="z", unit="cm"))
    told = [remark for remark in open_folder(tmp_path / "a", given).layout.remarks if "changes nothing" in remark]
    assert [remark.partition(" changes")[0] for remark in told] == ["--data.motion.up z", "--data.motion.unit cm"]
    assert all(remark.endswith("of clip list files, which leave nothing of it open") for remark in told)
    skeletons(shared, tmp_path / "b")
    said = open_folder(tmp_path / "b", Selection(motion=MotionConfig(up="y"))).layout.remarks
    assert not any("changes nothing" in remark for remark in said)


def opened(root: Path) -> list[Episode]:
    return list(open_folder(root, Selection(missing_cameras="mask")).episodes)


def texts(episode: Episode) -> list[str]:
    return [episode.instructions[frame] for frame in range(len(episode.instructions))]


@pytest.mark.parametrize("kind", MADE)
def test_a_copy_trains_as_what_it_was_copied_from(
    shared: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, texts, skeletons, columns, body, contract and statistics; what is lost is said."""
    make, body, lost = MADE[kind]
    root, copy = tmp_path / "clips", tmp_path / "copy"
    make(shared, root)
    monkeypatch.setattr("sys.argv", ["vla", "import", "motion", str(root), str(copy)])
    assert main() == 0
    said = capsys.readouterr().err
    for words in lost:
        assert words in said
    before, after = opened(root), opened(copy)
    assert len(before) == len(after) > 1
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.actions.values, other.actions.values)
        assert texts(one) == texts(other)
        if one.state is not None and other.state is not None:
            np.testing.assert_array_equal(one.state.values, other.state.values)
    keys = tuple(before[0].columns)
    carried = open_folder(copy, Selection(columns=keys)).episodes
    for one, other in zip(before, carried, strict=True):
        for key in keys:
            np.testing.assert_array_equal(one.columns[key], other.columns[key], err_msg=key)
    assert open_folder(copy).layout.body == open_folder(root).layout.body
    assert open_folder(copy).layout.body is not None

    def config(folder: Path) -> DataConfig:
        withhold = ("instruction",) if kind in ("gait npz", "markers", "skeleton npz") else ()
        return DataConfig(roots=(str(folder),), workers=0, withhold=withhold)

    first, second = (open_dataset(config(folder), seed=0) for folder in (root, copy))
    assert first.contract == second.contract
    assert first.contract.body is not None and first.contract.body.kind == body
    assert first.statistics.keys() == second.statistics.keys()
    for name, own in first.statistics.items():
        for field in fields(own):
            ours, theirs = getattr(own, field.name), getattr(second.statistics[name], field.name)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name} {field.name}")
    for index in (0, len(first.everything) - 1):
        ours, theirs = first.everything[index], second.everything[index]
        assert ours.instruction == theirs.instruction
        assert torch.equal(torch.as_tensor(ours.actions), torch.as_tensor(theirs.actions))
    stats = json.loads((copy / "meta/stats.json").read_text())
    assert all(np.isfinite(np.array(own["mean"])).all() for own in stats.values()), "a gap has no statistics"


def test_a_copy_of_a_copy_keeps_the_body(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures(shared, tmp_path / "clips")
    for kind, source, target in (("motion", "clips", "one"), ("lerobot", "one", "two")):
        monkeypatch.setattr("sys.argv", ["vla", "import", kind, str(tmp_path / source), str(tmp_path / target)])
        assert main() == 0
    layout = open_folder(tmp_path / "two").layout
    assert layout.body == open_folder(tmp_path / "clips").layout.body


def test_a_part_of_a_body_is_none(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where dimensions are chosen, and where the actions are called otherwise, which is said."""
    figures(shared, tmp_path / "clips")
    monkeypatch.setattr("sys.argv", ["vla", "import", "motion", str(tmp_path / "clips"), str(tmp_path / "copy")])
    assert main() == 0
    some = ["--data.dims", "action=0,1,2"]
    monkeypatch.setattr("sys.argv", ["vla", "import", "lerobot", str(tmp_path / "copy"), str(tmp_path / "part"), *some])
    assert main() == 0
    assert open_folder(tmp_path / "copy", Selection(dims=("action=0,1,2",))).layout.body is None
    assert "motion_body" not in json.loads((tmp_path / "part/meta/info.json").read_text())
    info = tmp_path / "copy/meta/info.json"
    content = json.loads(info.read_text())
    content["features"]["action"]["names"][0] = "other"
    info.write_text(json.dumps(content))
    layout = open_folder(tmp_path / "copy").layout
    assert layout.body is None and any("a body that is not that of action" in remark for remark in layout.remarks)
    content["motion_body"]["kind"] = "ghost"
    info.write_text(json.dumps(content))
    with pytest.raises(CorruptData, match=r"info\.json is damaged \(kind"):
        open_folder(tmp_path / "copy")


def test_columns_of_clips_can_be_emphasised(shared: Path, tmp_path: Path) -> None:
    trials(shared, tmp_path / "clips")
    config = DataConfig(roots=(str(tmp_path / "clips"),), emphasis="force.plate1.vy > 20", workers=0)
    assert any("force.plate1.vy" in cell for row in open_dataset(config, seed=0).rows for cell in row)
    wrong = DataConfig(roots=(str(tmp_path / "clips"),), emphasis="force.left.vy > 20", workers=0)
    with pytest.raises(ValueError, match=r"has no column force\.left\.vy in walking1_ik, which has force\.plate1\.vx"):
        open_dataset(wrong, seed=0)


def test_what_files_do_not_say_can_be_said_to_the_command(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared / "data/opensim_gait/subject01_walk1_ik.mot"
    words = ["vla", "import", "motion", str(source), str(tmp_path / "copy")]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 78
    assert "--data.motion.angles deg" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
    monkeypatch.setattr("sys.argv", [*words, "--data.motion.angles", "deg", "--data.motion.rate-hz", "60"])
    assert main() == 0
    reader = open_folder(tmp_path / "copy")
    assert (reader.layout.fps, len(reader.episodes[0].timestamps)) == (60.0, 73)
    asked = Selection(motion=MotionConfig(angles="deg", rate_hz=60.0))
    np.testing.assert_array_equal(
        reader.episodes[0].actions.values, open_folder(source, asked).episodes[0].actions.values
    )
