"""Lists of clips in .pt files: figures drawn in a plane by segments, with texts, labels and more, a dictionary each.

They are loaded as tensors, lists, dictionaries, texts and numbers alone (archives.py), so that nothing of them is
executed, and mapped, so that the numbers of one clip at a time are in memory. Of several actors in a scene each is a
clip of its own.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from vla.data.formats.motion.archives import load_archive
from vla.errors import CorruptData
from vla.motion.clip import Clip, Points, Scene
from vla.motion_settings import MotionConfig

RATE_HZ = 25.0
"""Of all such clips; no file says one."""
SEGMENTS = {
    48: (
        "head", "upper_torso", "lower_torso", "l_upper_arm", "l_forearm", "r_upper_arm", "r_forearm", "l_thigh",
        "l_shin", "r_thigh", "r_shin", "pelvis_width",
    ),
    20: ("torso", "l_leg", "r_leg", "l_arm", "r_arm"),
}  # fmt: skip
"""By how many numbers a figure has, x and y of the start and the end of each."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "actions": (),
    "physics": ("vx", "vy", "ax", "ay", "mx", "my"),
    "camera": ("x", "y", "zoom"),
    "face": (),
}
"""Further tensors a frame, each of which may be None, and what their numbers are called."""
SHARED = {"camera"}
"""Those that all actors of a scene have in common."""
OWN = {"motion", "description", "embedding", "embedding_model", *COLUMNS}


def is_clip_list(file: Path) -> bool:
    """Whether a file is of this kind."""
    return file.suffix == ".pt"


def read_clip_list(file: Path, _asked: MotionConfig) -> Iterator[Clip | ValueError]:
    """The clips of a file, in its order, an actor at a time; what is wrong with a sample stands in its place."""
    samples = load(file)
    digits = len(str(len(samples) - 1))
    for number, sample in enumerate(samples):
        place = f"{file}, sample {number}"
        try:
            if not isinstance(sample, dict) or not isinstance(sample.get("motion"), Tensor):
                raise CorruptData(f"{place}, is no dictionary with a tensor `motion`: write the list again")
            yield from clips_of(sample, number, f"clip_{number:0{digits}}", place)
        except ValueError as problem:
            yield problem


def sample_of(name: str) -> int:
    """The place in its list of the sample that a clip of such a name is of, actors of one alike."""
    found = re.search(r"(?:^|/)clip_(\d+)(?:/actor_\d+)?$", name)
    assert found is not None, f"{name} is no clip of a list"
    return int(found[1])


def write_clip_list(file: Path, samples: Sequence[Any]) -> None:
    """A list of what `load` gave, as it was: the numbers of one tensor at a time are in memory."""
    torch.save([plain(sample) for sample in samples], file)


def plain(value: Any) -> Any:
    """The same, each tensor with numbers of its own alone: what others have of a shared storage is not written."""
    match value:
        case Tensor():
            whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
            return value if whole and value.is_contiguous() else value.clone(memory_format=torch.contiguous_format)
        case dict():
            return {key: plain(part) for key, part in value.items()}
        case list() | tuple():
            return type(value)(plain(part) for part in value)
        case _:
            return value


def load(file: Path) -> list[Any]:
    """The list of a file, its tensors mapped.

    Raises:
        CorruptData: it cannot be read, or holds no list.
        ValueError: it is of PyTorch's old format, or holds objects that are no data.
    """
    samples = load_archive(
        file, again="save its list again", alone="save tensors, lists, dictionaries, texts and numbers alone"
    )
    if not isinstance(samples, list):
        raise CorruptData(f"{file} holds a {type(samples).__name__}, a list of clips is expected: give another file")
    return samples


def clips_of(sample: Mapping[str, Any], number: int, name: str, place: str) -> Iterator[Clip]:
    """A clip for each actor of a sample, which has this number in its list.

    Raises:
        CorruptData: a tensor is of another shape than its kind.
    """
    motion: Tensor = sample["motion"]
    if motion.ndim not in (2, 3) or motion.shape[-1] not in SEGMENTS:
        widths = " or ".join(map(str, SEGMENTS))
        raise CorruptData(f"{place}, has a motion of shape {tuple(motion.shape)}, expected (frames, {widths})")
    actors = motion.shape[1] if motion.ndim == 3 else None
    facts, remarks = facts_of(sample)
    text = sample.get("description") or ""
    embedding = sample.get("embedding")
    if not isinstance(text, str) or not (embedding is None or (isinstance(embedding, Tensor) and embedding.ndim == 1)):
        raise CorruptData(f"{place}, has a description that is no text, or an embedding that is no row of numbers")
    if embedding is not None:
        of = sample.get("embedding_model")
        remarks += (
            f"the embedding of its text{f' by {of}' if of else ''} is not used: --backbone.path embeds each text once",
        )
    given = {key: value for key in COLUMNS if (value := sample.get(key)) is not None}
    for key, value in given.items():
        if not isinstance(value, Tensor) or value.shape[:1] != motion.shape[:1]:
            raise CorruptData(f"{place}, has {key} that do not number its {len(motion)} frames: write it again")
    for actor in range(actors or 1):
        figure = motion[:, actor] if actors is not None else motion
        points = figure.numpy().reshape(len(motion), -1, 2)
        columns = {key: own_part(value, None if key in SHARED else actors, actor) for key, value in given.items()}
        yield Clip(
            name=name if actors is None else f"{name}/actor_{actor}",
            rate_hz=RATE_HZ,
            body=Points(names=ends_of(motion.shape[-1]), values=points, parents=parents_of(motion.shape[-1]), unit=""),
            texts=(text,) if text.strip() else (),
            valid=np.isfinite(points).all(axis=(1, 2)),
            columns=columns,
            column_names={key: COLUMNS[key] for key, own in columns.items() if own.shape[1] == len(COLUMNS[key])},
            facts=facts,
            remarks=remarks,
            scene=Scene(sample=number, actor=actor, frames=len(motion), rate_hz=RATE_HZ),
        )


def ends_of(width: int) -> tuple[str, ...]:
    """The ends of the segments of a figure."""
    return tuple(f"{segment}.{end}" for segment in SEGMENTS[width] for end in ("start", "end"))


def parents_of(width: int) -> tuple[int, ...]:
    """The end of each segment hangs on its start, which is a root."""
    return tuple(place for start in range(0, width // 2, 2) for place in (-1, start))


def own_part(value: Tensor, actors: int | None, actor: int) -> Shaped[np.ndarray, "T _"]:
    """The numbers of an actor at each frame, of a tensor of one actor, of several or of what all have in common."""
    if actors is not None and value.ndim > 1 and value.shape[1] == actors:
        value = value[:, actor]
    values: np.ndarray = value.reshape(len(value), -1).numpy()
    return values


def facts_of(sample: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a sample says of the whole clip, as far as it is JSON, and a remark on the rest."""
    facts, others = {}, []
    for key, value in sample.items():
        if key in OWN or value is None:
            continue
        try:
            facts[key] = json.loads(json.dumps(value))
        except TypeError:
            others.append(key)
    return facts, (f"{', '.join(others)} is not read",) if others else ()
