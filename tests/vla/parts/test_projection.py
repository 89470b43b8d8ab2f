"""LoRA's layers: what they compute, beside the formula and plain peft, and what they cost."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks import lora_traffic
from tests.kernels import Kernels
from tests.policies import build_policy
from tests.vla.test_policy import CONFIG, CONTRACT, batch, statistics
from vla.adapter_settings import LoraConfig
from vla.parts import tiny
from vla.parts.projection import Projection, Reduce
from vla.policy import Policy
from vla.settings import BackboneConfig

KERNELS = 7_000
"""At most, of a micro-batch at the 3B's depth, forward and backward: 6,850, of which LoRA takes 1,150."""
RATE = 0.4


@pytest.mark.parametrize("rate", [0.0, RATE])
def test_its_gradients_are_those_of_differences(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

    def reduced(x: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(3)  # the same is dropped each time
        return Reduce.apply(x, rate, 1.5, *factors)  # type: ignore[no-any-return]

    factors = [draw(2, 5), draw(1, 5), draw(4, 2), draw(3, 1)]
    assert torch.autograd.gradcheck(reduced, (draw(6, 5), *factors))


def attention() -> nn.Module:
    """One with LoRA, whose B is not zero."""
    policy = build_policy(CONFIG, CONTRACT, statistics(CONTRACT), torch.float32, 0)
    found = policy.backbone.get_submodule("model.base_model.model.model.language_model.layers.0.self_attn")
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return found


def test_the_projections_of_one_input_share_what_is_dropped() -> None:
    """Beside the formula, with the mask that torch draws of the same seed."""
    module = attention()
    x = torch.randn(2, 7, 64)
    for reduction in module.get_submodule("lora").children():
        vars(reduction)["rate"] = RATE
        reduction.train()
    torch.manual_seed(5)
    outs = [module.get_submodule(name)(x) for name in ("q_proj", "k_proj", "v_proj")]
    torch.manual_seed(5)
    dropped, mask = torch.native_dropout(x.flatten(0, 1), RATE, train=True)
    assert 0.2 < mask.double().mean() < 0.8
    for name, out in zip(("q_proj", "k_proj", "v_proj"), outs, strict=True):
        own = module.get_submodule(name)
        assert isinstance(own, Projection)
        down, up = own.lora_A["default"].weight, own.lora_B["default"].weight
        update = functional.linear(functional.linear(dropped, down), up) * (8 / 4)
        expected = functional.linear(x, own.base_layer.weight, own.base_layer.bias) + update.view_as(out)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_a_projection_out_of_its_order_is_refused() -> None:
    with pytest.raises(AssertionError, match="in their order"):
        attention().get_submodule("k_proj")(torch.zeros(1, 64))


def test_a_copy_computes_with_its_own_weights() -> None:
    module = attention().eval()
    other = copy.deepcopy(module)
    x = torch.randn(3, 64)
    before = module.get_submodule("q_proj")(x)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_A" in name:
                parameter.zero_()
    bare = other.get_submodule("q_proj.base_layer")(x)
    assert torch.equal(other.get_submodule("q_proj")(x), bare)
    assert not torch.equal(before, bare)
    assert torch.equal(module.get_submodule("q_proj")(x), before)


def test_what_a_layer_of_the_3b_moves_and_keeps() -> None:
    frozen, x, rope = lora_traffic.made()
    costs, _ = lora_traffic.measure(lora_traffic.adapted(frozen, lora_traffic.DROPOUT, ours=True), x, rope)
    for name, most in lora_traffic.AT_MOST.items():
        assert costs[name] <= most


def deep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy as deep as with the 3B, and as narrow as the tiny one."""
    monkeypatch.setitem(tiny.CONFIG["text_config"], "num_hidden_layers", 36)
    monkeypatch.setitem(tiny.CONFIG["vision_config"], "depth", 32)
    monkeypatch.setitem(tiny.CONFIG["vision_config"], "fullatt_block_indexes", [7, 15, 23, 31])
    tiny.write(folder)
    config = replace(CONFIG, backbone=BackboneConfig(path=str(folder)), lora=LoraConfig())
    return build_policy(config, CONTRACT, statistics(CONTRACT), torch.bfloat16, 0)


def test_the_kernels_of_a_micro_batch_at_the_depth_of_the_3b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = deep(tmp_path, monkeypatch)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not name.startswith("backbone.") or "lora_" in name)
    policy.set_mode(training=True)
    data = batch()
    seen = replace(data.observation, images=((torch.zeros(3, 56, 56, dtype=torch.uint8),) * 2,) * 4)
    data = replace(data, observation=replace(seen, image_valid=torch.ones(4, 2, dtype=torch.bool)))
    policy(data)  # where patches and windows lie is kept from here on
    with Kernels() as counted:
        losses = policy(data)
        torch.stack([loss.mean() for loss in losses.values()]).sum().backward()
    assert counted.launched["native_dropout"] == 2 * 36, "one mask for each input of an attention's projections"
    assert sum(counted.launched.values()) <= KERNELS, counted.launched.most_common(12)
