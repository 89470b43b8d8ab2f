"""Which frame a camera shows at each row of an episode."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from vla.data.clocks import newest
from vla.data.episode import FRAME_TOLERANCE_S, Episode


def pictures(episode: Episode, camera: str, fps: float, rows: slice = slice(None)) -> Int64[np.ndarray, " M"]:
    """Index of the newest frame at each row; -1 where the camera is missing, has not started, or shows nothing."""
    times = episode.timestamps[rows]
    if camera not in episode.cameras:
        return np.full(len(times), -1, np.int64)
    places = newest(episode.cameras[camera].timestamps, times + min(FRAME_TOLERANCE_S, 0.25 / fps))
    return np.where(episode.seen[camera][rows], places, -1) if camera in episode.seen else places


def seen_pictures(episode: Episode, camera: str, fps: float) -> Int64[np.ndarray, " M"]:
    """The frames that some row sees, in order, each once."""
    places = pictures(episode, camera, fps)
    return np.unique(places[places >= 0])


def first_picture(episode: Episode, camera: str, fps: float) -> int:
    """The first frame that some row sees; the first of all where none does."""
    return int(next(iter(seen_pictures(episode, camera, fps)), 0))


def oldest_frames(episodes: Sequence[Episode], cameras: Sequence[str], fps: float) -> dict[str, float]:
    """Of each camera with a clock of its own, how old the frame of a sample is at most, in seconds."""
    oldest: dict[str, float] = {}
    for camera in cameras:
        for episode in episodes:
            frames = episode.cameras.get(camera)
            if frames is None or np.array_equal(frames.timestamps, episode.timestamps):
                continue
            places = pictures(episode, camera, fps)
            ages = (episode.timestamps - frames.timestamps[places])[places >= 0]
            oldest[camera] = max(oldest.get(camera, 0.0), float(ages.max(initial=0.0)))
    return oldest
