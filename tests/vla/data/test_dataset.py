"""`open_dataset` from end to end: on made-up roots, and on the data that ships with the repository."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.fakes import SENSOR, FakeFrames, FakeReader, FakeRoot, edited, encoded, opener
from tests.vla.data.recordings import write_v2
from tests.vla.data.test_insertion import time_of, write_streams, write_windows
from vla.batch import Sample, collate
from vla.data.dataset import Dataset, open_dataset, open_root
from vla.data.episode import Episode, Stream
from vla.data.formats import detect
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.texts import Texts
from vla.data.withheld import WithoutState
from vla.errors import CorruptData
from vla.evaluation.phases import read_phases
from vla.settings import DataConfig

ROOT = FakeRoot()


def opened(*roots: FakeRoot | FakeReader, seed: int = 0, **config: object) -> Dataset:
    open_reader = opener(*roots)
    return open_dataset(DataConfig(roots=tuple(open_reader.readers), **config), seed, open_reader)


def said(last: str) -> Texts:
    """Something sensible in all frames but the last of episode 1."""
    return Texts.of(["push the needle"] * 24 + [last])


def assert_same(first: Sample, second: Sample) -> None:
    np.testing.assert_equal(asdict(second), asdict(first))


def test_one_epoch_is_every_training_frame_once() -> None:
    dataset = opened(ROOT)
    assert dataset.train.num_samples == 95 - len(dataset.validation)
    epoch = [dataset.train.locate(position) for position in range(dataset.train.num_samples)]
    assert len(set(epoch)) == dataset.train.num_samples
    held_out = {dataset.validation.locate(index) for index in range(len(dataset.validation))}
    trained, validated = {name for name, _ in epoch}, {name for name, _ in held_out}
    assert len(trained) == 3
    assert len(validated) == 1
    assert not trained & validated


def test_a_position_is_a_sample() -> None:
    dataset = opened(ROOT)
    for position in (0, 7, 1234):
        sample = dataset.train[position]
        name, frame = dataset.train.locate(position)
        place = int(name[-6:])
        assert sample.position == position
        assert sample.actions[0, 0] == np.float32(ROOT.episode(place).timestamps[frame] + 1000 * place)
        assert sample.images[0][0, 0, 0] == frame


def test_samples_do_not_depend_on_what_was_read_before() -> None:
    first, second = opened(ROOT), opened(ROOT)
    forward = [first.train[position] for position in range(0, 200, 9)]
    backward = [second.train[position] for position in reversed(range(0, 200, 9))]
    for ours, theirs in zip(forward, reversed(backward), strict=True):
        assert_same(ours, theirs)
    assert [opened(ROOT, seed=1).train.locate(position) for position in range(5)] != [
        first.train.locate(position) for position in range(5)
    ]


def test_validation_is_fixed() -> None:
    dataset = opened(ROOT)
    samples = list(dataset.validation)
    assert len(samples) == len(dataset.validation) > 0
    assert_same(samples[3], opened(ROOT).validation[3])
    assert [sample.position for sample in samples] == list(range(len(samples)))
    assert (np.diff([sample.state[0] for sample in samples]) > 0).all()
    with pytest.raises(IndexError):
        dataset.validation[len(samples)]


def test_no_validation_when_none_is_wanted() -> None:
    dataset = opened(replace(ROOT, lengths=(20,)), validation_share=0.0)
    assert len(dataset.validation) == 0
    assert dataset.train.num_samples == 20
    with pytest.raises(ValueError, match="--data.validation-share 0"):
        opened(replace(ROOT, lengths=(20,)))


def test_statistics_are_those_of_the_training_episodes() -> None:
    dataset = opened(ROOT)
    trained = sorted({dataset.train.locate(position)[0] for position in range(dataset.train.num_samples)})
    episodes = [ROOT.episode(int(name[-6:])) for name in trained]
    for kind, rows in (
        ("actions", [episode.actions.values for episode in episodes]),
        ("state", [episode.state.values for episode in episodes if episode.state]),
        ("sensor", [episode.streams[SENSOR].values for episode in episodes if episode.streams]),
    ):
        values = np.concatenate(rows).astype(np.float64)
        np.testing.assert_array_equal(dataset.statistics[kind].q99, np.quantile(values, 0.99, axis=0))
        np.testing.assert_allclose(dataset.statistics[kind].mean, values.mean(axis=0))
        assert dataset.statistics[kind].count == len(values)


def test_widths_are_zero_without_state_and_sensor() -> None:
    dataset = opened(replace(ROOT, sensor=None, state_dim=0))
    assert dataset.statistics.keys() == {"actions", "state"}
    assert dataset.statistics["state"].mean.shape == (0,)
    batch = collate([dataset.train[0], dataset.train[1]], 0, "noise")
    assert batch.observation.streams == {}
    assert batch.observation.state.shape == (2, 0)


def test_a_weighted_mixture_has_its_shares() -> None:
    other = FakeRoot(name="other", lengths=(200, 200), sensor=None)
    dataset = opened(ROOT, other, weights=(3.0, 1.0))
    drawn = Counter(dataset.train.locate(position)[0].split("/")[0] for position in range(1000))
    assert drawn == {"root": 750, "other": 250}
    assert [row[-1] for row in dataset.rows] == ["share", "75.0 %", "25.0 %"]
    assert dataset.table()[1].startswith("root   fake v1  3 ")
    samples = [dataset.train[position] for position in range(40)]
    names = [dataset.train.locate(position)[0] for position in range(40)]
    for sample, name in zip(samples, names, strict=True):
        assert sample.weight == (1.0 if name.startswith("other") else 2.0)
        assert sample.streams["sensor"].valid.any() == (not name.startswith("other"))
    collate(samples, 0, "noise")


def with_phase(root: FakeRoot, *emphasised: int) -> FakeReader:
    """The root with a column `phase` that is 1 at these frames of each episode."""
    reader = root.open()
    for place, episode in enumerate(reader.episodes):
        phase = np.isin(np.arange(len(episode.timestamps)), emphasised)[:, None].astype(np.float32)
        reader = edited(reader, place, columns={"phase": phase})
    return reader


def test_emphasised_frames_have_their_share_in_every_block() -> None:
    frames = (3, 4, 11)
    dataset = opened(with_phase(ROOT, *frames), emphasis="phase == 1", emphasis_share=0.3)
    plain = opened(ROOT)
    assert dataset.train.num_samples == plain.train.num_samples
    for block in (0, 1, 7):
        drawn = [dataset.train.locate(1000 * block + place) for place in range(1000)]
        assert sum(frame in frames for _, frame in drawn) == 300
        counts = Counter(place for place in drawn if place[1] in frames)
        assert len(counts) == 9
        assert max(counts.values()) - min(counts.values()) <= 1
        counts = Counter(place for place in drawn if place[1] not in frames)
        assert len(counts) == dataset.train.num_samples - 9
        assert max(counts.values()) - min(counts.values()) <= 2
    label, share = [(row[1], row[4:]) for row in dataset.rows][2]
    assert (label, share) == ("  phase == 1", ("9", "", "30.0 %"))
    assert dataset.rows[1][-1] == "100.0 %"
    assert_same(dataset.validation[3], plain.validation[3])


def test_emphasis_is_pure_and_travels_to_workers() -> None:
    reader = with_phase(ROOT, 3, 4, 11)
    first = opened(reader, emphasis="phase == 1").train
    second = ForkingPickler.loads(ForkingPickler.dumps(opened(reader, emphasis="phase == 1").train))
    for position in reversed(range(0, 3000, 171)):
        assert_same(first[position], second[position])
        assert first[position].position == position


def test_emphasis_keeps_the_shares_of_the_roots() -> None:
    other = replace(ROOT, name="other", lengths=(200, 200))
    readers = with_phase(ROOT, 1), with_phase(other, 1, 2, 3)
    for weights in ((3.0, 1.0), ()):
        dataset = opened(*readers, weights=weights, emphasis="phase == 1", emphasis_share=0.2)
        drawn = Counter(
            (name.split("/")[0], frame in ((1,) if name.startswith("root") else (1, 2, 3)))
            for name, frame in (dataset.train.locate(2000 + place) for place in range(1000))
        )
        totals = [drawn[name, True] + drawn[name, False] for name in ("root", "other")]
        sizes = [int(row[4]) for row in dataset.rows[1::2]]
        assert sum(sizes) == dataset.train.num_samples
        assert totals == ([750, 250] if weights else [round(1000 * size / sum(sizes)) for size in sizes])
        for name, total in zip(("root", "other"), totals, strict=True):
            assert abs(drawn[name, True] - 0.2 * total) <= 0.5


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"emphasis": "phase == 2"}, r"'phase == 2' holds in 0 of \d\d training frames of root, .*values are 0 to 1"),
        ({"emphasis": "phase < 2"}, r"holds in (\d\d) of \1 training frames of root, expected some but not all"),
        (
            {"emphasis": "phase == 1", "emphasis_share": 1e-4},
            r"emphasis-share 0.0001 .*no position to emphasised frames",
        ),
        ({"emphasis": "phase == 1", "emphasis_share": 0.9999}, r"no position to other frames: give a share nearer"),
        ({"emphasis": "fase == 1"}, r"no fase \(nearest: phase\)"),
    ],
)
def test_emphasis_that_no_data_satisfies(config: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        opened(with_phase(ROOT, 3), **config)
    assert "\n" not in str(refusal.value)


def test_emphasis_may_name_what_is_withheld() -> None:
    plain = opened(ROOT, emphasis="observation.state[0] < 0.5").train
    bare = opened(ROOT, emphasis="observation.state[0] < 0.5", withhold=("state",)).train
    assert [bare.locate(position) for position in range(50)] == [plain.locate(position) for position in range(50)]
    assert bare[3].state.shape == (0,)
    with pytest.raises(ValueError, match=r"observation.state\[0\] < 1e9' holds in (\d+) of \1 .*values are 0 to \d"):
        opened(ROOT, emphasis="observation.state[0] < 1e9", withhold=("state",))


def with_facts(root: FakeRoot, *facts: dict[str, object]) -> FakeReader:
    """The root whose episodes have these facts, in their order."""
    reader = root.open()
    for place, own in enumerate(facts):
        reader = edited(reader, place, facts=own)
    return reader


def test_each_value_of_a_fact_has_the_same_share_in_every_block() -> None:
    ups = with_facts(ROOT, *({"action": action} for action in ("up", "down", "up", "up")))
    left = with_facts(replace(ROOT, name="other", lengths=(200, 40)), {"action": "left"}, {"action": "up"})
    dataset = opened(ups, left, balance="action", validation_share=0.0)
    lengths = {"up": 20 + 30 + 20 + 40, "down": 25, "left": 200}
    facts = {episode.name: episode.facts["action"] for reader in (ups, left) for episode in reader.episodes}
    assert len(facts) == 6
    for block in (0, 3):
        drawn = Counter(dataset.train.locate(1000 * block + place) for place in range(1000))
        shares = Counter[object]()
        for (name, _), times in drawn.items():
            shares[facts[name]] += times
        assert set(shares) == set(lengths)
        assert all(333 <= share <= 334 for share in shares.values())
        # Of one value, the roots have shares as their samples are, and each sample is drawn as often as any other.
        ups_of_other = sum(name == left.episodes[1].name for name, _ in drawn.elements())
        assert abs(ups_of_other / 333 - 40 / lengths["up"]) < 0.005
    named = [(row[1], row[4], row[-1]) for row in dataset.rows if not row[0]]
    assert [name for name, _, _ in named] == ["  action down", "  action up", "  action left", "  action up"]
    assert [row[-1] for row in dataset.rows[1:] if row[0]] == ["54.6 %", "45.4 %"]


def test_tasks_are_balanced_by_their_instruction() -> None:
    reader = edited(ROOT.open(), 2, instructions=Texts.of(["another task"] * 30))
    dataset = opened(reader, balance="instruction", validation_share=0.0)
    drawn = Counter(dataset.train.locate(place)[0] for place in range(1000))
    assert drawn[reader.episodes[2].name] == 500


@pytest.mark.parametrize(
    ("facts", "config", "said"),
    [
        ({"action": "up"}, {"balance": "acton"}, r"no acton \(nearest: action\): let --data.balance name one of instr"),
        ({"action": "up", "subject": ""}, {"balance": "subject"}, r"has no subject.*one of instruction, action$"),
        ({}, {"balance": "action"}, r"has no action, as it has no facts: let --data.balance name its instruction"),
        ({"action": "up"}, {"balance": "action", "weights": (1.0,)}, "and so does --data.weights: leave one of them"),
        ({"action": "up"}, {"balance": "action", "emphasis": "action[0] > 0"}, "and so does --data.emphasis: leave"),
    ],
)
def test_balance_that_no_data_satisfies(facts: dict[str, object], config: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        opened(with_facts(ROOT, *[facts] * 4), **config)
    assert "\n" not in str(refusal.value)


def test_balance_of_several_instructions_in_an_episode_is_refused() -> None:
    reader = edited(ROOT.open(), 1, instructions=Texts.of(["reach", *["push"] * 24]))
    with pytest.raises(ValueError, match=r"has 2 instructions, so --data.balance instruction cannot"):
        opened(reader, balance="instruction")


def test_emphasis_on_the_shipped_data(needle: Path) -> None:
    config = DataConfig(roots=(str(needle),), emphasis="abs(action[2]) > 0.5", emphasis_share=0.2)
    train = open_dataset(config, 0).train
    actions = {episode.name: episode.actions.values for episode in open_lerobot(needle).episodes}
    drawn = [train.locate(position) for position in range(1000, 2000)]
    assert sum(abs(actions[name][frame, 2]) > 0.5 for name, frame in drawn) == 200
    assert train[1234].actions[0].tolist() == actions[drawn[234][0]][drawn[234][1]].tolist()
    with pytest.raises(ValueError, match=r"needle has no column acton \(nearest: action\)"):
        open_dataset(replace(config, emphasis="acton[0] > 1"), 0)


def test_emphasis_on_recordings_of_the_insertion_recorder(tmp_path: Path) -> None:
    """They have no columns, but actions and state."""
    config = DataConfig(roots=(str(write_windows(tmp_path)),), validation_share=0.0, missing_cameras="mask")
    everything = open_dataset(config, 0).everything
    angle = {everything.locate(index): sample.state[6] for index, sample in enumerate(everything)}
    half = float(np.median(list(angle.values())))
    train = open_dataset(replace(config, emphasis=f"observation.state[6] > {half}", emphasis_share=0.9), 0).train
    assert sum(angle[train.locate(position)] > half for position in range(1000)) == 900
    with pytest.raises(
        ValueError, match=r"insertion recorder, whose frames have no phase: name action or observation.s"
    ):
        open_dataset(replace(config, emphasis="phase == 1"), 0)


def test_companded_streams_have_the_statistics_of_their_roots() -> None:
    dataset, plain = opened(ROOT, compand=("actions", "sensor")), opened(ROOT)
    np.testing.assert_allclose(dataset.statistics["actions"].q99, np.sqrt(plain.statistics["actions"].q99), rtol=0.01)
    assert dataset.statistics["actions"].companded.all()
    assert dataset.statistics["sensor"].companded.all()
    for field, value in vars(plain.statistics["state"]).items():
        np.testing.assert_array_equal(vars(dataset.statistics["state"])[field], value)
    assert_same(dataset.train[5], plain.train[5])


def test_episodes_are_chosen_of_every_root() -> None:
    first, second = replace(ROOT, indices=(3, 5, 8, 9)), replace(ROOT, name="other", indices=(1, 3, 5, 6))
    dataset = opened(first, second, episodes=(3, 5), validation_share=0.5)
    names = {dataset.train.locate(position)[0] for position in range(dataset.train.num_samples)}
    names |= {dataset.validation.locate(index)[0] for index in range(len(dataset.validation))}
    assert names == {f"{root}/episode_00000{index}" for root in ("root", "other") for index in (3, 5)}
    with pytest.raises(ValueError, match="other has no episode 8: --data.episodes may name"):
        opened(first, second, episodes=(3, 8))


def test_episodes_of_roots_of_one_name_are_told_apart(tmp_path: Path) -> None:
    roots = tuple(str(write_v2(tmp_path / name, lengths=(9, 10))) for name in ("a/pick", "b/pick", "place"))
    dataset = open_dataset(DataConfig(roots=roots, validation_share=0.5), 0)
    parts = (dataset.validation, dataset.everything)
    found = {samples.locate(index)[0] for samples in parts for index in range(len(samples))}
    assert found == {f"{root}/episode_00000{index}" for root in ("a/pick", "b/pick", "place") for index in (0, 1)}
    again = ForkingPickler.loads(ForkingPickler.dumps(dataset.validation))
    assert [again.locate(index) for index in range(len(again))] == [
        dataset.validation.locate(index) for index in range(len(again))
    ]
    assert_same(again[3], dataset.validation[3])
    assert set(read_phases(roots, "task_index").by_episode) == found


def test_missing_cameras_are_masked_on_request() -> None:
    root = replace(ROOT, without_wrist=(0, 2))
    with pytest.raises(ValueError, match=r"root/episode_000000 has no camera observation.images.wrist.*mask"):
        opened(root)
    dataset = opened(root, missing_cameras="mask")
    for position in range(30):
        name, _ = dataset.train.locate(position)
        present = name[-1] not in "02"
        assert dataset.train[position].image_valid.tolist() == [True, present]
        assert dataset.train[position].images[1].shape == (3, 6, 8)


def test_a_camera_that_starts_late_is_black_until_then() -> None:
    reader = ROOT.open()
    for place, episode in enumerate(reader.episodes):
        late = FakeFrames(timestamps=episode.timestamps[4:], height=5, width=7)
        reader = edited(reader, place, cameras={**episode.cameras, ROOT.cameras[1]: late})
    samples = list(opened(reader).validation)
    assert [sample.image_valid[1] for sample in samples] == [False] * 4 + [True] * (len(samples) - 4)
    assert {sample.images[1].shape for sample in samples} == {(3, 5, 7)}


def nan_in(stream: Stream, row: int) -> Stream:
    values = stream.values.copy()
    values[row, 1] = np.nan
    return replace(stream, values=values)


EPISODE: Episode = ROOT.episode(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actions": nan_in(EPISODE.actions, 7)}, "nan in actions, row 7, dimension 1"),
        ({"state": nan_in(EPISODE.state, 24)}, "nan in state, row 24, dimension 1"),
        ({"streams": {SENSOR: nan_in(EPISODE.streams[SENSOR], 1249)}}, "nan in sensor, row 1249, dimension 1"),
        ({"actions": encoded(EPISODE.timestamps, 3)}, "3 action values, its root says 2"),
        ({"state": None}, "0 state values, its root says 3"),
        ({"timestamps": EPISODE.timestamps[::-1].copy()}, "frame timestamps that do not increase at row 1"),
        ({"actions": encoded(np.zeros(25), 2)}, "actions timestamps that do not increase"),
        (
            {"streams": {SENSOR: encoded(np.arange(100) / 500, 2)}},
            f"samples of {SENSOR} at 500.0 Hz, its root says 1000 Hz",
        ),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_damaged_episodes_are_corrupt_data(changes: dict[str, object], said: str, seed: int) -> None:
    """In training and validation episodes alike: the seeds put the episode in both."""
    with pytest.raises(CorruptData, match=f"root/episode_000001 has .*{said}"):
        opened(edited(ROOT.open(), 1, **changes), seed=seed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"instructions": said("")}, "empty instruction"),
        ({"instructions": said("  \n")}, "empty instruction"),
        ({"instructions": said("go " * 3334)}, "10,002 characters"),
        ({"instructions": said("look at <|image_pad|> and go")}, r"control token <\|image_pad\|>"),
        ({"instructions": said("<|im_end|>")}, r"control token <\|im_end\|>"),
        ({"confidence": np.append(np.ones(24), 0.0)}, "confidence 0 in frame 24"),
        ({"confidence": np.full(25, np.nan)}, "confidence nan in frame 0"),
        ({"actions": encoded(EPISODE.timestamps + 100, 2)}, "clocks do not match"),
    ],
)
def test_episodes_that_nothing_can_be_learned_from_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"root/episode_000001 has .*{said}") as refusal:
        opened(edited(ROOT.open(), 1, **changes))
    assert not isinstance(refusal.value, CorruptData)
    assert "\n" not in str(refusal.value)


def test_a_chunk_longer_than_its_episode_is_masked() -> None:
    root = replace(ROOT, lengths=(20, 7, 1))
    data = opened(root, validation_share=0.0)
    for index in range(28):
        name, frame = data.everything.locate(index)
        valid = data.everything[index].action_valid
        assert valid.tolist() == [step < root.lengths[int(name[-6:])] - frame for step in range(8)]
    said = "root: shorter than a chunk of 8 steps: 2 of 3 episodes; what would lie past their ends is masked"
    assert said in " ".join(" ".join(data.table()).split())
    opened(replace(root, lengths=(8, 8)))
    with pytest.raises(ValueError, match="none of 3 episodes has as many frames as a chunk has steps, 21, .* has 20"):
        opened(root, validation_share=0.0, horizon=21)


def test_episodes_are_left_out() -> None:
    longer = replace(ROOT, name="longer", lengths=(20,) * 6)
    data = opened(ROOT, longer, without=(1, 5), validation_share=0.0)
    names = {episode.name for part in data.everything.episodes() for episode in part}
    left = {f"root/episode_{index:06d}" for index in (0, 2, 3)}
    assert names == left | {f"longer/episode_{index:06d}" for index in (0, 2, 3, 4)}
    with pytest.raises(ValueError, match="root and longer have no episode 6, 9 to leave out: correct --data.without"):
        opened(ROOT, longer, without=(1, 6, 9))
    with pytest.raises(ValueError, match="root has no episodes"):
        opened(ROOT, without=(0, 1, 2, 3))


def test_a_root_without_episodes_and_an_unseen_sensor_are_refused() -> None:
    with pytest.raises(ValueError, match="root has no episodes"):
        opened(replace(ROOT, lengths=()))
    with pytest.raises(ValueError, match="no training episode has a sample of observation.ft"):
        opened(replace(ROOT, without_sensor=(0, 1, 2, 3)))


def test_a_frame_that_cannot_be_decoded_is_named_when_it_is_read() -> None:
    dataset = opened(replace(ROOT, broken_frames=(9,)))
    with pytest.raises(CorruptData, match=r"root/episode_00000\d, observation.images.front, frame 9"):
        list(dataset.validation)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_folders_that_are_not_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "missing_not").mkdir()
    with pytest.raises(ValueError, match="missing_not" if name == "missing" else "holds no data"):
        detect(tmp_path / name)


@pytest.mark.parametrize("write", [write_streams, write_windows])
def test_recordings_with_clocks_of_their_own(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """Robot 100 Hz, sensor 650 Hz, cameras 1 to 5 Hz, frames 10 Hz, each off by a fraction: all say their own time."""
    root = write(tmp_path / "recordings")
    assert detect(root) == "insertion"
    dataset = open_dataset(DataConfig(roots=(str(root),), validation_share=0.0), 0)
    assert dataset.contract.fps == 10.0
    for position in range(dataset.train.num_samples):
        sample, now = dataset.train[position], dataset.train.locate(position)[1] / 10
        times = now - np.arange(649, -1, -1) / 650
        skew = (times - sample.streams["sensor"].values[:, 0])[sample.streams["sensor"].valid]
        assert len(skew) >= min(650, 650 * now - 2) or now > 2.85  # the last window of the recorder ends there
        assert (skew > -1e-4).all()
        assert (skew < 1 / 650).all()
        assert -1e-6 < now - sample.state[0] < 0.01 + 1e-6
        assert sample.action_valid.sum() == min(8, 30 - round(now * 10))
        for image, valid in zip(sample.images, sample.image_valid, strict=True):
            assert not valid or now - 1.05 < time_of(image) <= now + 0.01  # the picture counts in steps of 20 ms


# From here on: the data that ships with the repository.


@pytest.fixture(scope="module")
def dataset(needle: Path) -> Dataset:
    return open_dataset(DataConfig(roots=(str(needle),)), 0)


def test_the_shipped_data_as_samples(dataset: Dataset) -> None:
    contract = dataset.contract
    assert contract.cameras == ("observation.images.front", "observation.images.wrist")
    assert (contract.state_dim, contract.action_dim, contract.fps) == (12, 7, 20.0)
    stream = contract.streams["sensor"]
    assert (stream.channels, stream.samples, stream.rate_hz) == (6, 50, 1000.0)
    assert dataset.train.num_samples + len(dataset.validation) == 243
    sample = dataset.train[0]
    assert [image.shape for image in sample.images] == [(3, 128, 128)] * 2
    assert sample.image_valid.all()
    assert sample.streams["sensor"].valid.all()
    assert sample.weight == 2.0
    assert "needle" in sample.instruction


def test_windows_of_the_shipped_data_are_its_rows(dataset: Dataset, needle: Path) -> None:
    """Row by row as the table stores them: 50 sensor samples a frame, read without the reader."""
    from pyarrow import parquet

    table = parquet.read_table(needle / "data/chunk-000/file-000.parquet")
    episodes = table["episode_index"].to_numpy()
    frames = table["frame_index"].to_numpy()
    actions = np.stack(table["action"].to_numpy())
    states = np.stack(table["observation.state"].to_numpy())
    windows = np.array(table["observation.ft"].to_pylist(), dtype=np.float32)
    for position in range(0, 200, 5):
        name, frame = dataset.train.locate(position)
        row = int(np.flatnonzero((episodes == int(name[-6:])) & (frames == frame))[0])
        sample = dataset.train[position]
        np.testing.assert_array_equal(sample.streams["sensor"].values, windows[row])
        np.testing.assert_array_equal(sample.state, states[row])
        steps = min(8, int((episodes == episodes[row]).sum()) - frame)
        np.testing.assert_array_equal(sample.actions[:steps], actions[row : row + steps])
        assert sample.action_valid.tolist() == [True] * steps + [False] * (8 - steps)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.deep)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_the_same_samples(dataset: Dataset, method: str) -> None:
    expected = [dataset.train[position] for position in range(12)]  # also opens decoders and threads before a fork
    loader = DataLoader(
        dataset.train,
        batch_sampler=[list(range(start, start + 4)) for start in range(0, 12, 4)],
        num_workers=1 if method == "spawn" else 2,
        multiprocessing_context=method,
        collate_fn=list,
        timeout=300,
    )
    read = [sample for batch in loader for sample in batch]
    for ours, theirs in zip(expected, read, strict=True):
        assert_same(ours, theirs)


def test_samples_are_light_to_send(dataset: Dataset) -> None:
    assert len(ForkingPickler.dumps(dataset.train)) < 10_000
    assert len(ForkingPickler.dumps(dataset.validation)) < 10_000


def test_threads_read_the_same_samples(dataset: Dataset) -> None:
    expected = [dataset.train[position] for position in range(30)]
    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(expected, pool.map(dataset.train.__getitem__, range(30)), strict=True):
            assert_same(ours, theirs)


def test_the_same_episodes_in_two_formats_are_the_same_samples(shared: Path) -> None:
    first = open_dataset(DataConfig(roots=(str(shared / "data/g1_pick_bottle_v30"),)), 0)
    second = open_dataset(DataConfig(roots=(str(shared / "data/g1_pick_bottle"),), episodes=(29, 30, 31, 59, 82)), 0)
    assert first.contract == second.contract
    for position in range(0, 2000, 150):
        assert_same(first.train[position], second.train[position])
    for index in range(0, len(first.validation), 60):
        assert_same(first.validation[index], second.validation[index])
    for kind, statistics in first.statistics.items():
        np.testing.assert_equal(vars(second.statistics[kind]), vars(statistics))


def test_batches_of_the_shipped_data_stack(dataset: Dataset) -> None:
    batch = collate([dataset.train[position] for position in range(4)], 0, "noise")
    assert batch.observation.streams["sensor"].values.shape == (4, 50, 6)
    assert batch.actions.dtype == torch.float32
    assert batch.positions.tolist() == [0, 1, 2, 3]


def test_the_state_can_be_withheld(needle: Path) -> None:
    whole = open_dataset(DataConfig(roots=(str(needle),)), 0)
    bare = open_dataset(DataConfig(roots=(str(needle),), withhold=("state", "instruction")), 0)
    assert bare.contract == replace(whole.contract, state_dim=0, state_names=(), instructed=False)
    ours, theirs = bare.train[3], whole.train[3]
    assert ours.state.shape == (0,)
    assert np.array_equal(ours.actions, theirs.actions)
    assert np.array_equal(ours.streams["sensor"].values, theirs.streams["sensor"].values)
    assert bare.train.locate(3) == whole.train.locate(3)
    reader = WithoutState(open_root(needle, DataConfig()))
    again = ForkingPickler.loads(ForkingPickler.dumps(reader))
    assert again.layout == reader.layout
    assert all(episode.state is None for episode in again.episodes)
