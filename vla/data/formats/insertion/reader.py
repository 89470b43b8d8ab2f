"""Recordings of the insertion recorder as episodes, every stream aligned by its time stamps.

An action is the change of pose over one step of 100 ms, (dx, dy, dz) in mm and (da, db, dr) in degrees the short way
round, and a gripper that is always 1. HDF5 recordings hold their own actions and frame clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from vla.contract import StreamContract
from vla.data.episode import ACTION, STATE, Episode, Frames, Layout, Stream
from vla.data.formats.insertion.recordings import (
    FILES,
    JOINTS,
    POSE,
    CameraTrack,
    Recording,
    SensorTrack,
    Track,
    find_recordings,
    read_folder,
    some_values,
)
from vla.data.named import distinct
from vla.data.selection import EVERYTHING, Problems, Selection, refuse, remark_left_out
from vla.data.streams import choose_streams
from vla.data.texts import Texts
from vla.errors import CorruptData, ForeignLayout
from vla.listing import visible
from vla.names import by_word, hint

SENSOR = "observation.sensor"
"""Force first, then the A-scan."""
ACTION_HZ = 10.0
MAX_POSE_GAP_S = 0.05
"""A step whose start or end lies in a longer gap between two robot states has no action."""
STATE_UNITS = (*("deg",) * len(JOINTS), *("mm",) * 3, *("deg",) * 3)
DELTA_NAMES = ("dx_mm", "dy_mm", "dz_mm", "da_deg", "db_deg", "dr_deg")


@dataclass(frozen=True, kw_only=True)
class InsertionReader:
    """One opened folder of recordings."""

    layout: Layout
    episodes: Sequence[Episode]
    sources: Sequence[Path]
    """The files of numbers, images left out where they are files of their own."""
    reopen: Callable[[], "InsertionReader"] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[[], "InsertionReader"], tuple[()]]:
        return self.reopen, ()


@dataclass(frozen=True, kw_only=True)
class RecordedFrames:
    """The images of one camera in one episode."""

    timestamps: Float64[np.ndarray, " N"]
    track: CameraTrack

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """Decode the images at these indices, RGB. CorruptData names the file that cannot be decoded."""
        return [self.track.read(index) for index in indices]


def is_insertion(root: Path) -> bool:
    """Whether the folder holds recordings of the insertion recorder."""
    return root.is_dir() and bool(find_recordings(root))


def open_insertion(root: Path, selection: Selection = EVERYTHING, report: Problems = refuse) -> InsertionReader:
    """Open a folder of recordings: a data set, a task or one recording; what is damaged is told and left out.

    Episodes are numbered in the order of their paths; a damaged image is no error until it is read. Raises CorruptData
    where nothing can be read and ValueError where what was selected is not there.
    """
    check_selection(root, selection)
    paths = dict(enumerate(find_recordings(root) if root.is_dir() else []))
    if not paths:
        raise ValueError(
            f"{root} holds no recordings (recv_all_*, episode_* or data_collection_* folders, or .h5 files), "
            "alone or in folders of tasks; correct --data.roots"
        )
    unknown = sorted(set(selection.episodes) - set(paths))
    if unknown:
        raise ValueError(f"{root} has no episode {some_values(unknown)}; it has 0 to {len(paths) - 1}")
    names = distinct([name_of(path) for path in paths.values()], list(paths.values()))
    recordings, foreign = {}, list[ForeignLayout]()
    left_out = tuple(sorted(set(selection.without) & set(paths)))
    chosen_indices = [index for index in sorted(set(selection.episodes)) or paths if index not in left_out]
    if not chosen_indices:
        raise ValueError(f"{root} has no recording that is not left out: correct --data.without")
    for index in chosen_indices:
        try:
            recordings[index] = read_recording(root, paths[index])
        except ValueError as problem:
            report(problem)
            foreign += [problem] if isinstance(problem, ForeignLayout) else []
    if len(foreign) == len(paths):
        raise foreign[0]
    if not recordings:
        raise CorruptData(f"{root} has no recording that can be read; restore its files")
    chosen = choose_cameras(root, recordings, selection.cameras)
    check_agreement(root, list(recordings.values()))
    offered = (SENSOR,)
    built, sensed = [], bool(choose_streams(selection.sensor, offered, offered, root, report))
    for index, recording in recordings.items():
        name = f"{root.name}/{names[index]}"
        try:
            built.append(build_episode(recording, name, index, chosen, sensed=sensed))
        except ValueError as problem:
            report(problem)
    lost = [f"{episode.name}: {key}" for episode in built for key in chosen if key not in episode.cameras]
    if lost and selection.missing_cameras == "refuse":
        report(
            ValueError(
                f"{root}: {len(lost)} cameras have no image ({some_values(lost)}); restore them, or train with those "
                "cameras masked: `--data.missing-cameras mask`"
            )
        )
    if not built:
        raise CorruptData(f"{root} has no recording that can be read; restore its files")
    return InsertionReader(
        layout=describe(root, list(recordings.values()), built, chosen, sensed=sensed, left_out=left_out),
        episodes=tuple(built),
        sources=[file for index in recordings for file in files_of(paths[index])],
        reopen=partial(open_insertion, root, selection),
    )


def check_selection(root: Path, selection: Selection) -> None:
    """Refuse features that no recording has (ValueError)."""
    recorder = f"{root} is of the insertion recorder"
    if selection.columns:
        raise ValueError(f"{recorder}, whose frames have no {selection.columns[0]}: name {ACTION} or {STATE}")
    if selection.depth:
        raise ValueError(f"{recorder}, whose cameras are read as colours: leave --data.depth out")
    if selection.angles:
        raise ValueError(f"{recorder}, whose actions are differences and do not wrap: leave --data.angles out")
    if selection.action_key != ACTION:
        raise ValueError(f"{recorder}, which has {ACTION} and no {selection.action_key}: leave --data.action-key out")
    if selection.state_key != STATE:
        raise ValueError(f"{recorder}, which has {STATE} and no {selection.state_key}: leave --data.state-key out")


def name_of(path: Path) -> str:
    """What a recording is called, as long as no other of its root is called so."""
    return path.stem if is_file(path) else path.name


def is_file(path: Path) -> bool:
    """Whether a recording is a file, and not a folder."""
    return any(path.match(pattern) for pattern in FILES)


def files_of(path: Path) -> list[Path]:
    """The files that hold the numbers of a recording."""
    if is_file(path):
        return [path]
    return visible(file for pattern in ("*.csv", "*.npz", "metadata.json") for file in path.glob(pattern))


def read_recording(root: Path, path: Path) -> Recording:
    """Read a recording of any layout, below a root."""
    if not is_file(path):
        return read_folder(root, path)
    try:
        from vla.data.formats.insertion.hdf5 import read_hdf5  # h5py is needed for this layout alone
    except ImportError as error:
        raise ValueError(f"{path} is HDF5, which needs the package h5py; install it: pip install h5py") from error
    return read_hdf5(path)


def choose_cameras(root: Path, recordings: dict[int, Recording], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The camera keys asked for, or all that any recording has."""
    keys = sorted({key for recording in recordings.values() for key in recording.cameras})
    known = by_word(keys)
    for name in asked:
        if name not in known:
            raise ValueError(f"{root} has no camera {name}: {hint(name, keys)}")
    return tuple(known[name] for name in asked) or tuple(keys)


def check_agreement(root: Path, recordings: Sequence[Recording]) -> None:
    """Refuse a folder whose recordings cannot be trained on together."""
    kinds = {recording.actions is not None for recording in recordings}
    if len(kinds) > 1:
        raise ValueError(f"{root} mixes HDF5 recordings with others, whose actions differ; give each its own root")
    widths = {recording.sensor.channels for recording in recordings if recording.sensor is not None}
    if len(widths) > 1:
        raise ValueError(f"{root} has sensors of {some_values(sorted(widths))} channels; give each its own root")


def build_episode(recording: Recording, name: str, index: int, cameras: Sequence[str], *, sensed: bool) -> Episode:
    """One episode; its time 0 is the first robot state."""
    start = float(recording.state.times[0])
    end = float(recording.state.times[-1])
    if recording.actions is not None:
        frames = recording.actions.times - start
        actions = Stream(timestamps=frames, values=recording.actions.values)
    else:
        steps = int((end - start) * ACTION_HZ + 1e-6)
        if steps < 1:
            raise CorruptData(f"{name} lasts {end - start:.3f} s, at least one step of 0.1 s is expected")
        frames = np.arange(steps) / ACTION_HZ
        actions = delta_actions(recording.state, start, frames, name)
    found: dict[str, Frames] = {}
    for key in cameras:
        if key in recording.cameras:
            track = recording.cameras[key]
            check_overlap(track.times, start, end, f"{name}: {key}")
            found[key] = RecordedFrames(timestamps=track.times - start, track=track)
    streams: dict[str, Stream] = {}
    if recording.sensor is not None and sensed:
        check_overlap(recording.sensor.times, start, end, f"{name}: the sensor")
        streams[SENSOR] = Stream(timestamps=recording.sensor.times - start, values=recording.sensor.values())
    return Episode(
        name=name,
        index=index,
        timestamps=frames,
        instructions=Texts.throughout(recording.instruction, len(frames)),
        confidence=np.ones(len(frames)),
        actions=actions,
        state=Stream(timestamps=recording.state.times - start, values=recording.state.values),
        streams=streams,
        cameras=found,
    )


def check_overlap(times: Float64[np.ndarray, " N"], start: float, end: float, what: str) -> None:
    """Refuse a stream that was recorded at another time than the robot: its clock was not set."""
    if times[0] > end or times[-1] < start:
        raise CorruptData(
            f"{what} runs from {times[0]:.3f} to {times[-1]:.3f}, the robot from {start:.3f} to {end:.3f}: "
            "their clocks differ; correct the time stamps"
        )


def delta_actions(state: Track, start: float, times: Float64[np.ndarray, " N"], name: str) -> Stream:
    """The change of pose over the step that begins at each time; steps without robot states nearby are left out."""
    stamps = state.times - start
    poses = state.values[:, len(JOINTS) :].astype(np.float64)
    poses[:, 3:] = np.unwrap(poses[:, 3:], period=360.0, axis=0)

    def pose_at(moments: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, "N 6"]:
        return np.stack([np.interp(moments, stamps, poses[:, axis]) for axis in range(len(POSE))], axis=1)

    ends = times + 1 / ACTION_HZ
    known = known_at(stamps, times) & known_at(stamps, ends)
    if not known.any():
        raise CorruptData(f"{name} has no step of 0.1 s with robot states at both ends; record it again")
    deltas = pose_at(ends[known]) - pose_at(times[known])
    gripper = np.ones((len(deltas), 1))
    return Stream(timestamps=times[known], values=np.concatenate([deltas, gripper], axis=1).astype(np.float32))


def known_at(stamps: Float64[np.ndarray, " M"], times: Float64[np.ndarray, " N"]) -> np.ndarray:
    """Whether the two stamps round each time are close together."""
    after = np.searchsorted(stamps, times - 1e-6).clip(1, len(stamps) - 1)
    inside = times <= stamps[-1] + 1e-6
    return np.asarray(inside & (stamps[after] - stamps[after - 1] <= MAX_POSE_GAP_S))


def describe(
    root: Path,
    recordings: Sequence[Recording],
    episodes: Sequence[Episode],
    cameras: tuple[str, ...],
    *,
    sensed: bool,
    left_out: tuple[int, ...],
) -> Layout:
    """The layout of the folder."""
    tracks = [recording.sensor for recording in recordings if recording.sensor is not None and sensed]
    stored = recordings[0].actions is not None
    fps = ACTION_HZ
    if stored:
        fps = round(float(1 / np.median(np.concatenate([np.diff(episode.timestamps) for episode in episodes]))), 2)
    names = DELTA_NAMES if stored else (*DELTA_NAMES, "gripper")
    action_dim = episodes[0].actions.values.shape[1]
    unread = dict.fromkeys(name for recording in recordings for name in recording.unread)
    return Layout(
        root=str(root),
        format=f"insertion recorder ({', '.join(sorted({recording.layout for recording in recordings}))})",
        fps=fps,
        cameras=cameras,
        state_dim=episodes[0].state.values.shape[1] if episodes[0].state is not None else 0,
        action_dim=action_dim,
        state_names=(*JOINTS, *POSE),
        state_units=STATE_UNITS,
        action_names=names if len(names) == action_dim else (),
        action_periods=(0.0,) * action_dim,  # differences, already the short way round
        streams=describe_sensor(tracks),
        remarks=(*([f"not read: {', '.join(unread)}"] if unread else []), *remark_left_out(left_out)),
        left_out=left_out,
    )


def describe_sensor(tracks: Sequence[SensorTrack]) -> dict[str, StreamContract]:
    """The sensor stream, where any recording has one; its window is one second."""
    if not tracks:
        return {}
    rate_hz = float(np.median([track.rate_hz for track in tracks]))
    return {SENSOR: StreamContract(key=SENSOR, channels=tracks[0].channels, samples=round(rate_hz), rate_hz=rate_hz)}
