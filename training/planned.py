"""What the stages of a run will need, and how fast they should be, before a weight is loaded; asked on GPUs alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from training import distributed
from training.config import RunConfig
from training.run.resuming import Row
from vla.contract import DataContract
from vla.data.dataset import Dataset
from vla.parts.qwen import QwenVL
from vla.planning.gpus import Gpu, reported
from vla.planning.memory import Topology
from vla.planning.outline import outlined
from vla.planning.plan import costs_of, footprint_of, opened, plan_of
from vla.planning.timing import Cluster
from vla.planning.workload import Workload, patches_of, tokens_of
from vla.policy import Policy
from vla.run_folder import Planned

BEYOND = 1.3
"""How many times a GPU's memory an estimate may be before it is believed: it holds within 25 %."""
PROMPT_TOKENS = 64
"""Of a prompt beside its images, which is not read here."""
NETWORK = 50e9
"""Bytes/s between machines, which nobody says: 400 Gbit/s."""

Frame = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run trains."""

    memory: int
    """Bytes of a GPU."""
    gpu: Gpu | None
    """Its kind; None where it is not known."""
    topology: Topology
    ranks: int
    machines: int


def plan_stages(
    config: RunConfig, data: Dataset, rows: Sequence[Row], accelerator: Accelerator
) -> Mapping[str, Planned]:
    """What is planned of each stage, by name; nothing without a GPU, or for an adapter.

    Raises:
        ValueError: a stage needs far more memory than there is.
    """
    if accelerator.device.type != "cuda" or config.adapts:
        return {}
    frames = [frame_of(picture) for picture in data.train[0].images]
    place = place_of(accelerator)
    found = {row.name: plan_stage(config, data.contract, row, frames, place) for row in rows}
    return {name: planned for name, planned in found.items() if planned is not None}


def frame_of(picture: object) -> Frame:
    """The size of a whole picture, as a sample comes that nothing has resized."""
    assert isinstance(picture, np.ndarray), "nothing has resized it"
    return int(picture.shape[1]), int(picture.shape[2])


def place_of(accelerator: Accelerator) -> Place:
    """Where this process trains."""
    properties = torch.cuda.get_device_properties(accelerator.device)
    ranks = accelerator.num_processes
    local = max(1, torch.cuda.device_count())
    return Place(
        memory=properties.total_memory,
        gpu=reported(properties.name),
        topology=topology_of(accelerator),
        ranks=ranks,
        machines=math.ceil(ranks / local),
    )


def topology_of(accelerator: Accelerator) -> Topology:
    """By the names of accelerate_configs."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return "single" if accelerator.num_processes == 1 else "ddp"
    settings = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    offloads = "offload_optimizer" in settings
    match settings["stage"]:
        case 1:
            return "zero1"
        case 2:
            return "zero2_offload" if offloads else "zero2"
    return "zero3_offload" if offloads else "zero3"


def plan_stage(
    config: RunConfig, contract: DataContract, row: Row, frames: Sequence[Frame], place: Place
) -> Planned | None:
    """What is planned of a stage; None of a kind of GPU that is not known.

    Raises:
        ValueError: it needs more than `BEYOND` times the memory of a GPU.
    """
    dtype = distributed.dtype_of(config.precision)
    groups = [*row.stage.lr.by_group()]
    policy = opened(outlined(config.policy(row.stage), contract, dtype, groups), groups, row.stage.blocks)
    costs = costs_of(policy, workload_of(policy, frames, row.stage.objective.draws))
    footprint = footprint_of(costs.counts, costs.kept, place.topology, place.ranks)
    share, fitting = config.share(place.ranks), footprint.holds(place.memory)
    together = largest(max(1, fitting), share) if config.micro_batch == "auto" else config.micro_batch
    needed = footprint.fixed + together * footprint.sample
    if needed > BEYOND * place.memory and not config.ignore_memory:
        fix = f"give --micro-batch {fitting}" if fitting else "take zero3, larger GPUs, or a smaller backbone"
        raise ValueError(
            f"{row.name} needs about {needed / 1e9:.0f} GB a GPU under {place.topology} with --micro-batch "
            f"{together}, and this one has {place.memory / 1e9:.0f} GB: {fix}; `vla plan` says what fits, "
            "and --ignore-memory tries all the same"
        )
    if place.gpu is None:
        return None
    cluster = Cluster(gpu=place.gpu, gpus=place.ranks // place.machines, machines=place.machines, network=NETWORK)
    plan = plan_of(costs, cluster, batch_size=config.batch_size, micro_batch=together, num_steps=row.end - row.start)
    chosen = next((each for each in plan.rows if each.topology == place.topology), plan.rows[0])
    return Planned(
        gpu=place.gpu.name,
        samples_per_s=float(plan.rate(chosen)),
        slowest=float(plan.rate(chosen, "slow")),
        fastest=float(plan.rate(chosen, "fast")),
        memory_mb=float(needed) / 2**20,
    )


def largest(fits: int, share: int) -> int:
    """The largest power of two up to a number that divides a rank's share of the batch."""
    return max(size for size in (1 << power for power in range(fits.bit_length())) if share % size == 0)


def workload_of(policy: Policy, frames: Sequence[Frame], draws: int) -> Workload:
    """A sample of such frames."""
    backbone = policy.backbone
    if not isinstance(backbone, QwenVL):
        return Workload(tokens=0, draws=draws)
    tower = backbone.plain.config.vision_config
    merge = tower.spatial_merge_size
    images = tuple(patches_of(*frame, backbone.config, tower.patch_size, merge) for frame in frames)
    return Workload(tokens=tokens_of(images, merge) + PROMPT_TOKENS, images=images, draws=draws)
