"""Inputs that people's bug reports describe, made by the generators in ../shared/cases: each gives what is right."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tests.vla.data.recordings import actions_of, number_of, write_v2, write_v3
from vla.__main__ import main
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.errors import CorruptData
from vla.evaluation.ablation import stand_ins
from vla.evaluation.phases import read_phases
from vla.normalize import INPUTS, Normalizer
from vla.settings import DataConfig

CAMERA = "observation.images.front"


@pytest.fixture
def made(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the input of a case."""
    monkeypatch.syspath_prepend(shared / "cases")

    def make(name: str) -> Path:
        load(shared / "cases" / f"{name}.py").make(tmp_path / name)
        return tmp_path / name

    return make


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened(root: Path, **config: object) -> Dataset:
    return open_dataset(DataConfig(roots=(str(root),), horizon=4, workers=0, **config), 0)


def frame_codes(data: Dataset) -> dict[tuple[str, int], int]:
    """The number that the frame of each training sample says, by episode and row."""
    making = sys.modules.get("making") or importlib.import_module("making")
    found = {}
    for index in range(len(data.everything)):
        image = data.everything[index].images[0]
        assert isinstance(image, np.ndarray)
        found[data.everything.locate(index)] = making.frame_code(image)
    return found


@pytest.mark.parametrize(
    ("case", "frame"),
    [
        ("video_at_camera_rate", lambda place, row: 90 * place + 3 * row),
        ("gaps_to_the_last_frame", lambda place, row: 60 * place + row),
        ("image_column_as_plain_bytes", lambda place, row: 40 * place + row),
        ("macos_companions", lambda place, row: 40 * place + row),
        ("default_columns_not_listed", lambda place, row: 40 * place + row),
    ],
)
def test_each_row_has_its_frame(made: Callable[[str], Path], case: str, frame: Callable[[int, int], int]) -> None:
    codes = frame_codes(opened(made(case)))
    assert codes
    for (episode, row), code in codes.items():
        assert code == frame(int(episode[-6:]), row), (episode, row)


def test_a_task_that_is_one_text(made: Callable[[str], Path]) -> None:
    data = opened(made("task_as_text"))
    assert {data.train[position].instruction for position in range(8)} == {"pick up the cube"}


DRAWER = ("open the drawer", "put the cube into the drawer")


def task_in_json_lines(root: Path) -> None:
    """The same subtasks in version 2.1, and of the last episode all frames but one have the first."""
    load(Path(sys.path[0]) / "line_separator_in_task.py").make(root)
    tasks = [json.dumps({"task_index": 7 - place, "task": text}) for place, text in enumerate(DRAWER)]
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks) + "\n")
    for place, path in enumerate(sorted(root.glob("data/*/*.parquet"))):
        table = pq.read_table(path)
        indices = np.repeat([7, 6], [39, 1] if place == 3 else 20)
        column = table.column_names.index("task_index")
        pq.write_table(table.set_column(column, "task_index", pa.array(indices)), path)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_an_instruction_is_that_of_its_frame(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    """In every sample, which training and evaluation share, and in a copy, which an independent reader reads."""
    changes = [20, 20, 20, 20] if version == "v3.0" else [20, 20, 20, 39]
    if version == "v3.0":
        root = made("instruction_changes_within_episode")
    else:
        root = tmp_path / "lines"
        task_in_json_lines(root)
    copy = tmp_path / "copy"
    assert main(["import", "lerobot", str(root), str(copy)]) == 0
    capsys.readouterr()
    for folder in (root, copy):
        data = opened(folder, validation_share=0.0)
        assert len(data.everything) == 160
        for index in range(160):
            name, frame = data.everything.locate(index)
            expected = DRAWER[frame >= changes[int(name[-6:])]]
            assert data.everything.instruction(index) == expected
            if frame in (0, 19, 20, 38, 39):
                assert data.everything[index].instruction == expected
        assert {data.train[position].instruction for position in range(16)} == set(DRAWER)
        assert f"{folder}: the instruction changes within 4 of 4 episodes" in said(data)
    texts = pq.read_table(copy / "meta/tasks.parquet").to_pydict()
    task = dict(zip(texts["task_index"], texts["__index_level_0__"], strict=True))
    rows = pq.read_table(copy / "data/chunk-000/file-000.parquet")
    assert [task[index] for index in rows["task_index"].to_pylist()] == [
        DRAWER[frame >= at] for at in changes for frame in range(40)
    ]
    assert pq.read_table(copy / "meta/episodes/chunk-000/file-000.parquet")["tasks"].to_pylist() == [list(DRAWER)] * 4


def test_a_frame_whose_task_nobody_knows_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    root = made("instruction_changes_within_episode")
    path = root / "meta/tasks.parquet"
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(ValueError, match="episode_000000: task_index 1 of frame 20 stands in no task list"):
        opened(root)
    task_in_json_lines(tmp_path / "lines")
    for path in (tmp_path / "lines").glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["task_index"]), path)
    episodes = [{"episode_index": episode, "tasks": DRAWER, "length": 40} for episode in range(4)]
    (tmp_path / "lines/meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in episodes))
    info = json.loads((tmp_path / "lines/meta/info.json").read_text())
    del info["features"]["task_index"]
    (tmp_path / "lines/meta/info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="episode_000000 has 2 tasks and no column task_index that says which"):
        opened(tmp_path / "lines")


def test_changed_instructions_are_shuffled_delayed_and_frozen_by_frame(made: Callable[[str], Path]) -> None:
    data = opened(made("instruction_changes_within_episode"), validation_share=0.0).everything
    for index, stand in zip(range(0, 160, 7), stand_ins(data, range(0, 160, 7), 5, seed=0), strict=True):
        assert stand.instruction == DRAWER[data[index].instruction == DRAWER[0]]
        assert data.instruction(stand.frozen) == DRAWER[0]
        assert data.instruction(stand.delayed) == DRAWER[index % 40 >= 25]


def test_a_camera_that_shows_nothing_for_a_while(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`KEY_valid` is a flag a frame: not that of the first one for the whole episode."""
    root = made("default_columns_not_listed")
    flags = np.ones(160, bool)
    flags[[0, 1, 45, 46, 47]] = flags[120:] = False
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).append_column(f"{CAMERA}_valid", pa.array(flags)), path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][f"{CAMERA}_valid"] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    assert main(["import", "lerobot", str(root), str(tmp_path / "copy")]) == 0
    capsys.readouterr()
    for folder in (root, tmp_path / "copy"):
        data = opened(folder, validation_share=0.0, missing_cameras="mask").everything
        for index in range(160):
            sample = data[index]
            assert sample.image_valid.tolist() == [flags[index]], index
            assert sample.images[0].any() == flags[index]
        (report,) = examine([folder]).roots
        assert report.modalities[CAMERA] == pytest.approx(flags.mean())
    assert pq.read_table(tmp_path / "copy/data/chunk-000/file-000.parquet")[f"{CAMERA}_valid"].to_pylist() == [*flags]


def copied(root: Path, *flags: str, into: str = "copy") -> tuple[Path, pa.Table, dict[str, dict[str, object]]]:
    """A copy of a dataset, its table as an independent reader sees it, and its features."""
    copy = root.parent / f"{into} of {root.name}"
    assert main(["import", "lerobot", str(root), str(copy), *flags]) == 0
    features = json.loads((copy / "meta/info.json").read_text())["features"]
    return copy, pq.read_table(copy / "data/chunk-000/file-000.parquet"), features


def test_a_copy_is_whole(made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = made("further_columns")
    subtasks = pa.table({"subtask_index": [0, 1, 2, 3], "subtask": ["reach", "grasp", "lift", "place"]})
    pq.write_table(subtasks, root / "meta/subtasks.parquet")
    (root / "meta/modality.json").write_text("{}")
    copy, table, features = copied(root)
    further = ("next.reward", "next.done", "subtask_index", "observation.environment_state")
    told = capsys.readouterr().err
    assert f"{root}: kept as they are: {', '.join(further)}, meta/subtasks.parquet\n" in told
    assert f"{root}: meta/modality.json left out: what it says may not hold of the copy\n" in told
    source = pq.read_table(root / "data/chunk-000/file-000.parquet")
    described = json.loads((root / "meta/info.json").read_text())["features"]
    assert set(source.column_names) == set(table.column_names)
    for key in source.column_names:
        assert table[key].to_pylist() == source[key].to_pylist(), key
        assert features[key]["dtype"] == described[key]["dtype"]
        assert features[key]["shape"] == described[key]["shape"]
    assert pq.read_table(copy / "meta/subtasks.parquet").equals(subtasks)
    assert json.loads((copy / "meta/info.json").read_text())["robot_type"] == "arm"
    stats = json.loads((copy / "meta/stats.json").read_text())
    assert np.allclose(stats["observation.environment_state"]["mean"], [1.5] * 3)


def test_a_copy_keeps_columns_of_any_type_and_shape(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts and empty values among them; what cannot be kept is named, and a copy of the copy is the copy."""
    root = made("further_columns")
    path, info = root / "data/chunk-000/file-000.parquet", root / "meta/info.json"
    grid = np.arange(160 * 24, dtype=np.uint8).reshape(160, 2, 3, 4)
    own = {
        "subtask": (("string", [1]), pa.array([None if row == 7 else f"step {row // 9}" for row in range(160)])),
        "grid": (("uint8", [2, 3, 4]), pa.array(grid.tolist(), pa.list_(pa.list_(pa.list_(pa.uint8()))))),
        "cost": (("float64", [1]), pa.array([[row / 3] for row in range(160)], pa.list_(pa.float64()))),
        "rank": (("int8", [2]), pa.array([[row % 100, -1] for row in range(160)], pa.list_(pa.int8()))),
        "reward": (("float32", [1]), pa.array([None, *np.ones(159)], pa.float32())),
    }
    table, described = pq.read_table(path), json.loads(info.read_text())
    for key, ((kind, shape), column) in own.items():
        table = table.append_column(key, column)
        described["features"][key] = {"dtype": kind, "shape": shape, "names": None}
    described["features"]["nowhere"] = {"dtype": "float32", "shape": [1], "names": None}
    described["features"]["odd"] = {"dtype": "complex64", "shape": [1], "names": None}
    pq.write_table(table.append_column("odd", pa.array([""] * 160)).append_column("note", pa.array([1] * 160)), path)
    info.write_text(json.dumps(described))
    copy, found, features = copied(root)
    told = capsys.readouterr().err
    for sentence in (
        "nowhere left out: in no table",
        "odd left out: complex64 cannot be written",
        "note left out: meta/info.json does not describe it",
    ):
        assert f"{root}: {sentence}\n" in told
    for key, ((kind, shape), column) in own.items():
        expected = [value[0] for value in column.to_pylist()] if key == "cost" else column.to_pylist()
        assert found[key].to_pylist() == expected, key
        assert (features[key]["dtype"], features[key]["shape"]) == (kind, shape)
    assert found.schema.field("cost").type == pa.float64()
    assert found.schema.field("rank").type == pa.list_(pa.int8(), 2)
    again, twice, same = copied(copy)
    assert twice.to_pylist() == found.to_pylist()
    assert same == features
    assert (again / "meta/stats.json").read_text() == (copy / "meta/stats.json").read_text()


def test_a_copy_says_what_its_own_columns_take_the_place_of(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = made("further_columns")
    path, info = root / "data/chunk-000/file-000.parquet", root / "meta/info.json"
    described = json.loads(info.read_text())
    described["features"]["command"] = described["features"]["action"] | {"dtype": "int64"}
    info.write_text(json.dumps(described))
    table = pq.read_table(path)
    ticks = np.rint(np.array(table["action"].to_pylist()) * 1e9).astype(np.int64)
    wide = pa.array(ticks.tolist(), pa.list_(pa.int64()))
    pq.write_table(table.append_column("command", wide), path)
    _, found, _ = copied(root, "--data.action-key", "command")
    told = capsys.readouterr().err
    assert f"{root}: action left out: the copy has another column of this name\n" in told
    assert f"{root}: command (int64) written in float64\n" in told
    assert np.array_equal(found["action"].to_pylist(), ticks)


def test_subtasks_of_json_lines_become_a_table(
    tmp_path: Path, made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "lines"
    task_in_json_lines(root)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in root.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(path).append_column("subtask_index", pa.array(np.arange(40) // 20)), path)
    lines = [json.dumps({"subtask_index": place, "subtask": text}) for place, text in enumerate(("reach", "grasp"))]
    (root / "meta/subtasks.jsonl").write_text("\n".join(lines) + "\n")
    copy, found, _ = copied(root)
    texts = pq.read_table(copy / "meta/subtasks.parquet").to_pydict()
    assert texts == {"subtask_index": [0, 1], "__index_level_0__": ["reach", "grasp"]}
    assert found["subtask_index"].to_pylist() == [*np.arange(40) // 20] * 4
    (root / "meta/subtasks.jsonl").write_text("{}\n")
    assert main(["import", "lerobot", str(root), str(tmp_path / "other")]) == 65
    assert "subtasks.jsonl has a line without subtask and subtask_index; restore it" in capsys.readouterr().err


def test_a_flag_is_that_of_its_frame(made: Callable[[str], Path]) -> None:
    root = made("further_columns")
    data = opened(root, emphasis="next.done == 1", emphasis_share=0.5, validation_share=0.0).train
    last = [data.locate(position)[1] == 39 for position in range(200)]
    assert 70 < sum(last) < 130, "each fortieth frame makes half of the stream"
    phases = read_phases((str(root),), "next.done", ("under way", "done"))
    for told in phases.by_episode.values():
        assert told == ("under way",) * 39 + ("done",)


def said(data: Dataset) -> str:
    """The table without its line breaks."""
    return " ".join(" ".join(data.table()).split())


def test_one_short_episode_of_many(made: Callable[[str], Path]) -> None:
    """It is masked past its end and said, or left out by its number."""
    root = made("one_short_episode_of_many")
    data = opened(root, validation_share=0.0)
    assert len(data.everything) == 399 * 12 + 1
    short = data.everything[123 * 12]
    assert data.everything.locate(123 * 12) == (f"{root.name}/episode_000123", 0)
    assert short.action_valid.tolist() == [True, False, False, False]
    assert (
        f"{root}: shorter than a chunk of 4 steps: 1 of 400 episodes; what would lie past their ends is masked"
        in said(data)
    )
    bare = opened(root, validation_share=0.0, without=(123, 7))
    assert len(bare.everything) == 398 * 12
    assert f"{root}: episodes left out: 7, 123" in said(bare)
    assert "shorter than a chunk" not in said(bare)


def test_doctor_and_import_leave_episodes_out(made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = made("further_columns")
    for words in (["doctor", str(root)], ["import", "lerobot", str(root), str(root.parent / "other")]):
        assert main([*words, "--data.without", "1", "4"]) == 78
        assert f"{root} has no episode 4 to leave out: correct --data.without" in capsys.readouterr().err
    assert main(["doctor", str(root), "--data.without", "2", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["roots"]
    assert (report["episodes"], report["left_out"]) == (3, [2])


def write_lengths(root: Path, version: str, lengths: tuple[int, ...]) -> Path:
    """Episodes with videos, of no frame or one among them."""
    if version == "v3.0":
        return write_v3(root, lengths=lengths)
    write_v2(root, lengths=tuple(max(1, length) for length in lengths))
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    for line, length in zip(lines, lengths, strict=True):
        line["length"] = length
        (path,) = root.glob(f"data/*/episode_{line['episode_index']:06d}.parquet")
        if not length:
            pq.write_table(pq.read_table(path).slice(0, 0), path)
            next(root.glob(f"videos/*/*/{path.stem}.mp4")).unlink()
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_episodes_of_no_frame_or_one(tmp_path: Path, version: str) -> None:
    """At the start, in the middle and at the end; with videos, of which one holds one frame."""
    root = write_lengths(tmp_path / "set", version, (0, 8, 0, 6, 1, 1))
    data = opened(root, validation_share=0.0)
    assert f"{root}: episodes without a frame passed over: 0, 2" in said(data)
    samples = [(data.everything.locate(index), data.everything[index]) for index in range(16)]
    assert [(int(name[-6:]), frame) for (name, frame), _ in samples] == [
        (episode, frame) for episode, length in ((1, 8), (3, 6), (4, 1), (5, 1)) for frame in range(length)
    ]
    for (name, frame), sample in samples:
        assert np.array_equal(sample.actions[0], actions_of(int(name[-6:]), 8)[frame])
        image = sample.images[0]
        assert isinstance(image, np.ndarray)
        assert number_of(image) == 10 * int(name[-6:]) + frame
    assert samples[-1][1].action_valid.tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match=r"has no frame in episode 0, 2: take it out of --data\.episodes"):
        opened(root, episodes=(0, 1, 2))
    (report,) = examine([root]).roots
    assert (report.episodes, report.samples, report.problems) == (4, 16, ())
    copy, table, _ = copied(root)
    assert table.num_rows == 16
    assert copied(root, "--data.without", "1", into="fewer")[1].num_rows == 8
    again = opened(copy, validation_share=0.0).everything
    for index, (_, sample) in enumerate(samples):
        assert np.array_equal(again[index].actions, sample.actions)


def test_an_episode_without_a_frame_that_has_rows_is_damaged(tmp_path: Path) -> None:
    for version in ("v3.0", "v2.1"):
        root = write_lengths(tmp_path / version, version, (8, 8))
        if version == "v3.0":
            path = root / "meta/episodes/chunk-000/file-000.parquet"
            table = pq.read_table(path)
            place = table.column_names.index("length")
            pq.write_table(table.set_column(place, "length", pa.array([8, 0])), path)
        else:
            lines = (root / "meta/episodes.jsonl").read_text().splitlines()
            row = json.loads(lines[1]) | {"length": 0}
            (root / "meta/episodes.jsonl").write_text(f"{lines[0]}\n{json.dumps(row)}\n")
        with pytest.raises(CorruptData, match="episode 1 has 8 rows, its metadata says 0; restore the file"):
            opened(root, validation_share=0.0)


def test_an_episode_that_the_list_lacks_can_be_left_out(made: Callable[[str], Path]) -> None:
    root = made("one_short_episode_of_many")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 50), table.slice(51)]), path)
    with pytest.raises(ValueError, match=r"the episode list has 399; restore it, or .* `--data\.without 50`"):
        opened(root)
    assert len(opened(root, without=(50,), validation_share=0.0).everything) == 398 * 12 + 1


@pytest.mark.parametrize(("unit", "apart"), [(1000.0, "33.33"), (3.0, "0.1")])
def test_a_clock_that_the_frame_rate_denies_is_refused(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str], unit: float, apart: str
) -> None:
    """Time stamps in milliseconds, or rows thinned to every third: only the first step of a chunk would have a row."""
    root = made("confidence_of_a_detector")
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["observation.images.front"]
    (root / "meta/info.json").write_text(json.dumps(info))
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("timestamp")
    pq.write_table(
        table.set_column(place, "timestamp", pc.multiply(table["timestamp"], pa.scalar(unit, pa.float32()))), path
    )
    with pytest.raises(CorruptData, match=f"has rows {apart} s apart, its root says 30 frames a second: correct"):
        opened(root)
    assert main(["doctor", str(root)]) == 65
    assert "training refuses these data with exit code 65" in capsys.readouterr().out


def test_a_detectors_confidence_is_no_weight(made: Callable[[str], Path]) -> None:
    root = made("confidence_of_a_detector")
    data = opened(root)
    assert {data.train[position].weight for position in range(12)} == {1.0}
    assert f"{root}: not read: confidence" in said(data)
    _, table, _ = copied(root)
    assert table["confidence"].to_pylist() == pq.read_table(root / "data")["confidence"].to_pylist()


def test_what_is_commanded_is_no_sensor(made: Callable[[str], Path]) -> None:
    root = made("commanded_wrench")
    data = opened(root)
    assert data.contract.streams == {}
    assert f"{root}: not read: action.wrench" in said(data)
    assert list(opened(root, sensor=("action.wrench",)).contract.streams) == ["sensor"], "who asks for it is given it"


def test_degrees_beside_radians_are_refused_before_training_and_evaluation(made: Callable[[str], Path]) -> None:
    root = made("degrees_beside_radians")
    roots = (str(root / "a"), str(root / "b"))
    with pytest.raises(ValueError, match=r"a and .*b cannot be mixed, their action units differ: deg and rad; train"):
        open_dataset(DataConfig(roots=roots, horizon=4), 0)
    trained, other = (opened(Path(place)).contract for place in roots)
    sentences = [f"the unit of the {kind} to be deg, not rad" for kind in ("state", "actions")]
    assert trained.differences(other) == sentences
    assert any("units: action deg; state deg" in line for line in examine([root / "a"]).roots[0].lines())
    info = root / "b/meta/info.json"
    unsaid = json.loads(info.read_text())
    for key in ("action", "observation.state"):
        del unsaid["features"][key]["unit"], unsaid["features"][key]["info"]
    info.write_text(json.dumps(unsaid))
    assert open_dataset(DataConfig(roots=roots, horizon=4), 0).contract.action_units == ("deg",) * 7
    (report,) = examine([root / "b"]).roots
    assert any(line.startswith("units of action and state that are not said") for line in report.remarks)


@pytest.mark.parametrize(
    "mark", [("info", "is_depth_map"), ("info", "video.is_depth_map"), ("video_info", "is_depth_map")]
)
def test_a_depth_camera_is_left_out_however_it_is_marked(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: tuple[str, str]
) -> None:
    monkeypatch.syspath_prepend(shared / "cases")
    load(shared / "cases" / "depth_marked_as_lerobot_marks_it.py").make(tmp_path / "set", *mark)
    data = opened(tmp_path / "set")
    assert data.contract.cameras == (CAMERA,)
    unread = f"{tmp_path / 'set'}: {CAMERA}_depth left out: depth is no colour; --data.depth CAMERA=NEAR:FAR reads it"
    assert unread in said(data)
    with pytest.raises(ValueError, match=r"has depth in observation\.images\.front_depth, which is no colour"):
        opened(tmp_path / "set", cameras=("front_depth",))


def test_depth_without_a_mark_is_refused_and_never_clipped(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made("depth_png_16_bit")
    with pytest.raises(ValueError, match=r"observation\.images\.depth has pixels of more than 8 bits \(I;16\)"):
        opened(root)
    assert opened(root, cameras=("front",)).contract.cameras == (CAMERA,)
    for command in (["doctor", str(root)], ["import", "lerobot", str(root), str(tmp_path / "copy")]):
        assert main(command) == 78
        assert main([*command, "--data.cameras", "front"]) == 0, "the flag that the sentence names is there"
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    marked = json.loads(path.read_text())
    marked["features"]["observation.images.depth"]["info"] = {"is_depth_map": True}
    path.write_text(json.dumps(marked))
    assert main(["import", "lerobot", str(root), str(tmp_path / "marked")]) == 0, "so is the mark"
    assert "depth left out: depth is no colour; a copy holds none\n" in capsys.readouterr().err
    path.write_text(json.dumps(info))
    data = opened(root, depth=("depth=0.4:1.4",))
    assert data.contract.cameras == (CAMERA, "observation.images.depth")
    for index in (0, 90):
        number = (int(data.everything.locate(index)[0][-6:]) * 40 + data.everything.locate(index)[1]) % 40
        metres = (400 + 1000 * np.mgrid[:64, :64][1] / 63 + number).astype(np.uint16) / 1000
        expected = np.rint(255 * (metres.clip(0.4, 1.4) - 0.4)).astype(int)
        assert np.abs(np.asarray(data.everything[index].images[1])[0] - expected).max() <= 1


@pytest.mark.parametrize(("codec", "pixels"), [("ffv1", "gray16le"), ("libx264", "gray10le")])
def test_a_video_of_wide_grey_pixels_is_refused(tmp_path: Path, codec: str, pixels: str) -> None:
    root = write_v2(tmp_path / "set", lengths=(6, 6))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["shape"] = [64, 96, 1]
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in root.rglob("*.mp4"):
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=20)
            stream.width, stream.height, stream.pix_fmt = 96, 64, pixels
            for number in range(6):
                depth = np.full((64, 96), 5000 * number, np.uint16)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(depth, format="gray16le").reformat(format=pixels)))
            file.mux(stream.encode(None))
    read = {"gray10le": "yuv420p10le"}.get(pixels, pixels)
    with pytest.raises(ValueError, match=rf"one channel of more than 8 bits \({read}\), as depth has"):
        opened(root)


def test_a_video_that_runs_away_from_its_table(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many frames as rows, of a camera of 29.7 Hz: nothing is trained on until somebody says how to pair."""
    monkeypatch.syspath_prepend(shared / "cases")
    making = importlib.import_module("making")
    root, count = tmp_path / "drift", 80
    episodes = making.plain_episodes((count, 40), fps=30)
    video = {(0, CAMERA): (np.arange(count), np.arange(count) * 1.01 / 30)}
    making.write_v30(root, episodes, fps=30, video=video)
    sentence = r"episode_000000, .*at 30 Hz, and the frames, at 29\.703 Hz, run apart by \+26 ms over 80 rows"
    with pytest.raises(ValueError, match=sentence):
        opened(root)
    (report,) = examine([root]).roots
    assert any("--data.pairing number" in problem for problem in report.problems)
    assert report.episodes == 1
    codes = frame_codes(opened(root, pairing="number", validation_share=0.0))
    assert all(code == row for (episode, row), code in codes.items() if episode.endswith("000000"))
    timed = frame_codes(opened(root, pairing="time", validation_share=0.0))
    late = [row for (episode, row), code in timed.items() if episode.endswith("000000") and code != row]
    assert late == list(range(51, count)), "from half a period on the frame before is nearer"


def test_a_camera_with_a_clock_of_its_own_is_served_by_its_newest_frame(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(shared / "cases")
    making = importlib.import_module("making")
    root = tmp_path / "slow"
    episodes = making.plain_episodes((100, 100, 100), fps=100)
    video = {(place, CAMERA): (np.arange(30) + 30 * place, np.arange(30) / 30) for place in range(3)}
    making.write_v30(root, episodes, fps=100, video=video)
    data = opened(root)
    codes = frame_codes(data)
    assert {row: code % 30 for (_, row), code in codes.items()} == {row: int(row * 0.3 + 1e-9) for row in range(100)}
    assert said(data).endswith(f"{CAMERA} has a clock of its own: its frames are up to 30 ms old")
    (report,) = examine([root]).roots
    assert report.oldest_frames_s[CAMERA] == pytest.approx(0.03)
    assert any(line.startswith("  cameras with a clock of their own") for line in report.lines())


def test_a_glitch_is_named_and_counts_for_no_scale(
    made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = made("one_glitch_in_the_actions")
    data = opened(root)
    assert "actions[2] motor_2: 1 stray value between -1.2 and 1e+06" in said(data)
    values = np.concatenate(
        [episode.actions.values[:, 2] for (episodes) in data.everything.episodes() for episode in episodes]
    )
    sound = values[np.abs(values) < 10]
    assert len(sound) == len(values) - 1
    assert data.statistics["actions"].q99[2] == np.quantile(sound.astype(np.float64), 0.99)
    assert main(["doctor", str(root)]) == 0
    assert "action[2] motor_2" in (printed := capsys.readouterr().out)
    assert "1 stray" in printed


def test_coordinates_of_a_map_keep_their_motion(made: Callable[[str], Path], tmp_path: Path) -> None:
    data = opened(made("state_of_map_coordinates"))
    statistics = data.statistics["state"]
    assert statistics.std[:2] == pytest.approx(0.07, abs=0.01)
    states = np.stack([data.everything[index].state for index in range(40)])
    expected = 4649776.1 + 0.1 * np.sin(np.arange(40) / 6)
    assert np.abs(states[:, 0] - expected).max() < 1e-8
    assert main(["import", "lerobot", str(tmp_path / "state_of_map_coordinates"), str(tmp_path / "copy")]) == 0
    table = pq.read_table(tmp_path / "copy/data/chunk-000/file-000.parquet")
    assert np.array_equal(np.array(table["observation.state"].to_pylist())[:40], states)
    unitless = Normalizer.of(statistics, "quantile", INPUTS).apply(torch.from_numpy(states))
    low, high = statistics.q01[0], statistics.q99[0]
    np.testing.assert_allclose(unitless[:, 0].numpy(), (expected - (low + high) / 2) / ((high - low) / 2), atol=1e-5)
