"""What the report draws of a recorded episode: actions, the sensor's samples, some camera frames."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, UInt8

from vla.batch import Reading
from vla.contract import TIMES, StreamContract
from vla.evaluation.open_loop import Predictions, Samples

NUM_FRAMES = 8
"""Frames kept of each camera, evenly spread."""
MOST_VALUES = 2_000_000
"""Sensor values kept; more are thinned in time."""


def episode_arrays(predictions: Predictions, samples: Samples, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays of episode.npz, from the predictions for the frames `indices` of one episode, in order, left whole.

    Times are seconds from the episode's start: `times_s` (N), `recorded` (N A), `predicted` (N H A), `valid` (N H), of
    each sensor stream by its name `sensor_times_s` (M) and `sensor` (M C), `frame_times_s` (K) and `frames.<camera>`
    (K h w 3), uint8.
    """
    contract = predictions.contract
    times = np.asarray(predictions.frames, np.float64) / contract.fps
    shown = {round(place) for place in np.linspace(0, len(indices) - 1, min(NUM_FRAMES, len(indices)))}
    readings: dict[str, list[Reading]] = {name: [] for name in contract.streams}
    frames = []
    for place, index in enumerate(indices):
        sample = samples[index]
        for name, seen in readings.items():
            seen.append(sample.streams[name])
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
    for name, stream in contract.streams.items():
        values, at = measured(readings[name], times, stream)
        stride = -(-values.size // MOST_VALUES) or 1
        arrays |= {name: values[::stride], f"{name}{TIMES}": at[::stride]}
    return arrays


def measured(
    readings: Sequence[Reading], times: Float64[np.ndarray, " N"], stream: StreamContract
) -> tuple[Float[np.ndarray, "M C"], Float64[np.ndarray, " M"]]:
    """Each valid sample of overlapping windows, which end at these times, once, and when it was measured."""
    values, stamps, told_s = [], [], -np.inf
    for reading, now in zip(readings, times, strict=True):
        at = now - np.arange(stream.samples)[::-1] / stream.rate_hz
        new = reading.valid & (at > told_s + 0.5 / stream.rate_hz)
        values.append(reading.values[new])
        stamps.append(at[new])
        told_s = at[new].max(initial=told_s)
    return np.concatenate(values), np.concatenate(stamps)


def upright(picture: object) -> UInt8[np.ndarray, "height width 3"]:
    """A whole frame with its channels last."""
    assert isinstance(picture, np.ndarray), "a picture for people is a whole frame"
    return picture.transpose(1, 2, 0)
