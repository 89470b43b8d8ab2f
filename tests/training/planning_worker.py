"""Runs on N ranks: what a policy's weights, gradients and state take under each topology, and what a step sends."""

import collections
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from tests.training.sharding_worker import started
from tests.vla.planning.models import batch_of, policy_of
from training.ending import exits
from training.engine.sharding import Engine
from training.engine.stages import enter
from training.settings import Rates, Stage
from vla.adapter_settings import LoraConfig
from vla.policy import Policy
from vla.settings import ExpertConfig

STAGE = Stage(steps=2, lr=Rates(sensor=1e-3, expert=1e-3, lora=1e-4))
ACCUMULATION = 2
TOPOLOGIES = ("ddp", "zero1", "zero2", "zero3")
SENT = {
    "all_reduce": "all_reduce",
    "reduce_scatter_tensor": "reduce_scatter",
    "all_gather_into_tensor": "all_gather",
}
"""What DeepSpeed asks its backend for."""


def policy_at(folder: str) -> Policy:
    return policy_of(folder, ("expert", "lora"), lora=LoraConfig(), expert=ExpertConfig(width=192, depth=6, heads=4))


def size_of(tensors: Iterable[Any]) -> int:
    """Bytes of the memories behind some tensors, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(engine: Engine) -> dict[str, int]:
    """What lies in memory before the step, by part."""
    parameters = [*engine.policy.parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    state = [*engine.adam.state.values()]

    def weights(of: list[Any]) -> list[Any]:
        return [tensor for own in of for tensor in (own.data, vars(own).get("ds_tensor"))]

    gradients: list[Any] = [parameter.grad for parameter in trained]
    flats: list[Any] = []
    if engine.zero_stage:
        gradients += [piece for pieces in engine.zero.averaged_gradients.values() for piece in pieces or ()]
        gradients += [vars(parameter).get("grad_accum") for parameter in trained]
    if engine.zero_stage in (1, 2):
        flats = [*engine.zero.single_partition_of_fp32_groups, *engine.zero.bit16_groups_flat]
    if engine.zero_stage == 3:
        flats = [*engine.zero.fp32_partitioned_groups_flat]
        gradients.append(engine.zero.grad_partitions_flat_buffer)
    return {
        "frozen": size_of([*weights(frozen), *engine.policy.buffers()]),
        "trained": size_of([*weights(trained), *flats]),
        "gradients": size_of(gradients),
        "moments": size_of(tensor for own in state for tensor in (own["exp_avg"], own["exp_avg_sq"])),
        "averages": size_of(own["ema"] for own in state),
    }


def count_sent(engine: Engine) -> collections.Counter[str]:
    """Count from here on what is handed over to be sent."""
    sent: collections.Counter[str] = collections.Counter()
    if not engine.zero_stage:

        def hook(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            sent["all_reduce"] += bucket.buffer().nbytes
            return allreduce_hook(None, bucket)

        engine.module.register_comm_hook(None, hook)
        return sent
    import deepspeed.comm.comm as backend

    for name, kind in SENT.items():
        own = vars(type(backend.cdb))[name]

        def counting(*args: Any, own: Any = own, kind: str = kind, **named: Any) -> Any:
            given = [tensor for tensor in (*args, *named.values()) if isinstance(tensor, Tensor)]
            sent[kind] += max(tensor.nbytes for tensor in given)  # the larger side
            return own(backend.cdb, *args, **named)

        setattr(backend.cdb, name, counting)
    return sent


def watch(out: str, folder: str) -> None:
    """Two steps under every topology, of which the second one is looked at; what was seen goes to a file."""

    def main() -> None:
        seen = {}
        for zero, topology in enumerate(TOPOLOGIES):
            accelerator = started(zero)
            policy = policy_at(folder)
            groups = enter("toy", STAGE, policy)
            policy.set_mode(training=True)
            engine = Engine(
                accelerator, policy, groups, betas=(0.9, 0.95), clip=1.0, micro_batch=1, accumulation=ACCUMULATION
            )
            sent = count_sent(engine)
            for _ in range(2):
                sent.clear()
                moments = []
                for index in range(ACCUMULATION):
                    with engine.micro_batch(last=index == ACCUMULATION - 1):
                        engine.backward(torch.stack([p.sum() for p in engine(batch_of(1, 56, 56)).values()]).sum())
                        moments.append(held(engine))
                norms = engine.gradient_norms()
                engine.step(1.0, 0.9, norms["all"], torch.tensor(0.0))
            seen[topology] = {
                "held": {part: max(moment[part] for moment in moments) for part in moments[0]},
                "sent": dict(sent),
            }
            engine.close()
        if os.environ["RANK"] == "0":
            Path(out).write_text(json.dumps(seen))

    exits.main(main)
