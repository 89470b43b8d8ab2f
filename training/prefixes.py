"""The prefix cache in a training: behind which door a stage begins, and that all its records are there."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from accelerate import Accelerator
from tqdm import tqdm

from training import distributed
from training.config import RunConfig
from training.ending.watchdog import START_ALLOWANCE
from training.opening import Run
from vla.data.dataset import TrainSamples, ValidationSamples
from vla.data.shelf import Shelf
from vla.parts.qwen import QwenVL
from vla.policy import Policy
from vla.prefix.store import MANIFEST, Store
from vla.prefix_building import build
from vla.prefixing import Asked, Plan, Stretch, count_of, door_of, part_of, place_of, plan, precision_of, roots_of

Samples = TypeVar("Samples", TrainSamples, ValidationSamples)
PROBED = 64
"""Records that are read to see how fast the disk is."""


@dataclass(frozen=True)
class Kept:
    """What is kept of a stage's samples, by root; nothing where there is no door."""

    policy: Policy
    shelves: dict[str, Shelf]

    def of(self, samples: Samples) -> Samples:
        """The samples as the policy looks at them."""
        return samples.on(self.shelves) if self.shelves else samples.resized(self.policy.sizes)


def keep(
    config: RunConfig,
    run: Run,
    policy: Policy,
    accelerator: Accelerator,
    *,
    held: contextlib.ExitStack,
    beat: Callable[..., None],
) -> Kept:
    """Open what is kept of a stage, whose policy is on its device, and make what is missing; collective.

    The stores are in use until `held` is left.

    Raises:
        ValueError: a part that learns lies before the door, the backbone has none, there is no room, or another builds.
        CorruptData: a store, or a picture, is damaged.
        StorageFault: the storage takes no more.
    """
    if config.cache.door == "none":
        return Kept(policy, {})
    door = door_of(config.cache.door, policy)
    backbone = policy.backbone
    assert isinstance(backbone, QwenVL), "a door is of a vision-language model"
    asked = Asked(
        door=door,
        precision=precision_of(config.cache, backbone.dtype),
        backbone=backbone,
        fingerprint=run.fingerprint,
        place=place_of(config.cache),
        sizes=policy.sizes[1:],
        data=config.data,
    )
    beat("opening the prefix cache", START_ALLOWANCE)
    roots = roots_of(run.data)
    plans = distributed.one_first(accelerator, lambda: [plan(root, asked) for root in roots])
    for found in plans:
        held.enter_context(found.shelf.store.using())
        fill(found, accelerator, beat)
        tell(found, accelerator)
    return Kept(policy, {found.root[0].reader.layout.root: found.shelf for found in plans})


def fill(found: Plan, accelerator: Accelerator, beat: Callable[[str], None]) -> None:
    """Make the records that are missing, each rank a stretch of them."""
    store, missing = found.shelf.store, found.missing()
    if not any(distributed.collect(accelerator, len(missing))):
        return
    count = count_of(missing)
    share, builds = mine(missing, store, accelerator)
    with contextlib.ExitStack() as held:

        def lock() -> bool:
            if builds:
                held.enter_context(store.building())
            return True

        distributed.one_first(accelerator, lock)
        bar = tqdm(
            total=count_of(share),
            unit="record",
            desc=f"prefix cache, {store.manifest.door}",
            disable=not builds,
            leave=False,
        )
        began = time.perf_counter()

        def told(count: int) -> None:
            beat("building the prefix cache")
            bar.update(count)

        with bar:
            build(found, share, accelerator.device, told)
        seconds = time.perf_counter() - began
        accelerator.wait_for_everyone()
    left = count_of(found.missing())
    accelerator.print(
        f"prefix cache: {count - left} records made in {seconds:.0f} s, "
        f"{count / max(seconds, 1e-9):.0f} a second, in {store.folder}"
        + (f"; {left} cannot be read, and their samples are left out" if left else "")
    )


def mine(missing: Sequence[Stretch], store: Store, accelerator: Accelerator) -> tuple[list[Stretch], bool]:
    """This rank's stretch of the records, and whether it is the one that holds the lock of its store.

    Machines that see one folder share its records; others make all of their own.
    """
    inode = (store.folder / MANIFEST).stat()
    places = distributed.collect(accelerator, [inode.st_size, inode.st_mtime_ns])
    if all(place == places[0] for place in places):
        rank, ranks = accelerator.process_index, accelerator.num_processes
    else:
        rank, ranks = accelerator.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return part_of(missing, rank, ranks), rank == 0


def tell(found: Plan, accelerator: Accelerator) -> None:
    """Say what is read instead of being computed, and where computing again would be faster."""
    store = found.shelf.store
    manifest, read, computed = store.manifest, store.readable(PROBED), store.computed()
    size = manifest.record_bytes
    accelerator.print(
        f"prefix cache: {manifest.door}, {count_of(found.stretches):,} records of {size:,} bytes, of {manifest.said}; "
        f"a process reads {read:,.0f} of them a second from disk ({read * size / 1e6:,.0f} MB/s)"
    )
    if computed is not None and read < computed:
        accelerator.print(
            f"warning: {store.folder} is slower than computing, which made {computed:,.0f} records a second: give a "
            "faster disk with --cache.path, fewer bytes with --cache.precision int8, or --cache.door none"
        )
