"""Alterations: exactly one input changes, to exactly what was said, and each episode remembers its own past."""

import dataclasses
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from tests.vla.evaluation.standins import CONTRACT, FRONT, Known, Recordings
from vla.batch import Observation, collate
from vla.evaluation.alteration import (
    KINDS,
    Alteration,
    Blank,
    alike,
    inputs_of,
    kinds_of,
    swap,
)
from vla.policy import NEUTRAL_INSTRUCTION

INPUTS = inputs_of(CONTRACT)


def at(frame: int, episodes: tuple[int, ...] = (0, 1, 2), data: Recordings | None = None) -> Observation:
    """Some episodes in lockstep."""
    data = Recordings() if data is None else data
    return collate([data[20 * episode + frame] for episode in episodes], 0, "validation").observation


def changed(one: Observation, other: Observation) -> set[str]:
    """The inputs in which two observations differ."""
    return {name for name in INPUTS if not alike(one, swap(one, other, name, CONTRACT))}


def test_the_inputs_are_those_of_the_contract() -> None:
    assert INPUTS == (FRONT, "observation.images.wrist", "instruction", "state", "sensor")
    bare = dataclasses.replace(CONTRACT, cameras=(), state_dim=0, streams={})
    assert inputs_of(bare) == ("instruction",)
    assert inputs_of(dataclasses.replace(bare, instructed=False)) == ()
    assert kinds_of(changing=False) == ("zeroed", "shuffled")
    assert kinds_of(changing=True) == KINDS


@pytest.mark.parametrize("name", INPUTS)
def test_one_input_changes_and_no_other(name: str) -> None:
    one, other = at(3), at(5, (1, 2, 3))
    assert changed(one, other) == set(INPUTS)
    assert changed(one, swap(one, other, name, CONTRACT)) == {name}
    assert alike(swap(other, one, name, CONTRACT), swap(swap(other, other, name, CONTRACT), one, name, CONTRACT))
    for kind in kinds_of(changing=name != "instruction"):
        alter = Alteration(input=name, kind=kind, delay_steps=2).begin(Known())
        alter(one)
        assert changed(at(4), alter(at(4))) == {name}


def test_zeroed_inputs_are_where_the_policy_has_its_middle() -> None:
    policy, seen = Known(), at(3)
    blank = Blank.of(policy).out(seen)
    assert torch.allclose(policy.normalize("state", blank.state), torch.zeros(3, 2), atol=1e-6)
    assert torch.allclose(policy.normalize("sensor", blank.streams["sensor"].values), torch.zeros(3, 4, 2), atol=1e-6)
    assert all(not image.any() for row in blank.images for image in row)
    assert blank.image_valid.all()
    assert blank.streams["sensor"].valid.all()
    assert set(blank.instructions) == {NEUTRAL_INSTRUCTION}


@pytest.mark.parametrize("kind", ["delayed", "frozen"])
def test_each_episode_remembers_its_own_past(kind: str) -> None:
    alter = Alteration(input="state", kind=kind, delay_steps=3).begin(Known())  # type: ignore[arg-type]
    for frame in range(8):
        expected = at(max(0, frame - 3) if kind == "delayed" else 0).state
        assert torch.equal(alter(at(frame)).state, expected)
    again = Alteration(input="state", kind=kind, delay_steps=3).begin(Known())  # type: ignore[arg-type]
    assert torch.equal(again(at(6)).state, at(6).state)


def test_a_shuffled_row_is_that_of_another_episode() -> None:
    alter = Alteration(input=FRONT, kind="shuffled").begin(Known())
    for frame in (0, 7):
        seen = at(frame)
        for row, instead in enumerate((1, 2, 0)):
            assert torch.equal(alter(seen).images[row][0], seen.images[instead][0])
            assert torch.equal(alter(seen).images[row][1], seen.images[row][1])
    told = Alteration(input="instruction", kind="shuffled").begin(Known())
    assert at(0).instructions == ("left", "right", "left")
    assert told(at(0)).instructions == ("right", "left", "right")
    same = at(0, data=Recordings(instructions=("left",)))
    assert alike(told(same), same)
    alone = at(0).rows([1])
    assert alike(alter(alone), alone)


def test_an_alteration_travels_to_other_processes() -> None:
    alteration = Alteration(input="state", kind="frozen")
    assert ForkingPickler.loads(ForkingPickler.dumps(alteration)) == alteration
