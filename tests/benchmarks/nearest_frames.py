"""Random access against an independent reader: 20 made-up videos of odd rates, codecs and clocks, 2,000 rows each.

    python -m tests.benchmarks.nearest_frames --json docs/benchmarks/nearest_frames.json

Every frame is decoded in order by PyAV, and the one that is shown nearest to a row is what the row must have, bit for
bit. Rows stand anywhere, on ticks of the table's clock and off them; several may have one frame.
"""

import argparse
import json
import platform
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.vla.data.test_pairing import clock, write_shown
from vla.data.containers import read_frame_index
from vla.data.pairing import pair
from vla.data.video import VideoFrames

ROWS = 2000
H264 = {"g": "12", "bf": "3"}
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str], float, float]] = {
    # name: container, codec, its options, the container's, rate of the video, jitter in periods
    "h264, 30 Hz": ("mp4", "libx264", H264, {}, 30.0, 0.0),
    "h264, 29.97 Hz": ("mp4", "libx264", H264, {}, 30 / 1.001, 0.0),
    "h264, 59.94 Hz, jitter": ("mp4", "libx264", H264, {}, 60 / 1.001, 0.3),
    "h264, 24 Hz": ("mp4", "libx264", {"g": "250", "bf": "8"}, {}, 24.0, 0.0),
    "h264, 7.3 Hz, jitter": ("mp4", "libx264", H264, {}, 7.3, 0.4),
    "h264, open groups": ("mp4", "libx264", H264 | {"x264-params": "open-gop=1:b-adapt=0"}, {}, 30.0, 0.2),
    "h264, fragments": ("mp4", "libx264", H264, {"movflags": "frag_keyframe+empty_moov"}, 30.0, 0.2),
    "h264, index in front": ("mp4", "libx264", H264, {"movflags": "faststart"}, 120.0, 0.2),
    "h264, no edit list": ("mp4", "libx264", H264, {"use_editlist": "0"}, 30.0, 0.0),
    "h264, negative offsets": ("mp4", "libx264", H264, {"movflags": "negative_cts_offsets"}, 30.0, 0.1),
    "h264, transport stream": ("ts", "libx264", H264, {}, 25.0, 0.1),
    "h264, Matroska": ("mkv", "libx264", H264, {}, 30.0, 0.2),
    "h265": ("mp4", "libx265", {"g": "12", "x265-params": "log-level=none"}, {}, 30.0, 0.2),
    "h265, 50 Hz": ("mkv", "libx265", {"x265-params": "log-level=none"}, {}, 50.0, 0.0),
    "av1": ("mp4", "libsvtav1", {"g": "2", "preset": "12"}, {}, 30.0, 0.2),
    "av1, 15 Hz": ("mkv", "libsvtav1", {"g": "30", "preset": "12"}, {}, 15.0, 0.0),
    "vp9": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}, 30.0, 0.2),
    "vp9 in MP4": ("mp4", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}, 90.0, 0.1),
    "mjpeg": ("mkv", "mjpeg", {}, {}, 30.0, 0.2),
    "mpeg4": ("mp4", "mpeg4", {"bf": "2"}, {}, 30.0, 0.0),
}


def wrong(folder: Path, place: int, kind: str) -> tuple[int, int]:
    """Rows without or with another frame than the nearest, and how many of them stood on the table's clock."""
    suffix, codec, options, container, rate_hz, jitter = KINDS[kind]
    base = Fraction(1, 1000 if suffix in ("mkv", "webm") else 30000 if codec == "mpeg4" else 90000)
    shown = clock(place, 240, rate_hz, jitter)
    path = write_shown(folder / f"{place}.{suffix}", shown, codec, options, time_base=base, container=container)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        start, unit = stream.start_time or 0, stream.time_base or Fraction(1)
        frames = [
            (float(((frame.pts or 0) - start) * unit), frame.to_ndarray(format="rgb24"))
            for frame in file.decode(stream)
        ]
    times = np.array([time for time, _ in frames])
    random = np.random.default_rng(place)
    fps = float(random.choice([10.0, 20.0, 29.97, 50.0]))
    rows = np.sort(random.uniform(0, times[-1], ROWS))
    on_clock = random.random(ROWS) < 0.5
    rows = np.unique(np.where(on_clock, np.round(rows * fps) / fps, rows))
    index = read_frame_index(path)
    paired = pair(rows, index.seconds, offset_s=0.0, fps=fps, how="time", what=kind)
    reader = VideoFrames(path=path, timestamps=rows, index=index, frames=paired.frames)
    mistakes = 0
    for row in random.integers(0, len(rows), ROWS).tolist():
        distances = np.abs(times - rows[row])
        image = reader.read([row])[0].transpose(1, 2, 0)
        nearest = np.flatnonzero(distances <= distances.min() + 1e-9)
        mistakes += not any(np.array_equal(image, frames[candidate][1]) for candidate in nearest)
    return mistakes, len(frames)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Random access against PyAV's frames in order.")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args().json
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, kind in enumerate(KINDS):
            mistakes, frames = wrong(Path(folder), place, kind)
            found[kind] = {"frames": frames, "rows": ROWS, "wrong": mistakes}
            print(f"{kind:<28}{frames:>5} frames{ROWS:>7} rows{mistakes:>5} wrong", flush=True)
    content = {"python": platform.python_version(), "av": av.__version__, "videos": found}
    if wanted is not None:
        wanted.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
