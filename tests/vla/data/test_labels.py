"""Labels of frames: cut as the actions are, counted over all roots, and refused where they are none."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.fakes import FakeReader, FakeRoot
from vla.data.dataset import Dataset, open_dataset
from vla.data.episode import Episode
from vla.errors import CorruptData
from vla.motion.body import Body
from vla.motion_settings import LabelName
from vla.settings import DataConfig

BODY = Body(kind="positions", joints=("hips", "left_ankle", "right_ankle"), parents=(-1, 0, 0))
HORIZON = 8
BOTH: tuple[LabelName, ...] = ("action", "physics")
Columns = Mapping[str, np.ndarray]


def columns_of(episode: Episode) -> Columns:
    """The action is the number of the frame; physics tell it, and the episode."""
    frames = np.arange(len(episode.timestamps), dtype=np.float32)
    physics = 0.5 * frames[:, None] + np.arange(6) + 100 * episode.index
    return {"action": frames[:, None], "physics": physics.astype(np.float32)}


def motion_root(name: str = "walks", lengths: tuple[int, ...] = (20, 25, 30, 20)) -> FakeReader:
    width = len(BODY.names)
    root = FakeRoot(
        name=name, lengths=lengths, cameras=(), state_dim=0, sensor=None, action_dim=width,
        action_periods=(0.0,) * width,
    ).open()  # fmt: skip
    episodes = [replace(episode, columns=columns_of(episode)) for episode in root.episodes]
    return replace(root, layout=replace(root.layout, body=BODY), episodes=episodes)


def with_columns(reader: FakeReader, place: int, columns: Columns) -> FakeReader:
    """The root with other columns in one of its episodes."""
    episodes = list(reader.episodes)
    episodes[place] = replace(episodes[place], columns=columns)
    return replace(reader, episodes=episodes)


def opened(*readers: FakeReader, labels: tuple[LabelName, ...] = BOTH, quarantine: int = 0) -> Dataset:
    by_root = {reader.layout.root: reader for reader in readers}
    config = DataConfig(roots=tuple(by_root), horizon=HORIZON, labels=labels, quarantine=quarantine)
    return open_dataset(config, 0, lambda root, _: by_root[str(root)])


def test_labels_are_those_of_the_frames_whose_actions_stand_beside_them() -> None:
    data = opened(motion_root())
    seen = 0
    for index in range(len(data.everything)):
        sample, (name, frame) = data.everything[index], data.everything.locate(index)
        episode = int(name[-6:])
        last = (20, 25, 30, 20)[episode] - 1
        frames = np.minimum(frame + np.arange(HORIZON), last)
        np.testing.assert_array_equal(sample.labels["action"], frames[:, None])
        np.testing.assert_array_equal(sample.labels["physics"], 0.5 * frames[:, None] + np.arange(6) + 100 * episode)
        np.testing.assert_array_equal(sample.action_valid, frame + np.arange(HORIZON) <= last)
        seen += 1
    assert seen > 60


def test_classes_are_counted_over_all_roots() -> None:
    """The longest episode has 41 frames, be it held out or not."""
    data = opened(motion_root(), motion_root("runs", (22, 41)))
    assert data.contract.labels == {"action": 41, "physics": 6}
    assert opened(motion_root(), labels=("action",)).contract.labels == {"action": 30}


def test_statistics_are_of_the_training_episodes() -> None:
    data = opened(motion_root())
    (kept,) = data.everything.episodes()
    values = np.concatenate([episode.columns["physics"] for episode in kept]).astype(np.float64)
    np.testing.assert_allclose(data.statistics["physics"].mean, values.mean(axis=0))
    np.testing.assert_allclose(data.statistics["physics"].std, values.std(axis=0))
    assert "action" not in data.statistics, "numbers of classes have no mean"


def test_nothing_is_added_that_is_not_chosen() -> None:
    data = opened(motion_root(), labels=())
    assert data.contract.labels == {}
    assert data.train[0].labels == {}
    assert data.statistics.keys() == {"actions", "state"}


def as_in_a_list(columns: Columns) -> Columns:
    """Called as lists of clips call them, a column a number that has a name."""
    names = ("vx", "vy", "ax", "ay", "mx", "my")
    split = {f"physics.{name}": columns["physics"][:, [place]] for place, name in enumerate(names)}
    return {"actions": columns["action"], "camera.x": columns["action"], **split}


def test_a_list_of_clips_calls_its_columns_otherwise() -> None:
    root = motion_root()
    episodes = [replace(episode, columns=as_in_a_list(episode.columns)) for episode in root.episodes]
    usual, other = opened(root), opened(replace(root, episodes=episodes))
    assert other.contract == usual.contract
    assert other.train.fingerprint() == usual.train.fingerprint()
    np.testing.assert_array_equal(other.statistics["physics"].mean, usual.statistics["physics"].mean)
    for index in range(0, len(usual.everything), 7):
        for name in BOTH:
            given = (data.everything[index].labels[name] for data in (usual, other))
            np.testing.assert_array_equal(*given)


def test_other_labels_are_other_data() -> None:
    """A run does not go on with them."""
    root = motion_root()
    columns = root.episodes[1].columns
    other = with_columns(root, 1, {**columns, "action": columns["action"][::-1]})
    assert opened(root).train.fingerprint() != opened(other).train.fingerprint()
    assert opened(root, labels=()).train.fingerprint() == opened(other, labels=()).train.fingerprint()


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"physics": np.zeros((25, 6))}, "has no column action or actions but physics: leave action out of"),
        ({"action": np.zeros((25, 1))}, "has no column physics but action: leave physics out of --data.labels"),
        ({}, "has no column action or actions but none"),
        ({"action": np.full((25, 1), 0.5), "physics": np.zeros((25, 6))}, "has action 0.5, expected whole numbers"),
        ({"action": np.full((25, 1), -1.0), "physics": np.zeros((25, 6))}, "has action -1, expected whole numbers"),
        ({"action": np.full((25, 1), np.nan), "physics": np.zeros((25, 6))}, "has action nan, expected whole numbers"),
        ({"action": np.zeros((25, 2)), "physics": np.zeros((25, 6))}, r"shape \(25, 2\), expected one number a frame"),
        ({"action": np.zeros((25, 1)), "physics": np.zeros((25, 4))}, "has 6 values of physics and .*000001 has 4"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(columns: Columns, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refusal:
        opened(with_columns(motion_root(), 1, columns))
    assert "\n" not in str(refusal.value)


def test_labels_of_what_is_no_motion_and_a_label_twice_are_refused() -> None:
    root = motion_root()
    with pytest.raises(ValueError, match="--data.labels are of human motion, which walks does not hold: leave it out"):
        opened(replace(root, layout=replace(root.layout, body=None)))
    with pytest.raises(ValueError, match="--data.labels names action twice: name it once"):
        opened(root, labels=("action", "action"))


def test_a_quantity_that_is_no_number_is_damage() -> None:
    root = motion_root()
    columns = dict(root.episodes[1].columns)
    columns["physics"] = columns["physics"].copy()
    columns["physics"][13, 2] = np.nan
    damaged = with_columns(root, 1, columns)
    with pytest.raises(CorruptData, match="has nan in physics, row 13, dimension 2: repair the data"):
        opened(damaged)
    data = opened(damaged, quarantine=100)
    samples = [data.everything[index] for index in range(len(data.everything))]
    samples += [data.validation[index] for index in range(len(data.validation))]
    void = [sample for sample in samples if not sample.weight]
    assert len(void) == HORIZON, "every chunk that reaches row 13"
    for sample in void:
        assert sample.labels["action"].shape == (HORIZON, 1)
        assert sample.labels["physics"].shape == (HORIZON, 6)
        assert not sample.labels["physics"].any()
