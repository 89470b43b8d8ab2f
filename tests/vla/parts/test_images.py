"""From resized frames to patches, against transformers' processors and the formula of the normalisation."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vla.frames import Area, resize
from vla.parts import tiny
from vla.parts.images import ImageProcessor, read_image_processor

PROCESSOR = ImageProcessor(min_pixels=3136, max_pixels=50176)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_patches_stand_where_transformers_puts_them() -> None:
    frames = [noise(3, 56, 84, seed=1), noise(3, 112, 112, seed=2)]
    reference = Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=50176)(
        [frame.permute(1, 2, 0).numpy() for frame in frames], return_tensors="pt"
    )
    grids = [PROCESSOR.grid(*frame.shape[1:]) for frame in frames]
    assert grids == [tuple(grid) for grid in reference["image_grid_thw"].tolist()]
    torch.testing.assert_close(PROCESSOR(frames), reference["pixel_values"], rtol=0, atol=3e-7)


def test_normalisation_follows_its_formula() -> None:
    frame = noise(1, 3, 28, 28)
    mean = torch.tensor(PROCESSOR.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(PROCESSOR.std, dtype=torch.float64).view(3, 1, 1)
    expected = (frame / 255.0 - mean) / std
    torch.testing.assert_close(PROCESSOR.normalize(frame).double(), expected, rtol=0, atol=1e-6)


def test_frames_of_several_sizes_together_equal_one_by_one() -> None:
    sizes = [(56, 84), (224, 224), (56, 84), (84, 56), (224, 224)]
    frames = [noise(3, *size, seed=index) for index, size in enumerate(sizes)]
    alone = [PROCESSOR([frame]) for frame in frames]
    assert torch.equal(PROCESSOR(frames), torch.cat(alone))
    assert [len(block) for block in alone] == [math.prod(PROCESSOR.grid(*size)) for size in sizes]


def test_no_frames_are_no_patches() -> None:
    assert PROCESSOR([]).shape == (0, 1176)


def test_memory_layout_does_not_matter() -> None:
    frame = noise(480, 640, 3).permute(2, 0, 1)
    strided, packed = resize(frame, PROCESSOR.size), resize(frame.contiguous(), PROCESSOR.size)
    assert torch.equal(strided, packed)
    assert torch.equal(PROCESSOR([strided]), PROCESSOR([packed.contiguous()]))


def test_a_whole_frame_is_not_taken_for_a_resized_one() -> None:
    with pytest.raises(AssertionError, match="480 x 640 is not resized"):
        PROCESSOR([noise(3, 480, 640)])


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
    assert flat.size == Area(unit=28, min_pixels=784, max_pixels=1568)
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "old.json")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": document}))
    assert read_image_processor(tmp_path, 784, 1568) == flat
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json"):
        read_image_processor(tmp_path, 784, 1568)
