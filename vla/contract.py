"""The contract between data and policy: which inputs and actions there are, how wide, at which rates."""

from dataclasses import dataclass

DECISIVE = {
    "cameras": "the cameras",
    "state_dim": "the width of the state",
    "action_dim": "the width of the actions",
    "horizon": "the steps of a chunk",
    "fps": "the frame rate",
    "sensor_channels": "the channels of the sensor",
    "sensor_samples": "the samples of a sensor window",
    "sensor_rate_hz": "the rate of the sensor",
    "instructed": "being instructed",
}
"""What two contracts must share to be of one policy, in words; names and periods only describe it."""


@dataclass(frozen=True, kw_only=True)
class DataContract:
    """What the data gives and a policy expects."""

    cameras: tuple[str, ...]
    """Camera keys, in the order in which a sample holds their frames."""
    state_dim: int
    """Width of the state; 0 without one."""
    action_dim: int
    horizon: int
    """Action steps of a chunk, on the frame clock."""
    fps: float
    """Steps of the frame clock per second."""
    sensor: str | None
    """Key of the sensor stream; None without one."""
    sensor_channels: int
    """0 without a sensor, like the samples and the rate."""
    sensor_samples: int
    """Samples of a sensor window; the last one stands at now."""
    sensor_rate_hz: float
    """Rate of the samples of a window."""
    state_names: tuple[str, ...]
    """One name a dimension; empty when the data names none."""
    action_names: tuple[str, ...]
    action_periods: tuple[float, ...]
    """Per action dimension: the period of an angle that wraps (2*pi or 360), 0 for everything else."""
    sensor_names: tuple[str, ...] = ()
    """One name a channel; empty without a sensor and when the data names none."""
    instructed: bool = True
    """Whether the policy reads the instruction; otherwise it reads the same sentence always."""
    state_key: str = "observation.state"
    """What the state is called in the data of the training."""
    action_key: str = "action"
    """What the actions are called there."""
    dims: tuple[str, ...] = ()
    """Which dimensions of them it reads and answers, as they were chosen: `action=0,1,gripper`; none: all."""

    def differences(self, given: "DataContract") -> list[str]:
        """What of this contract another one does not keep, in words: `the frame rate to be 10.0, not 30.0`."""
        return [
            f"{words} to be {own}, not {other}"
            for key, words in DECISIVE.items()
            if (own := getattr(self, key)) != (other := getattr(given, key))
        ]
