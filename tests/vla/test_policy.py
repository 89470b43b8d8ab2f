"""The policy: losses, actions, modes, and which parameters learn."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
import torch

from tests.policies import build_policy
from vla import diffusion
from vla.adapter_settings import LoraConfig
from vla.batch import Batch, Reading, Readings, Sample, collate
from vla.contract import DataContract, StreamContract
from vla.diffusion import coefficients, multiply
from vla.frames import Area, Square
from vla.objectives import Denoise
from vla.parts import Encoders
from vla.policy import NEUTRAL_INSTRUCTION, Policy
from vla.policy_settings import PolicyConfig
from vla.settings import (
    BackboneConfig,
    CameraConfig,
    DiffusionConfig,
    ExpertConfig,
    Sampler,
    SensorConfig,
)
from vla.statistics import Statistics, fit

CONTRACT = DataContract(
    cameras=("observation.images.front", "observation.images.wrist"),
    state_dim=4,
    action_dim=3,
    horizon=5,
    fps=10.0,
    streams={"sensor": StreamContract(key="observation.wrench", channels=6, samples=20, rate_hz=200.0)},
    state_names=(),
    action_names=("x", "y", "gripper"),
    action_periods=(0.0, 0.0, 0.0),
)
BARE = dataclasses.replace(CONTRACT, cameras=(), state_dim=0, streams={})
CONFIG = PolicyConfig(
    backbone=BackboneConfig(path="tiny", max_pixels=3136),
    encoders=Encoders(sensor=SensorConfig(width=16, heads=2)),
    expert=ExpertConfig(width=32, depth=2, heads=2),
    lora=LoraConfig(rank=4, alpha=8),
)
CAMERA = CameraConfig(width=16, pixels=32, tokens=2)
SEEING = dataclasses.replace(CONFIG, encoders=dataclasses.replace(CONFIG.encoders, camera=CAMERA))
"""The same with a camera encoder."""


def statistics(contract: DataContract) -> dict[str, Statistics]:
    generator = np.random.default_rng(0)

    def of(width: int, periods: Sequence[float]) -> Statistics:
        return fit((generator.standard_normal((200, width)) * 3 + 5).astype(np.float32), periods)

    return {
        "actions": of(contract.action_dim, contract.action_periods),
        "state": of(contract.state_dim, [0.0] * contract.state_dim),
        **{name: of(stream.channels, [0.0] * stream.channels) for name, stream in contract.streams.items()},
    }


def batch(contract: DataContract = CONTRACT, size: int = 4, seed: int = 0, sensor_share: float = 0.8) -> Batch:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    def sample(position: int) -> Sample:
        action_valid = np.arange(contract.horizon) < contract.horizon - position % 2
        return Sample(
            images=tuple(generator.integers(0, 256, (3, 56, 56 + 28 * position), np.uint8) for _ in contract.cameras),
            image_valid=np.array([position != 1] * len(contract.cameras), dtype=bool),
            instruction="insert the needle" + " slowly" * position,
            state=draw(contract.state_dim),
            streams={
                name: Reading(
                    values=draw(stream.samples, stream.channels),
                    valid=generator.random(stream.samples) < sensor_share,
                )
                for name, stream in contract.streams.items()
            },
            actions=5 + 3 * draw(contract.horizon, contract.action_dim),
            action_valid=action_valid,
            weight=1.0,
            position=position,
        )

    return collate([sample(position) for position in range(size)], seed, "noise")


def redrawn(data: Batch, **draws: torch.Tensor) -> Batch:
    """The same batch with other draws."""
    return dataclasses.replace(data, draws=dataclasses.replace(data.draws, **draws))


def build(config: PolicyConfig = CONFIG, contract: DataContract = CONTRACT, seed: int = 0) -> Policy:
    return build_policy(config, contract, statistics(contract), torch.float32, seed)


@pytest.fixture(scope="module")
def shared_policy() -> Policy:
    return build()


@pytest.fixture
def policy(shared_policy: Policy) -> Policy:
    """A policy whose adapter and gates are open, in eval mode."""
    policy = copy.deepcopy(shared_policy)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name or "modulation.weight" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    policy.set_mode(training=False)
    return policy


def train_all(policy: Policy) -> None:
    """Open what stage 2 opens."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not name.startswith("backbone.") or "lora_" in name)


def test_children_have_the_names_that_groups_are_made_of(policy: Policy) -> None:
    assert [name for name, _ in policy.named_children()] == ["backbone", "sensor", "state", "expert", "normalizer"]
    assert {name.split(".")[0] for name, _ in policy.named_parameters()} == {"backbone", "sensor", "state", "expert"}
    bare = build(contract=BARE)
    assert [name for name, _ in bare.named_children()] == ["backbone", "expert", "normalizer"]
    assert bare.encoders == ()
    assert list(bare.normalizer) == ["actions"]


@pytest.mark.parametrize("draws", [2, 3, 4])
def test_several_draws_are_the_mean_of_each_alone(policy: Policy, draws: int) -> None:
    data = batch()
    times, noises = multiply(data.draws.time, data.draws.noise, draws)
    alone = [policy(redrawn(data, time=times[k::draws], noise=noises[k::draws]))["diffusion"] for k in range(draws)]
    policy.objective = Denoise(draws=draws)
    assert torch.allclose(policy(data)["diffusion"], torch.stack(alone).mean(dim=0), atol=1e-6)


@pytest.mark.parametrize(
    ("part", "fewer"),
    [
        ("camera", (CONFIG, CONTRACT)),
        ("sensor", (SEEING, dataclasses.replace(CONTRACT, streams={}))),
        ("state", (SEEING, dataclasses.replace(CONTRACT, state_dim=0))),
    ],
)
def test_fresh_weights_follow_from_the_names_of_the_parts(part: str, fewer: tuple[PolicyConfig, DataContract]) -> None:
    """A part more changes no weight of the others, and brings its own projection and type into the context."""
    torch.manual_seed(3)
    some, all_parts = dict(build(*fewer).named_parameters()), dict(build(SEEING).named_parameters())
    assert all(torch.equal(parameter, all_parts[name]) for name, parameter in some.items())
    added = {name for name in all_parts.keys() - some.keys() if not name.startswith(f"{part}.")}
    own = (f"projections.{part}.0.weight", f"projections.{part}.0.bias", f"types.{part}")
    assert added == {f"expert.context.{name}" for name in own}
    other = dict(build(SEEING, seed=1).named_parameters())
    fresh = {name: weight for name, weight in all_parts.items() if not name.startswith("backbone.")}
    assert not any(
        torch.equal(weight, other[name]) for name, weight in fresh.items() if weight.ndim > 1 and weight.any()
    )


def test_only_the_backbones_own_weights_are_named_after_it() -> None:
    """A checkpoint holds none of them, which is seen by their names."""
    named = [name for name, _ in build(SEEING).named_parameters() if "backbone" in name]
    assert named and all(name.startswith("backbone.") for name in named)


def test_no_trained_number_has_a_gradient_of_rounding_errors_alone() -> None:
    """A number that cancels in exact arithmetic has none but that, and Adam makes steps of full size of it."""
    policy = build(SEEING)
    train_all(policy)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    policy.set_mode(training=False)
    squares = {name: torch.zeros(parameter.shape) for name, parameter in policy.named_parameters()}
    for seed in range(6):
        policy.zero_grad()
        policy(batch(seed=seed, sensor_share=0.8 * (seed % 2)))["diffusion"].mean().backward()
        for name, parameter in policy.named_parameters():
            if parameter.grad is not None:
                squares[name] += parameter.grad.square()
    least = 1e-7 * max(square.max() for square in squares.values()).sqrt()
    for name, square in squares.items():
        lost = ((square > 0) & (square.sqrt() < least)).sum()
        assert lost <= 0.001 * square.numel(), f"{lost} of {square.numel()} numbers of {name}"


def test_without_cameras_there_is_no_camera_encoder() -> None:
    blind = build(SEEING, dataclasses.replace(CONTRACT, cameras=()))
    assert "camera" not in blind.encoders
    assert not any("camera" in name for name, _ in blind.named_parameters())


def test_tokens_of_the_camera_encoder_join_the_context(shared_policy: Policy) -> None:
    seeing, without, data = build(SEEING), copy.deepcopy(shared_policy), batch()
    for policy in (seeing, without):
        policy.set_mode(training=False)
    plain, mask = without.join(*without.look(data.observation), None)
    context, wider = seeing.join(*seeing.look(data.observation), None)
    assert context.shape[1] == plain.shape[1] + 2 * 2
    assert torch.equal(context[:, : plain.shape[1]], plain)
    assert torch.equal(wider[:, : plain.shape[1]], mask)
    assert torch.equal(wider[:, plain.shape[1] :], data.observation.image_valid.repeat_interleave(2, dim=1))
    frames = list(data.observation.images)
    frames[1] = tuple(255 - frame for frame in frames[1])
    other = dataclasses.replace(data, observation=dataclasses.replace(data.observation, images=tuple(frames)))
    assert torch.allclose(seeing(other)["diffusion"], seeing(data)["diffusion"], atol=1e-6), "camera 1 is not valid"


def test_loss_is_the_masked_mean_of_the_squared_error(policy: Policy) -> None:
    data = batch()
    losses = policy(data)
    assert list(losses) == ["diffusion"]
    assert losses["diffusion"].shape == (4,)
    assert losses["diffusion"].dtype == torch.float32
    x0 = policy.normalizer_of("actions").apply(data.actions)
    c = coefficients("cosine", data.draws.time)
    alpha, sigma = c.alpha[:, None, None], c.sigma[:, None, None]
    context = policy.context(data.observation)
    out = policy.answer(context, alpha * x0 + sigma * data.draws.noise, data.draws.time, data.action_valid)[0]
    error = (out - (alpha * data.draws.noise - sigma * x0)).square()
    expected = [error[row][data.action_valid[row]].mean() for row in range(4)]
    assert torch.allclose(losses["diffusion"], torch.stack(expected), atol=1e-6)


def test_padded_actions_do_not_count(policy: Policy) -> None:
    data = batch()
    assert not data.action_valid.all()
    other = dataclasses.replace(data, actions=torch.where(data.action_valid[..., None], data.actions, 1e4))
    assert torch.equal(policy(data)["diffusion"], policy(other)["diffusion"])


def test_what_is_invalid_in_the_observation_does_not_count(policy: Policy) -> None:
    data = batch()
    seen = data.observation
    frames = list(seen.images)
    frames[1] = tuple(255 - frame for frame in frames[1])
    readings = seen.streams["sensor"]
    values = torch.where(readings.valid[..., None], readings.values, 1e4)
    streams = {"sensor": Readings(values=values, valid=readings.valid)}
    other = dataclasses.replace(data, observation=dataclasses.replace(seen, images=tuple(frames), streams=streams))
    assert torch.allclose(policy(data)["diffusion"], policy(other)["diffusion"], atol=1e-6)


@pytest.mark.parametrize("part", ["images", "instructions", "state", "values", "valid", "image_valid"])
def test_every_part_of_the_observation_is_heard(policy: Policy, part: str) -> None:
    data = batch()
    seen, readings = data.observation, data.observation.streams["sensor"]
    changed = {
        "images": tuple(tuple(255 - frame for frame in row) for row in seen.images),
        "instructions": ("open the drawer",) * 4,
        "state": seen.state + 1,
        "values": readings.values + 1,
        "valid": torch.zeros_like(readings.valid),
        "image_valid": ~seen.image_valid,
    }[part]
    if part in ("values", "valid"):
        part, changed = "streams", {"sensor": dataclasses.replace(readings, **{part: changed})}
    other = dataclasses.replace(data, observation=dataclasses.replace(seen, **{part: changed}))
    assert (policy(data)["diffusion"] - policy(other)["diffusion"]).abs().max() > 1e-5


def test_frames_resized_beforehand_give_the_same_bits_as_whole_ones() -> None:
    policy = build(SEEING).eval()
    whole = batch()
    small = dataclasses.replace(whole, observation=whole.observation.resized(policy.sizes))
    assert policy.sizes == (Area(unit=28, min_pixels=3136, max_pixels=3136), Square(side=32))
    assert torch.equal(policy(small)["diffusion"], policy(whole)["diffusion"])
    noise = torch.zeros(4, CONTRACT.horizon, CONTRACT.action_dim)
    assert torch.equal(policy.act(small.observation, noise), policy.act(whole.observation, noise))


def test_rows_do_not_depend_on_their_batch(policy: Policy) -> None:
    four, two = batch(size=4), batch(size=2)
    assert torch.equal(four.actions[:2], two.actions)
    assert torch.allclose(policy(four)["diffusion"][:2], policy(two)["diffusion"], atol=1e-5)


@pytest.mark.parametrize(("config", "contract"), [(CONFIG, CONTRACT), (CONFIG, BARE), (SEEING, CONTRACT)])
@pytest.mark.parametrize("sensor_share", [0.8, 0.0])
def test_every_trained_parameter_has_a_gradient_in_every_batch(
    config: PolicyConfig, contract: DataContract, sensor_share: float
) -> None:
    policy = build(config, contract)
    train_all(policy)
    policy.set_mode(training=True)
    policy(batch(contract, sensor_share=sensor_share))["diffusion"].mean().backward()
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_adapters_learn_in_the_second_step(shared_policy: Policy) -> None:
    policy = copy.deepcopy(shared_policy)
    train_all(policy)
    policy.set_mode(training=True)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        policy(batch())["diffusion"].mean().backward()
        optimizer.step()
    silent = [name for name, parameter in trained.items() if not parameter.grad.any()]
    assert not [name for name in silent if name != "sensor.no_sensor"]


def test_training_lowers_the_loss(shared_policy: Policy) -> None:
    policy = copy.deepcopy(shared_policy)
    train_all(policy)
    policy.set_mode(training=True)
    optimizer = torch.optim.AdamW((p for p in policy.parameters() if p.requires_grad), lr=3e-3)
    data, losses = batch(), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            optimizer.zero_grad()
            loss = policy(data)["diffusion"].mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_building_follows_from_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = build().state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again, other = build().state_dict(), build(seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    fresh = [name for name in first if first[name].ndim == 2 and ("lora_A" in name or name.startswith("expert.embed"))]
    assert fresh
    assert not any(torch.equal(first[name], other[name]) for name in fresh)


def test_modes_follow_what_is_trained(shared_policy: Policy) -> None:
    policy = copy.deepcopy(shared_policy)
    train_all(policy)
    policy.set_mode(training=True)
    modes = {name: module.training for name, module in policy.named_modules()}
    assert modes[""]
    assert modes["expert"]
    assert modes["expert.blocks.0.dropout"]
    assert not any(mode for name, mode in modes.items() if "visual" in name)
    lora_dropouts = {name: mode for name, mode in modes.items() if name.endswith("lora_dropout.default")}
    assert lora_dropouts
    assert all(lora_dropouts.values())
    policy.sensor.requires_grad_(requires_grad=False)
    policy.set_mode(training=True)
    assert not any(module.training for module in policy.sensor.modules())
    policy.set_mode(training=False)
    assert not any(module.training for module in policy.modules())


def test_dropout_reaches_every_trained_part() -> None:
    """The rates of the configuration are those of every dropout there is."""
    config = dataclasses.replace(
        CONFIG,
        encoders=dataclasses.replace(CONFIG.encoders, sensor=dataclasses.replace(CONFIG.encoders.sensor, dropout=0.3)),
        expert=dataclasses.replace(CONFIG.expert, dropout=0.3),
        lora=dataclasses.replace(CONFIG.lora, dropout=0.3),
    )
    policy = build(config)
    rates = {name: m.p for name, m in policy.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert {name.split(".")[0] for name in rates} == {"backbone", "sensor", "expert"}
    assert set(rates.values()) == {0.3}


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_actions_follow_from_the_noise(policy: Policy, sampler: str) -> None:
    policy.config = dataclasses.replace(policy.config, diffusion=DiffusionConfig(sampler=sampler, sampling_steps=4))
    data = batch()

    def act(noise: torch.Tensor) -> torch.Tensor:
        return policy.act(data.observation, noise, generator=torch.Generator().manual_seed(0))

    actions = act(data.draws.noise)
    assert actions.shape == (4, 5, 3)
    assert torch.equal(actions, act(data.draws.noise))
    assert not torch.allclose(actions, act(-data.draws.noise), atol=1e-3)
    assert not actions.requires_grad


def test_a_chunk_reads_its_context_once(policy: Policy) -> None:
    """However many sampling steps there are, and with the same bits as by looking anew in each."""
    data, valid = batch(), torch.ones(4, 5, dtype=torch.bool)
    seen: list[str] = []
    hooks = [
        block.context_attention.key_value.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, block in policy.expert.blocks.named_children()
    ]
    chunk = policy.act(data.observation, data.draws.noise, steps=4)
    for hook in hooks:
        hook.remove()
    assert seen == [name for name, _ in policy.expert.blocks.named_children()]
    with torch.no_grad():
        anew = diffusion.sample(
            lambda x_t, t: policy.answer(policy.context(data.observation), x_t, t, valid)[0],
            data.draws.noise,
            policy.config.diffusion,
            steps=4,
        )
    assert torch.equal(policy.normalizer_of("actions").undo(anew), chunk)


def test_actions_are_in_the_units_of_the_data(policy: Policy) -> None:
    """An expert that answers zero velocity from zero noise stands at the middle of the data, which is about 5."""
    policy.expert.out.requires_grad_(requires_grad=False).weight.zero_()
    actions = policy.act(batch().observation, torch.zeros(4, 5, 3))
    assert torch.allclose(actions, policy.normalizer_of("actions").undo(torch.zeros(3)).expand(4, 5, 3))
    assert (actions - 5).abs().max() < 2


def test_acting_in_training_mode_is_a_mistake(policy: Policy) -> None:
    policy.set_mode(training=True)
    with pytest.raises(AssertionError, match="set_mode"):
        policy.act(batch().observation, batch().draws.noise)


def test_bfloat16_keeps_trained_weights_and_losses_in_float32() -> None:
    policy = build_policy(CONFIG, CONTRACT, statistics(CONTRACT), torch.bfloat16, 0)
    train_all(policy)
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    policy.set_mode(training=False)
    exact = build()
    exact.set_mode(training=False)
    losses = policy(batch())["diffusion"]
    assert losses.dtype == torch.float32
    assert torch.allclose(losses, exact(batch())["diffusion"], rtol=0.05)
    losses.mean().backward()
    assert {p.grad.dtype for p in policy.parameters() if p.grad is not None} == {torch.float32}


def test_learned_names_what_a_policy_folder_holds(policy: Policy) -> None:
    names = set(policy.learned())
    assert names == {
        name for name, _ in policy.named_parameters() if not name.startswith("backbone.") or "lora_" in name
    }
    policy.tuned = frozenset(f"backbone.{name}" for name in policy.backbone.last_layer_names(1))
    assert policy.tuned
    assert set(policy.learned()) == names | policy.tuned


def test_a_policy_without_instructions_reads_the_same_sentence_always(policy: Policy) -> None:
    seen = batch().observation
    other = dataclasses.replace(seen, instructions=("something else",) * 4)
    neutral = dataclasses.replace(seen, instructions=(NEUTRAL_INSTRUCTION,) * 4)
    deaf = copy.deepcopy(policy)
    deaf.contract = dataclasses.replace(CONTRACT, instructed=False)
    for observation in (seen, other):
        assert torch.equal(deaf.look(observation)[1][0], policy.look(neutral)[1][0])
