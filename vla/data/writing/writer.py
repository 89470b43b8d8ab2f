"""Any reader's episodes as a LeRobot dataset of version 3.0, which lerobot itself reads.

A LeRobot episode stands on a regular clock: its frames are k / fps. Those of other clocks are resampled: a frame stands
for the row nearest to it, with its task, confidence and columns, and has what a policy would see at that row's time:
the newest frame and state that are not in the future, the nearest action. Where there is no action within half a
period, no state or no frame yet, the episode is cut, and its pieces become episodes of their own.

A sensor faster than the frames is stored as windows (T, C): the samples since the frame before, ending at the frame,
with `<sensor>_valid` (T) and, unless they follow from the rate, `<sensor>_timestamp` (T) in seconds. Where an episode
lacks one of the cameras, or that shows nothing, the video is black and `<camera>_valid` false. Columns that all
episodes have are written and marked as columns, so that none of them is taken for a sensor. Numbers are float32, or
float64 where an episode has them so. Columns that episodes carry are written in their own types and shapes, at the same
frames.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from vla.data.cameras import first_picture
from vla.data.episode import Reader
from vla.data.writing.beside import written_beside
from vla.data.writing.carried import carried_rows, copy_tables, whole_rows
from vla.data.writing.features import describe_features, table_features, text_table
from vla.data.writing.pieces import (
    Piece,
    choose_sensor_format,
    common_columns,
    cut_pieces,
    double_features,
    remarks_on,
    rows_of,
    sensor_columns,
)
from vla.data.writing.statistics import Collected, as_columns, as_lists, count_pixels, of_pixels, of_values
from vla.data.writing.videos import FILES_PER_CHUNK, VideoWriter

DATA_FILE_BYTES = 100_000_000
FRAMES_AT_ONCE = 16
"""Decoded frames held in memory a camera."""
STATISTICS_FRAMES = 100
"""Images an episode of which the pixels are counted."""


def write_lerobot(
    reader: Reader,
    destination: Path,
    *,
    progress: Callable[[int], object] | None = None,
    remark: Callable[[str], object] | None = None,
) -> dict[str, int]:
    """Write all episodes of a reader as LeRobot v3.0 and return the number of episodes, frames and tasks.

    It is written beside the destination and renamed when it is complete. `progress` is told of every written frame,
    `remark` once what the regular clock changes.
    ValueError where the destination exists or an episode cannot be written.
    """
    with written_beside(destination) as beside, contextlib.closing(_Writer(reader, beside, progress)) as writer:
        totals = writer.write()
        remarks = remarks_on(reader.episodes, writer.pieces, reader.layout.fps, writer.fps)
    if remark is not None:
        for sentence in remarks:
            remark(sentence)
    return totals


class _Writer:
    """The state of one export."""

    def __init__(self, reader: Reader, root: Path, progress: Callable[[int], object] | None) -> None:
        self.layout, self.root, self.progress = reader.layout, root, progress
        self.fps = max(1, round(reader.layout.fps))
        self.pieces = [piece for episode in reader.episodes for piece in cut_pieces(episode, reader.layout, self.fps)]
        if not self.pieces:
            raise ValueError(
                f"{reader.layout.root} has no frame with an action, a state and an image; nothing to write"
            )
        self.sensors = [
            choose_sensor_format(self.pieces, stream, self.fps) for stream in reader.layout.streams.values()
        ]
        stored = [column for sensor in self.sensors for column in sensor.columns]
        if twice := sorted({column for column in stored if stored.count(column) > 1}):
            raise ValueError(
                f"{reader.layout.root} has a sensor stream {twice[0]}, as marks or times of another are called: leave "
                "one of both out with --data.sensor"
            )
        self.weighted = any((piece.episode.confidence != 1.0).any() for piece in self.pieces)
        self.masked = [
            camera for camera in reader.layout.cameras if not all(piece.seen(camera).all() for piece in self.pieces)
        ]
        self.instructions = [piece.episode.instructions.at(piece.frames) for piece in self.pieces]
        said = [text for instructions in self.instructions for text in instructions.different]
        self.tasks = {text: place for place, text in enumerate(dict.fromkeys([*self.layout.tasks, *said]))}
        self.videos = {camera: VideoWriter(root, camera, self.fps) for camera in reader.layout.cameras}
        self.sizes = {camera: self.frame_size(camera) for camera in reader.layout.cameras}
        self.columns = common_columns([piece.episode for piece in self.pieces])
        self.features = describe_features(
            self.layout,
            self.fps,
            self.sensors,
            sizes=self.sizes,
            masked=self.masked,
            weighted=self.weighted,
            columns=self.columns,
            carried=self.layout.carried,
            doubles=double_features([piece.episode for piece in self.pieces]),
        )
        self.collected = Collected()
        self.frames = 0
        self.data_file = 0

    def frame_size(self, camera: str) -> tuple[int, int]:
        """Height and width of the frames of a camera."""
        for episode in (piece.episode for piece in self.pieces):
            if camera in episode.cameras:
                first = first_picture(episode, camera, self.layout.fps)
                _, height, width = episode.cameras[camera].read([first])[0].shape
                return height, width
        raise ValueError(f"no episode has the camera {camera}; choose other cameras")

    def write(self) -> dict[str, int]:
        """Write everything."""
        rows = []
        writer: pq.ParquetWriter | None = None
        for index, piece in enumerate(self.pieces):
            table = self.table(index, piece)
            if writer is not None and self.data_path().stat().st_size > DATA_FILE_BYTES:
                writer.close()
                writer = None
                self.data_file += 1
            if writer is None:
                self.data_path().parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(self.data_path(), table.schema, compression="snappy")
            writer.write_table(table, row_group_size=max(1, len(piece)))
            rows.append(self.episode_row(index, piece, table))
            self.frames += len(piece)
        if writer is not None:
            writer.close()
        self.close()
        self.write_metadata(rows)
        return {"episodes": len(self.pieces), "frames": self.frames, "tasks": len(self.tasks)}

    def close(self) -> None:
        """Finish the videos; nothing where they are finished."""
        for video in self.videos.values():
            video.close()

    def data_path(self) -> Path:
        """The current table."""
        chunk, file = divmod(self.data_file, FILES_PER_CHUNK)
        return self.root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"

    def table(self, index: int, piece: Piece) -> pa.Table:
        """The rows of one episode."""
        count = len(piece)
        columns: dict[str, Any] = {}
        if self.layout.state_dim and piece.episode.state is not None and piece.state is not None:
            columns["observation.state"] = rows_of(piece.episode.state, piece.state)
        for sensor in self.sensors:
            columns |= sensor_columns(piece, sensor, self.fps)
        for key in self.columns:
            columns[key] = np.asarray(piece.episode.columns[key][piece.frames])
        for camera in self.masked:
            columns[f"{camera}_valid"] = piece.seen(camera)
        if self.weighted:
            columns["confidence"] = piece.episode.confidence[piece.frames].astype(np.float32)
        columns |= {
            "action": rows_of(piece.episode.actions, piece.actions),
            "timestamp": (np.arange(count) / self.fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, index),
            "index": np.arange(self.frames, self.frames + count),
            "task_index": self.task_indices(index),
        }
        for key, values in columns.items():
            if values.ndim == 2 and values.shape[1] == 1:
                columns[key] = values[:, 0]  # LeRobot stores features of shape (1,) as scalars
        for key, feature in self.layout.carried.items():
            columns[key] = carried_rows(piece, key, feature)
        features = table_features(self.features, piece.episode.carried)
        dataset = datasets.Dataset.from_dict({key: columns[key] for key in features}, features=features)
        return dataset.with_format("arrow")[:]

    def task_indices(self, index: int) -> Int64[np.ndarray, " N"]:
        """The place of each frame's instruction in the list of tasks."""
        said = self.instructions[index]
        return np.asarray(np.array([self.tasks[text] for text in said.different])[said.places], np.int64)

    def episode_row(self, index: int, piece: Piece, table: pa.Table) -> dict[str, Any]:
        """The row of the episode table; writes the videos."""
        chunk, file = divmod(self.data_file, FILES_PER_CHUNK)
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": list(self.instructions[index].different),
            "length": len(piece),
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + len(piece),
        }
        stats = {}
        scalars = {f"{sensor.stream.key}_{of}" for sensor in self.sensors for of in ("valid", "timestamp")}
        for camera, video in self.videos.items():
            video.begin_episode(*self.sizes[camera])
            start_s = video.position_s
            counts = self.write_video(piece, camera, video)
            row |= {
                f"videos/{camera}/chunk_index": video.chunk,
                f"videos/{camera}/file_index": video.file,
                f"videos/{camera}/from_timestamp": start_s,
                f"videos/{camera}/to_timestamp": video.position_s,
            }
            seen = min(len(piece), STATISTICS_FRAMES)
            stats[camera] = of_pixels(counts, seen)
            self.collected.add_pixels(camera, counts, seen)
        for key in table.column_names:
            feature = self.features[key]
            if feature["dtype"] in ("string", "language"):
                continue
            width = 1 if key in scalars else [1, *feature["shape"]][-1]
            values = flat_values(table[key]).reshape(-1, width)
            values = whole_rows(values) if key in self.layout.carried or key in self.columns else values
            if not len(values):
                continue
            stats[key] = of_values(values, len(piece))
            if feature["dtype"] == "int64":
                stats[key] |= {name: stats[key][name].astype(np.int64) for name in ("min", "max")}
            self.collected.add_values(key, values, len(piece))
        return row | as_columns(stats) | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    def write_video(self, piece: Piece, camera: str, video: VideoWriter) -> Int64[np.ndarray, "3 256"]:
        """Encode the frames of one camera; returns how often each pixel value occurs in some of them."""
        counts = np.zeros((3, 256), dtype=np.int64)
        counted = set(np.linspace(0, len(piece) - 1, min(len(piece), STATISTICS_FRAMES)).round().astype(int).tolist())
        for number, image in enumerate(self.images(piece, camera)):
            video.write(image)
            if number in counted:
                counts += count_pixels(image)
            if self.progress is not None:
                self.progress(1)
        return counts

    def images(self, piece: Piece, camera: str) -> Iterator[np.ndarray]:
        """The frames of one camera, black where it has none."""
        black, seen = np.zeros((3, *self.sizes[camera]), dtype=np.uint8), piece.seen(camera)
        for start in range(0, len(piece), FRAMES_AT_ONCE):
            now = seen[start : start + FRAMES_AT_ONCE]
            places = piece.cameras[camera][start : start + FRAMES_AT_ONCE][now].tolist() if now.any() else []
            decoded = iter(piece.episode.cameras[camera].read(places) if places else ())
            yield from (next(decoded) if there else black for there in now)

    def write_metadata(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The meta folder."""
        meta = self.root / "meta"
        (meta / "episodes/chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), meta / "episodes/chunk-000/file-000.parquet")
        pq.write_table(text_table(self.tasks), meta / "tasks.parquet")
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            **self.layout.facts,
            "total_episodes": len(self.pieces),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.pieces)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            if self.videos
            else None,
            "features": self.features,
        }
        copy_tables(Path(self.layout.root), self.layout.files, self.root)
        (meta / "info.json").write_text(json.dumps(info, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
        stats = json.dumps(as_lists(self.collected.stats()), indent=4)
        (meta / "stats.json").write_text(stats + "\n", encoding="utf-8")


def flat_values(column: pa.ChunkedArray) -> Float64[np.ndarray, " N"]:
    """All numbers of a column."""
    pieces = []
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        while pa.types.is_nested(array.type):
            array = array.flatten()
        pieces.append(np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64))
    return np.concatenate(pieces)
