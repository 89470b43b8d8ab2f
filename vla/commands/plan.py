"""`vla plan`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vla.adapter_settings import LoraConfig
from vla.parts import FRESH, Encoders
from vla.prefix_settings import DoorName
from vla.settings import BackboneConfig, CameraConfig, ExpertConfig

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.planning.workload import Patches, Workload
    from vla.policy import Policy

Recipe = Literal["stage1", "stage2", "pretrain"]
HALF = 2
"""Bytes of a bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a recipe has where nothing else is said."""

    steps: int
    batch_size: int
    horizon: int
    state_dim: int
    action_dim: int
    backbone: str


RECIPES: Mapping[str, Defaults] = {
    "stage1": Defaults(steps=20_000, batch_size=32, horizon=8, state_dim=8, action_dim=7, backbone="tiny"),
    "stage2": Defaults(steps=10_000, batch_size=32, horizon=8, state_dim=8, action_dim=7, backbone="tiny"),
    "pretrain": Defaults(steps=10_000, batch_size=64, horizon=40, state_dim=51, action_dim=114, backbone="hash"),
}
"""Those of training/recipes.py; the widths of `pretrain` are those of rotations of 17 joints."""


@dataclass(frozen=True, kw_only=True)
class PlanOf:
    """Tell what a training costs before it starts: memory, FLOPs, time, price, and which topology is fastest."""

    backbone: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="BACKBONE")]]
    """Folder or hub id, whose config.json is read and no weight; tiny; or 3B and 7B, Qwen2.5-VL's published sizes."""
    recipe: Recipe = "stage2"
    """Entry point of the training."""
    finetune_vl: Literal["lora", "full", "none"] = "lora"
    """What stage 2 trains of the backbone."""
    blocks: int = 2
    """Last blocks that `full` trains."""
    gpu: str = "H200"
    """Name of the GPU, or its numbers: GB,TFLOPS,GB/s of memory."""
    gpus: int = 1
    """GPUs of a machine."""
    machines: int = 1
    """Equal machines."""
    network_gbit: float = 400.0
    """Between machines, Gbit/s a GPU."""
    price: float | None = None
    """What a GPU costs an hour, in any currency."""
    batch_size: int | None = None
    """Samples a step, over all GPUs; None: the recipe's."""
    micro_batch: int | Literal["auto"] = "auto"
    """Samples a GPU and forward; auto: the largest power of two that fits."""
    steps: int | None = None
    """Optimizer steps; None: the recipe's."""
    cameras: int = 3
    """Cameras of the policy; a recipe of motion has none."""
    frame: str = "224x224"
    """Width and height of a camera's frame, in pixels."""
    max_pixels: int = BackboneConfig.max_pixels
    """Largest area of a frame; larger ones are shrunk."""
    prompt_tokens: int = 64
    """Tokens of a prompt beside those of the images."""
    sensor: str = "50x6"
    """Samples and channels of a sensor's window; none: no sensor."""
    state_dim: int | None = None
    """Numbers of the state; None: the recipe's."""
    action_dim: int | None = None
    """Numbers of an action; None: the recipe's."""
    horizon: int | None = None
    """Actions of a chunk; None: the recipe's."""
    draws: int = 1
    """Times and noises each sample is trained at."""
    gradient_checkpointing: bool = False
    """Compute the language model twice instead of keeping its activations."""
    door: DoorName = "none"
    """Behind which samples are read, as --cache.door of the training; records count as bf16."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters of stage 2."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The action expert."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    """The camera encoder beside the backbone."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the plan as JSON, with every constant it rests on."""


def plan(command: PlanOf) -> None:
    """`vla plan`.

    Raises:
        ValueError: a GPU, number or backbone that cannot be, or a batch that does not divide.
    """
    from vla.planning import telling
    from vla.planning.gpus import gpu_of
    from vla.planning.plan import costs_of, plan_of
    from vla.planning.timing import Cluster
    from vla.planning.workload import Workload, tokens_of

    own = RECIPES[command.recipe]
    check(command)
    gpu = gpu_of(command.gpu)
    cluster = Cluster(gpu=gpu, gpus=command.gpus, machines=command.machines, network=command.network_gbit * 1e9 / 8)
    policy = policy_of(command)
    images, merge = images_of(command, policy)
    tokens = tokens_of(images, merge) + command.prompt_tokens if merge else 0
    work, kept = Workload(tokens=float(tokens), images=images, draws=command.draws), ""
    if command.door != "none":
        work, kept = behind(command.door, policy, work)
    found = plan_of(
        costs_of(policy, work),
        cluster,
        batch_size=own.batch_size if command.batch_size is None else command.batch_size,
        micro_batch=command.micro_batch,
        num_steps=own.steps if command.steps is None else command.steps,
        price=command.price,
    )
    how = f"{command.recipe} ({command.finetune_vl})" if command.recipe == "stage2" else command.recipe
    shown = f", {len(images)} images and {tokens} tokens a sample" if merge else ""
    title = (
        f"{how} of {policy.backbone.config.path} on {cluster.ranks} x {gpu.name}, {found.num_steps:,} steps of "
        f"{found.batch_size} samples{shown}{kept}"
    )
    print(
        json.dumps(telling.to_json(found, title), indent=2) if command.json else "\n".join(telling.lines(found, title))
    )


def behind(name: DoorName, policy: "Policy", work: "Workload") -> "tuple[Workload, str]":
    """What is left to compute behind a door, and what is said of its records. ValueError where it cannot be one."""
    from vla.parts.qwen import qwen_of
    from vla.planning.workload import tokens_of
    from vla.prefixing import door_of

    door = door_of(name, policy)
    backbone = qwen_of(policy.backbone)
    seen = tokens_of(work.images, backbone.plain.config.vision_config.spatial_merge_size)
    if door.name == "frames":
        return work, ", read from behind `frames`"
    first = {"vision": 0, "context": backbone.num_layers}.get(door.name, door.layer or 0)
    size = (seen if door.name == "vision" else work.tokens) * backbone.width * HALF
    told = f", read from behind `{door}`: {size / 1000:,.0f} kB a sample, {size / 1e6:,.2g} GB a thousand"
    return replace(work, images=(), first=first), told


def check(command: PlanOf) -> None:
    """Refuse what no policy has (ValueError)."""
    least = {"cameras": 0, "prompt_tokens": 1, "draws": 1, "blocks": 1, "state_dim": 0, "action_dim": 1, "horizon": 1}
    for name, smallest in least.items():
        value = vars(command)[name]
        if value is not None and value < smallest:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give at least {smallest}")
    if not 0 < command.network_gbit < float("inf"):
        raise ValueError(f"--network-gbit is {command.network_gbit:g}; give a rate above 0, e.g. 400")


def pair(flag: str, text: str) -> tuple[int, int]:
    """Two whole numbers above 0, as `224x224` (ValueError where it is none)."""
    first, _, second = text.partition("x")
    if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise ValueError(f"{flag} is {text}; give two numbers above 0 with an x between them, e.g. 224x224")
    return int(first), int(second)


def contract_of(command: PlanOf) -> "DataContract":
    """What the data of such a training give."""
    from vla.contract import SENSOR, DataContract, StreamContract

    own, moves = RECIPES[command.recipe], command.recipe == "pretrain"
    streams = {}
    if command.sensor != "none" and not moves:
        samples, channels = pair("--sensor", command.sensor)
        streams = {SENSOR: StreamContract(key=SENSOR, channels=channels, samples=samples, rate_hz=1.0)}
    action_dim = own.action_dim if command.action_dim is None else command.action_dim
    return DataContract(
        cameras=() if moves else tuple(f"camera {place}" for place in range(command.cameras)),
        state_dim=own.state_dim if command.state_dim is None else command.state_dim,
        action_dim=action_dim,
        horizon=own.horizon if command.horizon is None else command.horizon,
        fps=1.0,
        streams=streams,
        state_names=(),
        action_names=(),
        action_periods=(0.0,) * action_dim,
    )


def policy_of(command: PlanOf) -> "Policy":
    """The policy on the meta device, with what the recipe trains learning.

    Raises:
        ValueError: there is no such backbone, or it cannot be trained so.
    """
    import torch

    from vla.planning.outline import SHORT, outlined
    from vla.planning.plan import opened
    from vla.policy_settings import PolicyConfig

    backbone = BackboneConfig(
        path=SHORT.get(command.backbone.upper(), command.backbone),
        max_pixels=command.max_pixels,
        gradient_checkpointing=command.gradient_checkpointing,
    )
    opens = {"lora": ("lora",), "full": ("backbone",), "none": ()}[command.finetune_vl]
    groups = (*FRESH, *(opens if command.recipe == "stage2" else ()))
    config = PolicyConfig(
        backbone=backbone,
        encoders=Encoders(camera=command.camera),
        expert=command.expert,
        lora=command.lora if "lora" in groups else None,
    )
    return opened(outlined(config, contract_of(command), torch.bfloat16, groups), groups, command.blocks)


def images_of(command: PlanOf, policy: "Policy") -> "tuple[tuple[Patches, ...], int]":
    """The images of a sample in patches, and patches of a token a side; none and 0 where the backbone sees nothing."""
    from vla.parts.qwen import QwenVL
    from vla.planning.workload import patches_of

    if not isinstance(policy.backbone, QwenVL):
        return (), 0
    tower = policy.backbone.plain.config.vision_config
    width, height = pair("--frame", command.frame)
    one = patches_of(height, width, policy.backbone.config, tower.patch_size, tower.spatial_merge_size)
    return (one,) * len(policy.contract.cameras), tower.spatial_merge_size
