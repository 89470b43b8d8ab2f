"""From camera frames to the patches Qwen2.5-VL's vision tower reads.

Equal bit for bit to the image processor of transformers with torchvision on the CPU, without torchvision, and equal
again on every other device: uint8 is resized with integer weights, never as floats.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int, int]
"""Time steps, rows and columns of patches of an image."""

CHANNELS = 3
BICUBIC = -0.5
"""The free coefficient of Keys' cubic kernel, as in Pillow and in torch with antialias."""
WEIGHT_BITS = 15
"""Integer weights of the resize stay below 2^15."""
MAX_PRECISION = 22
LUMINANCE = 255
"""Largest value of a pixel."""
MAX_ASPECT = 200
"""Longest side over shortest side, at most."""


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """How frames become patches; the numbers of `preprocessor_config.json`."""

    min_pixels: int
    max_pixels: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        smallest = (self.patch_size * self.merge_size) ** 2
        if not smallest <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels {self.min_pixels} and max_pixels {self.max_pixels} do not fit: "
                f"give {smallest} <= min_pixels <= max_pixels, {smallest} being one token"
            )

    @property
    def patch_values(self) -> int:
        """Values of one patch."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2

    def grid(self, height: int, width: int) -> Grid:
        """Patches of a frame of this size."""
        rows, columns = smart_resize(height, width, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels)
        return 1, rows // self.patch_size, columns // self.patch_size

    def tokens(self, grid: Grid) -> int:
        """Tokens the language model sees of an image with this grid."""
        return math.prod(grid) // self.merge_size**2

    def __call__(self, images: Sequence[UInt8[Tensor, "3 _ _"]], grids: Sequence[Grid]) -> Float32[Tensor, "_ _"]:
        """Patches of the images, one after the other, one row a patch; frames of one size are processed at once."""
        rows = [math.prod(grid) for grid in grids]
        starts = [sum(rows[:index]) for index in range(len(rows))]
        groups: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        device = images[0].device if images else torch.device("cpu")
        patches = torch.empty(sum(rows), self.patch_values, device=device)
        for members in groups.values():
            grid = grids[members[0]]
            frames = torch.stack([images[index] for index in members])
            resized = resize(frames, grid[1] * self.patch_size, grid[2] * self.patch_size)
            for index, block in zip(members, self.patchify(self.normalize(resized), grid), strict=True):
                patches[starts[index] : starts[index] + rows[index]].view(block.shape).copy_(block)
        return patches

    def normalize(self, images: UInt8[Tensor, "N 3 _ _"]) -> Float32[Tensor, "N 3 _ _"]:
        """Zero mean and unit deviation, in the reference's order of operations: (x - 255 mean) / (255 std)."""
        mean = torch.tensor(self.mean, device=images.device).view(CHANNELS, 1, 1) * LUMINANCE
        std = torch.tensor(self.std, device=images.device).view(CHANNELS, 1, 1) * LUMINANCE
        return (images.float() - mean) / std

    def patchify(self, images: Float32[Tensor, "N 3 _ _"], grid: Grid) -> Float32[Tensor, "N _ _ _ _ 3 _ _ _"]:
        """A view of the images as patches, the patches of one merged token behind each other.

        Axes: image, block row, block column, row in block, column in block, channel, time, y, x; a frame is repeated
        in time.
        """
        _, rows, columns = grid
        merge, patch = self.merge_size, self.patch_size
        blocks = images.view(len(images), CHANNELS, rows // merge, merge, patch, columns // merge, merge, patch)
        blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        return blocks.expand(-1, -1, -1, -1, -1, -1, self.temporal_patch_size, -1, -1)


def read_image_processor(folder: Path, min_pixels: int, max_pixels: int) -> ImageProcessor:
    """The image processor of a checkpoint folder, with our pixel limits.

    Raises:
        ValueError: the folder has no preprocessor_config.json or processor_config.json.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if path.is_file():
            document = json.loads(path.read_text(encoding="utf-8"))
            settings = document.get("image_processor", document)
            break
    else:
        raise ValueError(f"backbone {folder} has no preprocessor_config.json; copy it from the original checkpoint")
    return ImageProcessor(
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        patch_size=settings["patch_size"],
        temporal_patch_size=settings["temporal_patch_size"],
        merge_size=settings["merge_size"],
        mean=tuple(settings["image_mean"]),
        std=tuple(settings["image_std"]),
    )


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of the resized image: multiples of `factor`, area within the limits, aspect about kept.

    In Python floats: other roundings move images that sit on an edge (1280x720).
    Source: transformers, models/qwen2_vl/image_processing_qwen2_vl.py.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(
            f"a frame of {width}x{height} pixels cannot be shown to the backbone: "
            f"its longest side may be at most {MAX_ASPECT} times the shortest; crop it"
        )
    rows = round(height / factor) * factor
    columns = round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def resize(images: UInt8[Tensor, "N 3 _ _"], height: int, width: int) -> UInt8[Tensor, "N 3 _ _"]:
    """Bicubic with antialias on uint8, the same bits on every device."""
    if images.shape[-2:] == (height, width):
        return images
    if images.device.type == "cpu":
        return functional.interpolate(images, (height, width), mode="bicubic", antialias=True)
    return resize_by_matmul(images, height, width)


def resize_by_matmul(images: UInt8[Tensor, "N 3 _ _"], height: int, width: int) -> UInt8[Tensor, "N 3 _ _"]:
    """What torch's CPU kernel for uint8 computes, as two matrix products of integers, exact in float64.

    Width first, then height; each pass rounds half up and clamps to 0..255. An axis that keeps its size is skipped.
    """
    if images.shape[-1] != width:
        images = resize_rows(images, width)
    if images.shape[-2] != height:
        images = resize_rows(images.transpose(-1, -2), height).transpose(-1, -2)
    return images.contiguous()


def resize_rows(images: UInt8[Tensor, "N 3 _ _"], size: int) -> UInt8[Tensor, "N 3 _ _"]:
    """Resize the last axis."""
    weights, precision = integer_weights(images.shape[-1], size)
    sums = images.double() @ weights.to(images.device).T
    half = 2.0 ** (precision - 1)
    return ((sums + half) * 2.0**-precision).floor().clamp(0, LUMINANCE).to(torch.uint8)


@lru_cache(maxsize=64)
def integer_weights(size_in: int, size_out: int) -> tuple[Float64[Tensor, "_ _"], int]:
    """Weights of the resize of one axis, times 2^precision and rounded half away from zero: (W [out, in], precision).

    The precision is the largest at which every weight stays below 2^15.
    """
    weights = bicubic_weights(size_in, size_out)
    largest = float(weights.max())
    precision = 0
    while precision < MAX_PRECISION and int(0.5 + largest * 2 ** (precision + 1)) < 1 << WEIGHT_BITS:
        precision += 1
    scaled = weights * 2.0**precision
    return (scaled + 0.5 * scaled.sign()).trunc(), precision


def bicubic_weights(size_in: int, size_out: int) -> Float[Tensor, "_ _"]:
    """Antialiased bicubic weights [out, in]: the kernel is as wide as the shrinking asks for; each row sums to 1."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = 2 * stretch
    weights = torch.zeros(size_out, size_in, dtype=torch.float64)
    for index in range(size_out):
        centre = scale * (index + 0.5)
        first = max(int(centre - support + 0.5), 0)
        end = min(int(centre + support + 0.5), size_in)
        taps = [cubic((tap - centre + 0.5) / stretch) for tap in range(first, end)]
        total = sum(taps)
        weights[index, first:end] = torch.tensor([tap / total for tap in taps], dtype=torch.float64)
    return weights


def cubic(x: float) -> float:
    """Keys, Cubic convolution interpolation for digital image processing (1981), equation 15."""
    x = abs(x)
    if x < 1:
        return ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * BICUBIC
    return 0.0
