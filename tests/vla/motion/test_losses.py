"""What a motion is trained for beside its numbers, against closed forms."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.vla.test_policy import CONFIG, CONTRACT, batch, build, redrawn
from vla import diffusion
from vla.batch import Batch
from vla.contract import DataContract
from vla.motion.body import Body
from vla.motion.losses import TERMS, Pair
from vla.motion.representation import Motion, decode
from vla.objectives import Denoise, Kinematic, Objective, objective_of
from vla.settings import DiffusionConfig, MotionWeights, ObjectiveConfig, PredictionName

RATE = 20.0
BODY = Body(kind="positions", joints=("hips", "left_ankle", "right_ankle"), parents=(-1, 0, 0))


def motion(positions: Tensor) -> Motion:
    """Joints in space that a body without heading or travel would have."""
    return Motion(positions=positions, seen=positions, contacts=positions[..., :0, 0], turns=None)


def pair(said: Tensor, true: Tensor, valid: Tensor | None = None) -> Pair:
    valid = torch.ones(said.shape[:2], dtype=torch.bool) if valid is None else valid
    return Pair(body=BODY, rate_hz=RATE, said=motion(said), true=motion(true), valid=valid)


def still(frames: int = 12) -> Tensor:
    places = torch.zeros(2, frames, 3, 3)
    places[:, :, 1:, 0] = torch.tensor([0.1, -0.1])
    return places


def test_a_ramp_has_the_velocity_of_its_slope_and_no_acceleration() -> None:
    """1.5 m/s along x, of all joints: 2.25 (m/s)^2; the distance grows with time."""
    seconds = torch.arange(12) / RATE
    said = still()
    said[..., 0] += 1.5 * seconds[None, :, None]
    found = {name: term(pair(said, still())) for name, term in TERMS.items()}
    torch.testing.assert_close(found["velocity"], torch.full((2,), 2.25))
    torch.testing.assert_close(found["acceleration"], torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["joints"], (1.5 * seconds).square().mean().expand(2))
    torch.testing.assert_close(found["bones"], torch.zeros(2), atol=1e-9, rtol=0)
    # Both feet stand all the time, and are said to slide.
    torch.testing.assert_close(found["feet"], torch.full((2,), 2.25))


def test_a_parabola_has_the_acceleration_of_its_law() -> None:
    said = still()
    said[..., 1] += 0.5 * 9.81 * (torch.arange(12) / RATE).square()[None, :, None]
    torch.testing.assert_close(TERMS["acceleration"](pair(said, still())), torch.full((2,), 9.81**2), rtol=1e-4, atol=0)


def test_a_longer_bone_counts_its_own_error() -> None:
    said = still()
    said[:, :, 1, 0] = 0.3  # one of two bones is 0.2 m too long
    torch.testing.assert_close(TERMS["bones"](pair(said, still())), torch.full((2,), 0.02))


@pytest.mark.parametrize("hz", [0.3, 0.9])
def test_a_slow_motion_costs_the_same_at_every_rate(hz: float) -> None:
    """An error of a sine: half its squared amplitude, times its squared angular rate for each derivative."""
    for rate in (25.0, 30.0, 60.0, 120.0):
        seconds = torch.arange(round(20 * rate), dtype=torch.float64) / rate
        true = torch.zeros(1, len(seconds), 3, 3, dtype=torch.float64)
        true[..., 0] = torch.sin(2 * torch.pi * 0.5 * seconds)[None, :, None]
        said = true.clone()
        said[..., 2] += 0.1 * torch.sin(2 * torch.pi * hz * seconds)[None, :, None]
        valid = torch.ones(said.shape[:2], dtype=torch.bool)
        both = Pair(body=BODY, rate_hz=rate, said=motion(said), true=motion(true), valid=valid)
        for order, name in enumerate(("joints", "velocity", "acceleration")):
            expected = 0.005 * (2 * torch.pi * hz) ** (2 * order)
            assert TERMS[name](both).item() == pytest.approx(expected, rel=0.02), (name, rate)


@pytest.mark.parametrize("name", TERMS)
def test_padding_counts_nothing(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    said, true = (0.1 * torch.randn(2, 12, 3, 3, generator=generator) for _ in range(2))
    true[:, 9:] = true[:, 8:9]
    alone = TERMS[name](pair(said[:, :9], true[:, :9]))
    said[:, 9:] = 1e3
    valid = torch.arange(12).expand(2, 12) < 9
    torch.testing.assert_close(TERMS[name](pair(said, true, valid)), alone, rtol=1e-5, atol=1e-6)


def of_body(body: Body) -> DataContract:
    return dataclasses.replace(
        CONTRACT,
        body=body,
        action_dim=len(body.names),
        action_names=(),
        action_periods=(0.0,) * len(body.names),
        state_dim=len(body.offset_names),
        state_names=(),
        fps=RATE,
    )


COORDINATES = Body(kind="coordinates", joints=("pelvis_tx", "knee_angle_r"), parents=())
ROTATIONS = Body(
    kind="rotations", joints=("pelvis", "left_knee", "left_ankle"), parents=(-1, 0, 1), feet=("left_ankle",)
)
WEIGHTS = {"joints": 2.0, "velocity": 0.1, "acceleration": 0.05, "feet": 1.0}


def said_by_oracle(
    kind: PredictionName, contract: DataContract, data: Batch, objective: Objective, wrong: float
) -> dict[str, Tensor]:
    """The losses of a policy that says one clean chunk exactly, the true one and a wave, whatever it is to predict."""
    policy = build(dataclasses.replace(CONFIG, diffusion=DiffusionConfig(prediction=kind)), contract)
    policy.set_mode(training=False)
    clean = policy.normalize("actions", data.actions)
    clean = clean + wrong * torch.sin(torch.arange(clean[0].numel(), dtype=torch.float32)).view(clean.shape[1:])

    def answer(_: object, x_t: Tensor, t: Tensor, __: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        c = diffusion.coefficients("cosine", t)
        eps = (x_t - c.alpha[:, None, None] * clean) / c.sigma[:, None, None]
        return diffusion.target(kind, c, clean, eps), {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "answer", answer)
        return objective(policy, data)


@pytest.mark.parametrize("body", [ROTATIONS, BODY], ids=["rotations", "positions"])
def test_a_perfect_prediction_costs_nothing_and_another_the_same_of_every_kind(body: Body) -> None:
    contract = of_body(body)
    weights = MotionWeights(**WEIGHTS)
    found = {}
    for kind in get_args(PredictionName):
        objective = objective_of(ObjectiveConfig(motion=weights), contract)
        assert isinstance(objective, Kinematic)
        assert objective.weights == WEIGHTS
        data = batch(contract)
        times = torch.tensor([0.1, 0.3, 0.6, 0.9])
        data = redrawn(data, time=times)
        perfect = said_by_oracle(kind, contract, data, objective, 0.0)
        own = {name: value for name, value in perfect.items() if name != "feet"}
        assert all(value.abs().max() < 1e-4 for value in own.values()), own
        found[kind] = said_by_oracle(kind, contract, data, objective, 0.05)
    for name in WEIGHTS:
        assert name == "feet" or found["data"][name].min() > 0, "random feet do not stand"
        torch.testing.assert_close(found["noise"][name], found["data"][name], rtol=1e-2, atol=1e-5)
        torch.testing.assert_close(found["velocity"][name], found["data"][name], rtol=1e-2, atol=1e-5)


def test_terms_are_of_the_data_in_their_own_units() -> None:
    """The said motion of an untrained policy, decoded by hand from its clean chunk."""
    contract = of_body(ROTATIONS)
    policy = build(CONFIG, contract)
    policy.set_mode(training=False)
    data = batch(contract)
    objective = objective_of(ObjectiveConfig(motion=MotionWeights(joints=2.0)), contract)
    with torch.no_grad():
        found = objective(policy, data)
        assert found.keys() == {"diffusion", "joints"}, "a weight of zero computes nothing"
        torch.testing.assert_close(found["diffusion"], Denoise()(policy, data)["diffusion"])
        x0 = policy.normalize("actions", data.actions)
        context = policy.context(data.observation)
        said = policy.predict(context, x0, data.action_valid, data.draws.time, data.draws.noise.float())
        normalizer = policy.normalizer_of("actions")
        rows = said.x0 * normalizer.scale + normalizer.offset
        offsets = torch.cat([torch.zeros(4, 1, 3), data.observation.state.unflatten(1, (2, 3))], dim=1)
        error = (
            decode(ROTATIONS, rows.float(), offsets, RATE).seen - decode(ROTATIONS, data.actions, offsets, RATE).seen
        )
        for row in range(4):
            own = error[row][data.action_valid[row]].square().sum(dim=-1).mean()
            expected = 2.0 * said.coefficients.alpha[row].square() * own
            torch.testing.assert_close(found["joints"][row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "contract", "sentence"),
    [
        ({"velocity": 0.1}, CONTRACT, "is of human motion, which these data are not"),
        ({"bones": 0.1}, of_body(ROTATIONS), "has no effect on rotations"),
        ({"joints": 0.1}, of_body(COORDINATES), "needs joints in space, which coordinates of a model do not say"),
        ({"feet": 0.1}, of_body(dataclasses.replace(BODY, joints=("a", "b", "c"))), "needs joints of feet among a b c"),
    ],
)
def test_weights_of_what_is_not_there_are_refused(
    weights: dict[str, float], contract: DataContract, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        objective_of(ObjectiveConfig(motion=MotionWeights(**weights)), contract)
