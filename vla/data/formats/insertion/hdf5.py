"""Recordings of the insertion recorder as HDF5, one file an episode."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import UInt8

from vla.data.formats.insertion.recordings import CameraTrack, Recording, Track, in_order, instruction_of
from vla.data.images import decode_image
from vla.data.reading import unreadable
from vla.errors import CorruptData, ForeignLayout
from vla.floats import floats

NEEDED = ("timestamp", "action", "observations/qpos", "observations/ee_pose")
"""Data sets of a recording."""
DAMAGED_HDF5 = (OSError, KeyError, TypeError, ValueError, RuntimeError, IndexError)
"""What h5py raises for damaged content."""


@dataclass(frozen=True)
class StoredImage:
    """Reads one image of a data set in an HDF5 file; the file is open only while it is read."""

    path: Path
    key: str
    order: tuple[int, ...]

    def __call__(self, index: int) -> UInt8[np.ndarray, "3 height width"]:
        """The image, RGB: stored as (height, width, 3), or compressed as bytes."""
        try:
            with h5py.File(self.path) as file:
                value = np.asarray(own(file, self.key)[self.order[index]])
        except DAMAGED_HDF5 as error:
            if isinstance(error, CorruptData):
                raise
            raise unreadable(error, f"{self.path} cannot be read at {self.key} {index}", "copy it again") from error
        if value.ndim == 3:
            return np.ascontiguousarray(value.transpose(2, 0, 1))
        return decode_image(BytesIO(value.tobytes()), f"{self.path}: {self.key} {index}")


def read_hdf5(path: Path) -> Recording:
    """Read the numbers of an HDF5 recording; its images stay in the file."""
    try:
        with h5py.File(path) as file:
            check_layout(file, path)
            arrays = {key: np.asarray(own(file, key)) for key in NEEDED}
            images = file.get("observations/images", {})
            lengths = {name: len(own(file, f"observations/images/{name}")) for name in images}
            attributes = {key: _text(value) for key, value in file.attrs.items()}
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    except DAMAGED_HDF5 as error:
        if isinstance(error, CorruptData | ForeignLayout):
            raise
        raise unreadable(error, f"{path} is not a complete HDF5 file", "copy it again") from error
    stamps = np.asarray(arrays["timestamp"], dtype=np.float64)
    for key, length in {**{key: len(array) for key, array in arrays.items()}, **lengths}.items():
        if length != len(stamps):
            raise CorruptData(f"{path} has {length} rows of {key} and {len(stamps)} time stamps; record it again")
    state = np.concatenate([arrays["observations/qpos"], arrays["observations/ee_pose"]], axis=1)
    times, order = np.unique(stamps, return_index=True)
    rows = tuple(order.tolist())
    return Recording(
        layout="HDF5",
        instruction=instruction_of(attributes, path.parent.name),
        state=in_order(stamps, state, path),
        actions=Track(times=times, values=floats(arrays["action"])[order]),
        sensor=None,
        cameras={
            f"observation.images.{name}": CameraTrack(
                times=times, read=StoredImage(path, f"observations/images/{name}", rows)
            )
            for name in sorted(lengths)
        },
        unread=tuple(name for name in names if name not in NEEDED and not name.startswith("observations/images/")),
    )


def check_layout(file: h5py.File, path: Path) -> None:
    """Refuse a file without what a recording has.

    Raises:
        ForeignLayout: it lacks several of the data sets, so another program wrote it.
        CorruptData: it lacks one.
    """
    lacking = [key for key in NEEDED if key not in file]
    if len(lacking) > 1:
        raise ForeignLayout(
            f"{path} is HDF5 of another layout (with {', '.join(list(file)[:5]) or 'nothing'}): it lacks "
            f"{', '.join(lacking)} of a recording of the insertion recorder; convert it to LeRobot v3.0"
        )
    if lacking:
        raise CorruptData(f"{path} has no data set {lacking[0]}; record it again")


def own(file: h5py.File, key: str) -> h5py.Dataset:
    """A data set whose values are in the file itself.

    Raises CorruptData where it is a link to, or a view of, another file, which could be any file of this machine.
    """
    place = file
    for name in key.split("/"):
        if isinstance(place.get(name, getlink=True), h5py.ExternalLink):
            raise CorruptData(f"{file.filename}: {key} lies in another file; copy it into this one")
        place = place[name]
    if place.external or place.is_virtual:
        raise CorruptData(f"{file.filename}: {key} lies in another file; copy it into this one")
    return place


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
