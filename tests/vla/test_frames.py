"""Frames in the sizes that parts look at, against torch's own kernel, transformers' rule and recorded images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_resize

from vla.errors import UnsuitableFrame, told
from vla.frames import Area, Square, in_size, in_sizes, resize, smart_resize

AREA = Area(unit=28, min_pixels=3136, max_pixels=50176)
SQUARE = Square(side=64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), max_pixels=st.sampled_from([3136, 50176, 12845056]))
def test_smart_resize_equals_transformers(height: int, width: int, max_pixels: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(UnsuitableFrame, match="crop it"):
            smart_resize(height, width, 28, 3136, max_pixels)
        return
    rows, columns = smart_resize(height, width, 28, 3136, max_pixels)
    assert (rows, columns) == reference_resize(height, width, 28, 3136, max_pixels)
    assert rows % 28 == columns % 28 == 0


def test_a_frame_on_the_rounding_edge() -> None:
    assert smart_resize(720, 1280, 28, 50176, 50176) == (168, 280)


def test_a_frame_that_cannot_be_shown_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnsuitableFrame) as caught:
        resize(noise(3, 2, 500), AREA)
    code, sentence = told(caught.value)
    assert code == 78
    assert sentence == (
        "error: a frame of 500x2 pixels cannot be shown to the backbone: "
        "its longest side may be at most 200 times the shortest; crop it"
    )


def test_recorded_resizes(shared: Path) -> None:
    golden = shared / "data/qwen_processor_golden"
    paths = sorted((golden / "resized").glob("*.png"))
    assert len(paths) == 12
    for path in paths:
        stem, _, limits = path.stem.rpartition("_")
        frame = torch.from_numpy(np.array(Image.open(golden / "images" / f"{stem}.png"))).permute(2, 0, 1)
        fixed = limits == "fixed224"
        area = Area(unit=28, min_pixels=50176 if fixed else 3136, max_pixels=50176 if fixed else 12845056)
        expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert torch.equal(resize(frame, area), expected)


def test_a_size_that_stays_is_not_touched() -> None:
    frame = noise(3, 56, 84)
    assert resize(frame, AREA) is frame
    assert resize(noise(3, 64, 64), SQUARE).shape == (3, 64, 64)


def test_resized_once_though_the_rule_would_resize_again() -> None:
    area = Area(unit=28, min_pixels=50176, max_pixels=50176)
    whole = noise(3, 720, 1280)
    shown = in_sizes(whole, [area])
    assert shown[area].shape == (3, 168, 280)
    assert area.of(168, 280) != (168, 280), "a case in which a second resize would show"
    assert in_size(shown, area) is shown[area]
    assert in_sizes(shown, [area]) == shown
    assert torch.equal(in_size(whole, area), shown[area])


def test_each_part_has_its_own_size_from_the_whole_frame() -> None:
    whole = noise(3, 480, 640)
    shown = in_sizes(whole, [AREA, SQUARE])
    for size, shape in ((AREA, (168, 252)), (SQUARE, (64, 64))):
        expected = F.interpolate(whole[None], shape, mode="bicubic", antialias=True)[0]
        assert torch.equal(shown[size], expected)
    with pytest.raises(AssertionError, match="not in Square"):
        in_size(shown, Square(side=32))


@pytest.mark.gpu
def test_resize_is_the_same_on_the_gpu() -> None:
    for index, size in enumerate(((480, 640), (97, 53), (720, 1280), (30, 500))):
        frame = noise(3, *size, seed=index)
        on_gpu = resize(frame.cuda(), AREA)
        assert on_gpu.is_cuda
        assert torch.equal(on_gpu.cpu(), resize(frame, AREA))
