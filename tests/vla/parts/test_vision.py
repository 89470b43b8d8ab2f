"""Packed attention against transformers' own, window by window."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vla.parts import tiny
from vla.parts.backbone import load_backbone
from vla.parts.vision import PackedAttention, multiply_patches, pack_attention, windows
from vla.settings import BackboneConfig

GRIDS = ([[1, 16, 16]], [[1, 12, 18], [1, 2, 2], [1, 12, 18]], [[1, 34, 46], [1, 4, 8]])


def models() -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration]:
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny.build(), dtype=torch.float32)
    packed = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny.build(), dtype=torch.float32)
    pack_attention(packed)
    return plain.eval(), packed.eval()


def patches_of(grid: Tensor) -> Tensor:
    return torch.randn(int(grid.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grids", GRIDS)
def test_it_computes_what_transformers_computes(grids: list[list[int]]) -> None:
    plain, packed = models()
    grid = torch.tensor(grids)
    with torch.no_grad():
        expected = plain.model.visual(patches_of(grid), grid_thw=grid).pooler_output
        found = packed.model.visual(patches_of(grid), grid_thw=grid).pooler_output
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grids", GRIDS)
def test_patches_are_embedded_by_a_product_as_by_the_convolution(grids: list[list[int]]) -> None:
    plain, packed = models()
    names = [name for name, _ in packed.named_parameters()]
    multiply_patches(packed)
    assert [name for name, _ in packed.named_parameters()] == names
    patches = patches_of(torch.tensor(grids))
    with torch.no_grad():
        found, expected = (model.model.visual.patch_embed(patches) for model in (packed, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_windows_of_one_length_are_attended_to_as_gathered_ones_are() -> None:
    """A further window of another length has them gathered; what is seen of the others is the same."""
    _, packed = models()
    attention = packed.model.visual.blocks[0].attn
    states = torch.randn(80, packed.model.visual.config.hidden_size, generator=torch.Generator().manual_seed(1))
    cosine, sine = torch.randn(2, 80, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        alone = attention(states[:64], torch.tensor([0, 32, 64], dtype=torch.int32), (cosine[:64], sine[:64]))
        beside = attention(states, torch.tensor([0, 32, 64, 80], dtype=torch.int32), (cosine, sine))[:64]
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-6)


def test_parameters_keep_their_names_and_gradients() -> None:
    plain, packed = models()
    grid = torch.tensor(GRIDS[1])
    for model in (plain, packed):
        model.model.visual(patches_of(grid), grid_thw=grid).pooler_output.square().sum().backward()
    expected = dict(plain.named_parameters())
    found = dict(packed.named_parameters())
    assert list(found) == list(expected)
    for name, parameter in found.items():
        if ".visual." in name:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)


def test_every_patch_is_in_one_window_of_its_length() -> None:
    groups = windows(torch.tensor([0, 64, 128, 144, 208, 224], dtype=torch.int32), torch.device("cpu"))
    assert [tuple(group.shape) for group in groups] == [(3, 64), (2, 16)]
    assert sorted(torch.cat([group.flatten() for group in groups]).tolist()) == list(range(224))
    assert groups[1].tolist() == [list(range(128, 144)), list(range(208, 224))]


def test_the_number_of_calls_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    _, packed = models()
    calls: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return attend(*arguments)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    for images in (1, 8):
        calls.clear()
        grid = torch.tensor([[1, 16, 16]] * images)
        with torch.no_grad():
            packed.model.visual(patches_of(grid), grid_thw=grid)
        assert len(calls) == 2, "one length of windows in block 0, one length of images in block 1"


def test_the_backbone_uses_it() -> None:
    blocks = load_backbone(BackboneConfig(), torch.float32).plain.model.visual.blocks
    assert all(isinstance(block.attn, PackedAttention) for block in blocks)
