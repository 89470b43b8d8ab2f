"""Several roots as one source of training data: the configuration, what the roots must agree on, and the split."""

from dataclasses import dataclass
from typing import Literal

from vla.normalize import Normalization


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on."""

    roots: tuple[str, ...] = ()
    """Dataset folders: LeRobot v3.0, v2.1 or v2.0, or the insertion recorder's; at least one."""
    weights: tuple[float, ...] = ()
    """Share of the samples that comes from each root, in any unit, > 0; none: proportional to the roots' sizes."""
    episodes: tuple[int, ...] = ()
    """Episode indices to use, of every root; none: all."""
    cameras: tuple[str, ...] = ()
    """Camera keys to use, in this order; none: all."""
    horizon: int = 8
    """Action steps of a chunk, on the clock of the frames, >= 1."""
    sensor: str = "auto"
    """Key of the high-rate sensor; auto: the only one there is; none: no sensor."""
    sensor_samples: int | None = None
    """Samples of a sensor window, >= 1; None: as the data stores it."""
    sensor_rate_hz: float | None = None
    """Samples per second of a sensor window, > 0; None: the sensor's own rate."""
    sensor_weight: float = 2.0
    """Weight in the loss of a sample that has sensor data, against 1 for one without, > 0."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """An episode without one of the cameras: refuse it, or train on a black frame that the policy does not see."""
    normalization: Normalization = "quantile"
    """Of actions, state and sensor, fitted on the training episodes."""
    validation_share: float = 0.1
    """Share of the episodes held out for validation, 0 <= share < 1."""
    workers: int = 2
    """Loader processes per rank, >= 0; 0: in the training process."""
