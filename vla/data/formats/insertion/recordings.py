"""Files of the insertion recorder: where recordings are, and their streams with the times they were measured at."""

import csv
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from vla.cache import stored_array
from vla.data.formats.insertion.npz import npz_arrays
from vla.data.images import decode_image
from vla.errors import CorruptData
from vla.floats import floats
from vla.listing import visible

FOLDERS = ("recv_all_*", "episode_*", "data_collection_*")
FILES = ("*.h5", "*.hdf5")
JOINTS = tuple(f"joint_{index}" for index in range(1, 7))
POSE = ("pose_x", "pose_y", "pose_z", "pose_a", "pose_b", "pose_r")
IMAGE_TIME = re.compile(r"(\d{9,}(?:[._]\d+)?)$")
"""Unix seconds at the end of an image's name: `1761551500.174000` or `zed_41182735_left_1761551500.174`."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Values with the unix times they were measured at."""

    times: Float64[np.ndarray, " N"]
    values: Float[np.ndarray, "N C"]


@dataclass(frozen=True, kw_only=True)
class SensorTrack:
    """Samples of the sensor, force first."""

    times: Float64[np.ndarray, " N"]
    channels: int
    rate_hz: float
    values: Callable[[], Float32[np.ndarray, "N C"]]
    """Read only when they are asked for; of an opened recording they are a memory map."""


@dataclass(frozen=True, kw_only=True)
class CameraTrack:
    """Images with the unix times they were taken at."""

    times: Float64[np.ndarray, " N"]
    read: Callable[[int], UInt8[np.ndarray, "3 height width"]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One demonstration as it was recorded, every stream on its own clock ticks."""

    layout: str
    instruction: str
    state: Track
    """Six joint angles in degrees, then the pose: x, y, z in mm and three Euler angles in degrees."""
    actions: Track | None
    """As recorded; None where they follow from the poses."""
    sensor: SensorTrack | None
    cameras: Mapping[str, CameraTrack]
    unread: tuple[str, ...] = ()
    """Names of the columns that nobody reads."""


@dataclass(frozen=True)
class ImageFile:
    """Reads one of a list of image files."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> UInt8[np.ndarray, "3 height width"]:
        """The image, RGB. Raises CorruptData naming the file."""
        return decode_image(self.paths[index], str(self.paths[index]))


def find_recordings(root: Path) -> list[Path]:
    """Recording folders and HDF5 files in a folder, up to two folders deep, in order of their paths."""
    if any(root.match(pattern) for pattern in FOLDERS) and is_recording(root):
        return [root]
    found = set()
    for depth in ("", "*/", "*/*/"):
        for pattern in FOLDERS:
            found |= {path for path in root.glob(depth + pattern) if path.is_dir() and is_recording(path)}
        for pattern in FILES:
            found |= {path for path in root.glob(depth + pattern) if path.is_file()}
    return visible(found)


def is_recording(folder: Path) -> bool:
    """Whether a folder holds a recording, or what was left of one."""
    names = ("robot_state*.csv", "robot_states.npz", "sensor_data*.npz", "metadata.json", "data.pkl", "View*", "images")
    return any(True for name in names for _ in folder.glob(name))


def read_folder(root: Path, folder: Path) -> Recording:
    """Read a recording folder, below a root, of either format. Raises CorruptData or ValueError with one sentence."""
    metadata = read_metadata(folder)
    windows = (folder / "images").is_dir() or (folder / "robot_states.csv").is_file() or bool(metadata)
    views = camera_folders(folder / "images" if (folder / "images").is_dir() else folder)
    cameras = {key: track for key, path in views.items() if (track := read_images(path)) is not None}
    return Recording(
        layout="windows" if windows else "streams",
        instruction=instruction_of(metadata, folder.parent.name),
        state=kept_robot(root, folder),
        actions=None,
        sensor=kept_sensor(root, folder, metadata),
        cameras=cameras,
        unread=unread_columns(folder),
    )


def unread_columns(folder: Path) -> tuple[str, ...]:
    """The columns of the robot's table that nobody reads."""
    for path in sorted(folder.glob("robot_state*.csv"))[:1]:
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file), [])
        return tuple(name for name in header if name not in {"recv_timestamp", *JOINTS, *POSE})
    return ()


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json, or nothing where there is none."""
    path = folder / "metadata.json"
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptData(f"{path} is not valid JSON ({error}); restore it") from error
    if not isinstance(metadata, dict):
        raise CorruptData(f"{path} holds no object; restore it")
    return metadata


def instruction_of(metadata: Mapping[str, Any], task_folder: str) -> str:
    """What the robot was asked to do: from the metadata, else from the name of the folder of the task."""
    for key in ("instruction", "language_instruction", "task"):
        if isinstance(metadata.get(key), str) and metadata[key].strip():
            return str(metadata[key])
    words = re.sub(r"[_\W]+", " ", task_folder).strip()
    words = re.sub(r"( insertion)?( task)?$", "", words, flags=re.IGNORECASE)
    return f"Perform {words} insertion task"


def camera_folders(folder: Path) -> dict[str, Path]:
    """Folders of images by camera key: `View1/left` is view1_left, `View5` is view5."""
    views = {}
    for view in sorted(path for path in folder.glob("View*") if path.is_dir()):
        sides = [path for path in (view / "left", view / "right") if path.is_dir()]
        for path in sides or [view]:
            name = view.name.lower() + (f"_{path.name}" if sides else "")
            views[f"observation.images.{name}"] = path
    return views


def read_images(folder: Path) -> CameraTrack | None:
    """The images of a folder by the times in their names; None where there is none."""
    timed = {}
    for path in visible(folder.iterdir()):
        match = IMAGE_TIME.search(path.stem)
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and match is not None:
            timed[float(match[1].replace("_", "."))] = path
    if not timed:
        return None
    times = sorted(timed)
    return CameraTrack(times=np.array(times), read=ImageFile(tuple(timed[time] for time in times)))


def kept_robot(root: Path, folder: Path) -> Track:
    """As `read_robot`; kept as arrays, because a CSV takes ten times as long to read and five times the bytes."""
    sources = sorted(folder.glob("robot_state*"))
    track = functools.cache(functools.partial(read_robot, folder))
    if not sources:
        return track()
    return Track(
        times=stored_array(root, sources, "robot times", lambda: track().times),
        values=stored_array(root, sources, "robot values", lambda: track().values),
    )


def read_robot(folder: Path) -> Track:
    """Joint angles and poses by the time they were received, from CSV, else from NPZ with time stamps."""
    tables = sorted(folder.glob("robot_state*.csv"))
    if tables:
        return read_robot_table(tables[0])
    path = folder / "robot_states.npz"
    if path.is_file():
        arrays = npz_arrays(path)
        if "timestamps" not in arrays:
            raise ValueError(
                f"{path} has no time stamps, so nothing can be aligned with it; put the robot_states.csv of the "
                "recorder beside it"
            )
        values = arrays.get("robot_states")
        if values is None and {"joints", "poses"} <= set(arrays):
            values = np.concatenate([arrays["joints"], arrays["poses"]], axis=1)
        if values is None or values.ndim != 2 or values.shape[1] != len(JOINTS + POSE):
            raise CorruptData(f"{path} holds no robot_states (N, 12); record it again")
        return in_order(arrays["timestamps"], values, path)
    if (folder / "data.pkl").is_file():
        raise ValueError(
            f"{folder} holds only data.pkl, which can run code when it is loaded and is not read; "
            "give the recording it was made from, with robot_state_*.csv"
        )
    raise CorruptData(f"{folder} has no robot_state_*.csv, robot_states.csv or robot_states.npz; restore it")


def read_robot_table(path: Path) -> Track:
    """A CSV of robot states; its time is the one at which the recorder received the row."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"recv_timestamp", *JOINTS, *POSE} - set(reader.fieldnames or ())
        if missing:
            raise CorruptData(f"{path} has no column {min(missing)}; record it again")
        times, rows = [], []
        for number, row in enumerate(reader, start=2):
            try:
                times.append(float(row["recv_timestamp"]))
                rows.append([float(row[name]) for name in (*JOINTS, *POSE)])
            except (TypeError, ValueError) as error:
                raise CorruptData(f"{path}, line {number} is incomplete; copy the file again") from error
    return in_order(np.array(times), np.array(rows).reshape(len(rows), 12), path)


def in_order(times: np.ndarray, values: np.ndarray, path: Path) -> Track:
    """Rows in order of time, each time once."""
    if len(times) != len(values) or len(times) < 2:
        raise CorruptData(f"{path} holds {len(times)} times and {len(values)} rows, at least 2 of both are expected")
    if not np.isfinite(times).all():
        raise CorruptData(f"{path} has a time stamp that is no number; record it again")
    unique, first = np.unique(np.asarray(times, dtype=np.float64), return_index=True)
    return Track(times=unique, values=floats(np.asarray(values))[first])


def kept_sensor(root: Path, folder: Path, metadata: Mapping[str, Any]) -> SensorTrack | None:
    """As `read_sensor`; a file that was read before is not opened."""
    sources = sorted(folder.glob("sensor_data*.npz"))[:1]
    if not sources:
        return None
    read = functools.cache(functools.partial(read_sensor, folder, metadata))

    def kept(what: str, of: Callable[[SensorTrack], Any]) -> np.ndarray:
        purpose = f"sensor {what} {metadata.get('sensor_hz')} {metadata.get('channel_order')}"
        return stored_array(root, sources, purpose, lambda: np.array([] if (track := read()) is None else of(track)))

    facts = kept("rate and channels", lambda track: [track.rate_hz, track.channels])
    if not len(facts):
        return None
    return SensorTrack(
        times=kept("times", lambda track: track.times),
        channels=int(facts[1]),
        rate_hz=float(facts[0]),
        values=lambda: kept("values", lambda track: track.values()),
    )


def read_sensor(folder: Path, metadata: Mapping[str, Any]) -> SensorTrack | None:
    """The sensor of a recording, force first: single samples, or windows that end at their time stamp."""
    paths = sorted(folder.glob("sensor_data*.npz"))
    if not paths:
        return None
    arrays = npz_arrays(paths[0])
    if "timestamps" not in arrays:
        raise CorruptData(f"{paths[0]} has no `timestamps`; record it again")
    force_first = channel_order(metadata, paths[0])
    rate_hz = float(metadata.get("sensor_hz") or 0)
    if "data" in arrays:
        return _windows(paths[0], arrays["timestamps"], arrays["data"], rate_hz, force_first=force_first)
    # The recorder writes the plural, one of its converters looked for the singular and lost the sensor.
    force = arrays["forces"] if "forces" in arrays else arrays.get("force")
    aline = arrays["alines"] if "alines" in arrays else arrays.get("aline")
    if force is None or aline is None:
        raise CorruptData(f"{paths[0]} has no `forces` and `alines`, only {', '.join(sorted(arrays))}; record it again")
    return _samples(paths[0], arrays["timestamps"], force, aline, rate_hz)


def channel_order(metadata: Mapping[str, Any], path: Path) -> bool:
    """Whether force is the first channel: so it is unless `channel_order` in the metadata says otherwise."""
    order = metadata.get("channel_order", ["force", "aline"])
    if isinstance(order, str):
        order = re.split(r"[^a-z]+", order.lower())
    kinds = [str(name).lower().removesuffix("s") for name in order]
    if kinds not in (["force", "aline"], ["aline", "force"]):
        raise ValueError(f"{path.parent}/metadata.json says channel_order {order}; force and aline are expected")
    return kinds[0] == "force"


def _samples(
    path: Path, stamps: np.ndarray, force: np.ndarray, aline: np.ndarray, rate_hz: float
) -> SensorTrack | None:
    if not len(stamps) == len(force) == len(aline):
        raise CorruptData(f"{path} holds {len(stamps)} times, {len(force)} forces and {len(aline)} A-scans")
    if len(stamps) < 2:
        return None
    times, first = np.unique(np.asarray(stamps, dtype=np.float64), return_index=True)

    def values() -> Float32[np.ndarray, "N C"]:
        return np.concatenate([np.asarray(force).reshape(-1, 1), aline], axis=1, dtype=np.float32)[first]

    return SensorTrack(
        times=times,
        channels=1 + aline.shape[1],
        rate_hz=rate_hz or float(1 / np.median(np.diff(times))),
        values=values,
    )


def _windows(
    path: Path, stamps: np.ndarray, data: np.ndarray, rate_hz: float, *, force_first: bool
) -> SensorTrack | None:
    """Windows (N, T, C) overlap: each sample is taken from the first window it is in."""
    if data.ndim != 3 or len(stamps) != len(data):
        raise CorruptData(f"{path} holds data of shape {data.shape} for {len(stamps)} times; (N, T, C) is expected")
    if not rate_hz:
        raise ValueError(f"{path.parent}/metadata.json has no `sensor_hz`, the rate of the windows; write it there")
    if len(stamps) == 0:
        return None
    times = np.asarray(stamps, dtype=np.float64)[:, None] - np.arange(data.shape[1] - 1, -1, -1) / rate_hz
    flat = times.reshape(-1)
    before = np.maximum.accumulate(np.concatenate([[-np.inf], flat[:-1]]))
    keep = np.asarray(flat > before + 0.5 / rate_hz).reshape(times.shape)

    def values() -> Float32[np.ndarray, "N C"]:
        samples = np.asarray(data[keep], dtype=np.float32)
        return samples if force_first else np.roll(samples, 1, axis=1)

    return SensorTrack(times=times[keep], channels=data.shape[2], rate_hz=rate_hz, values=values)


def some_values(values: Sequence[object]) -> str:
    """The first few of a list."""
    return ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")
