"""State and actions under any name, and some of their dimensions in any order: what the table holds, nothing else."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.fakes import FakeRoot
from tests.vla.data.recordings import TASKS, write_v2, write_v3
from tests.vla.data.test_insertion import write_windows
from vla.__main__ import main
from vla.data.dataset import Dataset, open_dataset
from vla.data.dimensions import parse_dimensions, with_dimensions
from vla.data.doctor import examine
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.settings import DataConfig

KEYS = {"action": "actions", "observation.state": "state"}
FOREIGN = {"action_key": "actions", "state_key": "state"}


def foreign(root: Path) -> Path:
    """The same data set, with its state and its actions under other names."""
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] = {KEYS.get(key, key): feature for key, feature in info["features"].items()}
    (root / "meta/info.json").write_text(json.dumps(info))
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([KEYS.get(key, key) for key in table.column_names]), path)
    return root


def stored(root: Path, key: str) -> np.ndarray:
    """A column, by pyarrow alone."""
    tables = [pq.read_table(path) for path in sorted(root.glob("data/*/*.parquet"))]
    return np.concatenate([np.stack(table[key].to_numpy()) for table in tables])


def opened(root: Path, **settings: object) -> Dataset:
    return open_dataset(DataConfig(roots=(str(root),), validation_share=0.0, horizon=2, workers=0, **settings), 0)


@pytest.mark.parametrize("write", [write_v2, write_v3])
def test_columns_of_other_names_give_the_same_samples(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    usual, other = opened(write(tmp_path / "a/set")), opened(foreign(write(tmp_path / "b/set")), **FOREIGN)
    assert (other.contract.action_key, other.contract.state_key) == ("actions", "state")
    assert usual.contract.differences(other.contract) == []
    assert usual.contract.action_names == other.contract.action_names == ("x", "y", "yaw_deg")
    for position in (0, 7):
        for name, value in vars(usual.train[position]).items():
            np.testing.assert_equal(vars(other.train[position])[name], value, err_msg=name)
    for stream, statistics in usual.statistics.items():
        for name, value in vars(statistics).items():
            np.testing.assert_equal(vars(other.statistics[stream])[name], value, err_msg=f"{stream} {name}")


@pytest.mark.parametrize("dims", [("action=2,0", "state=1"), ("state=elbow", "action=yaw_deg,x")])
def test_dimensions_by_index_or_name(tmp_path: Path, dims: tuple[str, ...]) -> None:
    root = write_v2(tmp_path / "set")
    data = opened(root, dims=dims)
    contract = data.contract
    assert (contract.action_dim, contract.state_dim, contract.dims) == (2, 1, dims)
    assert (contract.action_names, contract.state_names) == (("yaw_deg", "x"), ("elbow",))
    actions, states = stored(root, "action")[:, [2, 0]], stored(root, "observation.state")[:, [1]]
    statistics = data.statistics
    np.testing.assert_allclose(statistics["actions"].mean, actions.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(statistics["state"].maximum, states.max(axis=0))
    for position in range(5):
        name, frame = data.train.locate(position)
        row = frame + {0: 0, 1: 6, 2: 15}[int(name[-1])]
        assert np.array_equal(data.train[position].actions[0], actions[row])
        assert np.array_equal(data.train[position].state, states[row])


def test_what_is_kept_of_one_choice_is_not_taken_for_another(tmp_path: Path) -> None:
    """Both have one unnamed column as wide as the other, in the same files."""
    columns = {"torque": lambda length: [[0.5, 0.25, 0.125]] * length}
    unnamed = {"dtype": "float32", "shape": [3], "names": None, "info": {"column": True}}
    root = write_v2(tmp_path / "set", columns=columns, extra={"torque": unnamed, "action": unnamed})
    assert opened(root).statistics["actions"].maximum[0] == 2012.0
    for _ in range(2):
        assert opened(root, action_key="torque").statistics["actions"].maximum.tolist() == [0.5, 0.25, 0.125]
        assert opened(root, dims=("action=1,0,2",)).statistics["actions"].maximum.tolist() == [2013.0, 2012.0, 2014.0]
        assert opened(root, dims=("action=0,1,2",)).statistics["actions"].maximum.tolist() == [2012.0, 2013.0, 2014.0]


def test_periods_follow_their_dimensions_and_a_worker_opens_the_same() -> None:
    reader = with_dimensions(FakeRoot(action_dim=3, action_periods=(0.0, 360.0, 0.0)).open(), ("action=1,0",))
    assert reader.layout.action_periods == (360.0, 0.0)
    again = pickle.loads(pickle.dumps(reader))
    assert again.layout == reader.layout
    assert np.array_equal(again.episodes[1].actions.values, reader.episodes[1].actions.values)


def test_neighbours_are_a_view_of_the_table(tmp_path: Path) -> None:
    whole = open_folder(write_v2(tmp_path / "set"))
    part = with_dimensions(whole, ("action=0,2",))
    assert np.shares_memory(part.episodes[0].actions.values, whole.episodes[0].actions.values)


def test_two_roots_in_another_order_are_mixed_by_name(tmp_path: Path) -> None:
    roots = [write_v2(tmp_path / name) for name in ("a", "b")]
    info = json.loads((roots[1] / "meta/info.json").read_text())
    info["features"]["action"]["names"] = [["yaw_deg", "y", "x"]]
    (roots[1] / "meta/info.json").write_text(json.dumps(info))
    config = {"roots": tuple(map(str, roots)), "validation_share": 0.0, "horizon": 2}
    with pytest.raises(ValueError, match=r"action names differ: .*give both one order by name with --data\.dims"):
        open_dataset(DataConfig(**config), 0)
    data = open_dataset(DataConfig(**config, dims=("action=x,yaw_deg",)), 0)
    rows = [root[0].actions.values[0].tolist() for root in data.everything.episodes()]
    assert rows == [[0.0, 2.0], [2.0, 0.0]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, r"has no feature action in .*; nearest is actions: name it with `--data\.action-key actions`"),
        ({"action_key": "acts"}, r"has no feature acts .*nearest is actions"),
        (
            {"action_key": "actions"},
            r"no feature observation\.state, but state: .*`--data\.state-key state`",
        ),
        (
            {"action_key": "actions", "state_key": "observation.stat"},
            r"observation\.stat .*nearest is state",
        ),
        (FOREIGN | {"state_key": "actions"}, "state-key and --data.action-key are both actions of .*another column"),
        ({"action_key": "observation.images.front"}, "has video in observation.images.front, where numbers"),
        (FOREIGN | {"dims": ("action=x,yaw",)}, r"no action dimension yaw; it has 0 to 2 \(nearest: yaw_deg\)"),
        (FOREIGN | {"dims": ("state=2",)}, "no state dimension 2; it has 0 to 1: shoulder, elbow"),
        (FOREIGN | {"dims": ("action=0,x",)}, "names action dimension x of .* twice"),
        (FOREIGN | {"dims": ("actions=0",)}, "has 'actions=0', expected action= or state="),
        (FOREIGN | {"dims": ("action=0", "action=1")}, "each once"),
        (FOREIGN | {"dims": ("action=0,",)}, "expected action= or state="),
        (
            {"action_key": "actions", "withhold": ("state",), "dims": ("state=0",)},
            "has no state to take dimension 0 of",
        ),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(
    tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        opened(foreign(write_v2(tmp_path / "set")), **settings)


def test_the_insertion_recorder_has_one_name_for_each(tmp_path: Path) -> None:
    root = write_windows(tmp_path / "set")
    with pytest.raises(ValueError, match="has action and no actions: leave --data.action-key out"):
        open_folder(root, Selection(action_key="actions"))
    assert open_folder(root, Selection(dims=("action=dx_mm,gripper",))).layout.action_names == ("dx_mm", "gripper")


def test_a_state_that_is_withheld_may_have_any_name(tmp_path: Path) -> None:
    data = opened(foreign(write_v2(tmp_path / "set")), action_key="actions", withhold=("state",))
    assert data.contract.state_dim == 0


def test_import_and_doctor_read_the_same_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = foreign(write_v2(tmp_path / "set"))
    flags = ["--data.action-key", "actions", "--data.state-key", "state", "--data.dims", "action=yaw_deg,x"]
    assert main(["import", "lerobot", str(root), str(tmp_path / "copy"), *flags]) == 0
    reader = open_folder(tmp_path / "copy")
    assert reader.layout.action_names == ("yaw_deg", "x")
    assert np.array_equal(reader.episodes[1].actions.values, stored(root, "actions")[6:15][:, [2, 0]])
    assert [episode.instructions[0] for episode in reader.episodes] == [TASKS[0], TASKS[1], TASKS[0]]
    capsys.readouterr()
    assert main(["doctor", str(root), *flags, "--data.horizon", "4", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["roots"]
    assert report["problems"] == []
    found = {(found["stream"], found["name"]): found["maximum"] for found in report["dimensions"]}
    actions = {("action", "yaw_deg"): 2014.0, ("action", "x"): 2012.0}
    assert found == actions | {("state", "shoulder"): 2012.0, ("state", "elbow"): 2013.0}
    (unreadable,) = examine([root]).roots
    assert "--data.action-key actions" in unreadable.problems[0]


def test_words_of_a_choice() -> None:
    assert parse_dimensions(("action=0,gripper", "state=a=b")) == {"action": ("0", "gripper"), "state": ("a=b",)}
    assert parse_dimensions(()) == {}
