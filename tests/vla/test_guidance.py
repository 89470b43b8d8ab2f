"""Samples that go without their instruction, and answers that go beyond it."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.vla.test_diffusion import best_of_gaussian
from tests.vla.test_policy import BARE, CONFIG, CONTRACT, SEEING, batch, build, redrawn, train_all
from tests.vla.test_policy_folder import opened
from vla import diffusion
from vla.batch import Batch
from vla.diffusion import coefficients, guide, multiply, split
from vla.objectives import Denoise
from vla.policy import Policy
from vla.policy_folder import load_policy, save_policy
from vla.policy_settings import PolicyConfig, Sampling
from vla.settings import DiffusionConfig, PathName, PredictionName

SHARE = 0.25
VECTOR = "expert.context.unconditional"
DROPPED = torch.tensor([True, False, True, False])
COIN = torch.where(DROPPED, 0.1, 0.9)
"""Of a batch whose first and third sample are dropped."""


def droppable(config: PolicyConfig = CONFIG, **diffusion: object) -> PolicyConfig:
    return dataclasses.replace(config, diffusion=DiffusionConfig(unconditional=SHARE, **diffusion))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def policy() -> Policy:
    """With a camera encoder, as after some training."""
    return opened(build(droppable(SEEING)))


def told(data: Batch, instruction: str) -> Batch:
    observation = dataclasses.replace(data.observation, instructions=(instruction,) * len(data))
    return dataclasses.replace(data, observation=observation)


def test_one_vector_more_changes_no_other_fresh_weight() -> None:
    plain, with_vector = (dict(build(config).named_parameters()) for config in (CONFIG, droppable()))
    assert with_vector.keys() - plain.keys() == {VECTOR}
    assert all(torch.equal(parameter, with_vector[name]) for name, parameter in plain.items())
    other = dict(build(droppable(), seed=1).named_parameters())[VECTOR]
    assert not torch.equal(with_vector[VECTOR], other)


def test_a_dropped_sample_hears_its_instruction_nowhere(policy: Policy) -> None:
    """Nor how long it is; the camera encoder is led by it, too."""
    data = redrawn(batch(), coin=COIN)
    losses = [policy(told(data, text))["diffusion"] for text in ("go", "take the red block and put it into the box")]
    away = (losses[1] - losses[0]).abs()
    assert away[DROPPED].max() < 1e-6
    assert away[~DROPPED].min() > 1e-4
    everyone = policy(redrawn(data, coin=torch.ones(4)))["diffusion"]
    assert torch.allclose(policy(data)["diffusion"][~DROPPED], everyone[~DROPPED], atol=1e-6)


@pytest.mark.parametrize("part", ["state", "sensor", "images"])
def test_a_dropped_sample_sees_and_feels_the_rest(policy: Policy, part: str) -> None:
    data = redrawn(batch(), coin=torch.zeros(4))
    seen = data.observation
    readings = seen.streams["sensor"]
    changed = {
        "state": {"state": seen.state + 1},
        "sensor": {"streams": {"sensor": dataclasses.replace(readings, values=readings.values + 1)}},
        "images": {"images": tuple(tuple(255 - frame for frame in row) for row in seen.images)},
    }[part]
    other = dataclasses.replace(data, observation=dataclasses.replace(seen, **changed))
    heard = (policy(other)["diffusion"] - policy(data)["diffusion"]).abs() > 1e-5
    assert heard.tolist() == [part != "images" or valid for valid in seen.image_valid[:, 0].tolist()]


@pytest.mark.parametrize(("config", "contract"), [(CONFIG, CONTRACT), (CONFIG, BARE), (SEEING, CONTRACT)])
@pytest.mark.parametrize("coin", [COIN, torch.zeros(4), torch.ones(4)], ids=["some", "all", "none"])
def test_every_trained_parameter_has_a_gradient_whoever_is_dropped(
    config: PolicyConfig, contract: object, coin: torch.Tensor
) -> None:
    learner = opened(build(droppable(config), contract))  # type: ignore[arg-type]
    train_all(learner)
    learner.set_mode(training=True)
    learner(redrawn(batch(contract), coin=coin))["diffusion"].mean().backward()  # type: ignore[arg-type]
    for name, parameter in learner.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    gradient = learner.get_parameter(VECTOR).grad
    assert gradient is not None
    assert bool(gradient.any()) == bool((coin < SHARE).any())


def test_a_sample_is_dropped_in_all_its_draws_or_in_none(policy: Policy) -> None:
    data = redrawn(batch(), coin=COIN)
    times, noises = multiply(data.draws.time, data.draws.noise, 3)
    alone = [policy(redrawn(data, time=times[k::3], noise=noises[k::3]))["diffusion"] for k in range(3)]
    policy.objective = Denoise(draws=3)
    together = policy(data)["diffusion"]
    policy.objective = Denoise()
    assert torch.allclose(together, torch.stack(alone).mean(dim=0), atol=1e-6)


def in_turn(policy: Policy, data: Batch, guidance: float, steps: int) -> torch.Tensor:
    """The answer by two calls of the expert in each step."""
    valid = torch.ones(4, CONTRACT.horizon, dtype=torch.bool)
    with torch.no_grad():
        given, without = (policy.context(data.observation, coin) for coin in (torch.ones(4), torch.zeros(4)))

        def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            null = policy.answer(without, x_t, t, valid)[0]
            return null + guidance * (policy.answer(given, x_t, t, valid)[0] - null)

        x0 = diffusion.sample(denoise, data.draws.noise, policy.config.diffusion, steps=steps)
    return policy.normalizer_of("actions").undo(x0)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.5])
def test_guidance_goes_beyond_an_answer_without_the_instruction(policy: Policy, guidance: float) -> None:
    data = batch()
    actions = policy.act(data.observation, data.draws.noise, 4, guidance=guidance)
    torch.testing.assert_close(actions, in_turn(policy, data, guidance, 4), rtol=0, atol=1e-4)
    assert (actions - policy.act(data.observation, data.draws.noise, 4)).abs().max() > 1e-2
    other = policy.act(told(data, "something else").observation, data.draws.noise, 4, guidance=guidance)
    assert torch.allclose(actions, other, atol=1e-4) == (guidance == 0)


def test_the_configuration_sets_guidance(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batch()
    expected = policy.act(data.observation, data.draws.noise, 2, guidance=1.5)
    monkeypatch.setattr(policy, "config", policy.config)  # as it is afterwards
    policy.sample_by(Sampling(guidance=1.5))
    assert policy.config.diffusion == droppable(guidance=1.5).diffusion
    assert torch.equal(policy.act(data.observation, data.draws.noise, 2), expected)


def test_without_guidance_nothing_is_computed_twice_and_with_it_the_backbone_looks_once(policy: Policy) -> None:
    data, rows = batch(), []
    watched = {"backbone": policy.backbone, "expert": policy.expert, "sensor": policy.sensor, "camera": policy.camera}
    watched["context"] = policy.expert.blocks[0].context_attention.key_value
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: rows.append((name, rows_of(out))))
        for name, module in watched.items()
    ]
    parts = ["sensor", "camera", "context"]
    for guidance, count in ((1.0, 4), (2.0, 8)):
        rows.clear()
        policy.act(data.observation, data.draws.noise, 3, guidance=guidance)
        assert rows == [("backbone", 4), *((part, count) for part in parts), *[("expert", count)] * 3]
    for hook in hooks:
        hook.remove()


def rows_of(out: object) -> int:
    tokens = out[0] if isinstance(out, tuple) else out
    assert isinstance(tokens, torch.Tensor)
    return len(tokens)


def test_guidance_of_one_is_bitwise_none(policy: Policy) -> None:
    data, valid = batch(), torch.ones(4, CONTRACT.horizon, dtype=torch.bool)
    with torch.no_grad():
        context = policy.context(data.observation)
        x0 = diffusion.sample(
            lambda x_t, t: policy.answer(context, x_t, t, valid)[0], data.draws.noise, policy.config.diffusion, steps=3
        )
    expected = policy.normalizer_of("actions").undo(x0)
    for guidance in (None, 1.0):
        assert torch.equal(policy.act(data.observation, data.draws.noise, 3, guidance=guidance), expected)


@pytest.mark.parametrize("path", get_args(PathName))
@pytest.mark.parametrize("kind", get_args(PredictionName))
def test_it_does_not_matter_what_is_combined(path: PathName, kind: PredictionName) -> None:
    """Noise, clean chunk or velocity: combined outputs say the combined chunk and the combined noise."""
    generator = torch.Generator().manual_seed(0)
    x_t, *outs = (torch.randn(8, 3, 2, generator=generator) for _ in range(3))
    c = coefficients(path, torch.linspace(0.1, 0.9, 8))
    combined = split(kind, c, x_t, guide(torch.cat(outs), 2.5))
    given, without = (split(kind, c, x_t, out) for out in outs)
    for found, one, other in zip(combined, given, without, strict=True):
        torch.testing.assert_close(found, other + 2.5 * (one - other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", get_args(PredictionName))
def test_guidance_between_two_gaussians_is_a_third_one(kind: PredictionName, monkeypatch: pytest.MonkeyPatch) -> None:
    """p(x | c)^w p(x)^(1 - w) of two normal densities of one width is normal, of that width, about m0 + w (m1 - m0)."""
    config = droppable(path="straight", prediction=kind, sampler="dpm++", sampling_steps=100)
    policy = build(config, BARE)
    policy.set_mode(training=False)
    given, without = (best_of_gaussian("straight", kind, mean, 0.3) for mean in (0.2, -0.1))

    def stub(
        _: Policy, __: object, x_t: torch.Tensor, t: torch.Tensor, ___: object
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        (x_given, x_without), (t_given, t_without) = x_t.chunk(2), t.chunk(2)
        return torch.cat([given(x_given, t_given), without(x_without, t_without)]), {}

    monkeypatch.setattr(Policy, "answer", stub)
    noise = torch.randn(500, BARE.horizon, BARE.action_dim, generator=torch.Generator().manual_seed(0))
    observation = batch(BARE, size=1).observation.rows([0] * 500)
    actions = policy.act(observation, noise, guidance=3.0)
    drawn = policy.normalize("actions", actions)
    assert drawn.mean().item() == pytest.approx(-0.1 + 3 * 0.3, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unconditional": 1.0}, "unconditional is 1.0; give a share"),
        ({"unconditional": -0.1}, "unconditional is -0.1; give a share"),
        ({"unconditional": math.nan}, "unconditional is nan"),
        ({"unconditional": 0.1, "guidance": -1.0}, "guidance is -1.0; give 0 or more"),
        ({"unconditional": 0.1, "guidance": math.inf}, "guidance is inf"),
        ({"guidance": 1.5}, "guidance is 1.5, but training shows every sample its instruction: train with .*0.1, or"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DiffusionConfig(**settings)  # type: ignore[arg-type]


def test_a_policy_that_was_not_trained_for_guidance_refuses_it() -> None:
    plain, data = build(), batch()
    plain.set_mode(training=False)
    calls: list[Callable[[], object]] = [
        lambda: plain.act(data.observation, data.draws.noise, guidance=2.0),
        lambda: plain.sample_by(Sampling(guidance=2.0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="guidance is 2.0, but training shows every sample its instruction"):
            call()
    plain.sample_by(Sampling(sampler="dpm++", guidance=1.0))
    assert plain.config.diffusion == DiffusionConfig(sampler="dpm++")


def test_the_vector_and_the_settings_are_saved_with_the_policy(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path / "policy")
    again, data = load_policy(tmp_path / "policy"), batch()
    assert torch.equal(again.get_parameter(VECTOR), policy.get_parameter(VECTOR))
    answers = [one.act(data.observation, data.draws.noise, 2, guidance=2.0) for one in (policy, again)]
    assert torch.equal(*answers)
    assert "0.25 of the samples without the instruction" in (tmp_path / "policy" / "README.md").read_text()


def test_a_policy_from_before_guidance_is_read(tmp_path: Path) -> None:
    save_policy(build(), tmp_path / "policy")
    file = tmp_path / "policy" / "config.json"
    content = json.loads(file.read_text())
    for name in ("unconditional", "guidance"):
        del content["policy"]["diffusion"][name]
    file.write_text(json.dumps(content))
    assert load_policy(tmp_path / "policy").config.diffusion == DiffusionConfig()
