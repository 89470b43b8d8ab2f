"""Small LeRobot datasets and videos, written by hand from the description of the formats, not by our own writer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.front"


def numbered_frame(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A frame (height, width, 3) that says its number in black and white stripes, eight bits of it."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return frame


def number_of(image: np.ndarray) -> int:
    """The number that a decoded frame (3, height, width) says."""
    _, height, width = image.shape
    middles = [image[:, height // 2, bit * width // 8 + width // 16].mean() for bit in range(8)]
    return sum(int(middle > 127) << bit for bit, middle in enumerate(middles))


def write_video(
    path: Path,
    numbers: Sequence[int],
    fps: int = 20,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    size: tuple[int, int] = (64, 96),
) -> None:
    """A video whose frames say these numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=dict(options or {"g": "2"}))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in numbers:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")))
        container.mux(stream.encode())


def actions_of(episode: int, length: int) -> np.ndarray:
    """Actions (length, 3) that differ in every row and episode."""
    return (np.arange(length * 3).reshape(length, 3) + 1000 * episode).astype(np.float32)


def features(extra: Mapping[str, Any] | None = None, camera: str = "video") -> dict[str, Any]:
    """The features of info.json."""
    scalars = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
    return {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "elbow"]}},
        "action": {"dtype": "float32", "shape": [3], "names": [["x", "y", "yaw_deg"]]},
        CAMERA: {"dtype": camera, "shape": [64, 96, 3], "names": ["height", "width", "channel"]},
        **{key: {"dtype": kind, "shape": [1], "names": None} for key, kind in scalars.items()},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
        **(extra or {}),
    }


def table_of(episode: int, length: int, fps: int, columns: Mapping[str, Any], first: int = 0) -> dict[str, Any]:
    """The columns of one episode."""
    actions = actions_of(episode, length)
    return {
        "observation.state": pa.array(actions[:, :2].tolist(), pa.list_(pa.float32())),
        "action": pa.array(actions.tolist(), pa.list_(pa.float32())),
        "timestamp": pa.array(np.arange(length, dtype=np.float32) / np.float32(fps)),
        "frame_index": list(range(length)),
        "episode_index": [episode] * length,
        "index": list(range(first, first + length)),
        "task_index": [episode % 2] * length,
        **columns,
    }


TASKS = ("pick the cup", "push the box")


def write_v2(
    root: Path,
    lengths: Sequence[int] = (6, 9, 5),
    *,
    fps: int = 20,
    version: str = "v2.1",
    columns: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    camera: str = "video",
) -> Path:
    """A dataset of version 2: one table and one video an episode. `columns` maps a name to a function of the length."""
    info = {
        "codebase_version": version,
        "fps": fps,
        "total_episodes": len(lengths),
        "chunks_size": 2,
        "features": features(extra, camera),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [{"episode_index": i, "tasks": [TASKS[i % 2]], "length": n} for i, n in enumerate(lengths)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks = [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    for episode, length in enumerate(lengths):
        path = root / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {name: make(length) for name, make in (columns or {}).items()}
        pq.write_table(pa.table(table_of(episode, length, fps, made)), path)
        if camera == "video":
            video = root / f"videos/chunk-{episode // 2:03d}/{CAMERA}/episode_{episode:06d}.mp4"
            write_video(video, [10 * episode + i for i in range(length)], fps)
    return root


def write_v3(root: Path, lengths: Sequence[int] = (6, 9, 5), *, fps: int = 20) -> Path:
    """A dataset of version 3: all episodes in one table and one video."""
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "total_episodes": len(lengths),
        "chunks_size": 1000,
        "features": features(),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": list(TASKS)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    tables = [
        pa.table(table_of(episode, length, fps, {}, start))
        for episode, (length, start) in enumerate(zip(lengths, starts, strict=True))
    ]
    pq.write_table(pa.concat_tables(tables, promote_options="default"), root / "data/chunk-000/file-000.parquet")
    count = len(lengths)
    episodes = {
        "episode_index": list(range(count)),
        "tasks": [[TASKS[episode % 2]] for episode in range(count)],
        "length": list(lengths),
        "data/chunk_index": [0] * count,
        "data/file_index": [0] * count,
        f"videos/{CAMERA}/chunk_index": [0] * count,
        f"videos/{CAMERA}/file_index": [0] * count,
        f"videos/{CAMERA}/from_timestamp": [start / fps for start in starts],
    }
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    numbers = [10 * episode + i for episode, length in enumerate(lengths) for i in range(length)]
    write_video(root / f"videos/{CAMERA}/chunk-000/file-000.mp4", numbers, fps)
    return root
