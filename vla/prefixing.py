"""The prefix cache of a data set: which records there are of it, and how they come about.

A record follows from the data, the backbone and the settings alone, in the same order on every machine: several ranks
make those that are missing, each a stretch of them, so that videos are decoded in order.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from vla import cache
from vla.adapters.host import UPDATES
from vla.data.cameras import first_picture, pictures, seen_pictures
from vla.data.dataset import Dataset
from vla.data.episode import Episode, mark_of
from vla.data.pixels import content_of
from vla.data.samples import Part
from vla.data.shelf import BLACK, Pictures, Shelf, Tokens
from vla.documents import to_json
from vla.frames import Size
from vla.packed import Packing
from vla.parts.qwen import QwenVL
from vla.policy import NEUTRAL_INSTRUCTION, Policy
from vla.prefix.store import FORMAT, Manifest, Store
from vla.prefix_settings import Door, DoorName, Precision, PrefixConfig
from vla.settings import DataConfig

VIEW = 0
"""Of the pictures: as they are. Others would be those of an augmentation, with records of their own."""
Root = tuple[Part, ...]
"""The parts of one root: samples to train on, and held-out ones."""
Starts = Mapping[str, Mapping[int, int]]
"""As of `Shelf`."""


@dataclass(frozen=True)
class Stretch:
    """Records of one episode that follow each other: of pictures of a camera, or (without one) of samples."""

    episode: Episode
    camera: str
    first: int
    """The record of the place 0."""
    places: Int64[np.ndarray, " N"]
    """Of the pictures among the camera's, or of the samples' frames; of a black frame 0."""
    black: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, start: int, end: int) -> "Stretch":
        """Some of the records."""
        return replace(self, places=self.places[start:end])


@dataclass(frozen=True)
class Plan:
    """The records of a root."""

    root: Root
    asked: "Asked"
    stretches: tuple[Stretch, ...]
    shelf: Shelf

    def missing(self) -> list[Stretch]:
        """Those that are to be made."""
        there = np.zeros(self.shelf.store.manifest.records, np.bool_)
        there[self.shelf.store.there()] = True
        left = [replace(own, places=own.places[~there[own.first + own.places]]) for own in self.stretches]
        return [own for own in left if len(own)]


def count_of(stretches: Iterable[Stretch]) -> int:
    """How many records they are."""
    return sum(map(len, stretches))


def part_of(stretches: Sequence[Stretch], part: int, parts: int) -> list[Stretch]:
    """One of some parts of about as many records, which follow each other."""
    total = count_of(stretches)
    begin, end = (total * number // parts for number in (part, part + 1))
    found, passed = [], 0
    for own in stretches:
        if len(inside := own.cut(max(0, begin - passed), max(0, end - passed))):
            found.append(inside)
        passed += len(own)
    return found


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be kept, of whatever root."""

    door: Door
    precision: Precision
    backbone: QwenVL
    fingerprint: str
    """Of the backbone."""
    place: Path
    """Where stores lie."""
    sizes: tuple[Size, ...] = ()
    """Of the frames that parts beside the backbone look at."""
    data: DataConfig
    """How the data are read."""


def place_of(config: PrefixConfig) -> Path:
    """The folder of the stores."""
    return Path(config.path).expanduser() if config.path else cache.folder() / "prefix"


def door_of(asked: DoorName, policy: Policy) -> Door:
    """The door of a stage, whose learning parameters are those that ask for a gradient.

    Raises:
        ValueError: something that learns, or was learned, lies before it, or the backbone has no doors.
    """
    backbone = policy.backbone
    if not isinstance(backbone, QwenVL):
        raise ValueError(
            f"--cache.door {asked} would have no effect: {backbone.config.path} is a sentence encoder, whose "
            "embeddings `vla embed` keeps; leave it out"
        )
    own = {
        name
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad or "lora_" in name or UPDATES in name or f"backbone.{name}" in policy.tuned
    }
    deepest = backbone.deepest(own)
    if asked == "auto":
        return deepest
    door = deepest if asked == deepest.name else Door(name=asked, layer=0 if asked == "layer" else None)
    if door.depth > deepest.depth or door.layer == 0:
        raise ValueError(
            f"--cache.door {asked} lies behind what the stage trains, which a cache would keep as it was, or is none "
            f"of its doors: give {deepest.name}"
        )
    return door


def precision_of(config: PrefixConfig, dtype: torch.dtype) -> Precision:
    """Of the numbers of a record, where the run computes in `dtype`."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def roots_of(data: Dataset) -> list[Root]:
    """By root, in order: the parts whose samples are seen.

    Raises:
        ValueError: instructions take turns, so that a frame has several prefixes.
    """
    if any(part.renamed for part in data.train.parts):
        raise ValueError("--cache.door keeps one prefix a frame, and --data.renamed gives it several: leave one out")
    found: dict[str, list[Part]] = {}
    for part in (*data.everything.parts, *data.validation.parts):
        found.setdefault(part.reader.layout.root, []).append(part)
    return [tuple(parts) for parts in found.values()]


def plan(root: Root, asked: Asked) -> Plan:
    """Which records there are of a root, in a store that is there or is begun.

    Raises:
        ValueError: there is not room enough for them.
        CorruptData: the store, or the first frame of a camera, is damaged.
    """
    layout, contract = root[0].reader.layout, root[0].window.contract
    ordered = [part.reader.episodes[place] for part, place in ordered_places(root)]
    pictured = asked.data.motion.pictures
    of_picture = asked.door.name in ("frames", "vision")
    kind = kind_of(root, ordered, asked)
    starts, stretches, count = pictures_in(root[0], ordered) if of_picture else samples_in(root)
    manifest = Manifest(
        format=FORMAT,
        door=str(asked.door),
        records=count,
        record_bytes=kind.record_bytes,
        decides={
            "view": VIEW,
            "pictures": [content_of(Path(folder)) for folder in (layout.root, pictured) if folder is not None],
            "read": {"pairing": asked.data.pairing, "motion": to_json(replace(asked.data.motion, pictures=None))},
            "episodes": [f"{mark_of(episode)} {clocks_of(episode)}" for episode in ordered],
            "cameras": list(contract.cameras),
            "depth": {camera: str(shown) for camera, shown in layout.depth.items()},
            **({} if of_picture else {"fps": contract.fps, "said": sayings(root)}),
            **decided_by(asked),
        },
        said=f"{len(ordered)} episodes of {Path(layout.root).name} by {Path(asked.backbone.config.path).name}",
    )
    store = Store.begin(asked.place, manifest)
    return Plan(root, asked, tuple(stretches), Shelf(store=store, kind=kind, starts=starts, sizes=asked.sizes))


def ordered_places(root: Root) -> list[tuple[Part, int]]:
    """The episodes of a root, as parts and places, in the order of their indices: whatever is held out."""
    places = [(part, place) for part in root for place in part.places]
    return sorted(places, key=lambda own: own[0].reader.episodes[own[1]].index)


def clocks_of(episode: Episode) -> str:
    """SHA-256 of the clocks of an episode and its cameras, which decide what picture is seen when."""
    digest = hashlib.sha256(np.asarray(episode.timestamps, dtype="<f8").tobytes())
    for camera, frames in sorted(episode.cameras.items()):
        digest.update(camera.encode() + np.asarray(frames.timestamps, dtype="<f8").tobytes())
        if camera in episode.seen:
            digest.update(np.asarray(episode.seen[camera], dtype="<u1").tobytes())
    return digest.hexdigest()[:16]


def decided_by(asked: Asked) -> dict[str, Any]:
    """What a record depends on beside the data: JSON values by name."""
    size = str(asked.backbone.size)
    if asked.door.name == "frames":
        return {"size": size}
    return {
        "size": size,
        "backbone": asked.fingerprint,
        "computed in": str(asked.backbone.dtype),
        "precision": asked.precision,
        "output": asked.backbone.config.output if asked.door.name == "context" else None,
    }


def kind_of(root: Root, episodes: Sequence[Episode], asked: Asked) -> Pictures | Tokens:
    """What the records of a root are."""
    contract, backbone = root[0].window.contract, asked.backbone
    shapes = {}
    for camera in contract.cameras:
        having = next((episode for episode in episodes if camera in episode.cameras), None)
        if having is None:
            shape = root[0].window.frame_sizes[camera]
        else:
            first = first_picture(having, camera, contract.fps)
            height, width = root[0].window.frames_of(having, camera, [first])[0].shape[1:]
            shape = height, width
        shapes[camera] = backbone.size.of(*shape)
    packing = Packing(precision=asked.precision, width=backbone.width)
    if asked.door.name in ("frames", "vision"):
        return Pictures(size=backbone.size, shapes=shapes, packing=None if asked.door.name == "frames" else packing)
    if asked.door.name == "context" and backbone.config.output == "mean":
        return Tokens(packing=packing, layer=None, longest=1)
    processor = backbone.processor
    grids = tuple(processor.images.grid(*shapes[camera]) for camera in contract.cameras)
    prompts = [processor.instruct(text, len(grids)) for text in texts_of(root)]
    longest = max(len(processor.row(prompt, grids).input_ids) for prompt in prompts)
    return Tokens(packing=packing, layer=asked.door.layer, longest=longest)


def texts_of(root: Root) -> list[str]:
    """What is said in some sample, each once."""
    if not root[0].window.contract.instructed:
        return [NEUTRAL_INSTRUCTION]
    return sorted({text for part in root for place in part.places for text in part.said(place).different})


def sayings(root: Root) -> str:
    """SHA-256 of what is said at each frame."""
    if not root[0].window.contract.instructed:
        return NEUTRAL_INSTRUCTION
    texts = [part.said(place) for part, place in ordered_places(root)]
    return hashlib.sha256(json.dumps([[own.different, own.places.tolist()] for own in texts]).encode()).hexdigest()


def pictures_in(part: Part, episodes: Sequence[Episode]) -> tuple[Starts, list[Stretch], int]:
    """The records of pictures: where those of a camera begin, those that some row sees, and room for how many."""
    fps, count = part.window.contract.fps, 0
    starts: dict[str, dict[int, int]] = {}
    stretches = []
    for camera in part.window.contract.cameras:
        starts[camera] = {}
        if any(bool((pictures(episode, camera, fps) < 0).any()) for episode in episodes):
            starts[camera][BLACK] = count
            stretches.append(Stretch(episodes[0], camera, count, np.zeros(1, np.int64), black=True))
            count += 1
        for episode in episodes:
            if camera in episode.cameras:
                starts[camera][episode.index] = count
                stretches.append(Stretch(episode, camera, count, seen_pictures(episode, camera, fps)))
                count += len(episode.cameras[camera].timestamps)
    return starts, stretches, count


def samples_in(root: Root) -> tuple[Starts, list[Stretch], int]:
    """The records of samples, as those of pictures."""
    starts: dict[int, int] = {}
    stretches, count = [], 0
    for part, place in ordered_places(root):
        episode, frames = part.reader.episodes[place], part.frames[part.places.index(place)]
        starts[episode.index] = count
        stretches.append(Stretch(episode, "", count, np.asarray(frames, dtype=np.int64)))
        count += len(episode.timestamps)
    return {"": starts}, stretches, count
