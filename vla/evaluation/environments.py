"""Environments by name."""

import importlib
from collections.abc import Mapping, Sequence

from vla.batch import DataContract
from vla.environment import Environment


def open_environment(name: str, contract: DataContract, settings: Sequence[str]) -> Environment:
    """The environment of a name, with the inputs that a policy of this contract looks at.

    `module:factory` names any other one: the factory is called with the contract and the settings, whose values are
    strings, by name.

    Raises:
        ValueError: there is no such environment, a setting does not fit, or it does not suit the policy.
    """
    environment = build(name, contract, parse_settings(settings))
    if environment.fps != contract.fps:
        environment.close()
        raise ValueError(
            f"environment {name} takes {environment.fps:g} actions a second, but the policy was trained on "
            f"{contract.fps:g}; use one of the same rate"
        )
    return environment


def build(name: str, contract: DataContract, settings: Mapping[str, str]) -> Environment:
    """An environment, whatever its rate."""
    module, colon, factory = name.partition(":")
    if not colon:
        raise ValueError(f"there is no environment {name!r}; give needle, or module:factory of your own")
    try:
        make = vars(importlib.import_module(module))[factory]
    except (ImportError, KeyError) as error:
        raise ValueError(
            f"environment {name!r} cannot be imported ({error}); give module:factory as Python would import it"
        ) from error
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
