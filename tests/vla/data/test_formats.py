"""The table of formats: one row is all that data, doctor and import need of a format."""

from pathlib import Path

import numpy as np
import pytest

from tests.fakes import FakeRoot
from tests.vla.data.motion.clips import body_of_sticks, some_motion
from tests.vla.data.recordings import write_v2
from tests.vla.data.test_insertion import write_windows
from vla.__main__ import main
from vla.data import formats
from vla.data.dataset import open_dataset
from vla.data.doctor import examine
from vla.data.episode import Reader
from vla.data.formats import FORMATS, Format, detect, open_folder
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Problems, Selection
from vla.settings import DataConfig


def test_a_row_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_toy(root: Path, _selection: Selection, _report: Problems) -> Reader:
        return FakeRoot(name=root.name).open()

    toy = Format(words="a toy", found=lambda root: (root / "toy").exists(), open=open_toy)
    monkeypatch.setitem(formats.FORMATS, "toy", toy)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/toy").touch()
    assert detect(tmp_path / "set") == "toy"
    dataset = open_dataset(DataConfig(roots=(str(tmp_path / "set"),)), 0)
    assert dataset.train.num_samples > 0
    (report,) = examine([tmp_path / "set"]).roots
    assert report.episodes == len(open_folder(tmp_path / "set").episodes)
    assert main(["import", "toy", str(tmp_path / "set"), str(tmp_path / "copy")]) == 0
    first, copied = open_folder(tmp_path / "set").episodes[0], open_lerobot(tmp_path / "copy").episodes[0]
    assert np.array_equal(first.actions.values[: len(copied.timestamps)], copied.actions.values)


def test_what_no_row_recognises_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a LeRobot dataset .* or recordings of the insertion recorder"):
        open_folder(tmp_path)
    (report,) = examine([tmp_path]).roots
    assert "holds no data that can be read" in report.problems[0]


def test_a_dataset_that_lost_its_description_is_named_as_one(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    (root / "meta/info.json").unlink()
    with pytest.raises(ValueError, match=r"has no meta/info\.json; a LeRobot dataset"):
        open_folder(root)


def test_a_root_whose_sensor_cannot_be_told_is_examined_without(tmp_path: Path) -> None:
    forces = {key: lambda length: [[0.0, 1.0]] * length for key in ("observation.force", "observation.wrench")}
    extra = {key: {"dtype": "float32", "shape": [2], "names": None} for key in forces}
    root = write_v2(tmp_path / "set", columns=forces, extra=extra)
    (report,) = examine([root]).roots
    assert [sentence.split("; ")[0] for sentence in report.problems] == [
        f"{root} has several features that may be sensors: observation.force, observation.wrench"
    ]
    assert report.episodes == 3
    assert report.modalities["sensor"] == 0.0


def write_sticks(root: Path) -> Path:
    root.mkdir()
    write_npz(root / "sticks.npz", some_motion(body_of_sticks()), 20.0)
    return root


@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_refuses_a_column_that_is_not_there(tmp_path: Path, name: str) -> None:
    root = {"lerobot": write_v2, "insertion": write_windows, "motion": write_sticks}[name](tmp_path / "set")
    with pytest.raises(ValueError, match="phase"):
        open_folder(root, Selection(columns=("phase",)))
