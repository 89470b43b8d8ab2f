"""What the report draws of a recorded episode: actions, the sensor's samples, some camera frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vla.evaluation.open_loop import Predictions, Samples

NUM_FRAMES = 8
"""Frames kept of each camera, evenly spread."""
MOST_VALUES = 2_000_000
"""Sensor values kept; more are thinned in time."""


def episode_arrays(predictions: Predictions, samples: Samples, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays of episode.npz, from the predictions for the frames `indices` of one episode, in order, left whole.

    Times are seconds from the episode's start: `times_s` (N), `recorded` (N A), `predicted` (N H A), `valid` (N H),
    `sensor_times_s` (M), `sensor` (M C), `frame_times_s` (K) and `frames.<camera>` (K h w 3), uint8.
    """
    contract = predictions.contract
    times = np.asarray(predictions.frames, np.float64) / contract.fps
    shown = {round(place) for place in np.linspace(0, len(indices) - 1, min(NUM_FRAMES, len(indices)))}
    windows, window_times, frames = [], [], []
    told_s = -np.inf
    for place, index in enumerate(indices):
        sample = samples[index]
        if contract.sensor_samples:
            ago = np.arange(contract.sensor_samples)[::-1] / contract.sensor_rate_hz
            at = times[place] - ago
            new = sample.sensor_valid & (at > told_s + 0.5 / contract.sensor_rate_hz)
            windows.append(sample.sensor[new])
            window_times.append(at[new])
            told_s = float(times[place])
        if place in shown:
            frames.append(sample.images)
    arrays = {
        "times_s": times,
        "recorded": predictions.recorded[:, 0],
        "predicted": predictions.predicted,
        "valid": predictions.valid,
        "frame_times_s": times[sorted(shown)],
    }
    for camera, pictures in zip(contract.cameras, zip(*frames, strict=True), strict=True):
        arrays[f"frames.{camera}"] = np.stack([upright(picture) for picture in pictures])
    if windows:
        values, at = np.concatenate(windows), np.concatenate(window_times)
        stride = -(-values.size // MOST_VALUES) or 1
        arrays |= {"sensor": values[::stride], "sensor_times_s": at[::stride]}
    return arrays


def upright(picture: object) -> UInt8[np.ndarray, "height width 3"]:
    """A whole frame with its channels last."""
    assert isinstance(picture, np.ndarray), "a picture for people is a whole frame"
    return picture.transpose(1, 2, 0)
