"""The image path against torch's own kernel, transformers' processors and recorded images."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as reference_resize

from vla.parts import tiny
from vla.parts.images import (
    ImageProcessor,
    bicubic_weights,
    integer_weights,
    read_image_processor,
    resize,
    resize_by_matmul,
    smart_resize,
)

PROCESSOR = ImageProcessor(min_pixels=3136, max_pixels=50176)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    target=st.tuples(st.integers(2, 200), st.integers(2, 200)),
    seed=st.integers(0, 2**31),
)
def test_matmul_resize_equals_torchs_uint8_kernel(size: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    frames = noise(2, 3, *size, seed=seed)
    expected = F.interpolate(frames, target, mode="bicubic", antialias=True)
    assert torch.equal(resize_by_matmul(frames, *target), expected)


@pytest.mark.parametrize(
    ("size", "target"), [((480, 640), (168, 252)), ((720, 1280), (168, 280)), ((28, 28), (224, 56))]
)
def test_matmul_resize_at_camera_sizes(size: tuple[int, int], target: tuple[int, int]) -> None:
    for frames in (noise(1, 3, *size), 255 * (noise(1, 3, *size) > 127).to(torch.uint8)):
        expected = F.interpolate(frames, target, mode="bicubic", antialias=True)
        assert torch.equal(resize_by_matmul(frames, *target), expected)
        assert torch.equal(resize(frames, *target), expected)


def test_a_size_that_stays_is_not_touched() -> None:
    frames = noise(1, 3, 56, 84)
    assert resize(frames, 56, 84) is frames
    assert torch.equal(resize_by_matmul(frames, 56, 84), frames)


def test_weights_sum_to_one_and_fit_their_integers() -> None:
    for size_in, size_out in ((640, 252), (28, 224), (53, 56), (7, 7)):
        weights = bicubic_weights(size_in, size_out)
        torch.testing.assert_close(weights.sum(1), torch.ones(size_out, dtype=torch.float64))
        integers, precision = integer_weights(size_in, size_out)
        assert integers.abs().max() < 2**15
        assert (integers / 2**precision - weights).abs().max() <= 0.5 / 2**precision


@pytest.mark.gpu
def test_resize_is_the_same_on_the_gpu() -> None:
    for index, size in enumerate(((480, 640), (97, 53), (720, 1280), (30, 500))):
        frames = noise(3, 3, *size, seed=index)
        grid = PROCESSOR.grid(*size)
        on_gpu = PROCESSOR([frame.cuda() for frame in frames], [grid] * 3)
        assert torch.equal(on_gpu.cpu(), PROCESSOR(list(frames), [grid] * 3))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), max_pixels=st.sampled_from([3136, 50176, 12845056]))
def test_smart_resize_equals_transformers(height: int, width: int, max_pixels: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="crop it"):
            smart_resize(height, width, 28, 3136, max_pixels)
        return
    rows, columns = smart_resize(height, width, 28, 3136, max_pixels)
    assert (rows, columns) == reference_resize(height, width, 28, 3136, max_pixels)
    assert rows % 28 == columns % 28 == 0


def test_a_frame_on_the_rounding_edge() -> None:
    assert smart_resize(720, 1280, 28, 50176, 50176) == (168, 280)


def test_patches_stand_where_transformers_puts_them() -> None:
    frames = [noise(3, 56, 84, seed=1), noise(3, 112, 112, seed=2)]
    reference = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=50176)(
        [frame.permute(1, 2, 0).numpy() for frame in frames], return_tensors="pt"
    )
    grids = [PROCESSOR.grid(*frame.shape[1:]) for frame in frames]
    assert grids == [tuple(grid) for grid in reference["image_grid_thw"].tolist()]
    torch.testing.assert_close(PROCESSOR(frames, grids), reference["pixel_values"], rtol=0, atol=3e-7)


def test_normalisation_follows_its_formula() -> None:
    frame = noise(1, 3, 28, 28)
    mean = torch.tensor(PROCESSOR.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(PROCESSOR.std, dtype=torch.float64).view(3, 1, 1)
    expected = (frame / 255.0 - mean) / std
    torch.testing.assert_close(PROCESSOR.normalize(frame).double(), expected, rtol=0, atol=1e-6)


def test_frames_of_several_sizes_together_equal_one_by_one() -> None:
    sizes = [(40, 60), (224, 224), (40, 60), (100, 33), (224, 224)]
    frames = [noise(3, *size, seed=index) for index, size in enumerate(sizes)]
    grids = [PROCESSOR.grid(*size) for size in sizes]
    alone = [PROCESSOR([frame], [grid]) for frame, grid in zip(frames, grids, strict=True)]
    assert torch.equal(PROCESSOR(frames, grids), torch.cat(alone))
    assert [len(block) for block in alone] == [math.prod(grid) for grid in grids]


def test_no_frames_are_no_patches() -> None:
    assert PROCESSOR([], []).shape == (0, 1176)


def test_memory_layout_does_not_matter() -> None:
    frame = noise(480, 640, 3)
    grid = PROCESSOR.grid(480, 640)
    assert torch.equal(
        PROCESSOR([frame.permute(2, 0, 1)], [grid]), PROCESSOR([frame.permute(2, 0, 1).contiguous()], [grid])
    )


def test_limits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="784 <= min_pixels <= max_pixels"):
        ImageProcessor(min_pixels=100, max_pixels=50176)
    with pytest.raises(ValueError, match="min_pixels 60000 and max_pixels 50176"):
        ImageProcessor(min_pixels=60000, max_pixels=50176)


def test_numbers_come_from_the_folder_and_limits_from_us(tmp_path: Path) -> None:
    document = {**tiny.PREPROCESSOR, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    flat = read_image_processor(tmp_path, 784, 1568)
    assert flat == ImageProcessor(min_pixels=784, max_pixels=1568, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "old.json")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": document}))
    assert read_image_processor(tmp_path, 784, 1568) == flat
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        read_image_processor(tmp_path, 784, 1568)


def test_recorded_resizes(shared: Path) -> None:
    golden = shared / "data/qwen_processor_golden"
    paths = sorted((golden / "resized").glob("*.png"))
    assert len(paths) == 12
    for path in paths:
        stem, _, limits = path.stem.rpartition("_")
        frame = torch.from_numpy(np.array(Image.open(golden / "images" / f"{stem}.png"))).permute(2, 0, 1)
        fixed = limits == "fixed224"
        height, width = smart_resize(
            frame.shape[1], frame.shape[2], 28, 50176 if fixed else 3136, 50176 if fixed else 12845056
        )
        expected = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        assert torch.equal(resize(frame[None], height, width)[0], expected)
        assert torch.equal(resize_by_matmul(frame[None], height, width)[0], expected)
