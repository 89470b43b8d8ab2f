"""How fast the frames of a root decode one at a time in any order, as training asks for them."""

import time
from collections.abc import Sequence

from vla.data.diagnosis import Decoding
from vla.data.episode import Episode, Frames
from vla.data.video import VideoFrames
from vla.errors import CorruptData

EPISODES = 3
"""Episodes whose frames are read, evenly spread."""
GOLDEN = 0.6180339887
"""Steps of this share of a whole visit it evenly, and never one place after its neighbour."""
READS = 500
"""Frames of a camera that are read at most."""


def measure_decoding(episodes: Sequence[Episode], cameras: Sequence[str], budget_s: float) -> tuple[Decoding, ...]:
    """Of each camera with frames that can be read, in about `budget_s` seconds for all of them together.

    Opening a file is not counted: training keeps its decoders. Damage is told elsewhere.
    """
    found = []
    for camera in cameras:
        frames = [episode.cameras[camera] for episode in episodes if camera in episode.cameras]
        speed = frames_per_second(frames[:: max(1, len(frames) // EPISODES)][:EPISODES], budget_s / len(cameras))
        if speed is not None:
            found.append(Decoding(camera=camera, frames_per_s=speed, frames_a_key_frame=key_frame_distance(frames)))
    return tuple(found)


def frames_per_second(chosen: Sequence[Frames], budget_s: float) -> float | None:
    """Frames that one core reads in a second, in random order; None where none can be read."""
    readable = [frames for frames in chosen if _read(frames, 0)]
    spent_s, reads, end_s = 0.0, 0, time.monotonic() + budget_s
    while readable and reads < READS and (reads == 0 or time.monotonic() < end_s):
        frames = readable[reads % len(readable)]
        place = int(reads * GOLDEN % 1 * len(frames.timestamps))
        start_s = time.thread_time()  # a decoder has no threads of its own
        if _read(frames, place):
            spent_s, reads = spent_s + time.thread_time() - start_s, reads + 1
        else:
            readable = [other for other in readable if other is not frames]
    return reads / max(spent_s, 1e-9) if reads else None


def key_frame_distance(cameras: Sequence[Frames]) -> float | None:
    """How many frames there are for each key frame, in the videos of a camera; None of images."""
    indices = {frames.path: frames.index for frames in cameras if isinstance(frames, VideoFrames)}
    key_frames = sum(index.key_frames for index in indices.values())
    return sum(len(index.ticks) for index in indices.values()) / key_frames if key_frames else None


def _read(frames: Frames, place: int) -> bool:
    try:
        frames.read([place])
    except CorruptData:
        return False
    return True
