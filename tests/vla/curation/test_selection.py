"""What is decided: thresholds on ten thousand and one, scores that only fall with a fault, subjects on one side."""

import math
import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.critic.measures import Measures
from vla.critic.quality import quality_of
from vla.critic_settings import CriticConfig
from vla.curation.scores import Fault, Scores
from vla.curation.selection import Candidate, select
from vla.curation_settings import CurationConfig, RobotConfig

SHARE = st.floats(0, 1)
MEASURES = st.builds(
    Measures,
    seconds=st.just(3.0),
    still=SHARE,
    repetition=st.one_of(st.floats(0, 1), st.just(math.inf)),
    jitter=st.one_of(SHARE, st.just(math.nan)),
    speed_mps=st.floats(0, 60),
    acceleration_mps2=st.floats(0, 200),
    lowest_m=st.floats(-1, 1),
    bursts=SHARE,
    jerk_mps3=st.floats(0, 10_000),
    variety_m=st.floats(0, 1),
    skating=st.one_of(SHARE, st.just(math.nan)),
)
FAULTS = {
    "still": 1, "repetition": -1, "jitter": 1, "speed_mps": 1, "acceleration_mps2": 1, "bursts": 1, "jerk_mps3": 1,
    "variety_m": -1, "skating": 1,
}  # fmt: skip
"""In which direction a measure gets worse."""


@given(MEASURES, st.sampled_from([*FAULTS]), st.floats(0, 100), st.sampled_from(["", "cmu", "synthetic"]))
def test_no_score_rises_as_a_fault_grows(measures: Measures, fault: str, by: float, source: str) -> None:
    before = getattr(measures, fault)
    worse = replace(measures, **{fault: max(0.0, before + FAULTS[fault] * by)})
    if math.isinf(before):  # what does not move does not go round either: not a fault to begin with
        worse = replace(measures, repetition=by)
    good, bad = (quality_of(one, CriticConfig(), source=source) for one in (measures, worse))
    assert bad.combined <= good.combined + 1e-12
    assert bad.realism <= good.realism + 1e-12
    assert bad.artifact >= good.artifact - 1e-12
    stable, shaky = (quality_of(measures, CriticConfig(), camera_stability=share) for share in (0.9, 0.1))
    assert shaky.combined < stable.combined


def candidates(count: int, seed: int = 0, **fixed: object) -> list[Candidate]:
    """Clips with random scores."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        quality, realism, artifact, stable = draw.random(4).tolist()
        faults = (Fault(check="speed", detail="", unsafe=draw.random() < 0.5),) if draw.random() < 0.2 else ()
        values = {
            "seconds": float(draw.uniform(0.5, 25)), "quality": quality, "realism": realism, "artifact": artifact,
            "camera_stability": stable if number % 3 else None, "faults": faults,
        }  # fmt: skip
        found.append(
            Candidate(
                name=f"clip {number}",
                action=f"action {number % 50}",
                source=f"source {number % 7}",
                subject=f"subject {number % 40}",
                digest=f"{number:05}",
                scores=Scores(**values | fixed),  # type: ignore[arg-type]
            )
        )
    return found


def test_ten_thousand_and_one_are_really_filtered() -> None:
    """Counts against plain arithmetic over arrays, the first reason of each and the figures of both splits."""
    some, config = candidates(10_001), CurationConfig(balance_max_fraction=1.0, source_max_fraction=1.0)
    curated = select(some, config, motion=True, problems=["one cannot be read"])
    stats = curated.to_json()

    column = {name: np.array([vars(one.scores)[name] for one in some]) for name in ("quality", "realism", "artifact")}
    seconds = np.array([one.scores.seconds for one in some])
    unsafe = np.array([any(fault.unsafe for fault in one.scores.faults) for one in some])
    left = np.ones(10_001, bool)
    wrong = {
        "length": (seconds < 1) | (seconds > 20),
        "unsafe": unsafe,
        "artifact": column["artifact"] > 0.5,
        "realism": column["realism"] < 0.3,
        "quality": column["quality"] < 0.5,
    }
    for check, bad in wrong.items():
        assert stats[f"dropped_{check}"] == (left & bad).sum() > 0
        left &= ~bad
    held = np.array([one.subject in curated.held_subjects for one in some])
    assert len(curated.held_subjects) == 4, "a tenth of 40"
    assert stats["pretrain"]["num_samples"] == (left & ~held).sum()
    assert stats["held_out"]["num_samples"] == (left & held).sum()
    stable = np.array([True if (value := one.scores.camera_stability) is None else value >= 0.6 for one in some])
    sound = np.array([not one.scores.faults for one in some])
    best = left & ~held & sound & stable & (column["realism"] >= 0.6) & (column["quality"] >= 0.8)
    assert stats["sft"]["num_samples"] == best.sum() > 0
    assert stats["sft"]["mean_quality"] == pytest.approx(column["quality"][best].mean(), abs=1e-12)
    dropped = sum(value for key, value in stats.items() if key.startswith("dropped_"))
    assert (
        stats["total_input"] == 10_002 == dropped + stats["pretrain"]["num_samples"] + stats["held_out"]["num_samples"]
    )
    for decision in curated.decisions:
        assert bool(decision.splits) != bool(decision.dropped)


def test_caps_are_of_the_final_set_of_each_split() -> None:
    some = [
        replace(one, action=f"action {min(number % 12, 5)}", source=f"source {min(number % 11, 6)}")
        for number, one in enumerate(candidates(2_000))
    ]
    curated = select(some, CurationConfig(source_max_fraction=0.2), motion=True)
    for split in ("pretrain", "sft"):
        members = [some[place] for place in curated.members(split)]
        assert len(members) > 10
        for kind, most in (("action", Fraction("0.3")), ("source", Fraction("0.2"))):
            largest = max(Counter(vars(one)[kind] for one in members).values())
            assert Fraction(largest, len(members)) <= most
    assert set(curated.members("sft")) <= set(curated.members("pretrain"))
    assert {reason.check for one in curated.decisions for reason in one.dropped} >= {"balance", "source"}


def test_no_subject_is_on_both_sides_and_most_stay_held_out() -> None:
    some, config = candidates(1_000, quality=0.9, realism=0.9, artifact=0.1, faults=(), seconds=5.0), CurationConfig()
    curated = select(some, config, motion=True)
    sides = [{some[place].subject for place in curated.members(split)} for split in ("pretrain", "held_out")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    others = [replace(one, subject=f"new {number}") for number, one in enumerate(some[:2])]
    again = select([*some, *others], config, motion=True)
    assert len(set(again.held_subjects) & set(curated.held_subjects)) >= 3, "of 4"
    assert set(select(some, CurationConfig(seed=1), motion=True).held_subjects) != set(curated.held_subjects)


def test_what_nothing_passes_is_refused_with_what_most_fail_by() -> None:
    with pytest.raises(ValueError, match=r"none of 10 passes, and 10 fail by not good enough \(the first one: quality"):
        select(
            candidates(10, quality=0.1, realism=1.0, artifact=0.0, faults=(), seconds=5.0),
            CurationConfig(),
            motion=True,
        )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"min_quality_pretrain": 1.5}, "--min-quality-pretrain is 1.5; give 0 to 1"),
        ({"min_quality_sft": 0.4}, "--min-quality-sft is 0.4, below --min-quality-pretrain (0.5)"),
        ({"min_realism_sft": 0.1}, "--min-realism-sft is 0.1, below --min-realism-pretrain (0.3)"),
        ({"max_artifact": -0.1}, "--max-artifact is -0.1; give 0 to 1"),
        ({"balance_max_fraction": 0.0}, "--balance-max-fraction is 0; give a share above 0"),
        ({"held_out": 1.0}, "--held-out is 1; give 0 or more, and less than 1"),
        ({"min_seconds": 30.0}, "--min-seconds and --max-seconds want 30 s at least and 20 s at most"),
        ({"max_seconds": -1.0}, "--max-seconds is -1; give a positive number"),
    ],
)
def test_thresholds_out_of_range_are_refused(given: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        CurationConfig(**given)  # type: ignore[arg-type]


def test_limits_of_robots_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="--robot.max-jump is 1; give a number above 1"):
        RobotConfig(max_jump=1.0)
    with pytest.raises(ValueError, match="--robot.max-frozen is 2; give 0 to 1"):
        RobotConfig(max_frozen=2.0)
