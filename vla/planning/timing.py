"""How long a step takes: an estimate of products of matrices, memory traffic, launches and communication."""

from collections.abc import Mapping
from dataclasses import dataclass

from vla.parts.qwen import QwenVL
from vla.planning.activations import Kept
from vla.planning.census import TRAINED, Census
from vla.planning.constants import CONSTANTS, Which
from vla.planning.flops import Flops, first_learning, first_recomputed, lora_learns
from vla.planning.gpus import Gpu
from vla.planning.memory import Topology, Wire
from vla.planning.workload import Number, Workload
from vla.policy import Policy

OVERLAPPED = ("ddp",)
"""Topologies whose gradients go over the wire while backward goes on; ds_configs leave overlap_comm off."""

LANGUAGE = ("norms", "attention", "mlp", "lora", "blocks", "inputs")
"""Parts of what is kept whose traffic is known by itself."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a step asks of a GPU, beside its memory."""

    flops: Flops
    """Of a sample."""
    traffic: Number
    """Bytes through memory of a sample that are no products of matrices."""
    cast: Number
    """The same of a micro-batch, whatever its size."""
    launches: Number
    """Kernels of a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines of equal GPUs."""

    gpu: Gpu
    gpus: int
    """Of a machine."""
    machines: int
    network: Number
    """Between machines, one way, bytes/s a GPU."""

    @property
    def ranks(self) -> int:
        """GPUs in all."""
        return self.gpus * self.machines

    @property
    def wire(self) -> Number:
        """The slowest way between two ranks, bytes/s."""
        return min(self.network, self.gpu.link) if self.machines > 1 else self.gpu.link


def demand_of(policy: Policy, work: Workload, flops: Flops, kept: Kept, *, counts: Census, which: Which) -> Demand:
    """What a sample and a micro-batch ask, with the constants at this end of their ranges."""
    of = {name: constant.at(which) for name, constant in CONSTANTS.items()}
    backbone = policy.backbone
    traffic = of["kept bytes"] * sum(size for part, size in kept.parts.items() if part not in LANGUAGE)
    launches = of["other launches"] + of["expert launches"] * policy.config.expert.sizes.depth
    if isinstance(backbone, QwenVL):
        config = backbone.plain.config
        depth, tower = config.get_text_config().num_hidden_layers, config.vision_config
        passed, begun = depth - first_learning(backbone), min(work.first, depth)
        again = (depth - first_recomputed(backbone)) * backbone.config.gradient_checkpointing
        forward, backward = block_bytes(policy, backbone, of)
        traffic += work.tokens * ((depth - begun + again) * forward + passed * backward)
        patches = sum(rows * columns for rows, columns in work.images)
        traffic += patches * tower.depth * tower.hidden_size * of["vision bytes"]
        launches += of["vision launches"] * tower.depth * bool(work.images)
        launches += of["frozen launches"] * (depth - passed - begun)
        launches += (passed + again) * of["block launches"] + passed * of["block launches back"]
    return Demand(flops=flops, traffic=traffic, cast=of["cast bytes"] * counts.trained, launches=launches)


def block_bytes(policy: Policy, backbone: QwenVL, of: Mapping[str, float]) -> tuple[Number, Number]:
    """Bytes a token of a block of the language model that are no products of matrices, forward and backward."""
    text = backbone.plain.config.get_text_config()
    width, head = text.hidden_size, text.hidden_size // text.num_attention_heads
    turned = head * (text.num_attention_heads + text.num_key_value_heads)
    forward = (2 * of["norm bytes"] + of["residual bytes"]) * width
    forward += of["rotary bytes"] * turned + of["mlp bytes"] * text.intermediate_size
    backward = of["backward"] * forward
    if lora_learns(backbone) and policy.config.lora is not None:
        how = "lora" if policy.config.lora.dropout else "bare"
        inputs = 4 * width
        forward, backward = forward + of[f"{how} forward"] * inputs, backward + of[f"{how} backward"] * inputs
    return forward, backward


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of a step, by what they go to."""

    parts: Mapping[str, Number]
    """matrices, traffic, launches (what they take beyond the two), communication, optimizer."""

    @property
    def seconds(self) -> Number:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def limit(self) -> str:
        """The part that takes most."""
        return max(self.parts, key=lambda part: self.parts[part])


def step_of(
    demand: Demand,
    counts: Census,
    cluster: Cluster,
    topology: Topology,
    sent: Wire,
    *,
    micro_batch: int,
    accumulation: int,
    which: Which = "value",
) -> Step:
    """How long a step of so many micro-batches takes."""
    gpu, of = cluster.gpu, {name: constant.at(which) for name, constant in CONSTANTS.items()}
    memory = gpu.bandwidth * of["traffic"]
    whole = demand.flops.model + demand.flops.again
    matrices = micro_batch * whole / (gpu.flops * of["matrices"])
    traffic = (micro_batch * demand.traffic + demand.cast) / memory
    launches = max(0.0, demand.launches * of["launch"] - matrices - traffic)
    communication = sent.sent(cluster.ranks) / (cluster.wire * of["link"])
    if topology in OVERLAPPED:
        communication -= (matrices + traffic) * demand.flops.backward / max(1.0, demand.flops.model)
    share = counts.trained / (cluster.ranks if topology.startswith("zero") else 1)
    optimizer = max(of["step bytes"] * share / memory, of["step launches"] * of["launch"])
    if topology.endswith("_offload"):
        crossing = TRAINED * share * (accumulation + 1) / (gpu.bus * of["link"])
        optimizer = of["step bytes"] * share * cluster.gpus / of["host"] + crossing
    if topology == "zero3_offload":
        crossed = accumulation * (counts.frozen_bytes + counts.revisited) / cluster.ranks
        communication += crossed / (gpu.bus * of["link"])
    return Step(
        parts={
            "matrices": accumulation * matrices,
            "traffic": accumulation * traffic,
            "launches": accumulation * launches,
            "communication": max(0.0, communication),
            "optimizer": optimizer,
        }
    )
