"""One clip of a file, for what takes exactly one and all of its frames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla.data.formats.motion.converted import Converted, Unread
from vla.data.formats.motion.files import find_files
from vla.data.formats.motion.reader import convert
from vla.motion.moves import Moves
from vla.motion_settings import MotionConfig


def read_one(file: Path, asked: MotionConfig, say: Callable[[str], None]) -> Moves:
    """The clip of a file at the rate, and as the body, that are asked for; what was chosen or left out is said.

    Raises:
        CorruptData: it is damaged.
        ValueError: it is not there, holds no clip or several, or has frames that were not measured.
    """
    if not file.is_file():
        raise ValueError(f"{file} is no file; give one clip")
    clips: list[tuple[Converted, np.ndarray]] = []
    for found in convert(file, find_files(file), {}, asked):
        if isinstance(found, ValueError):
            raise found
        fact, arrays = found
        if isinstance(fact, Unread):
            raise ValueError(f"{file} holds no body that moves: {fact.reason}")
        clips.append((fact, arrays[0]))
    if len(clips) != 1:
        raise ValueError(f"{file} holds {len(clips) or 'no'} clips, one is needed; `vla export` writes a file each")
    ((clip, rows),) = clips
    if clip.invalid:
        raise ValueError(
            f"{file}: {len(clip.invalid)} of {clip.frames} frames at {asked.rate_hz:g} Hz were not "
            f"measured, the first at {clip.invalid[0] / asked.rate_hz:.2f} s; cut the clip to what was"
        )
    for remark in clip.remarks:
        say(f"{file}: {remark}")
    if clip.left_out:
        say(
            f"{file}: {len(clip.left_out)} of its joints are left out ({', '.join(clip.left_out[:4])}, ...), which "
            f"moves others by up to {100 * clip.moved_m:.1f} cm"
        )
    offsets = np.concatenate([np.zeros(3), np.array(clip.offsets)]).reshape(-1, 3).astype(np.float32)
    return Moves(
        rows=rows,
        body=clip.body,
        offsets=offsets if clip.offsets else None,
        rate_hz=asked.rate_hz,
        text=next(iter(clip.texts), ""),
    )
