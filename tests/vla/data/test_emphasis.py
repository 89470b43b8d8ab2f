"""Conditions on frames: the sentences that are understood, and what they hold of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeRoot, encoded
from vla.data.emphasis import COMPARISONS, parse_condition

EPISODE = replace(
    FakeRoot(lengths=(6,)).episode(0),
    columns={
        "phase": np.array([[0], [0], [1], [1], [2], [np.nan]], np.float32),
        "contact-force": np.array([[1, -3], [2, -2], [3, -1], [0, 0], [-1, 1], [-2, 2]], np.float32),
    },
)


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("phase == 1", ("phase", None, False, "==", 1)),
        ("phase!=-1", ("phase", None, False, "!=", -1)),
        ("  observation.force[2] >= 2.5 ", ("observation.force", 2, False, ">=", 2.5)),
        ("abs(observation.force[12]) > 2e-3", ("observation.force", 12, True, ">", 2e-3)),
        ("abs( speed )<.5", ("speed", None, True, "<", 0.5)),
        ("abs <= +1.", ("abs", None, False, "<=", 1)),
        ("contact-force[0] < 1E2", ("contact-force", 0, False, "<", 100)),
    ],
)
def test_sentences_that_are_understood(sentence: str, parts: tuple[str, int | None, bool, str, float]) -> None:
    condition = parse_condition(sentence)
    assert condition.sentence == sentence.strip()
    found = (condition.column, condition.dimension, condition.magnitude, condition.comparison, condition.number)
    assert found == (*parts[:4], np.float32(parts[4]))


@pytest.mark.parametrize(
    "sentence",
    [
        "phase", "phase = 1", "phase == ", "== 1", "phase == one", "phase === 1", "1 < phase < 2", "phase == 1 or 2",
        "abs(phase > 1", "abs(phase)) > 1", "phase) > 1", "phase[x] > 1", "phase[-1] > 1", "phase[1 > 1", "phase > nan",
        "phase > inf", "max(phase) > 1", "abs(abs(phase)) > 1", "__import__('os') > 1", "phase > 1e", "phase > 1.2.3",
    ],
)  # fmt: skip
def test_other_sentences_are_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=r"--data.emphasis is .*, expected COLUMN, COLUMN\[2\] or abs") as refusal:
        parse_condition(sentence)
    assert repr(sentence) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sentence", "frames"),
    [
        ("phase == 1", [2, 3]),
        ("phase != 1", [0, 1, 4]),
        ("phase < 5", [0, 1, 2, 3, 4]),
        ("contact-force[0] > 1", [1, 2]),
        ("abs(contact-force[0]) > 1", [1, 2, 5]),
        ("contact-force[1] <= -2", [0, 1]),
        ("action[1] >= 1.1", [2, 3, 4, 5]),
        ("observation.state[2] < 2.15", [0, 1, 2]),
    ],
)
def test_it_holds_of_the_frames_it_says(sentence: str, frames: list[int]) -> None:
    """Channel c of action and state is the time in seconds plus c, at 20 frames a second."""
    assert np.flatnonzero(parse_condition(sentence).holds(EPISODE)).tolist() == frames


def test_streams_with_clocks_of_their_own_are_read_at_the_frames() -> None:
    """The newest state at 4 Hz from 60 ms on, and the nearest action at 10 Hz."""
    state = encoded(0.06 + np.arange(2) / 4, 1)
    episode = replace(EPISODE, state=state, actions=encoded(np.arange(4) / 10 + 0.01, 1))
    assert parse_condition("observation.state < 0.3").values(episode).tolist() == pytest.approx([0.06] * 6)
    values = parse_condition("action > 0").values(episode)
    assert np.abs(values - EPISODE.timestamps).max() <= 0.05


@given(number=st.floats(-3, 3, width=32), comparison=st.sampled_from(list(COMPARISONS)), magnitude=st.booleans())
def test_it_compares_as_python_does(number: float, comparison: str, magnitude: bool) -> None:
    name = "abs(contact-force[0])" if magnitude else "contact-force[0]"
    holds = parse_condition(f"{name} {comparison} {number!r}").holds(EPISODE)
    values = [1.0, 2.0, 3.0, 0.0, -1.0, -2.0]
    meaning = {
        "==": number.__eq__, "!=": number.__ne__, "<": number.__gt__, "<=": number.__ge__, ">": number.__lt__,
        ">=": number.__le__,
    }  # fmt: skip
    assert holds.tolist() == [meaning[comparison](abs(value) if magnitude else value) for value in values]


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("contact-force > 1", r"has 2 such values: name one of contact-force\[0\] to contact-force\[1\]"),
        ("contact-force[2] > 1", r"names contact-force\[2\], but root/episode_000000 has 2 such values"),
        ("action > 1", r"name one of action\[0\] to action\[1\]"),
        ("phase[1] > 1", r"has 1 such values"),
        ("fase == 1", r"has no fase \(nearest: phase\): let --data.emphasis name one of action, observation.state, ph"),
    ],
)
def test_values_that_are_not_there_are_refused(sentence: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_condition(sentence).holds(EPISODE)


def test_a_reader_is_asked_for_columns_only() -> None:
    assert parse_condition("phase == 1").columns == ("phase",)
    assert parse_condition("action[0] == 1").columns == ()
    assert parse_condition("observation.state[0] == 1").columns == ()
    with pytest.raises(ValueError, match=r"has no observation.state.*name one of action, phase, contact-force"):
        parse_condition("observation.state[0] == 1").holds(replace(EPISODE, state=None))
