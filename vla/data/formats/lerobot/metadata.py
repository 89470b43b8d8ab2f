"""What the meta folder of a LeRobot dataset says: features, episodes, tasks and where their files are."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.depth import Measured, Quantized
from vla.data.places import check_folder_name, filled
from vla.data.tables import read_small_table
from vla.errors import CorruptData
from vla.lines import read_lines
from vla.listing import visible
from vla.units import NONE, said_units, size_of, spelled

VERSIONS = ("v3.0", "v2.1", "v2.0")


@dataclass(frozen=True, kw_only=True)
class VideoPlace:
    """Where the frames of one camera in one episode are."""

    path: Path
    offset_s: float


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """What the metadata say of one episode."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    videos: Mapping[str, VideoPlace]
    """By camera; a camera that the metadata give no file for is absent."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The metadata of one root."""

    root: Path
    version: str
    fps: float
    total_episodes: int
    total_frames: int | None
    """As info.json counts them; None where it does not."""
    splits: Mapping[str, str]
    """Of info.json: `90:100` by name."""
    listed_again: tuple[int, ...]
    """Episodes with several rows in the list."""
    features: Mapping[str, Mapping[str, Any]]
    shapes: Mapping[str, tuple[int, ...]]
    episodes: Mapping[int, EpisodeRecord]
    """In order of their indices."""
    tasks: Mapping[int, str]
    facts: Mapping[str, Any]
    """All that info.json says."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera keys in the order of the file, without depth maps."""
        return tuple(
            key
            for key, feature in self.features.items()
            if feature["dtype"] in ("video", "image") and not self.is_depth(key)
        )

    def mark(self, key: str, name: str) -> Any:
        """What is said of a camera: beside its shape, or below `info` or `video_info`; None where it is nowhere."""
        feature = self.features[key]
        marks = (feature, feature.get("info") or {}, feature.get("video_info") or {})
        said = (place.get(word) for place in marks for word in (name, f"video.{name}"))
        return next((value for value in said if value is not None), None)

    def is_depth(self, key: str) -> bool:
        """Whether a camera is marked as one of depth."""
        return bool(self.mark(key, "is_depth_map"))

    def depth_coding(self, key: str) -> Quantized | Measured:
        """How the numbers of a depth camera become metres. CorruptData where half of it is said."""
        levels = {name: self.mark(key, name) for name in ("depth_min", "depth_max", "shift", "use_log")}
        if self.features[key]["dtype"] == "video" and levels["depth_min"] is not None:
            if missing := [name for name, value in levels.items() if value is None]:
                raise CorruptData(
                    f"{self.root}/meta/info.json says depth_min of {key} and no {missing[0]}; restore the feature there"
                )
            return Quantized(
                near_m=float(levels["depth_min"]),
                far_m=float(levels["depth_max"]),
                shift_m=float(levels["shift"]),
                logarithmic=bool(levels["use_log"]),
            )
        unit = self.mark(key, "depth_unit")
        size = NONE if unit is None else size_of(spelled(str(unit)))
        if unit is not None and size.symbol != "m":
            raise CorruptData(f"{self.root}/meta/info.json says depth_unit {unit} of {key}; m or mm are expected")
        return Measured(unit_m=None if unit is None else size.factor)

    def names(self, key: str) -> tuple[str, ...]:
        """One name a dimension, or none: however deep and under whatever heading the file nests them."""
        names = _flatten(self.features[key].get("names"))
        return names if len(names) == int(np.prod(self.shapes[key])) else ()

    def channel_names(self, key: str) -> tuple[str, ...]:
        """One name a channel of samples (T, C) or (C), or none. A list as long as the shape names the axes instead."""
        given, shape = self.features[key].get("names"), self.shapes[key]
        if len(shape) > 1 and isinstance(given, list) and len(given) == len(shape):
            return ()
        names = _flatten(given)
        return names if len(names) == shape[-1] else ()

    def units(self, key: str, names: Sequence[str], width: int) -> tuple[str, ...]:
        """One unit a dimension or channel, of which there are `width` with these names or none; or none."""
        for given in self.said_of_units(key):
            if any(units := said_units(given, names, width)):
                return units
        return ()

    def said_of_units(self, key: str) -> list[Any]:
        """What is said of the units of a feature, in whatever place and form."""
        feature = self.features[key]
        info = feature.get("info") or {}
        places = (feature.get("units"), feature.get("unit"), info.get("units"), info.get("unit"))
        return [given for given in places if given]

    def row_units(self, key: str) -> tuple[str, ...]:
        """One unit a dimension, or none."""
        return self.units(key, self.names(key), int(np.prod(self.shapes[key])))

    def channel_units(self, key: str) -> tuple[str, ...]:
        """One unit a channel of samples (T, C) or (C), or none."""
        return self.units(key, self.channel_names(key), self.shapes[key][-1])


def is_lerobot(root: Path) -> bool:
    """Whether the folder is a LeRobot dataset, be it one that has lost its meta/info.json."""
    return (root / "meta").is_dir()


def read_metadata(root: Path) -> Metadata:
    """Read the meta folder. ValueError where this is no LeRobot dataset, CorruptData where a file is damaged."""
    refuse_other_folders(root)
    path = root / "meta" / "info.json"
    info = read_json(path)
    if not isinstance(info, dict):
        raise CorruptData(f"{path} holds no object; restore it")
    for key in ("codebase_version", "fps", "features", "data_path"):
        if key not in info:
            raise CorruptData(f"{path} has no `{key}`; restore it")
    version = str(info["codebase_version"])
    if version not in VERSIONS:
        raise ValueError(
            f"{root} is a LeRobot dataset of version {version}; {', '.join(VERSIONS)} are read: "
            "convert it with lerobot's convert_dataset scripts"
        )
    features = info["features"]
    shapes = {}
    for key, feature in features.items():
        check_folder_name(key, str(path))
        if "dtype" not in feature or "shape" not in feature:
            raise CorruptData(f"{path}: feature {key} has no dtype or no shape; restore it")
        shapes[key] = tuple(int(size) for size in feature["shape"])
    cameras = [key for key, feature in features.items() if feature["dtype"] == "video"]
    fps = float(info["fps"])
    if not (math.isfinite(fps) and fps > 0):
        raise CorruptData(f"{path} says fps {info['fps']}; a positive number is expected")
    read_episodes = _episodes_v3 if version == "v3.0" else _episodes_v2
    try:
        records = read_episodes(root, info, cameras)
    except (KeyError, IndexError, TypeError) as error:
        raise CorruptData(f"{root}/meta lists episodes without {error}; restore it") from error
    if not records:
        raise CorruptData(f"{root}/meta lists no episode; record some, or restore it")
    return Metadata(
        root=root,
        version=version,
        fps=fps,
        total_episodes=int(info.get("total_episodes", len(records))),
        total_frames=None if info.get("total_frames") is None else int(info["total_frames"]),
        splits={str(name): str(text) for name, text in dict(info.get("splits") or {}).items()},
        listed_again=tuple(index for index, times in Counter(record.index for record in records).items() if times > 1),
        features=features,
        shapes=shapes,
        episodes={record.index: record for record in sorted(records, key=lambda record: record.index)},
        tasks=_tasks(root, version),
        facts=info,
    )


def refuse_other_folders(root: Path) -> None:
    """Say what is wrong with a path that holds no LeRobot dataset (ValueError)."""
    if (root / "meta" / "info.json").is_file():
        return
    expected = "a LeRobot dataset (a folder with meta/info.json) is expected"
    if not root.exists():
        raise ValueError(f"{root} does not exist; {expected}: correct --data.roots")
    if not root.is_dir():
        raise ValueError(f"{root} is a file; {expected}: give the folder to --data.roots")
    if not any(root.iterdir()):
        raise ValueError(f"{root} is empty; {expected}: copy the data there or correct --data.roots")
    inner = sorted(path.parent.parent for path in root.glob("*/meta/info.json"))
    hint = f"did you mean {inner[0]}?" if inner else "correct --data.roots"
    if root.name in ("meta", "data", "videos") and is_lerobot(root.parent):
        hint = f"did you mean {root.parent}?"
    raise ValueError(f"{root} has no meta/info.json; {expected}: {hint}")


def read_json(path: Path) -> Any:
    """A JSON file. Raises CorruptData where it is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptData(f"{path} is not valid JSON ({error}); restore it") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise CorruptData(f"{path} is not there; restore it")
    return list(read_lines(path, finished=True))


def _episodes_v2(root: Path, info: Mapping[str, Any], cameras: list[str]) -> list[EpisodeRecord]:
    """One table and one video a camera for each episode."""
    chunk_size = int(info.get("chunks_size") or 1000)
    where = f"{root}/meta/info.json"
    records = []
    for row in _read_lines(root / "meta" / "episodes.jsonl"):
        index = int(row["episode_index"])
        place = {"episode_chunk": index // chunk_size, "episode_index": index}
        videos = {}
        for key in cameras:
            path = filled(root, info["video_path"], where, **place, video_key=key)
            videos[key] = VideoPlace(path=path, offset_s=0.0)
        records.append(
            EpisodeRecord(
                index=index,
                length=int(row["length"]),
                tasks=_texts(row.get("tasks")),
                data_file=filled(root, info["data_path"], where, **place),
                videos=videos,
            )
        )
    return records


def _episodes_v3(root: Path, info: Mapping[str, Any], cameras: list[str]) -> list[EpisodeRecord]:
    """Many episodes a table and a video; the episode tables say where each stands."""
    files = visible((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise CorruptData(f"{root}/meta/episodes holds no table; restore it")
    where = f"{root}/meta/info.json"
    records = []
    for file in files:
        table = read_small_table(file)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        for row in table.select(wanted).to_pylist():
            videos = {}
            for key in cameras:
                chunk, number = row.get(f"videos/{key}/chunk_index"), row.get(f"videos/{key}/file_index")
                start = row.get(f"videos/{key}/from_timestamp")
                if any(value is None or math.isnan(value) for value in (chunk, number, start)):
                    continue  # this episode was recorded without the camera
                number_of = {"chunk_index": int(chunk), "file_index": int(number)}
                path = filled(root, info["video_path"], where, video_key=key, **number_of)
                videos[key] = VideoPlace(path=path, offset_s=float(start))
            data_place = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
            records.append(
                EpisodeRecord(
                    index=int(row["episode_index"]),
                    length=int(row["length"]),
                    tasks=_texts(row.get("tasks")),
                    data_file=filled(root, info["data_path"], where, **data_place),
                    videos=videos,
                )
            )
    return records


def _texts(tasks: Any) -> tuple[str, ...]:
    """The tasks of an episode: a list of texts or, by hand, one text."""
    return (tasks,) if isinstance(tasks, str) else tuple(map(str, tasks or ()))


def _tasks(root: Path, version: str) -> dict[int, str]:
    if version != "v3.0":
        return {int(row["task_index"]): str(row["task"]) for row in _read_lines(root / "meta" / "tasks.jsonl")}
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        raise CorruptData(f"{path} is not there; restore it")
    table = read_small_table(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(texts) == 0:
        raise CorruptData(f"{path} has no column task_index or no task; restore it")
    # pandas stores an index without a name as __index_level_0__; some writers name it `task`.
    column = "task" if "task" in texts else texts[0]
    return dict(zip(table["task_index"].to_pylist(), map(str, table[column].to_pylist()), strict=True))


def _flatten(names: Any) -> tuple[str, ...]:
    match names:
        case str():
            return (names,)
        case list():
            return tuple(name for item in names for name in _flatten(item))
        case dict() if all(isinstance(value, int) for value in names.values()):
            return tuple(sorted(names, key=lambda name: names[name]))
        case dict():
            return tuple(name for item in names.values() for name in _flatten(item))
        case _:
            return ()
