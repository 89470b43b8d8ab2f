"""A policy beside the mean action and the last one: better, no better, or not shown to be, in one sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.evaluation.standins import CONTRACT
from vla.data.dataset import open_dataset
from vla.evaluation.open_loop import Predictions
from vla.evaluation.phases import Phases
from vla.evaluation.rivals import standings
from vla.evaluation.standing import sentence
from vla.evaluation.varying import more, most_varying
from vla.settings import DataConfig

EPISODES, FRAMES, HORIZON = 16, 20, 3


def walks(noise: float, *, slow: bool = True, episodes: int = EPISODES) -> Predictions:
    """A policy that is off by some noise on actions that drift, or jump about."""
    draw = np.random.default_rng(0)
    steps = draw.standard_normal((episodes, FRAMES + HORIZON + 1, 2))
    actions = np.cumsum(steps, axis=1) if slow else steps
    chunks = np.stack([actions[:, 1 + ahead : 1 + ahead + FRAMES] for ahead in range(HORIZON)], axis=2)
    recorded = chunks.reshape(-1, HORIZON, 2)
    last = actions[:, :FRAMES].copy()
    last[:, 0] = np.nan
    return Predictions(
        contract=CONTRACT,
        episodes=[f"root/{episode}" for episode in range(episodes) for _ in range(FRAMES)],
        frames=[*range(FRAMES)] * episodes,
        predicted=recorded + noise * draw.standard_normal(recorded.shape),
        recorded=recorded,
        valid=np.ones(recorded.shape[:2], dtype=bool),
        losses=np.zeros(len(recorded)),
        last=last.reshape(-1, 2),
    )


def test_the_errors_are_those_of_the_rivals() -> None:
    data = walks(0.1)
    mean, last = standings(data)
    assert mean.rival_error == pytest.approx(1.0), "the unit is the error of the mean action"
    there = np.isfinite(data.last).all(axis=1)  # type: ignore[arg-type]
    assert data.last is not None
    off = np.abs(data.last[there][:, None] - data.recorded[there]).mean(axis=(0, 1))
    scale = np.abs(data.recorded - data.recorded.mean(axis=(0, 1))).mean(axis=(0, 1))
    assert last.rival_error == pytest.approx(float((off / scale).mean()))
    assert last.error == pytest.approx(mean.error, rel=0.1)
    assert not standings(replace(data, recorded=np.zeros_like(data.recorded)))
    assert sentence([]) == "Nothing is said of other answers: no recorded action varies."


@pytest.mark.parametrize(
    ("noise", "slow", "episodes", "told"),
    [
        (0.1, True, EPISODES, "The policy is better than the mean action (0.0"),
        (0.1, False, EPISODES, "The policy is better than the mean action (0.1"),
        (9.0, True, EPISODES, "The policy is no better than the mean action (3."),
        (1.6, True, EPISODES, "The policy is no better than repeating the last action (1."),
        (0.1, True, 3, "The policy is not shown to be better than the mean action (0.0"),
    ],
)
def test_a_sentence_says_what_the_policy_does_not_beat(noise: float, slow: bool, episodes: int, told: str) -> None:
    said = sentence(standings(walks(noise, slow=slow, episodes=episodes)))
    assert said.startswith(told)
    assert said.count(". ") == 0
    assert ("too few episodes: 3 of 7" in said) == (episodes == 3)
    if noise == 1.6:
        assert "but better than the mean action (0." in said


def test_each_phase_has_its_own_standing() -> None:
    """Good at first, of no use later."""
    good, bad = walks(0.1), walks(9.0)
    late = np.array(good.frames) >= FRAMES // 2
    mixed = replace(good, predicted=np.where(late[:, None, None], bad.predicted, good.predicted))
    words = tuple("insert" if frame >= FRAMES // 2 else "approach" for frame in range(FRAMES))
    phases = Phases(names=("approach", "insert"), by_episode=dict.fromkeys(set(good.episodes), words))
    found = standings(mixed, phases)
    assert [(entry.rival, entry.phase) for entry in found] == [
        (rival, phase)
        for rival in ("the mean action", "repeating the last action")
        for phase in (None, "approach", "insert")
    ]
    assert [entry.place for entry in found if entry.phase == "approach"] == ["better than", "better than"]
    assert [entry.place for entry in found if entry.phase == "insert"] == ["no better than", "no better than"]
    said = sentence(found)
    assert "insert" in said.partition("but better than")[0]
    assert "approach 0." in said.partition("but better than")[2]


def test_the_last_action_is_that_of_the_frame_before(needle: Path) -> None:
    samples = open_dataset(DataConfig(roots=(str(needle),)), seed=0).everything
    last = samples.last_actions(range(len(samples)))
    for index in range(len(samples)):
        if samples.locate(index)[1] == 0:
            assert np.isnan(last[index]).all()
        else:
            assert np.array_equal(last[index], samples[index - 1].actions[0])


def test_pictures_show_what_varies_most_and_count_the_rest() -> None:
    assert most_varying([0.0, 3.0, 1.0, 2.0], limit=2) == [1, 3]
    assert more([0.0, 3.0, 1.0, 2.0], limit=2) == "2 dimensions that vary most; 1 more vary less"
    assert most_varying([0.0, 1.0, 2.0]) == [1, 2]
    assert more([0.0, 1.0, 2.0]) == ""
