"""Sizes of the parts that a run leaves open: those of the weights it goes on from, or what suits backbone and data."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from training.config import RunConfig, flatten
from vla.contract import DataContract
from vla.documents import to_json
from vla.parts.sizes import suited

SIZES = ("width", "depth", "heads")


def sizes_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes among the flat settings of a policy or a run, by the flag that sets each."""
    flat = {key.removeprefix("encoders."): value for key, value in settings.items()}
    return {f"{part}.{size}": flat[f"{part}.{size}"] for part in ("expert", "sensor") for size in SIZES}


def own_sizes(config: RunConfig) -> dict[str, Any]:
    """Those of a run, numbers or auto."""
    return sizes_of(flatten(to_json(config)))


def check_sizes(config: RunConfig, known: Mapping[str, Any], place: str) -> None:
    """Refuse a size that the weights of a place do not have (ValueError)."""
    for flag, own in own_sizes(config).items():
        if own not in ("auto", known[flag]):
            raise ValueError(
                f"--{flag} is {own}, the weights of {place} have {known[flag]}: leave it out, or train without "
                "--init-from"
            )


def with_sizes(config: RunConfig, known: Mapping[str, Any]) -> RunConfig:
    """The configuration with these sizes where it leaves them open."""
    sizes = {flag: known[flag] if own == "auto" else own for flag, own in own_sizes(config).items()}
    expert, sensor = ({size: sizes[f"{part}.{size}"] for size in SIZES} for part in ("expert", "sensor"))
    parts = vars(config.encoders) | {"sensor": replace(config.encoders.sensor, **sensor)}
    return replace(config, encoders=type(config.encoders)(**parts), expert=replace(config.expert, **expert))


def with_suited_sizes(config: RunConfig, contract: DataContract, backbone_width: int) -> RunConfig:
    """The configuration with sizes that suit where it leaves them open. ValueError where those given exclude them."""
    encoders, expert = suited(config.encoders, config.expert, contract, backbone_width)
    return replace(config, encoders=encoders, expert=expert)


def became(before: RunConfig, after: RunConfig, contract: DataContract) -> list[str]:
    """What the sizes that were left open became: a line a part that the policy has, as flags."""
    open_ones, now = own_sizes(before), own_sizes(after)
    lines = []
    for part in ("expert", "sensor") if contract.streams else ("expert",):
        flags = [f"--{flag} {now[flag]}" for flag in now if flag.startswith(part) and open_ones[flag] == "auto"]
        lines += [f"auto: {' '.join(flags)}"] if flags else []
    return lines
