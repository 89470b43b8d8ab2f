"""Several roots as one source of training data: the configuration, what the roots must agree on, the split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla.contract import DataContract
from vla.data.dimensions import parse_dimensions
from vla.data.emphasis import parse_condition
from vla.data.episode import Layout
from vla.randomness import derive
from vla.settings import DataConfig

SAME_RATE = 0.01
"""Sensor rates of two roots this close are the same: free clocks, measured."""


def check_config(config: DataConfig) -> None:
    """Refuse a configuration that no data could satisfy (ValueError)."""
    if not config.roots:
        raise ValueError("no data was given: name at least one dataset folder with --data.roots DIR")
    seen: dict[Path, str] = {}
    for root in config.roots:
        path = Path(root).resolve()
        if path in seen:
            raise ValueError(
                f"{root} is given twice in --data.roots (as {seen[path]}): give it once, with --data.weights"
            )
        seen[path] = root
    if config.weights and len(config.weights) != len(config.roots):
        raise ValueError(
            f"{len(config.weights)} weights were given for {len(config.roots)} roots: "
            "give one number a root with --data.weights, or none"
        )
    for name, value, least in (
        ("horizon", config.horizon, 1),
        ("sensor-samples", config.sensor_samples, 1),
        ("quarantine", config.quarantine, 0),
        ("workers", config.workers, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"--data.{name} is {value}, expected at least {least}")
    for name, number in (
        *(("weights", weight) for weight in config.weights),
        ("sensor-rate-hz", config.sensor_rate_hz),
        ("sensor-weight", config.sensor_weight),
    ):
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"--data.{name} has {number:g}, expected a finite number > 0")
    if not 0 <= config.validation_share < 1:
        raise ValueError(f"--data.validation-share is {config.validation_share:g}, expected 0 <= share < 1")
    parse_dimensions(config.dims)
    check_emphasis(config)


def check_emphasis(config: DataConfig) -> None:
    """Refuse an emphasis that says nothing (ValueError)."""
    if not 0 < config.emphasis_share < 1:
        raise ValueError(f"--data.emphasis-share is {config.emphasis_share:g}, expected 0 < share < 1")
    if config.emphasis:
        parse_condition(config.emphasis)
    elif config.emphasis_share != DataConfig.emphasis_share:
        raise ValueError(
            f"--data.emphasis-share {config.emphasis_share:g} says how many frames --data.emphasis gives, which is "
            "missing: say which frames, e.g. --data.emphasis 'phase == 1'"
        )


def agree(layouts: Sequence[Layout], config: DataConfig) -> DataContract:
    """What all roots give, as one contract. ValueError names the two roots that cannot be mixed, and the difference."""
    first = layouts[0]
    for layout in layouts[1:]:
        for what, ours, theirs in (
            ("frames per second", first.fps, layout.fps),
            ("state values", first.state_dim, layout.state_dim),
            ("action values", first.action_dim, layout.action_dim),
            ("angle periods", first.action_periods, layout.action_periods),
            ("action names", first.action_names or layout.action_names, layout.action_names or first.action_names),
            ("state names", first.state_names or layout.state_names, layout.state_names or first.state_names),
        ):
            if ours != theirs:
                fix = "give both one order by name with --data.dims" if what.endswith("names") else "convert the other"
                raise ValueError(
                    f"{first.root} and {layout.root} cannot be mixed, their {what} differ: {_shown(ours)} and "
                    f"{_shown(theirs)}; train on one of them, or {fix}"
                )
    samples, rate_hz, sensor = _agree_on_sensor(layouts, config)
    contract = DataContract(
        cameras=_agree_on_cameras(layouts, config),
        state_dim=first.state_dim,
        action_dim=first.action_dim,
        horizon=config.horizon,
        fps=first.fps,
        sensor=None if sensor is None else sensor.sensor,
        sensor_channels=0 if sensor is None else sensor.sensor_channels,
        sensor_samples=samples,
        sensor_rate_hz=rate_hz,
        state_names=next((layout.state_names for layout in layouts if layout.state_names), ()),
        action_names=next((layout.action_names for layout in layouts if layout.action_names), ()),
        action_periods=first.action_periods or (0.0,) * first.action_dim,
        sensor_names=() if sensor is None else sensor.sensor_names,
        instructed="instruction" not in config.without,
        state_key=config.state_key,
        action_key=config.action_key,
        dims=config.dims,
    )
    present = {"actions": True, "state": contract.state_dim > 0, "sensor": contract.sensor is not None}
    if absent := [stream for stream in config.compand if not present[stream]]:
        raise ValueError(f"--data.compand names {' and '.join(absent)}, which the policy is not given: leave that out")
    return contract


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _agree_on_cameras(layouts: Sequence[Layout], config: DataConfig) -> tuple[str, ...]:
    """The cameras of a sample, in order; the readers have already chosen those of --data.cameras."""
    cameras = tuple(dict.fromkeys(camera for layout in layouts for camera in layout.cameras))
    for layout in layouts:
        missing = [camera for camera in cameras if camera not in layout.cameras]
        if missing and config.missing_cameras == "refuse":
            raise ValueError(
                f"{layout.root} has no camera {', '.join(missing)} but {', '.join(layout.cameras) or 'none'}: choose "
                "common ones with --data.cameras, or train on black frames with --data.missing-cameras mask"
            )
    return cameras


def _agree_on_sensor(layouts: Sequence[Layout], config: DataConfig) -> tuple[int, float, Layout | None]:
    """Samples and rate of a window, and the first root with a sensor; a root may be without."""
    having = [layout for layout in layouts if layout.sensor is not None]
    if not having:
        if config.sensor_samples is not None or config.sensor_rate_hz is not None:
            raise ValueError(
                "a sensor window was asked for but the data has no sensor: name one with --data.sensor KEY, "
                "or leave out --data.sensor-samples and --data.sensor-rate-hz"
            )
        return 0, 0.0, None
    first = having[0]
    for layout in having[1:]:
        if (layout.sensor, layout.sensor_channels) != (first.sensor, first.sensor_channels):
            raise ValueError(
                f"{first.root} has the sensor {first.sensor} with {first.sensor_channels} channels and {layout.root} "
                f"{layout.sensor} with {layout.sensor_channels}: train without it (--data.sensor none), or on one root"
            )
        apart = abs(layout.sensor_rate_hz / first.sensor_rate_hz - 1)
        if apart > SAME_RATE and config.sensor_rate_hz is None:
            raise ValueError(
                f"{first.sensor} comes at {first.sensor_rate_hz:g} Hz in {first.root} and at "
                f"{layout.sensor_rate_hz:g} Hz in {layout.root}: say how to read it with --data.sensor-rate-hz"
            )
        if layout.sensor_samples != first.sensor_samples and config.sensor_samples is None:
            raise ValueError(
                f"{first.root} stores windows of {first.sensor_samples} samples and {layout.root} of "
                f"{layout.sensor_samples}: say how many to read with --data.sensor-samples"
            )
    return config.sensor_samples or first.sensor_samples, config.sensor_rate_hz or first.sensor_rate_hz, first


def split(num_episodes: Sequence[int], share: float, seed: int) -> tuple[tuple[int, ...], ...]:
    """Of each root, the places (0, 1, ... among its episodes) held out for validation: whole episodes, never samples.

    Pure in (seed, root's place, number of episodes): the same data in another format or folder is split alike. With a
    share above 0 at least one episode is held out, and each root keeps at least one to train on.

    ValueError when no root has two.
    """
    wanted = [min(number - 1, round(share * number)) for number in num_episodes]
    if share > 0 and not any(wanted):
        largest = int(np.argmax(num_episodes))
        if num_episodes[largest] < 2:
            raise ValueError(
                "a single episode cannot be split into training and validation: give more, or train without validation "
                "with --data.validation-share 0"
            )
        wanted[largest] = 1
    return tuple(
        tuple(sorted(derive(seed, "split", root).permutation(number)[:count].tolist()))
        for root, (number, count) in enumerate(zip(num_episodes, wanted, strict=True))
    )
