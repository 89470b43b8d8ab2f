"""The process around the training: accelerator, agreement between ranks, exit codes."""

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from torch import Tensor

from vla.data.episode import CorruptData

DONE, HUNG, STORAGE, CORRUPT, NOT_FINITE, PREEMPTED, REFUSED = 0, 33, 34, 65, 70, 75, 78
"""Exit codes: done; no progress; storage failed; a checkpoint or data file is corrupt; too many steps that were not
finite; pre-empted, resumable; configuration refused."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)


def start_accelerator(plugin: DeepSpeedPlugin | None = None) -> Accelerator:
    """The accelerator of this process, on GPU or CPU, plain, DDP or DeepSpeed as the launcher says.

    Raises:
        ValueError: the launcher sets what the run's configuration owns.
        RuntimeError: the ranks do not see each other.
    """
    on_gpu = torch.cuda.is_available()
    launched = int(os.environ.get("WORLD_SIZE", "0"))
    deepspeed = plugin is not None or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed and not on_gpu:
        skip_shared_memory_build()
    accelerator = Accelerator(
        # Without a GPU, accelerate forms a gloo group of all ranks only with cpu=True (DDP) or a named backend
        # (DeepSpeed); otherwise every rank silently trains alone.
        cpu=not on_gpu and not deepspeed,
        deepspeed_plugin=plugin,
        kwargs_handlers=[
            InitProcessGroupKwargs(backend="gloo" if launched and not on_gpu else None, timeout=COLLECTIVE_TIMEOUT)
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


def total(accelerator: Accelerator, *values: float) -> list[float]:
    """Sums over all ranks, in fp64."""
    sums = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    if accelerator.num_processes > 1:
        dist.all_reduce(sums)
    result: list[float] = sums.tolist()
    return result


def share(accelerator: Accelerator, value: Any) -> Any:
    """Rank 0's value (strings, numbers, lists and dicts of them) on every rank."""
    if accelerator.num_processes == 1:
        return value
    box = [json.dumps(value) if accelerator.is_main_process else ""]
    dist.broadcast_object_list(box, src=0)
    return json.loads(box[0])


def collect(accelerator: Accelerator, value: Any) -> list[Any]:
    """Every rank's value (strings, numbers, lists and dicts of them), in rank order, on every rank."""
    if accelerator.num_processes == 1:
        return [value]
    boxes: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(boxes, json.dumps(value))
    return [json.loads(box) for box in boxes]


def main(entry: Callable[[], None]) -> None:
    """Run an entry point and end the process with the exit code of the interface.

    A user's mistake (ValueError) becomes one sentence and no traceback. The process leaves through os._exit: after a
    finished gloo job the interpreter's own exit sometimes aborts, and a rank that fails must not wait for the others.
    """
    rank = int(os.environ.get("RANK", "0"))
    code = DONE
    try:
        entry()
    except (ValueError, FloatingPointError) as error:
        match error:
            case CorruptData():
                code = CORRUPT
            case ValueError():
                code = REFUSED
            case _:
                code = NOT_FINITE
        if rank > 0:
            time.sleep(
                2
            )  # an error all ranks share is rank 0's to print; it ends this process before the sentence comes
        print(f"error: {error}", file=sys.stderr)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else DONE if exit_.code is None else 1
    except BaseException:  # noqa: BLE001  (whatever it is, it is shown, and no rank may hang at exit because of it)
        code = 1
        sys.excepthook(*sys.exc_info())
    leave(code)


def leave(code: int) -> None:
    """End the process at once, with everything written.

    `accelerate launch` replaces exit codes; whoever needs them names a file in TOUCHSTONE_EXIT_CODE_FILE.
    """
    if (path := os.environ.get("TOUCHSTONE_EXIT_CODE_FILE")) and (code != DONE or os.environ.get("RANK", "0") == "0"):
        Path(path).write_text(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def memory_mb(accelerator: Accelerator) -> float:
    """Peak memory of the device since the start, or of this process where the device is the CPU."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
