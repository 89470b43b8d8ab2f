"""This rank's micro-batches of every step, however often loader processes die.

    position   0 1 2 3 4 5 6 7 8 ...             what stands there is a function of the position alone, so loader
    rank 0     |0 1|   |4 5|   |8 ...            processes that are started again go on with the micro-batch that is
    rank 1     |   |2 3|   |6 7|                 missing: nothing is lost, repeated or changed

torch's DataLoader is not used. It raises the death of a worker out of a signal handler, in whatever the main thread is
doing then (a collective, a backward pass), and its workers share one lock and one pipe, which a killed one may leave
locked and half written. A process pool notices the death and tells of it when the next micro-batch is asked for.
"""

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from training.feeding.packing import Packed, pack, tensors_of, unpack
from training.feeding.prefetch import Fault, OriginalError, Prefetch, Samples, Task, Trouble, make
from vla.batch import Batch, Sample
from vla.errors import LoaderFailed, StorageFault
from vla.moving import pinned, room

RESTARTS = 2
"""How often a run starts its loader processes again."""
SHARE_OF_HANG = 0.25
"""Of --hang-seconds, what a loader process may take for a micro-batch, so that it can be replaced twice within them."""
AHEAD = 2
"""Steps that each loader process may be ahead of the training."""
SHARED_MEMORY = Path("/dev") / "shm"


@dataclass
class Restarts:
    """How often the loader processes of a run may still be started again."""

    left: int = RESTARTS


def batches(
    samples: Samples,
    collate: Callable[[Sequence[Sample]], Batch],
    *,
    first_step: int,
    last_step: int,
    batch_size: int,
    micro_batch: int,
    accumulation: int,
    rank: int,
    ranks: int,
    workers: int,
    timeout_s: float,
    pin: bool = False,
    restarts: Restarts | None = None,
) -> Generator[list[Batch]]:
    """This rank's micro-batches of each step from `first_step` up to `last_step`; with `pin` in pinned memory.

    A step takes the next batch_size positions of the stream, dealt out by micro-batch: rank 0 | rank 1 | rank 0 ...
    `timeout_s` is how long a micro-batch may take that is waited for. Closing the iterator ends its processes at once.

    Raises:
        CorruptData: a sample cannot be read; names it.
        StorageFault: the storage does not give a sample; names it.
        UnsuitableFrame: a frame of a sample cannot be resized.
        LoaderFailed: loader processes died or hung more often than `restarts` allows, or a sample raised an error.
    """
    starts = range(first_step * batch_size, last_step * batch_size, micro_batch)[rank::ranks]
    assert len(starts) == (last_step - first_step) * accumulation, f"{len(starts)} micro-batches"
    task = Task(samples=samples, collate=collate, size=micro_batch)
    if workers == 0:
        stream = here(task, starts, pin)
    else:
        depth = AHEAD * accumulation * workers
        # Besides those that are ahead, the micro-batches of this step and of the one before it are in memory.
        if starts and (warning := small_shared_memory(task, starts[0], depth + 2 * accumulation)):
            say(rank, warning)
        prefetches = partial(Prefetch, task, workers=workers, depth=depth, timeout_s=timeout_s)
        stream = ahead(prefetches, starts, rank, restarts or Restarts(), pin)
    with closing(stream):
        for _ in range(first_step, last_step):
            yield [next(stream) for _ in range(accumulation)]


def here(task: Task, starts: Sequence[int], pin: bool) -> Generator[Batch]:
    """Micro-batches made in this process, when they are asked for."""
    for start in starts:
        yield finished(make(task, start), task, pin)


def ahead(
    prefetches: Callable[[Sequence[int]], Prefetch], starts: Sequence[int], rank: int, restarts: Restarts, pin: bool
) -> Generator[Batch]:
    """Micro-batches of loader processes, which are started again where one dies or hangs."""
    place = 0
    while place < len(starts):
        with closing(prefetches(starts[place:])) as prefetch:
            try:
                for made in prefetch:
                    place += 1
                    yield finished(made, prefetch.task, pin)
            except Trouble as trouble:
                if not restarts.left:
                    raise LoaderFailed(exhausted(trouble)) from trouble
                restarts.left -= 1
                count = f"restart {RESTARTS - restarts.left} of {RESTARTS}"
                say(rank, f"{trouble}; loader processes start again from position {starts[place]} ({count})")


def finished(made: Batch | Packed | Fault, task: Task, pin: bool) -> Batch:
    """The batch as the training takes it.

    Raises:
        CorruptData, StorageFault, UnsuitableFrame, LoaderFailed: as `batches`.
    """
    if isinstance(made, Fault):
        raise error_of(made, task) from made.error or OriginalError(f"in a loader process\n\n{made.trace}")
    if isinstance(made, Batch):
        return unpack(*pack(made, pinned)) if pin else made
    outline, buffer = made
    return unpack(outline, pinned(len(buffer)).copy_(buffer) if pin else buffer)


def error_of(fault: Fault, task: Task) -> Exception:
    """The error to raise."""
    if fault.kind is StorageFault:
        return StorageFault(fault.code, fault.sentence)
    if fault.kind is not None:
        return fault.kind(fault.sentence)
    first = fault.position - fault.position % task.size
    return LoaderFailed(
        f"the sample at {task.name(fault.position)}, in the micro-batch of positions {first} to "
        f"{first + task.size - 1}, raised {fault.sentence}"
    )


def exhausted(trouble: Trouble) -> str:
    """What to say when loader processes are not started again."""
    shared = ""
    if SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(SHARED_MEMORY)
        shared = (
            f", or shared memory did ({SHARED_MEMORY} has {mebibytes(usage.free)} free of {mebibytes(usage.total)})"
        )
    return (
        f"{trouble}, after {RESTARTS} restarts: most likely memory ran out{shared}, the storage does not answer, or "
        "this sample breaks its decoder; give fewer --data.workers (0 reads in the training process)"
    )


def small_shared_memory(task: Task, start: int, count: int) -> str | None:
    """What to say where `count` micro-batches a rank of this machine do not fit into shared memory."""
    if not SHARED_MEMORY.is_dir():
        return None
    made = make(task, start)
    if isinstance(made, Fault):
        return None  # the loader process that makes it tells
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed, free = sum(map(room, tensors_of(made))) * count * ranks, shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return None
    return (
        f"warning: {SHARED_MEMORY} has {mebibytes(free)} free, but {count} micro-batches on each of {ranks} ranks may "
        f"need {mebibytes(needed)}; if loader processes die, enlarge it (docker run --shm-size) or give fewer "
        "--data.workers"
    )


def mebibytes(count: int) -> str:
    """A number of bytes to read."""
    return f"{count / 2**20:,.0f} MiB"


def say(rank: int, sentence: str) -> None:
    """Print a line, past the progress bar."""
    tqdm.write(f"rank {rank}: {sentence}")
