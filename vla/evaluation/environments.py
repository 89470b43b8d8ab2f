"""Environments by name."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla import commandline
from vla.contract import DataContract
from vla.environment import Environment, check_contract


def open_environment(
    name: str, contract: DataContract, settings: Sequence[str], max_steps: int | None = None
) -> Environment:
    """The environment of a name, with the inputs that a policy of this contract looks at.

    `max_steps` is after how many steps the caller ends an episode: the needle then says of which kind a failure is.

    `module:factory` names any other one: the factory is called with the contract and the settings, whose values are
    strings, by name.

    Raises:
        ValueError: there is no such environment, a setting does not fit, or it does not suit the policy.
    """
    environment = build(name, contract, parse_settings(settings), max_steps)
    if environment.fps != contract.fps:
        environment.close()
        raise ValueError(
            f"environment {name} takes {environment.fps:g} actions a second, but the policy was trained on "
            f"{contract.fps:g}; use one of the same rate"
        )
    return environment


def build(name: str, contract: DataContract, settings: Mapping[str, str], max_steps: int | None) -> Environment:
    """An environment, whatever its rate."""
    if name == "needle":
        return needle(contract, settings, max_steps)
    if name == "metaworld":
        from vla.meta_world import MetaWorld

        return MetaWorld(contract, max_steps, **settings)
    module, colon, factory = name.partition(":")
    if not colon:
        raise ValueError(f"there is no environment {name!r}; give needle, metaworld, or module:factory of your own")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m vla` has it; last, so that nothing there replaces what is installed
        sys.path.append(here)
    try:
        make = vars(importlib.import_module(module))[factory]
    except (ImportError, KeyError) as error:
        raise ValueError(
            f"environment {name!r} cannot be imported ({error}); give module:factory as Python would import it"
        ) from error
    if not callable(make):
        raise ValueError(f"{name} is a {type(make).__name__}, not something that makes an environment")
    taken = inspect.signature(make)
    try:
        taken.bind(contract, **settings)
    except TypeError as error:
        raise ValueError(f"{name} does not take these settings ({error}); it is {factory}{taken}") from error
    environment = make(contract, **settings)
    if not isinstance(environment, Environment):
        raise ValueError(f"{name} made a {type(environment).__name__}, which lacks part of vla.environment.Environment")
    return environment


def needle(contract: DataContract, settings: Mapping[str, str], max_steps: int | None) -> Environment:
    """The needle benchmark, showing what the policy looks at; settings are those of NeedleConfig.

    The sensor runs at the rate of the policy's window, where it can and no setting says otherwise.

    Raises:
        ValueError: a setting is unknown or does not fit, or the policy looks at what the needle does not have, or acts
            otherwise.
    """
    from vla.needle.config import (
        ACTION_NAMES,
        FPS,
        PHYSICS_HZ,
        SENSOR_CHANNELS,
        STATE_NAMES,
        NeedleConfig,
        SensorWindow,
    )
    from vla.needle.environment import Needle

    sensors = [name for name, width in SENSOR_CHANNELS.items() if width == contract.sensor_channels]
    states = [name for name, names in STATE_NAMES.items() if len(names) == contract.state_dim]
    shown = {
        "cameras": [key.removeprefix("observation.images.") for key in contract.cameras],
        "sensor": sensors[:1] or ["none"],
        "state": states[:1] or ["position"],
    }
    window = None
    if contract.sensor is not None:
        window = SensorWindow(samples=contract.sensor_samples, rate_hz=contract.sensor_rate_hz)
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


def parse_settings(settings: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs as a mapping.

    Raises:
        ValueError: one of them is none, or a name stands twice.
    """
    parsed: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"the setting {setting!r} of the environment is no NAME=VALUE")
        if name in parsed:
            raise ValueError(f"the setting {name} of the environment is given twice")
        parsed[name] = value
    return parsed
