"""Forces beside a motion: what is masked teaches nothing, what is given stays, whatever the length."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.vla.motion.test_losses import of_body
from tests.vla.test_policy import CONFIG, batch, build
from vla.batch import Batch
from vla.diffusion import Known, sample
from vla.forces import continue_motion, sample_forces, sample_motion, starts
from vla.motion.body import Body
from vla.objectives import Denoise, MinSnr, Objective, noised
from vla.policy import Policy
from vla.settings import DiffusionConfig, Sampler

HORIZON = 8
BODY = Body(
    kind="coordinates",
    joints=("pelvis_tx", "pelvis_ty", "knee_angle_r"),
    parents=(),
    forces=("force.vx", "force.vy", "force.vz"),
)
BARE = CONFIG.__class__(backbone=CONFIG.backbone, expert=CONFIG.expert)


def policy_of(given: float = 0.0, body: Body = BODY) -> Policy:
    contract = dataclasses.replace(of_body(body), horizon=HORIZON, cameras=(), streams={}, instructed=False)
    policy = build(dataclasses.replace(BARE, diffusion=DiffusionConfig(prediction="data", given=given)), contract)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in policy.named_parameters():
            if "modulation.weight" in name:  # closed, no frame would hear of another
                torch.nn.init.normal_(parameter, std=0.05)
    policy.set_mode(training=False)
    return policy


def masked(policy: Policy) -> Batch:
    """A batch in which some forces were not measured, each step by itself."""
    data = batch(policy.contract)
    known = torch.ones(len(data), HORIZON, 6, dtype=torch.bool)
    known[..., 3:] = torch.from_numpy(np.random.default_rng(1).random((len(data), HORIZON, 1)) < 0.6)
    return dataclasses.replace(data, action_known=known)


@pytest.mark.parametrize("objective", [Denoise(), Denoise(draws=2), MinSnr(gamma=2.0)])
def test_masked_numbers_teach_nothing_and_the_others_all(objective: Objective) -> None:
    """Whatever stands there, even what was never seen: losses and gradients are bit for bit the same."""
    policy = policy_of()
    data = masked(policy)
    assert data.action_known is not None
    found, gradients = [], []
    for there in (data.actions, torch.where(data.action_known, data.actions, 1e5)):
        policy.zero_grad()
        loss = objective(policy, dataclasses.replace(data, actions=there))["diffusion"]
        loss.sum().backward()
        found.append(loss.detach())
        gradients.append({name: own.grad.clone() for name, own in policy.named_parameters() if own.grad is not None})
    assert torch.equal(*found)
    assert all(torch.equal(own, gradients[1][name]) for name, own in gradients[0].items())
    every = dataclasses.replace(data, action_known=torch.ones_like(data.action_known))
    whole = dataclasses.replace(data, action_known=None)
    torch.testing.assert_close(objective(policy, every)["diffusion"], objective(policy, whole)["diffusion"])
    assert not torch.equal(objective(policy, whole)["diffusion"], found[0])


def test_the_loss_is_the_mean_over_known_numbers_of_valid_steps() -> None:
    policy = policy_of()
    data = masked(policy)
    assert data.action_known is not None
    with torch.no_grad():
        said = Denoise()(policy, data)["diffusion"].numpy()
        x0 = policy.normalize("actions", data.actions).masked_fill(~data.action_known, 0)
        out = policy.predict(
            policy.context(data.observation), x0, data.action_valid, data.draws.time, data.draws.noise
        ).out
    for row in range(len(data)):
        error, terms = (out[row] - x0[row]).double().numpy() ** 2, []
        for step in np.flatnonzero(data.action_valid[row].numpy()):
            terms += [error[step, place] for place in range(6) if data.action_known[row, step, place]]
        assert said[row] == pytest.approx(np.mean(terms), rel=1e-5)


def test_a_motion_that_is_given_is_seen_and_not_learned() -> None:
    """Where a sample shows its motion, it does so at all times but for a tenth of noise, and its loss is of forces."""
    policy = policy_of(given=1.0)
    data = masked(policy)
    assert data.action_known is not None
    said = noised(policy, data, 1)
    shown_as = policy.normalize("actions", data.actions) + 0.1 * data.draws.noise
    torch.testing.assert_close(said.x_t[..., :3], shown_as[..., :3])
    counted = data.action_known & data.action_valid[..., None] & (torch.arange(6) > 2)
    error = (said.out - said.target).square().masked_fill(~counted, 0).sum(dim=(1, 2))
    expected = error / counted.sum(dim=(1, 2)).clamp(min=1)
    torch.testing.assert_close(Denoise()(policy, data)["diffusion"], expected)
    half = policy_of(given=0.5)
    shown = torch.tensor([0.2, 0.7, 0.49, 0.5])
    given = half.given(shown)
    assert given is not None
    assert given[:, 0].tolist() == [[row in (0, 2)] * 3 + [False] * 3 for row in range(4)]
    assert policy_of().given(shown) is None


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++", "ab2"])
def test_numbers_that_are_known_of_every_step_stay(sampler: Sampler) -> None:
    """Of a law by which forces equal the coordinates, knowing the ones gives the others; noised or as they are."""
    config = DiffusionConfig(sampler=sampler, prediction="data")
    values = torch.linspace(-1, 1, 2 * HORIZON * 6).view(2, HORIZON, 6)
    where = torch.zeros(HORIZON, 6, dtype=torch.bool)
    where[:, :3] = True
    for clean in (False, True):
        seen: list[torch.Tensor] = []

        def denoise(x_t: torch.Tensor, _: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(x_t)
            return x_t[..., :3].repeat(1, 1, 2)

        made = sample(
            denoise, torch.ones(2, HORIZON, 6), config, 12, known=Known(values=values, where=where, clean=clean)
        )
        assert torch.equal(made[..., :3], values[..., :3])
        assert torch.equal(seen[0][..., :3], values[..., :3]) == clean
        if clean:
            near = 0.02 if sampler == "euler" else 1e-5  # which lands beside the clean chunk of its last step
            torch.testing.assert_close(made[..., 3:], values[..., :3], atol=near, rtol=0)


def test_steps_are_known_as_all_their_numbers_are() -> None:
    config = DiffusionConfig(prediction="data")
    values, noise = torch.linspace(-1, 1, HORIZON * 6).view(1, HORIZON, 6), torch.ones(1, HORIZON, 6)
    steps = torch.arange(HORIZON) < 3
    made = [
        sample(lambda x_t, _: x_t.flip(1), noise, config, known=Known(values=values, where=where))
        for where in (steps, steps[:, None].expand(-1, 6))
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize("frames", [3, HORIZON, 21])
def test_forces_of_a_motion_of_any_length(frames: int) -> None:
    """Sample k follows from its number alone, and forces that stand in the motion's rows are not looked at."""
    policy = policy_of(given=1.0)
    motion = np.random.default_rng(0).standard_normal((frames, 6)) * 3 + 5
    made = sample_forces(policy, motion, n=3, seed=2)
    assert made.shape == (3, frames, 3) and np.isfinite(made).all()
    np.testing.assert_allclose(sample_forces(policy, motion[:, :3], n=2, seed=2), made[:2], atol=1e-3)
    assert np.abs(sample_forces(policy, motion + 1.0, n=1, seed=2) - made[:1]).max() > 1e-3
    covered = np.zeros(frames)
    for start in starts(frames, HORIZON):
        covered[start : start + HORIZON] += 1
    assert covered.min() >= 1 and starts(frames, HORIZON)[-1] == max(0, frames - HORIZON)


@pytest.mark.parametrize("frames", [3, HORIZON, 21])
def test_a_motion_of_forces_follows_from_them_and_its_number(frames: int) -> None:
    policy = policy_of(given=0.5)
    forces = np.random.default_rng(0).standard_normal((frames, 3)) * 3 + 5
    made = sample_motion(policy, forces, n=3, seed=2)
    assert made.shape == (3, frames, 3) and np.isfinite(made).all()
    np.testing.assert_allclose(sample_motion(policy, forces, n=2, seed=2), made[:2], atol=1e-3)
    assert np.abs(sample_motion(policy, forces + 1.0, n=1, seed=2) - made[:1]).max() > 1e-3
    assert np.abs(made[0] - made[1]).max() > 1e-3


def test_a_motion_is_continued_by_its_first_half_alone() -> None:
    """Each window of its own: what comes behind its first half, and what forces there were, changes nothing."""
    policy = policy_of()
    motion = np.random.default_rng(0).standard_normal((21, 6)) * 3 + 5
    begins, made = continue_motion(policy, motion, n=2, seed=1)
    half = HORIZON // 2
    assert begins == [start + half for start in starts(21, HORIZON)]
    assert made.shape == (2, len(begins), half, 3)
    behind = motion.copy()
    behind[half:], behind[:, 3:] = -7.0, 0.0
    np.testing.assert_allclose(continue_motion(policy, behind, n=2, seed=1)[1][:, 0], made[:, 0], atol=1e-3)
    before = motion + np.where(np.arange(21) < half, 1.0, 0.0)[:, None]
    assert np.abs(continue_motion(policy, before, n=2, seed=1)[1][:, 0] - made[:, 0]).max() > 1e-3
    assert continue_motion(policy, motion[: HORIZON - 1])[0] == []


def test_a_policy_that_was_always_shown_the_motion_makes_none() -> None:
    with pytest.raises(ValueError, match="makes no motion, as training always showed it .* --diffusion.given 0.5"):
        sample_motion(policy_of(given=1.0), np.zeros((9, 3)))
    with pytest.raises(ValueError, match=r"forces of shape \(9, 2\) were given, the policy's are 3 a frame"):
        sample_motion(policy_of(given=0.5), np.zeros((9, 2)))


def test_a_policy_of_residuals_says_whole_forces() -> None:
    """Of a body whose pelvis gains 2 m/s each second they are m (a + g) more than what it makes, along the vertical."""
    names = tuple(name.replace("force.vy", "force.residual.vy") for name in BODY.forces)
    residual = dataclasses.replace(BODY, forces=names)
    frames, weight = 40, 700.0
    rate = of_body(BODY).fps
    motion = np.zeros((frames, 3))
    motion[:, 0] = motion[:, 1] = (np.arange(frames) / rate) ** 2
    made = sample_forces(policy_of(given=1.0), motion, n=2)
    whole = sample_forces(policy_of(given=1.0, body=residual), motion, weight_n=weight, n=2)
    inner = slice(10, -10)  # at both ends the filter takes what follows for a straight line
    expected = np.broadcast_to([0.0, weight / 9.80665 * (9.80665 + 2.0), 0.0], (2, frames, 3))
    np.testing.assert_allclose((whole - made)[:, inner], expected[:, inner], rtol=2e-3, atol=0.5)
    with pytest.raises(ValueError, match=r"has no known weight: say weight_kg in labels.csv"):
        sample_forces(policy_of(given=1.0, body=residual), motion)
    with pytest.raises(ValueError, match="its motion does not follow from forces: train one with"):
        sample_motion(policy_of(given=0.5, body=residual), np.zeros((9, 3)))


def test_what_cannot_be_told_its_forces_is_refused() -> None:
    policy = policy_of()
    with pytest.raises(ValueError, match=r"motion of shape \(9, 4\) was given, the policy's has 3 coordinates"):
        sample_forces(policy, np.zeros((9, 4)))
    with pytest.raises(ValueError, match="0 samples of seed 0 were asked for"):
        sample_forces(policy, np.zeros((9, 3)), n=0)
    plain = dataclasses.replace(of_body(dataclasses.replace(BODY, forces=())), horizon=HORIZON, cameras=(), streams={})
    with pytest.raises(ValueError, match="models no forces: train one on trials with forces"):
        sample_forces(build(BARE, plain), np.zeros((9, 3)))
    with pytest.raises(ValueError, match="diffusion.given is 2.0; give a share"):
        DiffusionConfig(given=2.0)
