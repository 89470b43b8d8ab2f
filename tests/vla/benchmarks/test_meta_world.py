"""Meta-World through the Environment protocol."""

import dataclasses

import numpy as np
import pytest

from tests.vla.test_policy import BARE
from vla import rendering
from vla.environment import Environment, observe
from vla.evaluation.environments import open_environment

pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'touchstone-vla[metaworld]'")
CONTRACT = dataclasses.replace(
    BARE, cameras=("observation.images.corner", "observation.image"), state_dim=4, action_dim=4, fps=80.0
)


@pytest.fixture(scope="module", autouse=True)
def drawn() -> None:
    try:
        rendering.choose_backend()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.filterwarnings("ignore:Constant:UserWarning")  # of the expert: its answers are clipped
def test_the_scripted_policy_inserts_the_peg() -> None:
    """Meta-World's own expert, through our protocol: actions and success are passed on as they are."""
    from metaworld.policies import ENV_POLICY_MAP

    blind = dataclasses.replace(CONTRACT, cameras=())
    world = open_environment("metaworld", blind, ("task=peg-insert-side-v3",))
    expert = ENV_POLICY_MAP["peg-insert-side-v3"]()
    world.reset(seed=3)
    success, steps = False, 0
    while not success and steps < 300:
        full = world._world._get_obs()  # type: ignore[attr-defined]  # the expert is privileged
        _, _, success, cut_off, info = world.step(expert.get_action(full))
        steps += 1
        assert not cut_off
    assert info["success"] and success
    world.close()


def test_an_episode_is_decided_by_its_seed() -> None:
    world = open_environment("metaworld", CONTRACT, ("pixels=32", "instruction=insert the peg"))
    assert isinstance(world, Environment)
    first, again, other = (world.reset(seed=seed)[0] for seed in (3, 3, 4))
    for key in CONTRACT.cameras:
        assert first[key].shape == (32, 32, 3)
        assert np.array_equal(first[key], again[key])
        assert not np.array_equal(first[key], other[key])
    assert not np.array_equal(first[CONTRACT.cameras[0]], first[CONTRACT.cameras[1]])
    seen = observe([first], CONTRACT)
    assert seen.instructions == ("insert the peg",)
    assert seen.state.shape == (1, 4)
    moved = world.step(np.array([1.0, 0.0, 0.0, 0.0], dtype=np.float32))[0]
    assert moved["observation.state"][0] > first["observation.state"][0]
    world.close()


@pytest.mark.parametrize(
    ("contract", "settings", "message"),
    [
        (CONTRACT, ("task=peg-insert",), "has no task 'peg-insert'; it has"),
        (CONTRACT, ("error-mm=2",), "has no setting error-mm; it takes task, instruction, pixels"),
        (CONTRACT, ("max_steps=600",), "has no setting max_steps"),
        (CONTRACT, ("pixels=large",), "pixels of Meta-World is 'large'"),
        (
            dataclasses.replace(CONTRACT, cameras=("observation.images.wrist",)),
            (),
            "has no camera wrist; it has topview",
        ),
        (dataclasses.replace(CONTRACT, action_dim=3), (), "actions have 3 numbers, but the environment takes 4"),
        (dataclasses.replace(CONTRACT, fps=20.0), (), "takes 80 actions a second"),
    ],
)
def test_what_does_not_suit_is_refused(contract: object, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_environment("metaworld", contract, settings)  # type: ignore[arg-type]


def test_steps_that_it_does_not_take_are_refused() -> None:
    open_environment("metaworld", CONTRACT, (), max_steps=500).close()
    with pytest.raises(ValueError, match="after 500 steps, .* give --within 500 at most"):
        open_environment("metaworld", CONTRACT, (), max_steps=501)
