"""What a start reads of the data: the first one, and the next one on the same files.

    python tests/benchmarks/start_cost.py [--megabytes 1000] [--json]

The data are made here, ten files each: a wrench at 1 kHz with time stamps of its own as a LeRobot dataset (24 bytes a
sample), and force with A-scans at 650 Hz as the insertion recorder writes them (4,104 bytes a sample). Each start is a
process of its own, which opens the dataset as training does. Before the second one the pages of the data and of the
caches leave the system's memory, so that what is read from there, through memory maps too, comes from the disk.

Bytes are the process's own, from just before to just after `open_dataset` (/proc/self/io): `rchar` is what it asked
for by read(), `read_bytes` what was fetched from the disk for it, read-ahead included. The folder must lie on a disk:
a file system in memory fetches nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = 10
FPS = 20


def write_wrench(root: Path, size: int, files: int = FILES) -> None:
    """A LeRobot dataset of version 3.0 without cameras, one table a file, one episode a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples, channels = 1000 // FPS, 6
    frames = size // files // (samples * channels * 4)
    generator = np.random.Generator(np.random.Philox(0))
    dtypes = {"action": [7], "observation.state": [7], "observation.wrench": [samples, channels], "timestamp": [1]}
    features = {key: {"dtype": "float32", "shape": shape, "names": None} for key, shape in dtypes.items()}
    features["observation.wrench"]["info"] = {"sensor_hz": 1000.0}
    features["observation.wrench_timestamp"] = {"dtype": "float64", "shape": [samples], "names": None}
    integers = ("frame_index", "episode_index", "index", "task_index")
    features |= {key: {"dtype": "int64", "shape": [1], "names": None} for key in integers}
    info = {"codebase_version": "v3.0", "fps": FPS, "total_episodes": files, "chunks_size": 1000, "features": features}
    info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None}
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": ["insert the needle"]}), root / "meta/tasks.parquet")
    rows = {"episode_index": range(files), "length": [frames] * files, "tasks": [["insert the needle"]] * files}
    rows |= {"data/chunk_index": [0] * files, "data/file_index": range(files)}
    pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")

    def lists(values: np.ndarray) -> pa.Array:
        array = pa.array(values.reshape(-1))
        for width in reversed(values.shape[1:]):
            array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, width, dtype=np.int32), array)
        return array

    for number in range(files):
        ends = np.arange(frames) / FPS
        times = ends[:, None] - np.arange(samples - 1, -1, -1) / 1000 - generator.uniform(0, 1e-4, (frames, 1))
        columns = {
            "action": lists(generator.standard_normal((frames, 7), dtype=np.float32)),
            "observation.state": lists(generator.standard_normal((frames, 7), dtype=np.float32)),
            "observation.wrench": lists(generator.standard_normal((frames, samples, channels), dtype=np.float32)),
            "observation.wrench_timestamp": lists(times),
            "timestamp": pa.array(ends.astype(np.float32)),
            "frame_index": pa.array(np.arange(frames)),
            "episode_index": pa.array(np.full(frames, number)),
            "index": pa.array(np.arange(frames) + number * frames),
            "task_index": pa.array(np.zeros(frames, dtype=np.int64)),
        }
        pq.write_table(pa.table(columns), root / f"data/chunk-000/file-{number:03d}.parquet")


def write_scans(root: Path, size: int) -> None:
    """Recordings of the insertion recorder without cameras: single samples of force and A-scan."""
    channels, rate_hz = 1025, 650
    samples = size // FILES // (4 * (channels + 1))
    generator = np.random.Generator(np.random.Philox(0))
    header = ",".join(["recv_timestamp", *(f"joint_{i}" for i in range(1, 7)), *(f"pose_{axis}" for axis in "xyzabr")])
    for number in range(FILES):
        folder = root / f"recv_all_20251027_1000{number:02d}"
        folder.mkdir(parents=True)
        times = 1761551500.0 + np.arange(0, samples / rate_hz, 0.01)
        robot = np.column_stack([times, generator.standard_normal((len(times), 12))])
        np.savetxt(folder / "robot_state.csv", robot, delimiter=",", header=header, comments="", fmt="%.6f")
        np.savez(
            folder / "sensor_data.npz",
            timestamps=1761551500.0 + np.arange(samples) / rate_hz,
            forces=generator.standard_normal(samples, dtype=np.float32),
            alines=generator.standard_normal((samples, channels), dtype=np.float32),
        )


def forget_pages(folder: Path) -> None:
    """Take the files of a folder out of the system's memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def start(root: str) -> None:
    """Open the data and print what was read for it."""
    sys.path.insert(0, str(REPOSITORY))
    from vla.data.dataset import open_dataset
    from vla.settings import DataConfig

    def read() -> dict[str, int]:
        lines = Path("/proc/self/io").read_text().splitlines()
        return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}

    before, began = read(), time.monotonic()
    dataset = open_dataset(DataConfig(roots=(root,)), 0)
    seconds, after = time.monotonic() - began, read()
    numbers = {name: after[name] - before[name] for name in ("rchar", "read_bytes")}
    means = [float(dataset.statistics["sensor"].mean[0]), dataset.statistics["sensor"].count]
    print(json.dumps({"recalled": dataset.recalled, "seconds": round(seconds, 2), **numbers, "sensor": means}))


def measure(kind: str, work: Path, size: int) -> dict[str, Any]:
    """Both starts on one kind of data."""
    root = work / kind
    {"wrench": write_wrench, "scans": write_scans}[kind](root, size)
    environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache"), "HF_HOME": str(work / "huggingface")}
    found: dict[str, Any] = {"bytes": sum(path.stat().st_size for path in root.rglob("*") if path.is_file())}
    for number in ("first", "second"):
        forget_pages(work)
        command = [sys.executable, __file__, "--start", str(root)]
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found[number] = json.loads(ended.stdout.splitlines()[-1])
        read = max(found[number]["rchar"], found[number]["read_bytes"])
        found[number]["percent"] = round(100 * read / found["bytes"], 3)
    assert found["second"]["recalled"] and found["first"]["sensor"] == found["second"]["sensor"], found
    return found


def main() -> None:
    """Make the data, start twice on each kind, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of sensor data, of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        start(arguments.start)
        return
    found = {}
    for kind in ("wrench", "scans"):
        with tempfile.TemporaryDirectory(prefix="start-cost-", dir=Path.cwd()) as work:
            found[kind] = measure(kind, Path(work), arguments.megabytes * 10**6)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for kind, numbers in found.items():
        for number in ("first", "second"):
            each = numbers[number]
            print(f"{kind}: {numbers['bytes'] / 1e6:,.0f} MB, {number} start: {each}")


if __name__ == "__main__":
    main()
