"""What one sample makes a policy compute, and the frames in patches and tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from vla.frames import Area
from vla.settings import BackboneConfig

Number = int | float
"""Of tokens, bytes or operations: whole, or a mean."""
Patches = tuple[int, int]
"""Rows and columns of patches of an image."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A sample, but for what the policy's own contract says of it."""

    tokens: Number
    """That the language model reads, those of the images among them and padding not; 0 beside a sentence encoder."""
    images: tuple[Patches, ...] = ()
    """That the vision tower looks at."""
    draws: int = 1
    """Times and noises of each sample."""
    first: int = 0
    """Layer of the language model that reads first: what lies before it is known."""


def patches_of(height: int, width: int, backbone: BackboneConfig, patch: int, merge: int) -> Patches:
    """A frame in patches, once it is resized for the backbone.

    Raises:
        UnsuitableFrame: one side is more than 200 times the other.
    """
    area = Area(unit=patch * merge, min_pixels=backbone.min_pixels, max_pixels=backbone.max_pixels)
    rows, columns = area.of(height, width)
    return rows // patch, columns // patch


def tokens_of(images: Sequence[Patches], merge: int) -> int:
    """Tokens that the language model reads of some images."""
    return sum(rows * columns // merge**2 for rows, columns in images)


def pairs_of(image: Patches, window: int) -> int:
    """Pairs of patches that look at one another, within windows of so many patches a side."""
    rows, columns = ([min(window, count - first) for first in range(0, count, window)] for count in image)
    return sum((high * wide) ** 2 for high, wide in product(rows, columns))
