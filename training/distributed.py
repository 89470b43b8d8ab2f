"""The process around the training: accelerator, arithmetic, agreement between ranks."""

import functools
import json
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from training.settings import Precision
from vla.errors import CorruptData, StorageFault

Result = TypeVar("Result")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)


def start_accelerator(plugin: DeepSpeedPlugin | None = None) -> Accelerator:
    """The accelerator of this process, on GPU or CPU, plain, DDP or DeepSpeed as the launcher says.

    Raises:
        ValueError: the launcher sets what the run's configuration owns.
        RuntimeError: the ranks do not see each other.
    """
    for renamed in ("`broadcast_buffers`", "`torch.distributed.all_gather_into_tensor`"):
        # 2026-11: accelerate 1.15 and deepspeed 0.19 use names that torch 2.13 has new ones for.
        warnings.filterwarnings("ignore", message=renamed, category=FutureWarning)
    on_gpu = torch.cuda.is_available()
    launched = int(os.environ.get("WORLD_SIZE", "0"))
    deepspeed = plugin is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed and not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found nothing else
        skip_shared_memory_build()
    accelerator = Accelerator(
        # Without a GPU, accelerate forms a gloo group of all ranks only with cpu=True (DDP) or a named backend
        # (DeepSpeed); otherwise every rank silently trains alone.
        cpu=not on_gpu and not deepspeed,
        deepspeed_plugin=plugin,
        kwargs_handlers=[
            # Buffers are constants, and equal on all ranks.
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(backend="gloo" if launched and not on_gpu else None, timeout=COLLECTIVE_TIMEOUT),
        ],
    )
    ranks: Tensor = accelerator.gather(torch.tensor([accelerator.process_index], device=accelerator.device))
    if ranks.tolist() != list(range(max(1, launched))):
        raise RuntimeError(
            f"{launched} ranks were launched, but rank {accelerator.process_index} sees {ranks.tolist()}"
        )
    if accelerator.mixed_precision != "no":
        raise ValueError(
            f"the launcher asks for mixed precision {accelerator.mixed_precision!r}, but precision is the run's own: "
            "use --precision bf16 and leave mixed_precision out of the accelerate configuration"
        )
    if deepspeed:
        # transformers would otherwise partition the backbone while it is being built; the engine does it afterwards.
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    return accelerator


def skip_shared_memory_build() -> None:
    """Keep DeepSpeed from compiling its CPU shared-memory collective (25 s, cold) that gloo ranks do not need."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def configure_deepspeed(accelerator: Accelerator, *, clip: float, micro_batch: int, accumulation: int) -> None:
    """Fill in what ds_configs leave to their one owner, the training configuration."""
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    config["gradient_clipping"] = clip
    config["train_micro_batch_size_per_gpu"] = micro_batch
    config["gradient_accumulation_steps"] = accumulation
    config["train_batch_size"] = micro_batch * accumulation * accelerator.num_processes


def name_readers(policy: torch.nn.Module, kind: type[torch.nn.Module]) -> None:
    """Tell ZeRO-3 of the modules of a kind that they read weights of other modules, so that it gathers them for both.

    By itself it finds that out in a whole forward alone, and a part of a policy is called before the first one.
    """
    from deepspeed.runtime.zero import register_external_parameter

    for module in policy.modules():
        if isinstance(module, kind):
            for parameter in module.parameters():
                register_external_parameter(module, parameter)


def dtype_of(precision: Precision) -> torch.dtype:
    """Of frozen weights and arithmetic."""
    on_gpu = torch.cuda.is_available()
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and on_gpu) else torch.float32


@functools.cache
def host_group() -> Any:
    """The ranks as a group that talks in host memory, so that agreeing on numbers does not wait for the device."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Sums over all ranks of numbers the hosts know, in fp64."""
    sums = torch.tensor(values, dtype=torch.float64)
    if accelerator.num_processes > 1:
        dist.all_reduce(sums, group=host_group())
    result: list[float] = sums.tolist()
    return result


def sum_over_ranks(accelerator: Accelerator, values: list[Tensor]) -> list[Tensor]:
    """Sums over all ranks of scalars on the device, where they stay."""
    sums = torch.stack(values)
    if accelerator.num_processes > 1:
        dist.all_reduce(sums)
    return list(sums.unbind())


def share(accelerator: Accelerator, value: Any) -> Any:
    """Rank 0's value (strings, numbers, lists and dicts of them) on every rank."""
    return collect(accelerator, value if accelerator.is_main_process else None)[0]


def collect(accelerator: Accelerator, value: Any) -> list[Any]:
    """Every rank's value (strings, numbers, lists and dicts of them), in rank order, on every rank.

    It travels as JSON in tensors: torch's own functions for objects would unpickle what arrives.
    """
    if accelerator.num_processes == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(accelerator.num_processes)]
    dist.all_gather(sizes, torch.tensor([len(text)]), group=host_group())
    longest = max(int(size) for size in sizes)
    boxes = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(boxes, torch.nn.functional.pad(text, (0, longest - len(text))), group=host_group())
    return [json.loads(bytes(box[: int(size)].tolist())) for box, size in zip(boxes, sizes, strict=True)]


def one_first(accelerator: Accelerator, attempt: Callable[[], Result]) -> Result:
    """What an attempt gives: one rank of each machine makes it, then the others, who find what it has kept on disk.

    Raises:
        ValueError, OSError: what such a rank was refused, on every rank.
    """
    result, refusal = None, None
    if accelerator.is_local_main_process:
        try:
            result = attempt()
        except (ValueError, OSError) as error:
            refusal = error
    code = refusal.errno if isinstance(refusal, OSError) else None
    refusals = collect(accelerator, None if refusal is None else [isinstance(refusal, CorruptData), code, str(refusal)])
    if refusal is not None:
        raise refusal
    for corrupt, code, sentence in filter(None, refusals):
        if code is not None:
            raise StorageFault(code, sentence)
        raise CorruptData(sentence) if corrupt else ValueError(sentence)
    return attempt() if result is None else result


def memory_mb(accelerator: Accelerator) -> float:
    """Peak memory of the device since the start, or of this process where the device is the CPU."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class HostCopy:
    """Numbers on their way from the device to the host, which nobody waits for until they are read."""

    def __init__(self, numbers: Tensor) -> None:
        self._ready: torch.Event | None = None
        if numbers.device.type == "cpu":
            self._numbers = numbers
            return
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        self._ready = torch.get_device_module(numbers.device).Event()
        self._ready.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._ready is not None:
            self._ready.synchronize()
        values: list[float] = self._numbers.tolist()
        return values
