"""The recordings that a policy is measured on: what training held out, wherever it lies and whatever else is given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.data.recordings import write_v2
from tests.vla.data.test_dimensions import foreign
from vla.commands.recordings import EvaluationData, open_recordings
from vla.contract import DataContract
from vla.data.dataset import Dataset, open_dataset
from vla.data.episode import mark_of
from vla.evaluation.open_loop import Samples
from vla.policy_folder import HeldOut
from vla.settings import DataConfig

SEED, SHARE = 3, 0.4


def trained(*roots: Path, **settings: object) -> tuple[Dataset, HeldOut]:
    """The data of a training, and what its policy knows of them."""
    names = tuple(map(str, roots))
    dataset = open_dataset(DataConfig(roots=names, validation_share=SHARE, horizon=4, **settings), SEED)
    marks = tuple(mark_of(episode) for root in dataset.validation.episodes() for episode in root)
    return dataset, HeldOut(seed=SEED, episodes=marks)


def measured(contract: DataContract, split: HeldOut, *roots: Path, **settings: object) -> Samples:
    data = EvaluationData(roots=tuple(map(str, roots)), workers=0, **settings)
    return open_recordings(data, contract, split)


def names(samples: Samples) -> set[str]:
    return {samples.locate(index)[0] for index in range(len(samples))}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two roots of as many episodes each."""
    folder = tmp_path_factory.mktemp("roots")
    return write_v2(folder / "a", lengths=(6, 7, 8, 9, 10)), write_v2(folder / "b", lengths=(11, 12, 13, 14, 15))


def test_the_same_data_give_what_training_held_out(
    roots: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, split = trained(*roots)
    samples = measured(dataset.contract, split, *roots)
    assert [samples.locate(index) for index in range(len(samples))] == [
        dataset.validation.locate(index) for index in range(len(dataset.validation))
    ]
    for name, value in vars(dataset.validation[5]).items():
        np.testing.assert_equal(vars(samples[5])[name], value, err_msg=name)
    assert not capsys.readouterr().err


def test_other_roots_or_episodes_than_in_training_give_nothing_that_was_seen(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = roots
    dataset, split = trained(first, second)
    unseen = names(dataset.validation)
    of_second = {name for name in unseen if name.startswith("b/")}
    assert 0 < len(of_second) < len(unseen)
    assert names(measured(dataset.contract, split, second)) == of_second
    assert names(measured(dataset.contract, split, second, first)) == unseen
    moved = tmp_path / "moved"
    moved.symlink_to(second)
    assert names(measured(dataset.contract, split, moved)) == {name.replace("b/", "moved/") for name in of_second}
    chosen = (0, int(min(of_second)[-1]))
    assert names(measured(dataset.contract, split, second, episodes=chosen)) == of_second & {
        f"b/episode_{index:06d}" for index in chosen
    }
    few, of_few = trained(first, episodes=(1, 2, 3, 4))
    assert names(measured(few.contract, of_few, first)) == names(few.validation)
    assert not capsys.readouterr().err


def test_what_training_may_have_seen_is_told(
    roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, split = trained(*roots)
    new = write_v2(tmp_path / "a", lengths=(16, 17, 18))
    with pytest.raises(ValueError, match=r"none of the 3 episodes was held out in training.*--data.validation-share 0"):
        measured(dataset.contract, split, new)
    assert len(names(measured(dataset.contract, split, new, validation_share=0.0))) == 3
    assert capsys.readouterr().err == "training did not hold out 3 of these 3 episodes and may have seen them\n"
    assert len(names(measured(dataset.contract, split, *roots, validation_share=0.6))) == 6
    assert "did not hold out 2 of these 6 episodes" in capsys.readouterr().err
    everything = replace(split, episodes=())
    assert len(names(measured(dataset.contract, everything, *roots))) == 10
    assert "did not hold out 10 of these 10 episodes" in capsys.readouterr().err


def test_the_columns_of_the_training_are_measured_on_whatever_they_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, usual = foreign(write_v2(tmp_path / "a/set", lengths=(6, 7, 8))), write_v2(tmp_path / "b/set", (6, 7, 8))
    dataset, split = trained(root, action_key="actions", state_key="state", dims=("action=yaw_deg,x",))
    samples = measured(dataset.contract, split, root)
    assert names(samples) == names(dataset.validation)
    np.testing.assert_equal(samples[2].actions, dataset.validation[2].actions)
    renamed = measured(dataset.contract, split, usual, action_key="action", state_key="observation.state")
    np.testing.assert_equal(renamed[2].actions, samples[2].actions)
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="the width of the actions to be 2, not 3"):
        measured(dataset.contract, split, root, dims=())
