"""The sensor's own clock: samples at any rate from the steps of the simulation, with noise, as a window up to now."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla.benchmarks.needle import ascan
from vla.benchmarks.needle.config import FPS, PHYSICS_HZ, NeedleConfig, SensorWindow
from vla.data.episode import Stream
from vla.data.window import hold

Locate = Callable[[], tuple[Float64[np.ndarray, "3"], float]]
"""The true hole nearest to the tip: the middle of its mouth in metres, and how the block is turned."""


class Sensor:
    """What one episode's sensor has measured.

    Sample k stands at exactly k / rate_hz seconds, also where a control step holds no whole number of samples; what it
    measures is interpolated between the simulation's steps. Time 0 is the first observation; before, nothing moved.
    `window` is what an observation holds of it; what is measured does not depend on that.
    """

    def __init__(self, config: NeedleConfig, locate: Locate, noise: np.random.Generator, window: SensorWindow) -> None:
        self._config, self._locate, self._noise, self._window = config, locate, noise, window
        self._rate_hz = config.sensor_rate_hz
        self._step = 0
        self.fresh: Float32[np.ndarray, "N C"] = np.zeros((0, config.sensor_channels), np.float32)
        """The samples since the observation before."""
        self.fresh_times = np.zeros(0)
        """Their times in seconds."""
        self._past = Stream(timestamps=self.fresh_times, values=self.fresh)

    def look(self) -> tuple[Float32[np.ndarray, "S C"], Bool[np.ndarray, " S"]]:
        """The window up to now, oldest first, and which of it was measured: as training cuts it from a recording."""
        return hold(
            self._past,
            self._step / FPS,
            samples=self._window.samples,
            rate_hz=self._window.rate_hz,
            period_s=1 / self._rate_hz,
        )

    def rest(self, wrench: Float64[np.ndarray, "6"], tip: Float64[np.ndarray, "3"]) -> None:
        """Measure at rest for one control step up to time 0; before that a demonstration holds nothing either."""
        since = self._count(-1)
        self.fresh_times = np.arange(since + 1, 1) / self._rate_hz
        # The noise that follows must not depend on the window: as much is drawn as the preset's holds.
        number = max(self._config.sensor_samples, len(self.fresh_times))
        values = self._measure(np.tile(wrench, (number, 1)), np.tile(tip, (number, 1)))
        self.fresh = values[number - len(self.fresh_times) :]
        self._past = Stream(timestamps=self.fresh_times, values=self.fresh)

    def advance(self, wrench: Float64[np.ndarray, "N 6"], tips: Float64[np.ndarray, "N 3"]) -> None:
        """Measure during one control step, from the simulation's steps of which the first is the last one before it."""
        first, last = self._count(self._step) + 1, self._count(self._step + 1)
        self.fresh_times = np.arange(first, last + 1) / self._rate_hz
        places = (self.fresh_times - self._step / FPS) * PHYSICS_HZ
        self._step += 1
        self.fresh = self._measure(_between(wrench, places), _between(tips, places))
        reach_s = self._window.samples / self._window.rate_hz + 2 / self._rate_hz
        kept = self._past.timestamps > self._step / FPS - reach_s
        self._past = Stream(
            timestamps=np.concatenate([self._past.timestamps[kept], self.fresh_times]),
            values=np.concatenate([self._past.values[kept], self.fresh]),
        )

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
