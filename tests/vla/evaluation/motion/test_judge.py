"""Judges: what they tell apart, what they reject, and what must not matter to them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.vla.evaluation.motion.bodies import BODY, clip, recordings, standing, walker
from vla.evaluation.motion.clips import Clip, cut, prepare, stack, varied
from vla.evaluation.motion.counterexamples import KINDS, NOT_HUMAN, UNSEEN, counterexamples
from vla.evaluation.motion.judge import ConvolutionalJudge, Judge, JudgeSettings, _shares, train_judge

QUICK = JudgeSettings(width=16, features=8, steps=150, batch=32, learning_rate=1e-2)
WINDOW_S, STRIDE_S = 1.55, 0.5
"""32 frames at 20 Hz."""


def motions(seed: int, count: int) -> list[Clip]:
    """Walks and sways of several kinds, as if they were real."""
    draw = np.random.default_rng(seed)
    made = []
    for place in range(count):
        cadence, phase, amplitude = draw.uniform(0.8, 1.1), draw.uniform(0, 6.3), draw.uniform(0.25, 0.35)
        steps = walker(1.5, 30.0, cadence_hz=cadence, phase=phase, amplitude_m=amplitude, speed_mps=3.6 * amplitude)
        made.append(prepare(clip(steps, 30.0, f"walk {place}", "walking")))
        sway = standing(1.5, 30.0)
        time = np.arange(len(sway)) / 30.0
        sway[:, 1:9, 0] += 0.1 * np.sin(2 * np.pi * 0.5 * time + phase)[:, None]
        made.append(prepare(clip(sway, 30.0, f"sway {place}", "swaying")))
    return made


@pytest.fixture(scope="module")
def judge() -> ConvolutionalJudge:
    return train_judge(motions(0, 24), BODY, QUICK, seed=0)


def test_it_tells_actions_apart_that_it_has_not_seen(judge: ConvolutionalJudge) -> None:
    assert isinstance(judge, Judge)
    new = motions(1, 20)
    assert np.mean([said == motion.label for said, motion in zip(judge.classify(stack(new)), new, strict=True)]) >= 0.9


def test_it_rejects_what_no_human_does_by_other_settings_than_it_knows(judge: ConvolutionalJudge) -> None:
    made = counterexamples(motions(1, 20), BODY, UNSEEN, seed=5)
    assert len(made["glide"]) == 40
    for kind in ("glide", "frozen legs"):
        assert np.mean([said == NOT_HUMAN for said in judge.classify(stack(made[kind]))]) >= 0.9, kind


def test_what_lies_behind_the_end_of_a_window_changes_nothing(judge: ConvolutionalJudge) -> None:
    new = motions(1, 3)
    short, long = judge.features(stack(new)), judge.features(stack(new, frames=50))
    assert long == pytest.approx(short, abs=1e-5)
    assert np.ptp(short, axis=0).max() > 0.1
    shorter = [replace(motion, positions=motion.positions[:20]) for motion in new]
    together = judge.features(stack([*shorter, *new]))
    assert together[:6] == pytest.approx(judge.features(stack(shorter)), abs=1e-5)


def test_it_follows_from_the_seed() -> None:
    settings = replace(QUICK, steps=3)
    windows = stack(motions(1, 2))
    one, same, other = (train_judge(motions(0, 4), BODY, settings, seed=seed).features(windows) for seed in (3, 3, 4))
    assert (one == same).all()
    assert np.abs(one - other).max() > 1e-3


def test_another_rate_is_refused(judge: ConvolutionalJudge) -> None:
    windows = stack([prepare(clip(walker(1.5, 30.0), 30.0), rate_hz=30.0)])
    with pytest.raises(ValueError, match="trained on motions at 20 Hz, and these have 30"):
        judge.classify(windows)


def test_few_clips_of_an_action_count_as_much_as_many() -> None:
    groups = [("", "a")] * 30 + [("", "b")] * 3 + [("glide", "a")] * 30 + [("glide", "b")] * 3
    shares = _shares(groups, 0.4)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[:30].sum() == pytest.approx(shares[30:33].sum())
    assert shares[33:63].sum() == pytest.approx(shares[63:].sum())
    assert shares[33:].sum() / shares[:33].sum() == pytest.approx(0.4 / len(KINDS) / 0.6)


@pytest.mark.deep
def test_real_motions_are_told_from_what_is_made_of_them(shared: Path) -> None:
    """Trained on the training split; of the test split every action is known, and two subjects walk."""
    clips = recordings(shared)
    training = [
        prepare(window)
        for recording in clips["train"]
        for some in varied(recording, BODY)
        for window in cut(some, WINDOW_S, 2 * STRIDE_S)
    ]
    labels = {motion.label for motion in training}
    new = [
        prepare(window) for some in clips["test"] if some.label in labels for window in cut(some, WINDOW_S, STRIDE_S)
    ]
    trained = train_judge(training, BODY, seed=0)
    right = np.array([said == motion.label for said, motion in zip(trained.classify(stack(new)), new, strict=True)])
    walks = np.array([motion.label == "walking" for motion in new])
    assert right[walks].mean() >= 0.95
    assert right.mean() >= 0.8
    made = counterexamples(new, BODY, UNSEEN, seed=7)
    rejected = {kind: [said == NOT_HUMAN for said in trained.classify(stack(clips))] for kind, clips in made.items()}
    assert np.mean([said for some in rejected.values() for said in some]) >= 0.95
    for kind in ("glide", "frozen legs", "averaged"):
        assert np.mean(rejected[kind]) >= 0.95, kind
