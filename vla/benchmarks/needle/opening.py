"""The needle as the environment of a policy."""

from vla import commandline
from vla.benchmarks.needle.config import (
    ACTION_NAMES,
    FPS,
    PHYSICS_HZ,
    SENSOR_CHANNELS,
    STATE_NAMES,
    NeedleConfig,
    SensorWindow,
)
from vla.benchmarks.needle.environment import Needle
from vla.contract import DataContract
from vla.environment import check_contract


def make(contract: DataContract, max_steps: int | None = None, /, **settings: str) -> Needle:
    """The needle benchmark, showing what the policy looks at; settings are those of NeedleConfig.

    The sensor runs at the rate of the policy's window, where it can and no setting says otherwise.

    Raises:
        ValueError: a setting is unknown or does not fit, or the policy looks at what the needle does not have, or acts
            otherwise.
    """
    if len(contract.streams) > 1:
        keys = " and ".join(stream.key for stream in contract.streams.values())
        raise ValueError(f"the policy looks at {keys}, but the needle has one sensor; give a policy that looks at one")
    stream = next(iter(contract.streams.values()), None)
    channels = 0 if stream is None else stream.channels
    sensors = [name for name, width in SENSOR_CHANNELS.items() if width == channels]
    states = [name for name, names in STATE_NAMES.items() if len(names) == contract.state_dim]
    shown = {
        "cameras": [key.removeprefix("observation.images.") for key in contract.cameras],
        "sensor": sensors[:1] or ["none"],
        "state": states[:1] or ["position"],
    }
    window = None
    if stream is not None:
        window = SensorWindow(samples=stream.samples, rate_hz=stream.rate_hz)
        if FPS <= window.rate_hz <= PHYSICS_HZ:
            shown["sensor-rate-hz"] = [str(window.rate_hz)]
    if max_steps is not None:
        shown["max-steps"] = [str(max_steps)]
    given = {name.replace("_", "-"): [value] for name, value in settings.items()}
    words = [word for name, values in (shown | given).items() for word in (f"--{name}", *values)]
    config, unknown = commandline.parse(NeedleConfig, words, "vla needle demos --help")
    if unknown:
        hint = commandline.nearest(unknown[0], commandline.flags(NeedleConfig), "`vla needle demos --help` lists all")
        raise ValueError(f"the needle has no setting {unknown[0].removeprefix('--')}: {hint.replace('--', '')}")
    if max_steps not in (None, config.max_steps):
        raise ValueError(
            f"max-steps of the needle is {config.max_steps}, but an episode ends after {max_steps} steps, the largest "
            "--within; leave max-steps out"
        )
    check_contract(contract, action_dim=len(ACTION_NAMES), action_names=ACTION_NAMES, state_names=config.state_names)
    return Needle(config, window)
