"""Random policies with the proportions of real ones, batches for them, and what torch itself counts of a step."""

import copy
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.policies import build_policy
from tests.vla.test_policy import statistics
from vla.batch import Batch, Reading, Sample, collate
from vla.contract import DataContract, StreamContract
from vla.parts import tiny
from vla.planning.workload import Workload
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig

CONTRACT = DataContract(
    cameras=("front", "wrist"),
    state_dim=8,
    action_dim=7,
    horizon=16,
    fps=30.0,
    streams={"sensor": StreamContract(key="wrench", channels=6, samples=50, rate_hz=1000.0)},
    state_names=(),
    action_names=(),
    action_periods=(0.0,) * 7,
)
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2752,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}
VISION = {
    "depth": 4,
    "hidden_size": 320,
    "intermediate_size": 856,
    "num_heads": 4,
    "out_hidden_size": 512,
    "fullatt_block_indexes": [3],
}
"""Heads of 128 and 80 channels, layers as wide to one another, and a tower of such a share, as those of the 3B."""


SMALL_TEXT = TEXT | {
    "hidden_size": 256,
    "intermediate_size": 1376,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SMALL_VISION = VISION | {
    "depth": 2,
    "hidden_size": 160,
    "num_heads": 2,
    "out_hidden_size": 256,
    "fullatt_block_indexes": [1],
}
"""Half as wide again: tensors on both sides of what ZeRO-3 partitions."""


def write_backbone(folder: Path, text: Mapping[str, Any] = TEXT, vision: Mapping[str, Any] = VISION) -> Path:
    """A backbone in a folder, by default a quarter as wide as the 3B."""
    config = copy.deepcopy(tiny.CONFIG)
    config["text_config"] |= text
    config["vision_config"] |= vision
    folder.mkdir()
    with mock.patch.object(tiny, "CONFIG", config):
        tiny.write(folder)
    return folder


def policy_of(
    path: Path | str,
    trained: Sequence[str],
    dtype: torch.dtype = torch.float32,
    blocks: int = 0,
    *,
    again: bool = False,
    **parts: Any,
) -> Policy:
    """A policy in training mode of which these learn: `expert` with the encoders, `lora`, and the last blocks."""
    config = PolicyConfig(backbone=BackboneConfig(path=str(path), gradient_checkpointing=again), **parts)
    policy = build_policy(config, CONTRACT, statistics(CONTRACT), dtype, 0)
    tail = {f"backbone.{name}" for name in policy.backbone.last_layer_names(blocks)} if blocks else set()
    for name, parameter in policy.named_parameters():
        own = "lora" if "lora_" in name else "backbone" if name.startswith("backbone.") else "expert"
        parameter.requires_grad_(own in trained or name in tail)
        if name in tail:
            parameter.data = parameter.data.float()
    policy.set_mode(training=True)
    return policy


def batch_of(size: int, height: int = 224, width: int = 224, *, ragged: bool = False) -> Batch:
    """Samples of one length, or each longer than the one before."""
    return collate(samples_of(size, height, width, ragged=ragged), 0, "noise")


def samples_of(size: int, height: int, width: int, *, ragged: bool, contract: DataContract = CONTRACT) -> list[Sample]:
    """The samples of `batch_of`."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def sample(position: int) -> Sample:
        return Sample(
            images=tuple(random.integers(0, 256, (3, height, width), np.uint8) for _ in contract.cameras),
            image_valid=np.ones(len(contract.cameras), dtype=bool),
            instruction="pick up the red cube and place it in the blue bowl" + " slowly" * (ragged * position),
            state=draw(contract.state_dim),
            streams={
                name: Reading(values=draw(stream.samples, stream.channels), valid=np.ones(stream.samples, dtype=bool))
                for name, stream in contract.streams.items()
            },
            actions=draw(contract.horizon, contract.action_dim),
            action_valid=np.ones(contract.horizon, dtype=bool),
            weight=1.0,
            position=position,
        )

    return [sample(position) for position in range(size)]


def workload_of(policy: Policy, batch: Batch) -> Workload:
    """What the processor makes of a sample."""
    inputs, _ = policy.backbone.processor.observe(batch.observation)
    per_sample = len(inputs.grids) // len(inputs.input_ids)
    return Workload(
        tokens=inputs.input_ids.shape[1],
        images=tuple((rows, columns) for _, rows, columns in inputs.grids[:per_sample]),
    )


def loss_of(policy: Policy, batch: Batch) -> torch.Tensor:
    """What a step trains."""
    return torch.stack([part.sum() for part in policy(batch).values()]).sum()


def added_flop(_: Sequence[int], a: Sequence[int], b: Sequence[int], **__: object) -> int:
    """Of a product of these shapes."""
    return 2 * a[0] * a[1] * b[1]


def counted(policy: Policy, batch: Batch) -> tuple[int, int]:
    """FLOPs of forward and backward as torch counts them."""
    added = {torch.ops.aten.addmm_: added_flop}  # of a product that is added in place torch knows no formula
    with sdpa_kernel(SDPBackend.MATH):  # nor of the CPU's fused kernel
        with FlopCounterMode(display=False, custom_mapping=added) as forward:
            loss = loss_of(policy, batch)
        with FlopCounterMode(display=False, custom_mapping=added) as backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


class Living(TorchDispatchMode):
    """Bytes of the tensors that are alive, and most of them at once; those of the weights were there before."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.see(tensor.untyped_storage())
        self.most = max(self.most, self.now)
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.known and storage._cdata not in self.weights:
            self.known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.forget, storage._cdata)

    def forget(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


def most(policy: Policy, batch: Batch) -> int:
    """Bytes that a step takes at most beside weights and gradients."""
    policy.zero_grad()
    with Living(policy.parameters()) as living:
        loss_of(policy, batch).backward()
    return living.most


def measured(policy: Policy, batch: Batch) -> int:
    """Bytes that autograd keeps for a backward beside the parameters: the memories behind what it saves, each once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage  # so that no later one lies there
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(policy, batch)
    return sum(storage.nbytes() for storage in held.values())
