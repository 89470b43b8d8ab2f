"""Clips of human motion as episodes: a motion is a long chunk of actions, its skeleton is the state.

What is learned of a frame is a row of numbers (vla/motion/representation.py), computed once and kept in the cache, so
that only what a sample needs is in memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vla.data.episode import Episode, Layout, Stream
from vla.data.formats.motion.files import KINDS, LABELS, find_files, name_of, place_of, read_labels
from vla.data.formats.motion.kept import Kept, keep
from vla.data.selection import EVERYTHING, Problems, Selection, refuse, remark_left_out
from vla.data.texts import Texts
from vla.errors import CorruptData, MissingPackage
from vla.motion.body import Body
from vla.motion.clip import Clip
from vla.motion.conversion import Rows, rows_of
from vla.motion.joints import parse_joints
from vla.motion_settings import MotionConfig


@dataclass(frozen=True, kw_only=True)
class MotionReader:
    """One opened folder of clips, or one file of them."""

    layout: Layout
    episodes: Sequence[Episode]
    sources: Sequence[Path]
    reopen: Callable[[], "MotionReader"] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[[], "MotionReader"], tuple[()]]:
        return self.reopen, ()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What is kept of a clip beside its rows."""

    name: str
    texts: tuple[str, ...]
    frames: int
    invalid: tuple[int, ...]
    """Rows of frames that were not measured."""
    offsets: tuple[float, ...]
    facts: Mapping[str, Any]
    remarks: tuple[str, ...]
    body: Body
    left_out: tuple[str, ...]
    moved_m: float


def open_motion(root: Path, selection: Selection = EVERYTHING, report: Problems = refuse) -> MotionReader:
    """Open a folder of clips, or a file of them; a clip that is damaged is told and left out.

    Episodes are numbered in the order of their files' paths, and of the clips in them.

    Raises:
        CorruptData: nothing can be read.
        ValueError: what was selected is not there, or the clips are not of one body.
    """
    check_selection(root, selection)
    files = find_files(root)
    labels = read_labels(root) if root.is_dir() else {}
    beside = {other for file, kind in files.items() for other in KINDS[kind].beside(file)}
    sources = [*files, *sorted(beside), *([root / LABELS] if labels else [])]
    build = partial(convert, root, files, labels, selection.motion)
    kept: Kept[Converted] = keep(root, sources, f"motion {selection.motion}", Converted, build)
    for problem in kept.problems:
        report(problem)
    if not kept.facts:
        raise CorruptData(f"{root} has no clip that can be read; restore its files")
    check_one_body(root, kept.facts)
    left_out = tuple(sorted(set(selection.without) & set(range(len(kept.facts)))))
    chosen = [index for index in sorted(set(selection.episodes)) or range(len(kept.facts)) if index not in left_out]
    if unknown := [index for index in chosen if index >= len(kept.facts)]:
        raise ValueError(f"{root} has no clip {unknown[0]}; it has 0 to {len(kept.facts) - 1}")
    episodes = [episode_of(root, index, kept, selection.motion.rate_hz) for index in chosen]
    return MotionReader(
        layout=layout_of(root, files, kept.facts, selection, left_out),
        episodes=tuple(episodes),
        sources=sources,
        reopen=partial(open_motion, root, selection),
    )


def check_selection(root: Path, selection: Selection) -> None:
    """Refuse what no motion has (ValueError)."""
    given = {
        "--data.cameras": selection.cameras,
        "--data.depth": selection.depth,
        "--data.angles": selection.angles,
        "--data.dims": selection.dims,
        "--data.emphasis": selection.columns,
    }
    for flag, values in given.items():
        if values:
            raise ValueError(f"{root} holds clips of human motion, which have no {values[0]}: leave {flag} out")
    if selection.sensor not in (("auto",), ("none",)):
        raise ValueError(f"{root} holds clips of human motion, which have no sensor: leave --data.sensor out")


def convert(
    root: Path,
    files: Mapping[Path, str],
    labels: Mapping[str, Sequence[Mapping[str, str]]],
    asked: MotionConfig,
) -> Iterator[tuple[Converted, Float32[np.ndarray, "T A"]] | ValueError]:
    """What is kept of each clip of some files, and its rows, or what is wrong with it.

    MissingPackage where a package is not installed.
    """
    keep_all, given = parse_joints(asked.joints)
    kind = None if asked.representation == "auto" else asked.representation
    for file, name in files.items():
        place = place_of(root, file)
        try:
            for clip in KINDS[name].read(file, asked):
                rows = rows_of(clip, rate_hz=asked.rate_hz, kind=kind, keep_all=keep_all, given=given)
                yield converted(clip, rows, labels.get(place, ()), place), rows.values
        except MissingPackage:
            raise
        except ValueError as problem:
            yield problem if str(file) in str(problem) else type(problem)(f"{file}: {problem}")


def converted(clip: Clip, rows: Rows, labels: Sequence[Mapping[str, str]], place: str) -> Converted:
    """What is kept of a clip; its captions are its own, else those of the labels, else the action that they name."""
    facts = dict(clip.facts)
    for row in labels:
        facts |= {key: value for key, value in row.items() if key not in ("file", "text")}
    own = clip.texts or tuple(dict.fromkeys(row["text"] for row in labels if row.get("text")))
    return Converted(
        name=name_of(clip, place),
        texts=own or ((str(facts["action"]),) if facts.get("action") else ()),
        frames=len(rows.values),
        invalid=tuple(np.flatnonzero(~rows.valid).tolist()),
        offsets=tuple(rows.offsets.tolist()),
        facts=facts,
        remarks=clip.remarks,
        body=rows.body,
        left_out=rows.left_out,
        moved_m=rows.moved_m,
    )


def check_one_body(root: Path, clips: Sequence[Converted]) -> None:
    """Refuse clips whose numbers do not mean the same (ValueError)."""
    first = clips[0]
    for clip in clips[1:]:
        if clip.body.kind != first.body.kind:
            raise ValueError(
                f"{root} has {first.body.kind} in {first.name} and {clip.body.kind} in {clip.name}: give "
                "--data.motion.representation positions, or each its own folder"
            )
        if clip.body != first.body:
            raise ValueError(
                f"{root} has other joints in {clip.name} than in {first.name}: leave out --data.motion.joints all, so "
                "that the joints they share are taken, or give each its own folder"
            )


def episode_of(root: Path, index: int, kept: "Kept[Converted]", rate_hz: float) -> Episode:
    """One clip as an episode; captions take turns from frame to frame, so that samples see them all."""
    clip = kept.facts[index]
    measured = np.setdiff1d(np.arange(clip.frames), clip.invalid)
    times = np.arange(clip.frames) / rate_hz
    values = kept.rows(index) if not clip.invalid else kept.rows(index)[measured]
    texts = clip.texts or ("",)
    return Episode(
        name=f"{root.stem if root.is_file() else root.name}/{clip.name}",
        index=index,
        timestamps=times[measured],
        instructions=Texts.of([texts[frame % len(texts)] for frame in measured]),
        confidence=np.ones(len(measured)),
        actions=Stream(timestamps=times[measured], values=values),
        state=Stream(timestamps=np.zeros(1), values=np.array([clip.offsets], np.float32)) if clip.offsets else None,
        cameras={},
        facts=clip.facts,
    )


def layout_of(
    root: Path,
    files: Mapping[Path, str],
    clips: Sequence[Converted],
    selection: Selection,
    left_out: tuple[int, ...],
) -> Layout:
    """The layout of the folder."""
    body = clips[0].body
    return Layout(
        root=str(root),
        format=f"human motion ({', '.join(sorted(set(files.values())))})",
        fps=selection.motion.rate_hz,
        cameras=(),
        state_dim=len(body.offset_names),
        action_dim=len(body.names),
        state_names=body.offset_names,
        state_units=("m",) * len(body.offset_names),
        action_names=body.names,
        action_units=body.units,
        action_periods=(0.0,) * len(body.names),
        body=body,
        remarks=(*remarks_of(clips), *remark_left_out(left_out)),
        left_out=left_out,
    )


def remarks_of(clips: Sequence[Converted]) -> list[str]:
    """What was chosen by itself, and what is not read."""
    said = dict.fromkeys(remark for clip in clips for remark in clip.remarks)
    remarks = [f"{remark} ({sum(remark in clip.remarks for clip in clips):,} clips)" for remark in said]
    if lost := [clip for clip in clips if clip.left_out]:
        worst = max(lost, key=lambda clip: clip.moved_m)
        remarks.append(
            f"{len(worst.left_out)} joints of {worst.name} are left out ({', '.join(worst.left_out[:4])}, ...), which "
            f"moves others by up to {100 * worst.moved_m:.1f} cm; --data.motion.joints all keeps them"
        )
    if invalid := sum(len(clip.invalid) for clip in clips):
        remarks.append(f"{invalid:,} of {sum(clip.frames for clip in clips):,} frames were not measured and are masked")
    if nameless := sum(not clip.texts for clip in clips):
        remarks.append(f"{nameless:,} of {len(clips):,} clips have no caption; {LABELS} gives one a file")
    return remarks
