"""The records of a plan, made by the backbone and kept."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import UInt8

from vla.batch import Prefix, Sample, collate
from vla.data.samples import Part
from vla.data.shelf import BLACK, Pictures, Tokens
from vla.errors import CorruptData
from vla.frames import Picture, Size, resize
from vla.parts.qwen import QwenVL
from vla.policy import NEUTRAL_INSTRUCTION
from vla.prefixing import Plan, Root, Stretch

TOGETHER = 16
"""Pictures or samples that the backbone looks at at once."""
AHEAD = 3
"""As many that are read before the backbone asks for them."""


def build(plan: Plan, stretches: Sequence[Stretch], device: torch.device, told: Callable[[int], object]) -> None:
    """Make some records of a plan and keep them; `told` is given how many were made, again and again.

    Raises:
        ValueError: frames of one camera differ in size.
        CorruptData: a picture cannot be read, and nothing may be left out.
        StorageFault: the storage takes no more; what was kept stays.
    """
    backbone, shelf = plan.asked.backbone.eval(), plan.shelf
    half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=backbone.dtype == torch.bfloat16)
    began, count = time.perf_counter(), 0
    waiting: deque[Future[list[Made]]] = deque()
    groups = (own.cut(start, start + TOGETHER) for own in stretches for start in range(0, len(own), TOGETHER))
    # Pictures are read while the backbone looks at those before them.
    with ThreadPoolExecutor(1) as reader, torch.no_grad(), half:
        for group in islice(groups, AHEAD):
            waiting.append(reader.submit(read_stretch, plan.root, group, backbone.size))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(reader.submit(read_stretch, plan.root, group, backbone.size) for group in islice(groups, 1))
            for record, content in records_of(made, shelf.kind, backbone, device):
                shelf.store.write(record, content)
            count += len(made)
            told(len(made))
    shelf.store.flush()
    if count:
        shelf.store.note_rate(count / (time.perf_counter() - began))


@dataclass(frozen=True)
class Made:
    """What a record is computed of."""

    record: int
    camera: str
    content: Picture | Sample | None
    """None: it cannot be read, and may be left out."""


def read_stretch(root: Root, stretch: Stretch, size: Size) -> list[Made]:
    """What some records are computed of, in the backbone's size. CorruptData as `build`."""
    (part, place), *_ = (
        (part, place)
        for part in root
        for place in part.places
        if part.reader.episodes[place].index == stretch.episode.index
    )
    contents: Sequence[Picture | Sample | None]
    try:
        contents = read(part, place, stretch, size)
    except CorruptData:
        if not part.quarantine:
            raise
        contents = [readable(part, place, stretch.cut(index, index + 1), size) for index in range(len(stretch))]
    return [
        Made(stretch.first + int(own), stretch.camera, content)
        for own, content in zip(stretch.places, contents, strict=True)
    ]


def readable(part: Part, place: int, stretch: Stretch, size: Size) -> Picture | Sample | None:
    """What one record is computed of; None where it cannot be read: its samples are void, as without a cache."""
    try:
        return read(part, place, stretch, size)[0]
    except CorruptData:
        return None


def read(part: Part, place: int, stretch: Stretch, size: Size) -> list[Picture] | list[Sample]:
    """What records of one camera of an episode, or of its samples, are computed of."""
    episode, window, places = part.reader.episodes[place], part.window, stretch.places.tolist()
    if not stretch.camera:
        samples = [window.cut(episode, frame, 0).resized([size]) for frame in places]
        told = part.said(place) if window.contract.instructed else None
        said = [NEUTRAL_INSTRUCTION if told is None else told[frame] for frame in places]
        return [replace(own, instruction=text) for own, text in zip(samples, said, strict=True)]
    frames = window.frames_of(episode, stretch.camera, [BLACK] if stretch.black else places)
    return [resize(torch.from_numpy(frame), size).numpy() for frame in frames]


def records_of(
    made: Sequence[Made], kind: Pictures | Tokens, backbone: QwenVL, device: torch.device
) -> Iterator[tuple[int, UInt8[np.ndarray, " _"]]]:
    """Records with their bytes, computed together. ValueError as `build`."""
    if isinstance(kind, Tokens):
        those = [(own.record, own.content) for own in made if isinstance(own.content, Sample)]
        if those:
            contents = tokens_of([own for _, own in those], kind, backbone, device)
            yield from zip([record for record, _ in those], contents, strict=True)
        return
    shown = [(own.record, own.content) for own in made if isinstance(own.content, np.ndarray)]
    if not shown:
        return
    camera = made[0].camera
    for _, frame in shown:
        if frame.shape[1:] != kind.shapes[camera]:
            raise ValueError(
                f"frames of {camera} come in sizes that become {kind.shapes[camera]} and {frame.shape[1:]} pixels, "
                "and a prefix cache keeps one: leave --cache.door out, or train on those of one size"
            )
    frames = [torch.from_numpy(frame).to(device) for _, frame in shown]
    rows = torch.stack(frames) if kind.packing is None else kind.packing.pack(backbone.features(frames))
    for (record, _), own in zip(shown, rows.cpu().numpy(), strict=True):
        content = np.zeros(kind.record_bytes, np.uint8)
        content[: own.size] = own.reshape(-1)
        yield record, content


def tokens_of(
    samples: Sequence[Sample], kind: Tokens, backbone: QwenVL, device: torch.device
) -> Iterator[UInt8[np.ndarray, " _"]]:
    """The records of some samples."""
    observation = collate(samples, 0, "validation").observation.to(device)
    found = backbone.prefix(observation, kind.layer, kind.packing.precision)
    parts = (found.rows.cpu().numpy(), found.visible.numpy(), found.positions.numpy())
    for rows, visible, positions in zip(*parts, strict=True):
        count = int(np.flatnonzero(visible)[-1]) + 1  # a prompt ends with its text, which is always visible
        yield kind.written(
            Prefix(
                rows=rows[:count],
                visible=visible[:count],
                positions=positions[:count],
                packing=kind.packing,
                layer=kind.layer,
            )
        )
