"""Memory of a rank by part, and what goes over the wire in a step, under each topology.

What is said of weights, gradients, moments and averages is what training/engine/sharding.py holds, and is counted on
ranks by tests/training/test_planning.py. Trained parameters P are float32 everywhere; N ranks:

              trained weights     gradients   moments     averages    frozen weights
    ddp       4 P                 4 P         8 P         4 P         whole
    zero1     4 P + 4 P / N       4 P         8 P / N     4 P / N     whole
    zero2     4 P + 4 P / N       4 P / N     8 P / N     4 P / N     whole
    zero3     8 P / N + whole     4 P / N     8 P / N     4 P / N     1 / N + whole

DeepSpeed copies the weights that it steps. `whole` are tensors that ZeRO-3 leaves whole, once they have been gathered.
A gradient that lies across the shares of two ranks is held whole by both under zero1 and zero2, which is not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vla.planning.activations import Kept
from vla.planning.census import TRAINED, Census
from vla.planning.workload import Number

Topology = Literal["single", "ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
"""By the names of accelerate_configs."""
BUCKET = 25_000_000
"""Elements of DeepSpeed's buffer for gradients, whatever there is to reduce: reduce_bucket_size of ds_configs."""
LIVE = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered at most (stage3_max_live_parameters)."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of a rank, in bytes."""

    parts: Mapping[str, Number]
    """On the device: frozen, trained, gradients, moments, averages, buffers; and activations."""
    host: Number
    """Beside the process itself, where a topology offloads."""

    @property
    def device(self) -> Number:
        """Of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Wire:
    """Bytes that a rank hands over in a step."""

    all_reduce: Number = 0.0
    reduce_scatter: Number = 0.0
    all_gather: Number = 0.0

    def sent(self, ranks: int) -> Number:
        """Bytes that leave a rank, by rings: an all-reduce goes round twice."""
        return (2 * self.all_reduce + self.reduce_scatter + self.all_gather) * (ranks - 1) / ranks


def fixed(counts: Census, topology: Topology, ranks: int) -> Memory:
    """What does not depend on the micro-batch."""
    trained, share = TRAINED * counts.trained, TRAINED * counts.trained / ranks
    frozen = float(counts.frozen_bytes + counts.buffers)
    sharded = {"moments": 2 * share, "averages": share}
    match topology:
        case "single" | "ddp":
            buckets = trained if ranks > 1 else 0
            parts = {"frozen": frozen, "trained": trained, "gradients": trained}
            return Memory(parts=parts | {"moments": 2 * trained, "averages": trained, "buffers": buckets}, host=0.0)
        case "zero1" | "zero2":
            gradients = trained if topology == "zero1" else share
            parts = {"frozen": frozen, "trained": trained + share, "gradients": gradients}
            return Memory(parts=parts | sharded | {"buffers": TRAINED * BUCKET}, host=0.0)
        case "zero2_offload":
            parts = {"frozen": frozen, "trained": trained, "gradients": 0.0, "moments": 0.0, "averages": 0.0}
            return Memory(parts=parts | {"buffers": TRAINED * BUCKET}, host=5 * share)
    whole = counts.frozen_whole + counts.buffers
    live = min(LIVE * counts.frozen_bytes / max(1, counts.frozen), counts.frozen_bytes) + TRAINED * BUCKET
    if topology == "zero3":
        parts = {"frozen": counts.frozen_bytes / ranks + whole, "trained": 2 * share + TRAINED * counts.whole}
        return Memory(parts=parts | {"gradients": share} | sharded | {"buffers": live}, host=0.0)
    parts = {"frozen": float(whole), "trained": float(TRAINED * counts.whole), "gradients": share}
    parts |= {"moments": 0.0, "averages": 0.0, "buffers": live}
    return Memory(parts=parts, host=counts.frozen_bytes / ranks + 5 * share)


def with_samples(memory: Memory, kept: Kept, micro_batch: int) -> Memory:
    """The same with what a micro-batch keeps, and with the largest moment beside it."""
    activations = kept.once + micro_batch * kept.peak
    return Memory(parts={**memory.parts, "activations": activations}, host=memory.host)


def wire(counts: Census, topology: Topology, ranks: int, accumulation: int) -> Wire:
    """What a rank hands over in a step of so many micro-batches."""
    if ranks == 1:
        return Wire()
    trained = float(TRAINED * counts.trained)
    match topology:
        case "single":
            return Wire()
        case "ddp":
            return Wire(all_reduce=trained)
        case "zero1":
            return Wire(all_reduce=trained, all_gather=trained)
        case "zero2" | "zero2_offload":
            return Wire(all_reduce=accumulation * trained, all_gather=trained)
    own = trained - TRAINED * counts.whole
    # What backward asks for again soon enough has stayed (stage3_max_reuse_distance, there and back).
    again = own + counts.revisited
    size = (own + counts.frozen_bytes) / max(1, counts.trained + counts.frozen)
    return Wire(
        reduce_scatter=accumulation * trained,
        all_gather=accumulation * (own + counts.frozen_bytes - counts.frozen_whole + max(0.0, again - LIVE / 2 * size))
        + TRAINED * counts.whole
        + counts.frozen_whole,
    )
