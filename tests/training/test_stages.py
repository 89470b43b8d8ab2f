"""Stage tables: what trains, how fast, what decays; the schedule against its formula."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from training.engine.stages import enter, table, without
from training.settings import Rates, Stage
from vla.adapter_settings import AdapterConfig
from vla.adapters.host import Adapters
from vla.adapters.layer import Blend
from vla.parts.camera import CameraEncoder
from vla.parts.groups import FROZEN, group_of
from vla.settings import CameraConfig


def policy() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.backbone[0].lora_A = nn.Linear(4, 2, bias=False)
    model.sensor = nn.Linear(3, 4)
    model.expert = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.expert.positions = nn.Parameter(torch.zeros(8, 4))
    return model


def stage(**rates: float) -> Stage:
    return Stage(steps=100, lr=Rates(**rates), weight_decay=0.1)


def test_a_group_without_a_rate_is_frozen() -> None:
    model = policy()
    groups = enter("test", stage(sensor=1e-3, expert=1e-4), model)
    trained = {name for group in groups for name in group.parameters}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(("sensor.", "expert."))}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = enter("test", stage(lora=1e-5), model)
    assert [(group.name, group.parameters) for group in groups] == [("lora/decay", ("backbone.0.lora_A.weight",))]
    assert not model.expert[0].weight.requires_grad


def test_an_adapter_that_does_not_count_is_frozen() -> None:
    model = policy()
    adapters = Adapters(model, Blend())
    for name in ("first", "second"):
        adapters.add(AdapterConfig(name=name, rank=2, targets=(r"expert\.0",)))
    adapters.set({"first": 0.5})
    groups = enter("test", stage(adapter=1e-3), model)
    trained = {name for group in groups for name in group.parameters}
    assert trained == {f"expert.0.updates.first.{factor}.weight" for factor in ("down", "up")}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters.set({})
    with pytest.raises(ValueError, match=r"trains \['adapter'\], but the policy has no such parameters"):
        enter("test", stage(adapter=1e-3), model)


def test_a_camera_encoder_is_a_group_of_its_own_and_its_convolutions_decay() -> None:
    model = policy()
    model.camera = CameraEncoder(1, 4, CameraConfig(width=8))
    groups = {group.name: group for group in enter("test", stage(expert=1e-4, camera=1e-3), model)}
    assert set(groups) == {"camera/decay", "camera/plain", "expert/decay", "expert/plain"}
    assert groups["camera/decay"].rate == 1e-3
    matrices = {name for name, parameter in model.camera.named_parameters() if parameter.ndim >= 2}
    assert len(matrices) == 2 + 5 + 3, "what reads the instruction, convolutions, and what they go through"
    assert set(groups["camera/decay"].parameters) == {f"camera.{name}" for name in matrices}


def test_only_matrices_decay() -> None:
    groups = {group.name: group for group in enter("test", stage(sensor=1e-3, expert=1e-4), policy())}
    assert groups["expert/decay"].parameters == ("expert.0.weight",)
    assert set(groups["expert/plain"].parameters) == {
        "expert.0.bias",
        "expert.1.weight",
        "expert.1.bias",
        "expert.positions",
    }
    assert groups["expert/decay"].weight_decay == 0.1
    assert groups["expert/plain"].weight_decay == 0
    assert groups["expert/plain"].num_parameters == 4 + 4 + 4 + 32


def test_the_tail_opens_named_backbone_parameters_only() -> None:
    model = policy()
    groups = enter("test", stage(backbone=1e-5), model, tail={"backbone.1.weight"})
    assert [group.parameters for group in groups] == [("backbone.1.weight",)]
    assert group_of("backbone.0.weight", {"backbone.1.weight"}) == FROZEN


def test_every_parameter_has_a_group() -> None:
    with pytest.raises(ValueError, match=r"'critic\.weight' belongs to no group"):
        group_of("critic.weight", ())


def test_an_empty_group_is_refused() -> None:
    model = policy()
    del model.sensor
    with pytest.raises(ValueError, match=r"trains \['sensor'\].*--stage\.lr\.sensor None"):
        enter("test", stage(sensor=1e-3, expert=1e-4), model)
    assert enter("test", without(stage(sensor=1e-3, expert=1e-4), "sensor"), model)
    with pytest.raises(ValueError, match="trains nothing"):
        enter("test", stage(), model)


def test_rates_are_positive() -> None:
    with pytest.raises(ValueError, match="'lora' is 0"):
        Rates(lora=0.0)


def test_schedule_is_warm_up_hold_and_cosine() -> None:
    row = Stage(steps=1000, lr=Rates(expert=1.0), warmup=0.03, hold=0.02, floor=0.1)
    factors = [row.factor(step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 30)
    assert factors[29:50] == [1.0] * 21
    for step in (50, 400, 999):
        assert factors[step] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 49) / 950)))
    assert factors[-1] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[50:]))


@pytest.mark.parametrize(("total", "epoch", "rising"), [(2000, 900, 500), (2000, 300, 300), (100, 900, 50), (9, 4, 4)])
def test_a_warm_up_in_steps_is_no_longer_than_an_epoch_and_that_of_torch(total: int, epoch: int, rising: int) -> None:
    row = Stage(steps=total, lr=Rates(expert=1.0), warmup_steps=500, warmup_from=0.1, hold=0.0, floor=0.01)
    factors = [row.factor(step, total, epoch) for step in range(total)]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=rising)
    for step in range(rising):
        assert factors[step] == pytest.approx(linear.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        linear.step()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - rising, eta_min=0.01)
    for step in range(rising, total):
        optimizer.step()
        cosine.step()
        assert factors[step] == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)
    assert (factors[0], factors[-1]) == (0.1, pytest.approx(0.01))


@given(total=st.integers(1, 500), floor=st.floats(0, 1))
def test_factors_stay_between_floor_and_peak(total: int, floor: float) -> None:
    row = Stage(steps=total, lr=Rates(expert=1.0), floor=floor)
    factors = [row.factor(step, total) for step in range(total)]
    assert max(factors) <= 1
    assert min(factors) > 0 or floor == 0
    if total > 2:  # two steps are warm-up and hold
        assert factors[-1] == pytest.approx(floor, abs=1e-12)


def test_epochs_take_the_place_of_steps() -> None:
    assert Stage(steps=7, epochs=1.5).total(num_samples=100, batch_size=32) == 5
    assert Stage(steps=7).total(num_samples=100, batch_size=32) == 7


def test_table_names_every_group() -> None:
    groups = enter("test", stage(sensor=1e-3, expert=1e-4), policy())
    text = table("test", groups, 1234567)
    assert "expert/plain" in text
    assert "1.0e-03" in text
    assert "1,234,567" in text
    assert max(map(len, text.splitlines())) <= 80
