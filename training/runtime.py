"""The process around the training: accelerator, agreement between ranks, exit codes."""

import contextlib
import functools
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from training import storage
from training.settings import Precision
from vla import printing
from vla.errors import CorruptData, StorageFault, UsageError

DONE, USAGE, HUNG, STORAGE, CORRUPT, NOT_FINITE, PREEMPTED, REFUSED = 0, 2, 33, 34, 65, 70, 75, 78
"""Exit codes: done; usage; no progress; storage failed; a checkpoint or data file is corrupt; too many steps that were
not finite; pre-empted, resumable; configuration refused."""


class StorageFailed(RuntimeError):
    """Checkpoints could not be written several times in a row."""


class LoaderFailed(RuntimeError):
    """Loader processes died or hung too often, or making a sample raised an error; its text is one sentence."""


FLUSH_S = 1.0
"""How long a process that ends waits for its output to be taken."""
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


def main(entry: Callable[[], None]) -> None:
    """Run an entry point and end the process with the exit code of the interface.

    A user's mistake (ValueError) becomes one sentence and no traceback. The process leaves through os._exit: after a
    finished gloo job the interpreter's own exit sometimes aborts, and a rank that fails must not wait for the others.
    """
    printing.install()
    rank = int(os.environ.get("RANK", "0"))
    code = DONE
    try:
        entry()
    except (ValueError, FloatingPointError, StorageFailed, OSError, RuntimeError) as error:
        code, sentence = told(error)
        if sentence is None:
            sys.excepthook(*sys.exc_info())
        else:
            if rank > 0:
                # What all ranks share is rank 0's to print, and what it fails at alone, it says; the launcher ends this
                # process before the sentence comes.
                time.sleep(2)
            print(sentence, file=sys.stderr)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else DONE if exit_.code is None else 1
    except BaseException:  # noqa: BLE001  (whatever it is, it is shown, and no rank may hang at exit because of it)
        code = 1
        sys.excepthook(*sys.exc_info())
    leave(code)


def lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def told(error: Exception) -> tuple[int, str | None]:
    """The exit code of an error and the sentence for it; a mistake of ours has none and shows its traceback."""
    code, sentence = 1, None
    match error:
        case UsageError():
            code, sentence = USAGE, f"usage: {error}"
        case CorruptData():
            code, sentence = CORRUPT, f"error: {error}"
        case ValueError():
            code, sentence = REFUSED, f"error: {error}"
        case FloatingPointError():
            code, sentence = NOT_FINITE, f"error: {error}"
        case StorageFailed() | StorageFault():
            code, sentence = STORAGE, f"error: {error}"
        case OSError() if storage.is_full(error) or storage.is_transient(error):
            code, sentence = STORAGE, f"error: {error}; make room or mend the storage, and start again"
        case LoaderFailed():
            sentence = f"error: {error}"
        case RuntimeError() if lost_peer(error):
            code = HUNG
            sentence = f"another rank is gone, or does not answer ({str(error).splitlines()[0][:200]})"
    return code, sentence


def leave(code: int) -> NoReturn:
    """End the process at once, with everything written.

    `accelerate launch` replaces exit codes; whoever needs them names a file in TOUCHSTONE_EXIT_CODE_FILE. The first
    failure stands there: the ranks that the launcher ends because of it have nothing to add.
    """
    with contextlib.suppress(OSError):  # nothing may keep a process from ending
        tell(code)
    # Nobody may be reading what is printed any more.
    last_words = threading.Thread(target=flush, daemon=True)
    last_words.start()
    last_words.join(FLUSH_S)
    os._exit(code)


def flush() -> None:
    """Write what is left to be printed, also what was held back as the possible start of a secret."""
    printing.uninstall()
    sys.stdout.flush()
    sys.stderr.flush()


def tell(code: int) -> None:
    """Write the exit code where TOUCHSTONE_EXIT_CODE_FILE says, unless a failure stands there already."""
    path = os.environ.get("TOUCHSTONE_EXIT_CODE_FILE")
    if path and code_told() in (None, DONE) and (code != DONE or os.environ.get("RANK", "0") == "0"):
        Path(path).write_text(str(code))


def code_told() -> int | None:
    """The exit code that a rank of this machine has written there; None while there is none."""
    try:
        text = Path(os.environ["TOUCHSTONE_EXIT_CODE_FILE"]).read_text()
    except (KeyError, OSError):
        return None
    return int(text) if text.isdecimal() else None


def memory_mb(accelerator: Accelerator) -> float:
    """Peak memory of the device since the start, or of this process where the device is the CPU."""
    if accelerator.device.type == "cuda":
        return torch.cuda.max_memory_allocated(accelerator.device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class HostCopy:
    """Numbers on their way from the device to the host, which nobody waits for until they are read."""

    def __init__(self, numbers: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if numbers.device.type != "cuda":
            self._numbers = numbers
            return
        self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        self._numbers.copy_(numbers, non_blocking=True)
        self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch gives it no types
        self._ready.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._ready is not None:
            self._ready.synchronize()
        values: list[float] = self._numbers.tolist()
        return values
