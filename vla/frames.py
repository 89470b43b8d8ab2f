"""Camera frames, and the sizes in which the parts of a policy look at them.

Frames are resized where they are made, in a loader process, which hands on a sixth of the bytes or less. A part that is
given a whole frame, as an environment shows it, resizes it with the same function to the same bits.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from vla.errors import UnsuitableFrame
from vla.packed import Packing

CHANNELS = 3
LUMINANCE = 255
"""Largest value of a pixel."""
MAX_ASPECT = 200
"""Longest side over shortest side, at most, of a frame that is cut into tokens."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """A rectangle of whole tokens with about the frame's aspect and an area within limits."""

    unit: int
    """Side of a token in pixels; both sides are multiples of it."""
    min_pixels: int
    """Smaller frames are enlarged."""
    max_pixels: int
    """Larger frames are shrunk."""

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame in this size. UnsuitableFrame where one side is over 200 times the other."""
        return smart_resize(height, width, self.unit, self.min_pixels, self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square, whatever the frame's aspect."""

    side: int
    """In pixels."""

    def of(self, _height: int, _width: int) -> tuple[int, int]:
        """Height and width of a frame in this size."""
        return self.side, self.side


Size = Area | Square
"""What becomes of a frame's height and width, for a part that looks at it; follows from settings, not from weights."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the backbone's vision tower says of a frame, kept from before: packed rows, a row a token."""

    height: int
    """Of the frame in the size that the tower looked at, pixels."""
    width: int
    packing: Packing


Frame = UInt8[Tensor, "3 _ _"]
Look = Size | Features
Image = Frame | Mapping[Look, UInt8[Tensor, "..."]]
"""What a camera shows at one time: the whole frame, or what each part looks at, frames of its size or features."""
Picture = UInt8[np.ndarray, "3 _ _"]
"""A frame in the memory of the data."""


def check_aspect(height: int, width: int) -> None:
    """Refuse a frame of which one side is more than 200 times the other (UnsuitableFrame)."""
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise UnsuitableFrame(
            f"a frame of {width}x{height} pixels cannot be shown to the backbone: "
            f"its longest side may be at most {MAX_ASPECT} times the shortest; crop it"
        )


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of the resized image: multiples of `factor`, area within the limits, aspect about kept.

    In Python floats: other roundings move images that sit on an edge (1280x720). Where whole multiples meet no limit
    the area lies beyond one, so a second resize of such an image would change it again.
    Source: transformers, models/qwen2_vl/image_processing_qwen2_vl.py.

    Raises:
        UnsuitableFrame: one side is more than 200 times the other.
    """
    check_aspect(height, width)
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


def resize(frame: Frame, size: Size) -> Frame:
    """A whole frame in a size: bicubic with antialias on uint8.

    On the CPU, wherever the frame lies: torch has this kernel, whose weights are integers, for the CPU alone, and the
    bits must not depend on the device.
    """
    target = size.of(*frame.shape[1:])
    if frame.shape[1:] == target:
        return frame
    resized = functional.interpolate(frame.cpu()[None], target, mode="bicubic", antialias=True)[0]
    return resized.to(frame.device)


def in_sizes(image: Image, sizes: Iterable[Size]) -> Mapping[Look, UInt8[Tensor, "..."]]:
    """An image in several sizes, beside its features where there are any."""
    frames: dict[Look, Tensor] = {size: in_size(image, size) for size in sizes}
    return frames if isinstance(image, Tensor) or (found := features_of(image)) is None else frames | dict([found])


def features_of(image: Image) -> tuple[Features, UInt8[Tensor, "T _"]] | None:
    """The features that came instead of the backbone's frame, and what they are; None where a frame came."""
    if isinstance(image, Tensor):
        return None
    return next(((look, rows) for look, rows in image.items() if isinstance(look, Features)), None)


def in_size(image: Image, size: Size) -> Frame:
    """An image in one size: resized from the whole frame, or as it came."""
    if isinstance(image, Tensor):
        return resize(image, size)
    assert size in image, f"the frame came in {list(image)}, not in {size}"
    return image[size]


def change_image(image: Image, change: Callable[[Tensor], Tensor]) -> Image:
    """An image with every tensor changed, always in this order."""
    if isinstance(image, Tensor):
        return change(image)
    return {size: change(frame) for size, frame in image.items()}


def tensors_of_image(image: Image) -> list[Tensor]:
    """The tensors of an image, in the order of `change_image`."""
    return [image] if isinstance(image, Tensor) else list(image.values())
