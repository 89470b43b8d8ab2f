"""Compressed images, one a file or a cell of a table."""

import contextlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Shaped, UInt8

from vla.data.depth import READ_DEPTH, Depth, coloured
from vla.data.reading import unreadable
from vla.errors import CorruptData

IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What cameras write. Pillow would start another program for some of the formats it knows (EPS)."""
DAMAGED_IMAGE = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError)
"""What PIL raises for damaged content; a size beyond all measure is damage, too."""
BITS = {"L": 8, "I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
"""Of Pillow's modes of one channel."""
WIDE = {mode for mode, bits in BITS.items() if bits > 8}
"""Those which it would clip to 255."""


def decode_image(source: Path | BytesIO, where: str) -> UInt8[np.ndarray, "3 height width"]:
    """A compressed image as planes of red, green and blue. CorruptData says where it was."""
    try:
        with PIL.Image.open(source, formats=IMAGE_FORMATS) as image:
            mode = image.mode
            colours = None if mode in WIDE else np.asarray(image.convert("RGB"))
    except DAMAGED_IMAGE as error:
        raise unreadable(error, f"{where} is not a complete image") from error
    if colours is None:
        raise CorruptData(wide(where, mode))
    return np.ascontiguousarray(colours.transpose(2, 0, 1))


def decode_depth(source: Path | BytesIO, where: str) -> Shaped[np.ndarray, "height width"]:
    """The numbers of a compressed image of one channel, as stored. CorruptData says where it was."""
    try:
        with PIL.Image.open(source, formats=IMAGE_FORMATS) as image:
            mode, values = image.mode, np.asarray(image)
    except DAMAGED_IMAGE as error:
        raise unreadable(error, f"{where} is not a complete image") from error
    if mode not in BITS:
        raise CorruptData(coloured(where, mode))
    return values.astype(values.dtype.newbyteorder("="))


def check_depth(source: Path | BytesIO, where: str, depth: Depth) -> None:
    """Refuse an image whose header says that it is no depth (ValueError); damage is none until it is read."""
    mode = ""
    with contextlib.suppress(*DAMAGED_IMAGE), PIL.Image.open(source, formats=IMAGE_FORMATS) as image:
        mode = image.mode
    if mode in BITS:
        depth.check(BITS[mode], where, floats=mode == "F")
    elif mode:
        raise ValueError(coloured(where, mode))


def check_colour(source: Path | BytesIO, where: str) -> None:
    """Refuse an image whose header says that it is no 8-bit colour (ValueError); damage is none until it is read."""
    mode = ""
    with contextlib.suppress(*DAMAGED_IMAGE), PIL.Image.open(source, formats=IMAGE_FORMATS) as image:
        mode = image.mode
    if mode in WIDE:
        raise ValueError(wide(where, mode))


def wide(where: str, mode: str) -> str:
    """What is said of pixels that are no 8-bit colour."""
    return f"{where} has pixels of more than 8 bits ({mode}), as depth has: {READ_DEPTH}"
