"""From resized camera frames to the patches Qwen2.5-VL's vision tower reads.

Equal bit for bit to the image processor of transformers with torchvision on the CPU, without torchvision.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vla.frames import CHANNELS, LUMINANCE, Area, Frame

Grid = tuple[int, int, int]
"""Time steps, rows and columns of patches of an image."""


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
        smallest = self.size.unit**2
        if not smallest <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels {self.min_pixels} and max_pixels {self.max_pixels} do not fit: "
                f"give {smallest} <= min_pixels <= max_pixels, {smallest} being one token"
            )

    @property
    def size(self) -> Area:
        """In what size frames are looked at."""
        unit = self.patch_size * self.merge_size
        return Area(unit=unit, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    @property
    def patch_values(self) -> int:
        """Values of one patch."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2

    def grid(self, height: int, width: int) -> Grid:
        """Patches of a resized frame."""
        assert height % self.size.unit == width % self.size.unit == 0, f"{height} x {width} is not resized"
        return 1, height // self.patch_size, width // self.patch_size

    def tokens(self, grid: Grid) -> int:
        """Tokens the language model sees of an image with this grid."""
        return math.prod(grid) // self.merge_size**2

    def __call__(self, images: Sequence[Frame]) -> Float32[Tensor, "_ _"]:
        """Patches of resized frames, one after the other, one row a patch; those of one size are processed at once."""
        grids = [self.grid(*image.shape[1:]) for image in images]
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
            for index, block in zip(members, self.patchify(self.normalize(frames), grid), strict=True):
                patches[starts[index] : starts[index] + rows[index]].view(block.shape).copy_(block)
        return patches

    def normalize(self, images: UInt8[Tensor, "N 3 _ _"]) -> Float32[Tensor, "N 3 _ _"]:
        """Zero mean and unit deviation, in the reference's order of operations: (x - 255 mean) / (255 std)."""
        mean, std = (scale(values, images.device) for values in (self.mean, self.std))
        return images.float().sub_(mean).div_(std)

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


@lru_cache(maxsize=16)
def scale(values: tuple[float, ...], device: torch.device) -> Float32[Tensor, "3 1 1"]:
    """Of each channel, in units of luminance; copied to a device once."""
    return (torch.tensor(values).view(CHANNELS, 1, 1) * LUMINANCE).to(device)


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
