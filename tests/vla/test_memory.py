"""Frames that have not changed are not looked at again, whatever else has; and nothing but that is remembered."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

from tests.vla.test_policy import CONTRACT, batch, build
from vla.adapter_settings import AdapterConfig
from vla.batch import Observation
from vla.parts import lora
from vla.parts.qwen import qwen_of
from vla.policy import Policy

DATA = batch()
OBSERVATION = DATA.observation
IMAGES = len(OBSERVATION.images) * len(CONTRACT.cameras)


@pytest.fixture(scope="module")
def first() -> Policy:
    policy = build()
    for parameter in lora.adapter_parameters(qwen_of(policy.backbone)).values():
        torch.nn.init.normal_(parameter.data, std=0.1, generator=torch.Generator().manual_seed(0))
    policy.requires_grad_(requires_grad=False)
    policy.set_mode(training=False)
    return policy


@pytest.fixture
def policy(first: Policy) -> Policy:
    return copy.deepcopy(first)


def act(policy: Policy, observation: Observation = OBSERVATION) -> torch.Tensor:
    rows = len(observation.images)
    return policy.act(observation, DATA.draws.noise[:rows], steps=2)


def anew(policy: Policy, observation: Observation = OBSERVATION) -> torch.Tensor:
    """What it answers without remembering anything."""
    with torch.no_grad():
        looked = policy.look(observation)
    return policy.act(observation, DATA.draws.noise[: len(observation.images)], steps=2, looked=looked)


def shown(policy: Policy) -> list[int]:
    """A list that gains the number of patches of every call of the vision tower."""
    patches: list[int] = []
    tower = qwen_of(policy.backbone).plain.model.visual
    tower.register_forward_pre_hook(lambda _, inputs: patches.append(len(inputs[0])))
    return patches


def with_frame(change: Callable[[torch.Tensor], torch.Tensor], row: int = 2, camera: int = 1) -> Observation:
    """The observation with one frame changed."""
    rows = [[frame.clone() for frame in row] for row in OBSERVATION.images]
    rows[row][camera] = change(rows[row][camera])
    return dataclasses.replace(OBSERVATION, images=tuple(map(tuple, rows)))


def one_pixel(frame: torch.Tensor) -> torch.Tensor:
    frame[1, 20, 30] ^= 128
    return frame


def test_the_same_frames_are_looked_at_once_and_answered_by_the_same_bits(policy: Policy) -> None:
    other = dataclasses.replace(OBSERVATION, instructions=("open the drawer",) * 4, state=OBSERVATION.state + 1)
    expected, of_other, patches = anew(policy), anew(policy, other), shown(policy)
    assert torch.equal(act(policy), expected)
    again = dataclasses.replace(OBSERVATION, images=tuple(tuple(f.clone() for f in row) for row in OBSERVATION.images))
    assert torch.equal(act(policy, again), expected)
    assert torch.equal(act(policy, other), of_other)
    assert len(patches) == 1
    assert len(policy.memory.frames) == len(policy.memory.features) == IMAGES
    few = OBSERVATION.rows([0])
    act(policy, few)
    assert len(policy.memory.frames) == len(CONTRACT.cameras)


def test_a_pixel_that_changed_is_seen_and_its_frame_alone_is_looked_at(policy: Policy) -> None:
    before, patches = act(policy), shown(policy)
    changed = with_frame(one_pixel)
    after = act(policy, changed)
    rows, columns = qwen_of(policy.backbone).size.of(*OBSERVATION.images[2][1].shape[1:])
    assert patches == [rows // 14 * columns // 14]
    assert not torch.equal(after[2], before[2])
    torch.testing.assert_close(after, anew(policy, changed), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [lambda frame: frame[:, :28], lambda frame: frame.permute(0, 2, 1)])
def test_another_size_is_another_frame(policy: Policy, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    act(policy)
    changed = with_frame(change)
    torch.testing.assert_close(act(policy, changed), anew(policy, changed), rtol=0, atol=1e-4)


def test_a_frame_that_is_written_to_in_its_place_is_seen(policy: Policy) -> None:
    mine = with_frame(lambda frame: frame[:, :, :56].clone())
    assert qwen_of(policy.backbone).size.of(56, 56) == (56, 56), "a frame of the model's own size is not copied"
    act(policy, mine)
    one_pixel(mine.images[2][1])
    patches = shown(policy)
    torch.testing.assert_close(act(policy, mine), anew(policy, mine), rtol=0, atol=1e-4)
    assert len(patches) == 2


def write(policy: Policy) -> None:
    """Into the weights, in place."""
    for parameter in qwen_of(policy.backbone).plain.model.visual.parameters():
        parameter.mul_(1.1)


def replace(policy: Policy) -> None:
    """The weights by others."""
    for parameter in qwen_of(policy.backbone).plain.model.visual.parameters():
        parameter.data = 1.1 * parameter.data


def load(policy: Policy) -> None:
    """As from a file."""
    tower = qwen_of(policy.backbone).plain.model.visual
    tower.load_state_dict({name: 1.1 * value for name, value in tower.state_dict().items()})


def adapt(policy: Policy) -> None:
    """By an adapter of the tower's, beside the weights."""
    policy.adapters.add(AdapterConfig(name="one", rank=2, alpha=2, targets=(r"backbone\..*visual.*\.proj",)))
    for parameter in policy.adapters.parameters("one").values():
        parameter.fill_(0.1)
    policy.adapters.set({"one": 1.0})


def fold(policy: Policy) -> None:
    """The same, folded, of another weight."""
    adapt(policy)
    policy.adapters.set({"one": 0.5})
    policy.adapters.fold()


def weigh(policy: Policy) -> None:
    """The same, once it has acted with it, of another weight."""
    adapt(policy)
    act(policy)
    policy.adapters.set({"one": 0.5})


def train(policy: Policy) -> None:
    """By a loop that writes past torch's count, and then acts again."""
    policy.set_mode(training=True)
    for parameter in qwen_of(policy.backbone).plain.model.visual.parameters():
        parameter.data.mul_(1.1)
    policy.set_mode(training=False)


@pytest.mark.parametrize("change", [write, replace, load, adapt, fold, weigh, train])
def test_other_weights_look_anew(policy: Policy, change: Callable[[Policy], None]) -> None:
    before = act(policy)
    with torch.no_grad():
        change(policy)
    after = act(policy)
    assert torch.equal(after, anew(policy))
    assert not torch.equal(after, before)


def test_another_precision_looks_anew(policy: Policy) -> None:
    act(policy)
    policy.compute_dtype = torch.bfloat16
    assert torch.equal(act(policy), anew(policy))
    policy.to(torch.float64).to(torch.float32)
    patches = shown(policy)
    act(policy)
    assert len(patches) == 1


def test_weights_without_a_count_are_never_remembered() -> None:
    with torch.inference_mode():
        policy = build()
        policy.set_mode(training=False)
    patches = shown(policy)
    assert torch.equal(act(policy), act(policy))
    assert len(patches) == 2


def test_only_acting_remembers(policy: Policy) -> None:
    patches = shown(policy)
    with torch.no_grad():
        policy.look(OBSERVATION)
        policy.look(OBSERVATION)
        policy(DATA)
    assert len(patches) == 3
    assert not policy.memory.frames
