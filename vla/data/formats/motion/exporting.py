"""Clips of any format as files of one: a folder of them, with what is known of each in its labels."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.formats.motion.bvh import WRITTEN, write_bvh
from vla.data.formats.motion.files import KINDS, LABELS, find_files, name_of, place_of, read_labels
from vla.data.formats.motion.skeleton_npz import KEYS, POINTS
from vla.data.formats.motion.storage import write_mot
from vla.data.formats.motion.writing import write_npz
from vla.data.places import below
from vla.data.writing.beside import written_beside
from vla.motion.clip import Clip, Coordinates, Points, Poses
from vla.motion.conversion import filled
from vla.motion.resampling import nearest
from vla.motion_settings import MotionConfig


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How clips become files of a format."""

    ending: str
    """Of the files' names."""
    write: Callable[[Path, Clip], tuple[str, ...]]
    """Writes a clip and says what the file has not, or who reads it needs to know. ValueError where it cannot."""


def bvh(file: Path, clip: Clip) -> tuple[str, ...]:
    """A clip as BVH, in which all frames have numbers."""
    if not isinstance(clip.body, Poses):
        raise ValueError("it has no skeleton, so no turns of joints")
    valid = np.ones(len(clip.body), np.bool_) if clip.valid is None else clip.valid
    if not valid.any():
        raise ValueError("no frame of it was measured")
    write_bvh(file, filled(clip.body, valid), clip.rate_hz)
    unsaid = f"BVH says no units and axes: it takes --data.motion.unit {WRITTEN} --data.motion.up y to read them again"
    return (unsaid,) if valid.all() else (unsaid, "frames that were not measured repeat the nearest one")


def npz(file: Path, clip: Clip) -> tuple[str, ...]:
    """A clip as npz: turns of joints to the last bit, or places."""
    if clip.body is None or isinstance(clip.body, Coordinates):
        raise ValueError("it says nothing of where joints are; coordinates of a model are written with --format mot")
    if isinstance(clip.body, Points) and not clip.body.unit:
        raise ValueError("the unit of its places is not known")
    write_npz(file, clip.body, clip.rate_hz, **scalars(clip))
    return ()


def mot(file: Path, clip: Clip) -> tuple[str, ...]:
    """Coordinates of a model as a table of OpenSim, in which all frames have numbers."""
    if not isinstance(clip.body, Coordinates):
        raise ValueError("it has no coordinates of a model: give --format npz")
    values = clip.body.values
    valid = np.ones(len(values), np.bool_) if clip.valid is None else clip.valid
    if not valid.any():
        raise ValueError("no frame of it was measured")
    write_mot(file, replace(clip.body, values=np.asarray(nearest(values, valid))), clip.rate_hz)
    return () if valid.all() else ("frames that were not measured repeat the nearest one",)


WRITERS: dict[str, Writer] = {
    "bvh": Writer(ending=".bvh", write=bvh),
    "npz": Writer(ending=".npz", write=npz),
    "mot": Writer(ending=".mot", write=mot),
}
"""By format."""


def export(source: Path, destination: Path, ending: str, asked: MotionConfig, remark: Callable[[str], object]) -> int:
    """Write the clips of a folder, or of a file, as one file each in a new folder, at their own rate.

    It gives the number of clips. `remark` is told what was chosen, and what the files have not.
    ValueError where there is no clip, one cannot be read or written, or the folder exists.
    """
    files = find_files(source)
    if not files:
        raise ValueError(f"{source} holds no clip of human motion; check the path")
    labels = read_labels(source) if source.is_dir() else {}
    said: dict[str, int] = {}
    rows: list[Mapping[str, str]] = []
    with written_beside(destination) as beside:
        for file, kind in files.items():
            place = place_of(source, file)
            for clip in KINDS[kind].read(file, asked):
                if isinstance(clip, ValueError):
                    raise clip
                if clip.body is None:
                    remark(f"{place} is left out: {'; '.join(clip.remarks)}")
                    continue
                name = f"{name_of(clip, place)}{WRITERS[ending].ending}"
                remarks = written(clip, below(beside, name, str(file)), file, ending)
                rows += label_rows(name, clip, labels.get(place, ()))
                said |= {sentence: said.get(sentence, 0) + 1 for sentence in (*clip.remarks, *remarks)}
        clips = len({row["file"] for row in rows})
        write_labels(beside / LABELS, rows)
    for sentence, count in said.items():
        remark(f"{sentence} ({count:,} clips)")
    return clips


def written(clip: Clip, target: Path, source: Path, ending: str) -> tuple[str, ...]:
    """Write one clip and say what is not in the file. ValueError where it cannot be."""
    if target.exists():
        raise ValueError(f"{source} has the name of another clip: rename it, or export each by itself")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        remarks = WRITERS[ending].write(target, clip)
    except ValueError as problem:
        raise type(problem)(f"{source} cannot be written as {ending}: {problem}") from problem
    facts = clip.facts.keys() - scalars(clip).keys()
    lost = [*sorted(facts), *clip.columns]
    return (*remarks, *([f"not written: {', '.join(lost)}"] if lost else []))


def scalars(clip: Clip) -> dict[str, Any]:
    """What the source says of a clip in a number or a text."""
    facts = {key: value for key, value in clip.facts.items() if key not in KEYS | POINTS}
    return {key: value for key, value in facts.items() if isinstance(value, str | int | float)}


def label_rows(name: str, clip: Clip, told: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """What is known of a clip and was told of its file, a row a caption."""
    facts = {key: str(value) for key, value in scalars(clip).items()}
    facts |= {key: value for row in told for key, value in row.items() if key not in ("file", "text")}
    texts = clip.texts or [row["text"] for row in told if row.get("text")] or [""]
    return [{"file": name, "text": text, **facts} for text in texts]


def write_labels(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A table of what is known, where anything is."""
    columns = dict.fromkeys(key for row in rows for key in row)
    if any(value for row in rows for key, value in row.items() if key != "file"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), restval="")
            writer.writeheader()
            writer.writerows(rows)
