"""Which frame a camera shows at each row of an episode."""

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
