"""The parts of a policy, by name: each turns what is seen into tokens, which the action expert attends to.

A part is a row of `PARTS` and a module of its own; whatever goes over the parts (settings and flags, fresh weights,
groups of parameters, files of a policy, model card) goes over this table. Nothing heavy is loaded for it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any

from vla.contract import SENSOR, DataContract
from vla.motion_settings import StyleConfig
from vla.settings import CameraConfig, SensorConfig, StateConfig, suited

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vla.batch import Observation
    from vla.frames import Size

Widths = Mapping[str, int]
"""Widths of the tokens of the parts that come earlier in the table, and of the expert."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is to be known of a part beside its module."""

    label: str
    """As the model card calls it."""
    group: str
    """Group of parameters that it is trained with."""
    file: str
    """Of its weights in a policy folder (`file_of`)."""
    config: type
    """Its settings: flags --NAME.FIELD, and the entry of that name in a policy's encoders."""
    names: Callable[[Any, DataContract], Iterable[str]]
    """What it is called in a policy with these settings, for this data: once for each stream that it looks at, and not
    at all where the policy lacks it. A name is that of the row, or begins with it and `/`."""
    build: "Callable[[str, Any, DataContract, Widths], nn.Module]"
    """The module of a name, with fresh weights; its `width` is that of its tokens."""
    see: "Callable[[str, nn.Module, Observation, Mapping[str, Any]], tuple[Tensor, Tensor]]"
    """Its tokens, and which may be looked at, of an observation with unitless numbers and of the earlier tokens."""
    describe: Callable[[str, Any, DataContract], str]
    """In the model card."""
    rate: str
    """What the rate of its group is for, in help."""
    suit: Callable[[Any, DataContract], Any] = lambda config, _: config
    """Its settings with what they leave open as it suits the data."""
    size: "Callable[[Any], Size] | None" = None
    """In what size it looks at a camera's frame, with these settings; None: it looks at none."""


def _sensor(name: str, config: SensorConfig, contract: DataContract, _: Widths) -> "nn.Module":
    from vla.parts.sensor import SensorEncoder

    stream = contract.streams[name]
    return SensorEncoder(stream.samples, stream.channels, config)


def _suited_sensor(config: SensorConfig, contract: DataContract) -> SensorConfig:
    """By the stream with most channels: 128 wide and 1 deep for a wrench, 512 and 2 for an A-scan of 1025 depths."""
    channels = max((stream.channels for stream in contract.streams.values()), default=0)
    return suited(config, 128 if channels <= 64 else 256 if channels <= 256 else 512, 1 if channels <= 64 else 2)


def _state(_: str, __: StateConfig, contract: DataContract, widths: Widths) -> "nn.Module":
    from vla.parts.state import StateEncoder

    return StateEncoder(contract.state_dim, widths["expert"])


def _style(_: str, __: StyleConfig, contract: DataContract, widths: Widths) -> "nn.Module":
    from vla.parts.style import StyleEncoder

    return StyleEncoder(len(contract.style), widths["expert"])


def _style_seen(_: str, module: Any, seen: "Observation", __: Mapping[str, Any]) -> "tuple[Tensor, Tensor]":
    told = seen.state.new_zeros(len(seen.instructions), module.count, 2) if seen.style is None else seen.style
    tokens: tuple[Tensor, Tensor] = module(told)
    return tokens


def _camera(_: str, config: CameraConfig, contract: DataContract, widths: Widths) -> "nn.Module":
    from vla.parts.camera import CameraEncoder

    return CameraEncoder(len(contract.cameras), widths["backbone"], config)


def _camera_size(config: CameraConfig) -> "Size":
    from vla.parts.camera import size_of

    return size_of(config)


PARTS: dict[str, Part] = {
    SENSOR: Part(
        label="Sensor encoder",
        group="sensor",
        file="sensor_encoder.safetensors",
        config=SensorConfig,
        names=lambda _, contract: contract.streams,
        build=_sensor,
        see=lambda name, module, seen, _: module(seen.streams[name].values, seen.streams[name].valid),
        describe=lambda name, _, contract: f"`{contract.streams[name].key}`, {contract.streams[name]}",
        rate="Sensor encoders, one of each stream.",
        suit=_suited_sensor,
    ),
    "state": Part(
        label="State encoder",
        group="expert",  # it is small, and as new as the expert that reads it
        file="state_encoder.safetensors",
        config=StateConfig,
        names=lambda _, contract: ("state",) if contract.state_dim else (),
        build=_state,
        see=lambda _, module, seen, __: module(seen.state),
        describe=lambda _, __, contract: f"{contract.state_dim} numbers",
        rate="Diffusion action expert, and the state's first layer.",
    ),
    "style": Part(
        label="Style encoder",
        group="expert",
        file="style_encoder.safetensors",
        config=StyleConfig,
        names=lambda _, contract: ("style",) if contract.style else (),
        build=_style,
        see=_style_seen,
        describe=lambda _, __, contract: f"{', '.join(contract.style)}, each where it is known",
        rate="Diffusion action expert, and the first layers of state and style.",
    ),
    "camera": Part(
        label="Camera encoder",
        group="camera",
        file="camera_encoder.safetensors",
        config=CameraConfig,
        names=lambda config, contract: ("camera",) if config.width and contract.cameras else (),
        build=_camera,
        see=lambda _, module, seen, earlier: module(seen.images, seen.image_valid, earlier["backbone"]),
        describe=lambda _, config, __: (
            f"{config.tokens} tokens of each camera, from {config.pixels} x {config.pixels} pixels"
        ),
        rate="Camera encoder; without one (--camera.width 0) its rate has no effect.",
        size=_camera_size,
    ),
}
"""In the order in which the expert's context holds their tokens, behind those of the backbone."""

EXPERT_FILE = "action_expert.safetensors"
FRESH: dict[str, str] = {part.group: part.rate for part in PARTS.values()}
"""Groups of what begins with fresh weights, and what each is."""
GROUPS: dict[str, str] = {
    **FRESH,
    "lora": "LoRA adapters on the backbone's language model.",
    "adapter": "The named adapter of a policy that is frozen otherwise.",
    "backbone": "The last language-model blocks themselves, with --finetune-vl full.",
}
"""Every group of parameters that can be trained, and what it is."""

if TYPE_CHECKING:

    class Encoders:
        """Settings of the parts, each under its name."""

        def __init__(self, **settings: object) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
else:
    Encoders = make_dataclass(
        "Encoders",
        [(name, part.config, field(default_factory=part.config)) for name, part in PARTS.items()],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "Settings of the parts, each under its name.", "__module__": __name__},
    )


def row_of(name: str) -> str:
    """The row of a part of a policy, or of one of its parameters: `sensor` of `sensor/wrench.embed.weight`."""
    return name.partition(".")[0].partition("/")[0]


def file_of(name: str) -> str:
    """The file of a part's weights in a policy folder: `sensor_encoder.wrench.safetensors` of `sensor/wrench`."""
    row, _, stream = name.partition("/")
    stem, _, ending = PARTS[row].file.partition(".")
    return f"{stem}.{stream}.{ending}" if stream else PARTS[row].file


def fitting(encoders: Encoders, contract: DataContract) -> dict[str, Any]:
    """The settings of the parts that a policy for this data has, by name, in the order of the table."""
    settings = {row: vars(encoders)[row] for row in PARTS}
    return {name: settings[row] for row, part in PARTS.items() for name in part.names(settings[row], contract)}
