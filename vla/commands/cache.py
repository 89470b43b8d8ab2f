"""`vla cache`."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vla.commandline import progress
from vla.commands.recordings import Device, choose_device
from vla.errors import CORRUPT, DONE, UsageError
from vla.prefix_settings import Door, DoorName, PrefixConfig
from vla.settings import BackboneConfig, DataConfig

if TYPE_CHECKING:
    from vla.prefix.store import Store
    from vla.prefixing import Asked

DAY_S = 86_400
Does = Literal["build", "verify", "stats", "prune"]
WORDS: Mapping[Does, str] = {"build": "build", "verify": "verify", "stats": "tell of", "prune": "prune"}


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Make the prefix cache of data sets before a training, check what it keeps, list it, or remove what is old."""

    does: tyro.conf.Positional[Annotated[Does, tyro.conf.arg(metavar="build|verify|stats|prune")]]
    """What to do."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is trained on: of `build`."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model: of `build`."""
    cache: PrefixConfig = field(default_factory=lambda: PrefixConfig(door="vision"))
    """What is kept, and where."""
    layer: int | None = None
    """The first layer of the language model that a training is to open: of `build --cache.door layer`."""
    compute: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the backbone, as --precision of the training: of `build`."""
    device: Device = "auto"
    """Where the backbone computes: of `build`."""
    older_than: float = 30.0
    """Days without a use after which `prune` removes a store, >= 0; one that is not complete counts alike."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print what was done as JSON."""


def cache(command: Cache) -> int:
    """`vla cache`; 65 where a record was damaged."""
    from vla.prefixing import place_of

    place = place_of(command.cache)
    rows: list[dict[str, Any]]
    code = DONE
    match command.does:
        case "build":
            rows = made(command)
        case "verify":
            rows = [verified(store) for store in stores_in(place)]
            code = CORRUPT if any(row["damaged"] for row in rows) else DONE
        case "stats":
            rows = [described(store) for store in stores_in(place)]
        case "prune":
            rows = pruned(place, command.older_than)
    told = "\n".join(map(line_of, rows)) or f"{place} has nothing to {WORDS[command.does]}"
    print(json.dumps(rows, indent=2) if command.json else told)
    return code


def line_of(row: dict[str, Any]) -> str:
    """What was done with a store, or is to say of it."""
    told = f"{row['store']}: {row['records']:,} of {row['of']:,} records, {row['bytes'] / 1e6:,.1f} MB, {row['said']}"
    return told + (f"; {row['done']}" if row["done"] else "")


def described(store: "Store", done: str = "") -> dict[str, Any]:
    """What a store keeps."""
    from vla.prefix.store import USING

    manifest = store.manifest
    used = (store.folder / USING).stat().st_mtime
    return {
        "store": store.folder.name,
        "door": manifest.door,
        "records": len(store.there()),
        "of": manifest.records,
        "bytes": manifest.records * manifest.record_bytes,
        "said": manifest.said,
        "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(used)),
        "done": done,
    }


def stores_in(place: Path) -> "Iterator[Store]":
    """The stores of a folder."""
    from vla.prefix.store import MANIFEST, Store

    for file in sorted(place.glob(f"*/{MANIFEST}")):
        yield Store.at(file.parent)


def verified(store: "Store") -> dict[str, Any]:
    """Read every record of a store, and drop those that are damaged, so that they are made again."""
    with store.building(), progress(len(store.there()), "records") as bar:
        damaged = []
        for record, whole in store.check():
            bar.update(1)
            if not whole:
                store.drop(record)
                damaged.append(record)
    done = f"{len(damaged)} damaged ones dropped: the next training makes them anew" if damaged else "all whole"
    return {**described(store, done), "damaged": damaged}


def pruned(place: Path, days: float) -> list[dict[str, Any]]:
    """Remove the stores that nobody has used for so many days.

    Raises:
        ValueError: one of them is in use; none is removed.
    """
    if days < 0:
        raise UsageError(f"--older-than is {days:g}; give days, at least 0")
    before = time.time() - days * DAY_S
    from vla.prefix.store import USING

    old = [store for store in stores_in(place) if (store.folder / USING).stat().st_mtime <= before]
    with ExitStack() as held:
        for store in old:
            held.enter_context(store.alone())
        rows = [described(store, "removed") for store in old]
        for store in old:
            store.remove()
    return rows


def made(command: Cache) -> list[dict[str, Any]]:
    """The stores of the data of a training, complete."""
    import torch

    from vla.data.dataset import open_dataset
    from vla.prefix_building import build
    from vla.prefixing import count_of, plan, roots_of

    if not command.data.roots:
        raise UsageError("give the data: vla cache build --data.roots DATA --backbone.path MODEL")
    device = torch.device(choose_device(command.device))
    asked = asked_of(command, device)
    rows = []
    for root in roots_of(open_dataset(command.data, seed=0)):
        found = plan(root, asked)
        store = found.shelf.store
        with store.using(), store.building():
            missing = found.missing()
            with progress(count_of(missing), "records") as bar:
                build(found, missing, device, told=bar.update)
        left = count_of(found.missing())
        rows.append(described(store, f"{count_of(missing) - left} made" + (f", {left} cannot be read" if left else "")))
    return rows


def asked_of(command: Cache, device: Any) -> "Asked":
    """What is to be kept, with the backbone on its device.

    Raises:
        ValueError: the backbone has no doors, or the door is none of `build`.
    """
    import torch

    from vla.parts.backbone import fingerprint, load_backbone
    from vla.parts.qwen import QwenVL
    from vla.prefixing import Asked, place_of, precision_of

    half = command.compute == "bf16" or (command.compute == "auto" and device.type == "cuda")
    backbone = load_backbone(command.backbone, torch.bfloat16 if half else torch.float32)
    if not isinstance(backbone, QwenVL):
        raise ValueError(f"{command.backbone.path} is a sentence encoder, whose embeddings `vla embed` keeps")
    door = door_of(command.cache.door, command.layer, backbone.num_layers)
    backbone.to(device)
    return Asked(
        door=door,
        precision=precision_of(command.cache, backbone.dtype),
        backbone=backbone,
        fingerprint=fingerprint(command.backbone.path, command.backbone.pooling),
        place=place_of(command.cache),
        data=command.data,
    )


def door_of(name: DoorName, layer: int | None, num_layers: int) -> Door:
    """The door that is asked for. ValueError where none is."""
    if name in ("none", "auto"):
        raise ValueError(f"--cache.door {name} says nothing to build: give frames, vision, layer or context")
    if (name == "layer") != (layer is not None):
        raise ValueError("--layer is the number that goes with --cache.door layer: give both, or neither")
    if layer is not None and not 0 < layer < num_layers:
        raise ValueError(f"--layer is {layer}, and the language model has {num_layers}: give 1 to {num_layers - 1}")
    return Door(name=name, layer=layer)
