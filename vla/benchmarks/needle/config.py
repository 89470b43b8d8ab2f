"""What can be set of the needle benchmark; nothing heavy is imported here, so that help answers at once."""

from dataclasses import dataclass
from typing import Literal

CAMERAS = ("front", "wrist", "side")
FPS = 20.0
"""Control steps and frames a second."""
PHYSICS_HZ = 1000.0
"""Steps of the simulation a second."""
STATE_NAMES = {
    "position": ("x_m", "y_m", "z_m"),
    "joints": tuple(
        f"{joint}_{axis}{of}" for of in ("", "_velocity") for joint in ("slide", "hinge") for axis in "xyz"
    ),
}
ACTION_NAMES = ("dx_5mm", "dy_5mm", "dz_5mm")
"""Where the arm is asked to go next, from where it was asked to be, in units of 5 mm."""
WRENCH_NAMES = tuple(f"{what}_{axis}_{unit}" for what, unit in (("force", "N"), ("torque", "Nm")) for axis in "xyz")
SENSOR_CHANNELS = {"wrench": 6, "ascan": 1026, "none": 0}
SENSOR_WINDOWS_S = {"wrench": 0.05, "ascan": 1.0, "none": 0.0}
"""Length of the window of an observation that nobody asks otherwise."""


@dataclass(frozen=True, kw_only=True)
class SensorWindow:
    """What an observation holds of the sensor: so many samples up to now, on a raster of this rate."""

    samples: int
    rate_hz: float


@dataclass(frozen=True, kw_only=True)
class NeedleConfig:
    """The benchmark's settings; the defaults are the benchmark."""

    error_mm: float = 2.0
    """Standard deviation, along x and along y, of the hidden offset between seen and true holes; tiers: 0, 1, 2, 3."""
    cameras: tuple[Literal["front", "wrist", "side"], ...] = ("front", "wrist")
    """Cameras of an observation; none: nothing is rendered."""
    pixels: int = 64
    """Height and width of the images, >= 8."""
    sensor: Literal["wrench", "ascan", "none"] = "wrench"
    """wrench: 50 ms of wrist force and torque; ascan: 1 s of the axial force and 1025 depths ahead of the tip."""
    sensor_rate_hz: float = 1000.0
    """Samples of the sensor a second, in [20, 1000]."""
    force_noise_n: float = 0.1
    """Standard deviation of the white noise of a force sample, >= 0."""
    torque_noise_nm: float = 0.005
    """Standard deviation of the white noise of a torque sample, >= 0."""
    state: Literal["position", "joints"] = "position"
    """position: the measured position of the tip; joints: 12 exact joint values, which leak the torque."""
    force_limit_n: float = 26.0
    """Force at the wrist above which tissue is damaged; steps above it are counted, > 0."""
    phrasings: Literal["training", "held-out"] = "training"
    """Which sentences instruct: those of the demonstrations, or others with the same words for the colours."""
    instruction: Literal["named", "shuffled"] = "named"
    """shuffled: the sentence names a colour drawn apart from the hole that counts, so that it says nothing."""
    camera_shift_mm: float = 0.0
    """How far each camera is moved, in a random direction of its own in every episode, >= 0."""
    max_steps: int = 100
    """Steps after which an episode is cut off, >= 1."""

    def __post_init__(self) -> None:
        for name, lowest in (
            ("error_mm", 0),
            ("pixels", 8),
            ("force_noise_n", 0),
            ("torque_noise_nm", 0),
            ("camera_shift_mm", 0),
            ("max_steps", 1),
        ):
            value = vars(self)[name]
            if not lowest <= value < float("inf"):
                raise ValueError(f"{name} of the needle is {value}; give a number of at least {lowest}")
        if not FPS <= self.sensor_rate_hz <= PHYSICS_HZ:
            raise ValueError(
                f"sensor_rate_hz of the needle is {self.sensor_rate_hz:g}; give {FPS:g} to {PHYSICS_HZ:g}, the rates "
                "of the frames and of the simulation"
            )
        if not 0 < self.force_limit_n < float("inf"):
            raise ValueError(f"force_limit_n of the needle is {self.force_limit_n}; give a force above 0")
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"cameras of the needle are {', '.join(self.cameras)}; name each once")

    @property
    def state_names(self) -> tuple[str, ...]:
        """The dimensions of the state."""
        return STATE_NAMES[self.state]

    @property
    def sensor_key(self) -> str | None:
        """The key of the sensor in observations and data sets; None without one."""
        return None if self.sensor == "none" else f"observation.{self.sensor}"

    @property
    def sensor_channels(self) -> int:
        """Channels of a sample: 3 forces and 3 torques, or a force and 1025 depths; 0 without a sensor."""
        return SENSOR_CHANNELS[self.sensor]

    @property
    def sensor_names(self) -> tuple[str, ...]:
        """The channels of the wrench; the depths of an A-scan have none."""
        return WRENCH_NAMES if self.sensor == "wrench" else ()

    @property
    def sensor_samples(self) -> int:
        """Samples of the preset's window; 0 without a sensor."""
        return round(SENSOR_WINDOWS_S[self.sensor] * self.sensor_rate_hz)
