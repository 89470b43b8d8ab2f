"""Environments by name."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla.contract import DataContract
from vla.environment import Environment

OURS = {
    "needle": ("vla.benchmarks.needle.opening", "make"),
    "metaworld": ("vla.benchmarks.meta_world", "MetaWorld"),
}
"""Module and factory of the environments that come with the project; these are told how long an episode may be."""


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
    if name in OURS:
        module, factory = OURS[name]
        environment = vars(importlib.import_module(module))[factory](contract, max_steps, **settings)
        assert isinstance(environment, Environment)
        return environment
    module, colon, factory = name.partition(":")
    if not colon:
        raise ValueError(f"there is no environment {name!r}; give {', '.join(OURS)}, or module:factory of your own")
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
