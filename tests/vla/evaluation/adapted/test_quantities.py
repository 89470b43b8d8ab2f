"""Quantities of known poses, rank correlations, the weight for a value, and whether two adapters meet."""

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr
from torch import nn

from vla.adapter_settings import AdapterConfig
from vla.adapters.curves import isotonic, spearman, weight_for
from vla.adapters.host import Adapters
from vla.adapters.layer import Blend
from vla.evaluation.adapted.blending import blend_of, conflict
from vla.evaluation.adapted.quantities import QUANTITIES, curve
from vla.evaluation.motion.clips import Clip
from vla.evaluation.motion.landmarks import Landmarks

NAMES = (
    "pelvis", "left_shoulder", "right_shoulder", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
BODY = Landmarks.named(
    NAMES, (-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8), pelvis="pelvis", shoulders=NAMES[1:3], hips=NAMES[5:7], knees=NAMES[7:9],
    ankles=NAMES[9:],
)  # fmt: skip


def test_quantities_of_a_known_walk() -> None:
    """A trunk that leans by 30 degrees, wrists at 1.1 and 1.3 m, a pelvis at 0.8 m that goes 0.6 m/s."""
    positions = np.zeros((21, len(NAMES), 3))
    positions[:, 0, 1] = 0.8
    for place, side in ((1, 0.2), (2, -0.2)):
        positions[:, place] = (side, 0.8 + 0.5 * np.cos(np.pi / 6), 0.5 * np.sin(np.pi / 6))
    positions[:, 3, 1], positions[:, 4, 1] = 1.1, 1.3
    way = np.arange(21)[:, None] / 20 * (0.36, 0.0, 0.48)
    clip = Clip(positions=positions + way[:, None], rate_hz=20.0, source="")
    found = {name: of(clip, BODY) for name, (_, of) in QUANTITIES.items()}
    wanted = {"pelvis height": 0.8, "wrist height": 1.2, "speed": 0.6, "trunk lean": 30.0}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("values", [[0.1, 0.4, 0.3, 0.9], [3.0, 1.0, 1.0, 0.0], [2.0, 2.0, 5.0, 1.0]])
def test_rank_correlations_are_those_of_scipy(values: list[float]) -> None:
    weights = [0.0, 0.25, 0.5, 0.75]
    assert spearman(weights, values) == pytest.approx(spearmanr(weights, values).statistic)
    assert isotonic(np.array(values)) == pytest.approx(isotonic_regression(values).x)


def test_what_does_not_vary_goes_with_nothing() -> None:
    assert np.isnan(spearman([0.0, 0.5, 1.0], [2.0, 2.0, 2.0]))


def test_the_weight_for_a_value_is_that_of_the_line() -> None:
    weights, heights = (0.0, 0.25, 0.5, 0.75, 1.0), (0.84, 0.81, 0.74, 0.67, 0.65)
    for wanted in (0.84, 0.8, 0.7, 0.65):
        expected = float(np.interp(-wanted, [-value for value in heights], weights))
        assert weight_for(weights, heights, wanted) == pytest.approx(expected)
    kinked = (0.0, 2.0, 1.9, 3.0, 4.0, 5.0, 6.0)  # 2.0 and 1.9 share 1.95, in the middle of their weights
    assert weight_for([float(place) for place in range(7)], kinked, 1.95) == pytest.approx(1.5)


def test_equal_steps_are_at_the_weights_of_the_line() -> None:
    weights, heights = [0.0, 0.25, 0.5, 0.75, 1.0], [0.84, 0.81, 0.74, 0.67, 0.65]
    steps = np.linspace(0.84, 0.65, 5)
    expected = np.interp(-steps, -np.array(heights), weights)
    assert np.array(curve(weights, heights)) == pytest.approx(np.stack([steps, expected], axis=1))


def test_a_weight_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="does not go with the weight: their rank correlation is 0.10"):
        weight_for((0.0, 0.25, 0.5, 0.75, 1.0), (0.89, 1.34, 1.38, 1.31, 1.27), 1.3)
    with pytest.raises(ValueError, match="0.5 is out of reach: the quantity is 0.65 to 0.84"):
        weight_for((0.0, 0.5, 1.0), (0.84, 0.7, 0.65), 0.5)
    with pytest.raises(ValueError, match="does not go with the weight: their rank correlation is nan"):
        weight_for((0.0, 0.5, 1.0), (0.8, 0.8, 0.8), 0.8)


def test_the_cosine_of_two_adapters_is_that_of_their_updates() -> None:
    """Numpy's, of the products of the factors; a layer that only one of them changes makes the whole smaller."""
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    adapters = Adapters(module, Blend())
    adapters.add(AdapterConfig(name="one", rank=2, alpha=2, targets=(".*",)))
    adapters.add(AdapterConfig(name="other", rank=3, alpha=6, targets=("0",)))
    generator = torch.Generator().manual_seed(0)
    for name in adapters.names:
        for parameter in adapters.parameters(name).values():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    deltas = {
        (name, path): float(u.scale) * u.up.weight.detach().double().numpy() @ u.down.weight.detach().double().numpy()
        for name in adapters.names
        for path, u in adapters.updates(name).items()
    }
    layers, whole = conflict(adapters, "one", "other")
    one, other = deltas["one", "0"].ravel(), deltas["other", "0"].ravel()
    both = np.concatenate([one, deltas["one", "1"].ravel()])
    assert [layer.name for layer in layers] == ["0"]
    assert layers[0].cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert whole == pytest.approx(one @ other / np.linalg.norm(both) / np.linalg.norm(other))


def test_two_adapters_share_one() -> None:
    assert blend_of(["a"], 0.25) == {"a": 0.25}
    assert blend_of(["a", "b"], 0.25) == {"a": 0.75, "b": 0.25}
