"""Images that lie in the table of a LeRobot dataset."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, UInt8

from vla.data.depth import Depth
from vla.data.images import check_colour, check_depth, decode_depth, decode_image
from vla.data.places import below
from vla.errors import CorruptData


@dataclass(frozen=True, kw_only=True)
class StoredImages:
    """The frames of one camera in one episode, stored as compressed images in the table."""

    timestamps: Float64[np.ndarray, " N"]
    column: pa.ChunkedArray
    """Compressed images as bytes, or paths relative to the folder, or structs of `bytes` and, where empty, `path`."""
    folder: Path
    table: Path
    """The file that the column comes from."""
    name: str
    depth: Depth | None = None
    """How their numbers become pictures, of a depth camera."""

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """Decode the frames at these indices, RGB. CorruptData names the file that cannot be decoded."""
        return [self._decode(index) for index in indices]

    def _decode(self, index: int) -> UInt8[np.ndarray, "3 height width"]:
        if self.depth is not None:
            return self.depth.picture(decode_depth(*self._stored(index)))
        return decode_image(*self._stored(index))

    def check(self) -> None:
        """Refuse images whose first says that it is neither 8-bit colour nor depth to be read as such (ValueError)."""
        with contextlib.suppress(CorruptData):  # damage is none until it is read
            first = self._stored(0)
            if self.depth is None:
                check_colour(*first)
            else:
                check_depth(*first, self.depth)

    def _stored(self, index: int) -> tuple[Path | BytesIO, str]:
        """An image, and what it is called in an error."""
        stored, where = self.column[index].as_py(), f"{self.table}: image {index} of {self.name}"
        if stored is None:
            raise CorruptData(f"{where} is empty; record it again")
        if isinstance(stored, dict):
            stored = stored.get("bytes") or stored.get("path")
        if isinstance(stored, bytes):
            return BytesIO(stored), where
        path = below(self.folder, stored, where)
        return path, str(path)


def check_images(kind: pa.DataType, where: str) -> None:
    """Refuse a column that holds no compressed images (ValueError)."""
    kind = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind
    names = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    plain = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    if not names & {"bytes", "path"} and not any(test(kind) for test in plain):
        raise ValueError(
            f"{where} holds {str(kind)[:60]}, where images are expected as bytes, a path, or a struct of both: "
            "convert it, or choose others with --data.cameras"
        )
