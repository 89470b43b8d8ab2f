"""The sensor's own clock: samples at any rate from the steps of the simulation, with noise, as a window up to now."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from vla.needle import ascan
from vla.needle.config import FPS, PHYSICS_HZ, NeedleConfig

Locate = Callable[[], tuple[Float64[np.ndarray, "3"], float]]
"""The true hole nearest to the tip: the middle of its mouth in metres, and how the block is turned."""


class Sensor:
    """What one episode's sensor has measured.

    Sample k stands at exactly k / rate_hz seconds, also where a control step holds no whole number of samples; what it
    measures is interpolated between the simulation's steps. Time 0 is the first observation; before, nothing moved.
    """

    def __init__(self, config: NeedleConfig, locate: Locate, noise: np.random.Generator) -> None:
        self._config, self._locate, self._noise = config, locate, noise
        self._rate_hz = config.sensor_rate_hz
        self._step = 0
        self.window: Float32[np.ndarray, "S C"] = np.zeros((config.sensor_samples, config.sensor_channels), np.float32)
        """The last samples up to now, oldest first."""
        self.fresh = self.window
        """The samples since the observation before."""
        self.fresh_times = np.zeros(0)
        """Their times in seconds."""

    def rest(self, wrench: Float64[np.ndarray, "6"], tip: Float64[np.ndarray, "3"]) -> None:
        """Fill the window with what the sensor measures at rest, up to time 0."""
        since = self._count(-1)
        self.fresh_times = np.arange(since + 1, 1) / self._rate_hz
        number = max(len(self.window), len(self.fresh_times))
        values = self._measure(np.tile(wrench, (number, 1)), np.tile(tip, (number, 1)))
        self.window, self.fresh = values[number - len(self.window) :], values[number - len(self.fresh_times) :]

    def advance(self, wrench: Float64[np.ndarray, "N 6"], tips: Float64[np.ndarray, "N 3"]) -> None:
        """Measure during one control step, from the simulation's steps of which the first is the last one before it."""
        first, last = self._count(self._step) + 1, self._count(self._step + 1)
        self.fresh_times = np.arange(first, last + 1) / self._rate_hz
        places = (self.fresh_times - self._step / FPS) * PHYSICS_HZ
        self._step += 1
        self.fresh = self._measure(_between(wrench, places), _between(tips, places))
        self.window = np.concatenate([self.window, self.fresh])[len(self.fresh) :]

    def _count(self, step: int) -> int:
        """The number of the last sample up to a control step."""
        return math.floor(step * self._rate_hz / FPS + 1e-9)

    def _measure(
        self, wrench: Float64[np.ndarray, "N 6"], tips: Float64[np.ndarray, "N 3"]
    ) -> Float32[np.ndarray, "N C"]:
        """What the sensor tells of true forces, torques and tips."""
        config = self._config
        noise = np.repeat([config.force_noise_n, config.torque_noise_nm], 3)
        wrench = wrench + noise * self._noise.standard_normal(wrench.shape)
        if config.sensor == "wrench":
            return wrench.astype(np.float32)
        expected = ascan.profile(tips, *self._locate())
        return np.hstack([wrench[:, 2:3].astype(np.float32), ascan.measure(expected, self._noise)])


def _between(rows: Float64[np.ndarray, "N C"], places: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, "M C"]:
    """Rows at fractional places, interpolated linearly."""
    before = np.clip(np.floor(places).astype(np.int64), 0, len(rows) - 2)
    share = (places - before)[:, None]
    between: np.ndarray = (1 - share) * rows[before] + share * rows[before + 1]
    return between
