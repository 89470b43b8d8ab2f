"""Which topologies and micro-batches of a training fit into some GPUs, how long each takes, and which is fastest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from vla.parts.groups import group_of
from vla.planning.activations import Kept, kept_of
from vla.planning.census import Census, census
from vla.planning.constants import CONSTANTS, Which
from vla.planning.flops import Flops, flops_of
from vla.planning.memory import Memory, Topology, Wire, fixed, wire, with_samples
from vla.planning.timing import Cluster, Demand, Step, demand_of, step_of
from vla.planning.workload import Number, Workload
from vla.policy import Policy

RANGE: tuple[Which, ...] = get_args(Which)
ALONE: tuple[Topology, ...] = ("single", "zero2_offload", "zero3_offload")
"""What one GPU can have; with nobody to share with, the other stages of ZeRO only copy."""
TOGETHER: tuple[Topology, ...] = ("ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """All that is known of a training before the GPUs are."""

    counts: Census
    flops: Flops
    kept: Kept
    demand: Mapping[Which, Demand]


def costs_of(policy: Policy, work: Workload) -> Costs:
    """Those of a policy of which the parameters that require a gradient learn; it may lie on the meta device."""
    counts, flops, kept = census(policy), flops_of(policy, work), kept_of(policy, work)
    demand = {which: demand_of(policy, work, flops, kept, counts=counts, which=which) for which in RANGE}
    return Costs(counts=counts, flops=flops, kept=kept, demand=demand)


class Footprint(NamedTuple):
    """Bytes on the device of a rank."""

    fixed: Number
    """Whatever the micro-batch."""
    sample: Number
    """Of each sample of a micro-batch."""

    def holds(self, room: Number) -> int:
        """Samples that fit into so many bytes; 0 where none does."""
        return max(0, int((room - self.fixed) // max(1, self.sample)))


def footprint_of(counts: Census, kept: Kept, topology: Topology, ranks: int) -> Footprint:
    """What a rank needs: `census` and `kept_of` say the rest of a policy, whether it has weights or not."""
    standing = fixed(counts, topology, ranks).device
    return Footprint(standing + kept.once, kept.peak)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A topology with a micro-batch."""

    topology: Topology
    micro_batch: int
    """Samples a rank and forward; where none fits, 1, or what was asked for."""
    accumulation: int
    memory: Memory
    fits: bool
    sent: Wire
    steps: Mapping[Which, Step]

    @property
    def step(self) -> Step:
        """As it is expected."""
        return self.steps["value"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every topology, each with its best micro-batch."""

    costs: Costs
    cluster: Cluster
    batch_size: int
    num_steps: int
    price: Number | None
    """Of a GPU and hour, in any currency."""
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row | None:
        """The fastest that fits; None where none does."""
        return min((row for row in self.rows if row.fits), key=lambda row: row.step.seconds, default=None)

    def rate(self, row: Row, which: Which = "value") -> Number:
        """Samples a second of all ranks."""
        return self.batch_size / row.steps[which].seconds

    def hours(self, row: Row) -> Number:
        """Of all steps."""
        return self.num_steps * row.step.seconds / 3600

    def cost(self, row: Row) -> Number | None:
        """Of all steps and GPUs."""
        return None if self.price is None else self.hours(row) * self.cluster.ranks * self.price

    def mfu(self, row: Row) -> Number:
        """Share of the peak that model FLOPs reach."""
        return self.rate(row) * self.costs.flops.model / (self.cluster.ranks * self.cluster.gpu.flops)


def plan_of(
    costs: Costs,
    cluster: Cluster,
    *,
    batch_size: int,
    micro_batch: int | Literal["auto"],
    num_steps: int,
    price: Number | None = None,
) -> Plan:
    """The rows of every topology that these GPUs can have.

    Raises:
        ValueError: a number is none that can be, or the batch does not divide.
    """
    check(cluster, batch_size, micro_batch, num_steps, price)
    share = batch_size // cluster.ranks
    topologies = ALONE if cluster.ranks == 1 else TOGETHER
    rows = [row_of(costs, cluster, name, share, micro_batch) for name in topologies]
    return Plan(costs=costs, cluster=cluster, batch_size=batch_size, num_steps=num_steps, price=price, rows=tuple(rows))


def check(
    cluster: Cluster, batch_size: int, micro_batch: int | Literal["auto"], num_steps: int, price: Number | None
) -> None:
    """Refuse numbers that no training has (ValueError)."""
    size = 1 if micro_batch == "auto" else micro_batch
    counts = {"gpus": cluster.gpus, "machines": cluster.machines, "batch-size": batch_size, "steps": num_steps}
    for name, count in {**counts, "micro-batch": size}.items():
        if count < 1:
            raise ValueError(f"--{name} is {count}; give at least 1")
    if price is not None and not 0 <= price < float("inf"):
        raise ValueError(f"--price is {price:g}; give what a GPU costs an hour, at least 0")
    unit = cluster.ranks * size
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        each = "" if micro_batch == "auto" else f" x --micro-batch {micro_batch}"
        raise ValueError(
            f"--batch-size {batch_size} does not divide among {cluster.ranks} GPUs{each}: give "
            + (f"{below} or {above}" if below else f"{above}")
        )


def row_of(costs: Costs, cluster: Cluster, topology: Topology, share: int, micro_batch: int | Literal["auto"]) -> Row:
    """A topology with the micro-batch that is asked for, or with the largest power of two that fits and divides."""
    room = cluster.gpu.memory * CONSTANTS["room"].value
    if micro_batch == "auto":
        footprint = footprint_of(costs.counts, costs.kept, topology, cluster.ranks)
        micro_batch = dividing(share, footprint.holds(room))
    accumulation = share // micro_batch
    memory = with_samples(fixed(costs.counts, topology, cluster.ranks), costs.kept, micro_batch)
    sent = wire(costs.counts, topology, cluster.ranks, accumulation)
    return Row(
        topology=topology,
        micro_batch=micro_batch,
        accumulation=accumulation,
        memory=memory,
        fits=memory.device <= room,
        sent=sent,
        steps={
            which: step_of(
                costs.demand[which],
                costs.counts,
                cluster,
                topology,
                sent,
                micro_batch=micro_batch,
                accumulation=accumulation,
                which=which,
            )
            for which in RANGE
        },
    )


def dividing(share: int, most: int) -> int:
    """The largest power of two up to `most` that divides a rank's samples of a step; at least 1."""
    size = 1
    while 2 * size <= most and share % (2 * size) == 0:
        size *= 2
    return size


def opened(policy: Policy, groups: Sequence[str], blocks: int) -> Policy:
    """The policy with these groups of parameters learning, of the backbone so many last blocks."""
    tail = {f"backbone.{name}" for name in policy.backbone.last_layer_names(blocks)} if "backbone" in groups else set()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(group_of(name, tail) in groups)
    return policy
