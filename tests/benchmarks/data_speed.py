"""Random access of single frames of a LeRobot v3.0 data set on one core: this project, bare PyAV, and lerobot.

    python tests/benchmarks/data_speed.py DATA --peer-python PEER/bin/python [--json]

The peer lives in an environment of its own, because its dependencies exclude ours. It takes about 8 GB: the torch
and torchvision it asks for are built for CUDA, and run without a GPU too. Its torchcodec loads FFmpeg's shared
libraries from the system:

    apt-get install ffmpeg
    python3 -m venv PEER && PEER/bin/pip install lerobot==0.4.4 torch==2.10.0 torchvision==0.25.0 torchcodec==0.10.0

Nothing of it is changed or replaced. It is measured with both of its backends, torchcodec (its default) and pyav;
`--peer-backends pyav` leaves out the one that needs FFmpeg.

An item is what lerobot's `dataset[i]` gives without a chunk: one frame of every camera, the state and the action. Bare
PyAV only decodes the frames: open files are kept, each frame is sought by its timestamp. Every contender reads the
same random items in a process of its own, pinned to the same core; rounds alternate between them, and the median of the
rounds counts. Seconds are those the process had the core for, so other work on the machine disturbs little. The mean
brightness of the first frames must agree, so nobody is fast by being wrong.

An item is mostly FFmpeg's decoder, which all of them call: a reader that keeps no decoded frames cannot leave bare PyAV
far behind.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

SEED = 0
WARM_UP = 20
CHECKED = 8
REPOSITORY = Path(__file__).resolve().parents[2]

Item = tuple[list[Any], float, int]
"""The item's frames as arrays, the value of white in them, and how many numbers came with them."""


def touchstone(root: Path) -> Callable[[int], Item]:
    """Through our reader, as the training's windows do."""
    sys.path.insert(0, str(REPOSITORY))
    from vla.data.formats.lerobot.reader import open_lerobot
    from vla.data.selection import Selection
    from vla.data.video import read_frames

    reader = open_lerobot(root, Selection(sensor=("none",)))
    places = [(episode, row) for episode in reader.episodes for row in range(len(episode.timestamps))]

    def read(index: int) -> Item:
        episode, row = places[index]
        frames = read_frames([(camera, [row]) for camera in episode.cameras.values()])
        state = [] if episode.state is None else episode.state.values[row]
        return [frame[0] for frame in frames], 255, len(state) + len(episode.actions.values[row])

    return read


def pyav(root: Path) -> Callable[[int], Item]:
    """The decoder alone: seek to the key frame before, decode up to the timestamp, convert to RGB."""
    import av
    from pyarrow import parquet

    info = json.loads((root / "meta" / "info.json").read_text())
    cameras = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    tables = [parquet.read_table(path).to_pylist() for path in sorted((root / "meta/episodes").rglob("*.parquet"))]
    episodes = sorted((row for table in tables for row in table), key=lambda row: int(row["episode_index"]))
    places = [(episode, row / info["fps"]) for episode in episodes for row in range(episode["length"])]
    containers: dict[str, Any] = {}

    def decode(path: str, at_s: float) -> Any:
        container = containers.get(path)
        if container is None:
            container = containers[path] = av.open(path)
            container.streams.video[0].codec_context.thread_count = 1
        stream = container.streams.video[0]
        target = round(at_s / stream.time_base)
        container.seek(target, stream=stream)
        for frame in container.decode(stream):
            if frame.pts >= target - 1:
                return frame.to_ndarray(format="rgb24")
        raise ValueError(f"{path} has no frame at {at_s} s")

    def read(index: int) -> Item:
        episode, at_s = places[index]
        frames = []
        for camera in cameras:
            path = root / info["video_path"].format(
                video_key=camera,
                chunk_index=episode[f"videos/{camera}/chunk_index"],
                file_index=episode[f"videos/{camera}/file_index"],
            )
            frames.append(decode(str(path), episode[f"videos/{camera}/from_timestamp"] + at_s))
        return frames, 255, 0

    return read


def lerobot(root: Path, backend: str) -> Callable[[int], Item]:
    """The peer's own data set class with one of its video backends."""
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    torch.set_num_threads(1)
    dataset = LeRobotDataset(repo_id="benchmark/local", root=root, video_backend=backend)

    def read(index: int) -> Item:
        item = dataset[index]
        numbers = sum(len(item[key]) for key in ("observation.state", "action"))
        return [item[key] for key in dataset.meta.camera_keys], 1, numbers

    return read


BACKENDS = ("torchcodec", "pyav")
CONTENDERS: dict[str, Callable[[Path], Callable[[int], Item]]] = {
    "touchstone": touchstone,
    "pyav": pyav,
    **{f"lerobot-{backend}": partial(lerobot, backend=backend) for backend in BACKENDS},
}
PACKAGES = ("av", "torch", "torchvision", "torchcodec", "lerobot")


def measure(name: str, root: Path, num_items: int) -> dict[str, Any]:
    """Items per second of one contender, in this process."""
    info = json.loads((root / "meta" / "info.json").read_text())
    draw = random.Random(SEED)
    indices = [draw.randrange(info["total_frames"]) for _ in range(WARM_UP + num_items)]
    started = time.perf_counter()
    read = CONTENDERS[name](root)
    opened = time.perf_counter() - started
    first = [read(index) for index in indices[:WARM_UP]][:CHECKED]
    started = time.process_time()
    for index in indices[WARM_UP:]:
        read(index)
    seconds = time.process_time() - started
    return {
        "items_per_s": num_items / seconds,
        "open_s": opened,
        "brightness": [brightness(frames, white) for frames, white, _ in first],
        "numbers": first[0][2],
        "versions": {"python": platform.python_version()} | installed(),
    }


def installed() -> dict[str, str]:
    """Versions of the packages that matter here, where they are installed."""
    found = {distribution.name: distribution.version for distribution in distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


def brightness(frames: list[Any], white: float) -> float:
    """Mean level, 0 to 255, over the frames of an item."""
    return sum(255 / white * float(frame.mean()) for frame in frames) / len(frames)


def run(name: str, python: str, root: Path, num_items: int) -> dict[str, Any]:
    """`measure` in a process of its own, on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    core = min(os.sched_getaffinity(0))
    result = subprocess.run(
        [python, str(Path(__file__).resolve()), str(root), "--contender", name, "--items", str(num_items)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if result.returncode:
        sys.exit(f"{name} failed with {python}:\n{result.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def compare(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, spread and ratios; refuses contenders that saw different frames."""
    first = rounds["touchstone"][0]["brightness"]
    for name, measured in rounds.items():
        worst = max(abs(a - b) for a, b in zip(first, measured[0]["brightness"], strict=True))
        if worst > 1:
            sys.exit(f"{name} read other frames: mean brightness differs by {worst:.1f} levels")
    rates = {name: [one["items_per_s"] for one in measured] for name, measured in rounds.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: medians["touchstone"] / medians[name] for name in medians if name != "touchstone"}
    versions = {name: measured[0]["versions"] for name, measured in rounds.items()}
    return {"items_per_s": medians, "rounds": rates, "touchstone_times_faster_than": ratios, "versions": versions}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a LeRobot v3.0 data set with video")
    parser.add_argument("--peer-python", help="python of an environment with lerobot 0.4.4; without it, no peer")
    parser.add_argument("--peer-backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="the peer's decoders")
    parser.add_argument("--items", type=int, default=200, help="random items a round")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; the median counts")
    parser.add_argument("--json", action="store_true", help="print machine-readable results")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments.root, arguments.items)))
        return
    pythons = {"touchstone": sys.executable, "pyav": sys.executable}
    if arguments.peer_python:
        pythons |= {f"lerobot-{backend}": arguments.peer_python for backend in arguments.peer_backends}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    for _ in range(arguments.rounds):
        for name, python in pythons.items():
            rounds[name].append(run(name, python, arguments.root, arguments.items))
    report = compare(rounds)
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{'':<20}{'items/s':>9}   rounds")
    for name, rate in report["items_per_s"].items():
        rounds_of = "  ".join(f"{value:.1f}" for value in report["rounds"][name])
        print(f"{name:<20}{rate:>9.1f}   {rounds_of}")
    for name, ratio in report["touchstone_times_faster_than"].items():
        print(f"touchstone reads {ratio:.1f} times as many items a second as {name}")


if __name__ == "__main__":
    main()
