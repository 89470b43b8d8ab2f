"""Clips of human motion as episodes: a motion is a long chunk of actions, its skeleton is the state.

What is learned of a frame is a row of numbers (vla/motion/representation.py), computed once and kept in the cache, so
that only what a sample needs is in memory.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import TypeAdapter

from vla.data.bodies import body_facts
from vla.data.episode import Episode, Layout, Stream
from vla.data.formats.motion.converted import Converted, Unread
from vla.data.formats.motion.files import CLIP_LIST, KINDS, LABELS, find_files, name_of, place_of, read_labels
from vla.data.formats.motion.kept import keep
from vla.data.formats.motion.kinetic import WEIGHT, Measured, model
from vla.data.formats.motion.pictures import Shown, show
from vla.data.formats.motion.remarks import (
    remarks_of,
    remarks_of_a_copy,
    remarks_on_labels,
    remarks_on_settings,
    remarks_on_strangers,
)
from vla.data.selection import EVERYTHING, Problems, Selection, refuse, remark_left_out
from vla.data.texts import Texts
from vla.errors import CorruptData, MissingPackage
from vla.motion.body import Body
from vla.motion.clip import Clip
from vla.motion.conversion import Rows, columns_of, rows_of
from vla.motion.joints import parse_joints
from vla.motion_settings import MotionConfig

FACTS: TypeAdapter[Converted | Unread] = TypeAdapter(Converted | Unread)


@dataclass(frozen=True, kw_only=True)
class MotionReader:
    """One opened folder of clips, or one file of them."""

    layout: Layout
    episodes: Sequence[Episode]
    sources: Sequence[Path]
    files: Sequence[Path]
    """Of each episode, the one that holds its clip."""
    reopen: Callable[[], "MotionReader"] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[[], "MotionReader"], tuple[()]]:
        return self.reopen, ()


def open_motion(root: Path, selection: Selection = EVERYTHING, report: Problems = refuse) -> MotionReader:
    """Open a folder of clips, or a file of them; a clip that is damaged is told and left out.

    Episodes are numbered in the order of their files' paths, and of the clips in them.

    Raises:
        CorruptData: nothing can be read.
        ValueError: what was selected is not there, or the clips are not of one body.
    """
    check_selection(root, selection)
    if not root.exists():
        raise ValueError(f"{root} is not there; give a folder of clips, or a file of them")
    files = find_files(root)
    if not files:
        raise ValueError(f"{root} holds no clip of a kind that is read; give a folder of clips, or a file of them")
    labels = read_labels(root) if root.is_dir() else {}
    beside = {other for file, kind in files.items() for other in KINDS[kind].beside(file)}
    sources = [*dict.fromkeys([*files, *sorted(beside)]), *([root / LABELS] if labels else [])]
    build = partial(convert, root, files, labels, selection.motion)
    purpose = f"clips, their files and labels {replace(selection.motion, pictures=None, forces='none')}"
    kept = keep(root, sources, purpose, FACTS.validate_python, build)
    for problem in kept.problems:
        report(problem)
    unread = [fact for fact in kept.facts if isinstance(fact, Unread)]
    places = [place for place, fact in enumerate(kept.facts) if isinstance(fact, Converted)]
    clips = [fact for fact in kept.facts if isinstance(fact, Converted)]
    if not clips and unread:
        raise ValueError(f"{root} holds no body that moves, as in {unread[0].place}, where {unread[0].reason}")
    if not clips:
        raise CorruptData(f"{root} has no clip that can be read; restore its files")
    body = body_of_all(root, clips, keep_all=parse_joints(selection.motion.joints)[0])
    check_columns(root, clips, selection.columns)
    forces = None
    if selection.motion.forces != "none":
        arrays = [kept.arrays(place) for place in places]
        forces = model(root, clips, arrays, selection.motion.forces, selection.motion.rate_hz)
        body = replace(body, forces=forces.names)
    left_out = tuple(sorted(set(selection.without) & set(range(len(clips)))))
    chosen = [index for index in sorted(set(selection.episodes)) or range(len(clips)) if index not in left_out]
    if unknown := [index for index in chosen if not 0 <= index < len(clips)]:
        raise ValueError(f"{root} has no clip {unknown[0]}; it has 0 to {len(clips) - 1}")
    lists = [file for file, kind in files.items() if kind == CLIP_LIST]
    asked = selection.motion.pictures
    shown = show(root, lists, clips, asked=asked, cameras=selection.cameras, report=report)
    said = remarks_on_labels(labels, {place_of(root, file) for file in files}) if root.is_dir() else []
    said += remarks_on_strangers(root, {*files, *beside}) if root.is_dir() else []
    build_episode = partial(episode_of, root, body, shown, rate_hz=selection.motion.rate_hz)
    episodes = [
        build_episode(
            clips[index],
            kept.arrays(places[index]),
            forces=None if forces is None else forces.trials[index],
            index=index,
        )
        for index in chosen
    ]
    said += forces.remarks if forces else ()
    return MotionReader(
        layout=layout_of(
            root, body, clips, selection, shown, kinds=set(files.values()), unread=unread, left_out=left_out, said=said
        ),
        episodes=tuple(episodes),
        sources=sources,
        files=tuple(root / clips[index].place if root.is_dir() else root for index in chosen),
        reopen=partial(open_motion, root, selection),
    )


def check_selection(root: Path, selection: Selection) -> None:
    """Refuse what no motion has, and what a copy does not hold (ValueError)."""
    if selection.carry and selection.motion.forces != "none":
        raise ValueError(
            f"{root}: a copy does not hold which forces were measured: leave --data.motion.forces out, and give it to "
            "the training on these files"
        )
    if selection.cameras and selection.motion.pictures is None:
        raise ValueError(
            f"{root} holds clips of human motion, which have no {selection.cameras[0]} without pictures: give "
            "--data.motion.pictures, or leave --data.cameras out"
        )
    given = {
        "--data.depth": selection.depth,
        "--data.angles": selection.angles,
        "--data.dims": selection.dims,
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
) -> Iterator[tuple[Converted | Unread, list[Float32[np.ndarray, "..."]]] | ValueError]:
    """What is kept of each clip of some files: its rows and columns; or what is wrong.

    MissingPackage where a package is not installed.
    """
    keep_all, given = parse_joints(asked.joints)
    kind = None if asked.representation == "auto" else asked.representation
    for file, name in files.items():
        place = place_of(root, file)
        try:
            for clip in KINDS[name].read(file, asked):
                if isinstance(clip, ValueError):
                    yield clip
                    continue
                if clip.body is None:
                    yield Unread(place=place, reason="; ".join(clip.remarks)), []
                    continue
                try:
                    rows = rows_of(clip, rate_hz=asked.rate_hz, kind=kind, keep_all=keep_all, given=given)
                    columns = columns_of(clip, asked.rate_hz)
                except ValueError as problem:
                    yield type(problem)(f"{where(file, clip)}: {problem}")
                    continue
                fact = converted(clip, rows, tuple(columns), labels.get(place, ()), place)
                yield fact, [rows.values, *columns.values()]
        except MissingPackage:
            raise
        except ValueError as problem:
            yield problem if str(file) in str(problem) else type(problem)(f"{file}: {problem}")


def where(file: Path, clip: Clip) -> str:
    """What a clip is called in a sentence: its file, and itself where that may hold several."""
    return str(file) if clip.name == file.stem else f"{file}, {clip.name}"


def converted(
    clip: Clip, rows: Rows, columns: tuple[str, ...], labels: Sequence[Mapping[str, str]], place: str
) -> Converted:
    """What is kept of a clip; its captions are its own, else those of the labels, else the action that they name."""
    facts = dict(clip.facts)
    for row in labels:
        said = {key: value.strip() for key, value in row.items() if key not in ("file", "text")}
        # A further caption need not say again what is known.
        facts |= {key: value for key, value in said.items() if value or key not in facts}
    own = clip.texts or tuple(dict.fromkeys(row["text"] for row in labels if row.get("text")))
    return Converted(
        name=name_of(clip, place),
        place=place,
        texts=own or ((str(facts["action"]),) if facts.get("action") else ()),
        frames=len(rows.values),
        invalid=tuple(np.flatnonzero(~rows.valid).tolist()),
        offsets=tuple(rows.offsets.tolist()),
        facts=facts,
        remarks=clip.remarks,
        body=rows.body,
        left_out=rows.left_out,
        moved_m=rows.moved_m,
        columns=columns,
        scene=clip.scene,
    )


def body_of_all(root: Path, clips: Sequence[Converted], *, keep_all: bool) -> Body:
    """The body of all clips; of coordinates those that they share, unless all are to be kept.

    Raises:
        ValueError: their numbers do not mean the same.
    """
    first = clips[0]
    for clip in clips[1:]:
        kinds = {clip.body.kind, first.body.kind}
        if len(kinds) > 1:
            either = "--data.motion.representation positions, or " if kinds == {"rotations", "positions"} else ""
            raise ValueError(
                f"{root} has {first.body.kind} in {first.name} and {clip.body.kind} in {clip.name}: give {either}each "
                "its own folder"
            )
    shared = tuple(joint for joint in first.body.joints if all(joint in clip.body.joints for clip in clips))
    if first.body.kind == "coordinates" and shared and not keep_all:
        return replace(first.body, joints=shared)
    for clip in clips[1:]:
        if clip.body != first.body:
            raise ValueError(
                f"{root} has other joints in {clip.name} than in {first.name}: leave out --data.motion.joints all, so "
                "that the joints they share are taken, or give each its own folder"
            )
    return first.body


def check_columns(root: Path, clips: Sequence[Converted], asked: Sequence[str]) -> None:
    """Refuse columns that a clip does not have (ValueError)."""
    for key in asked:
        if lacking := next((clip for clip in clips if key not in clip.columns), None):
            have = ", ".join(lacking.columns) or "none"
            raise ValueError(f"{root} has no column {key} in {lacking.name}, which has {have}: correct --data.emphasis")


def episode_of(
    root: Path,
    body: Body,
    shown: Shown,
    clip: Converted,
    arrays: Sequence[Float32[np.ndarray, "..."]],
    *,
    forces: Measured | None,
    index: int,
    rate_hz: float,
) -> Episode:
    """One clip as an episode; captions take turns from frame to frame, so that samples see them all."""
    measured = np.setdiff1d(np.arange(clip.frames), clip.invalid)
    times = np.arange(clip.frames) / rate_hz
    values, *columns = (array[measured] if clip.invalid else array for array in arrays)
    if clip.body.joints != body.joints:
        values = values[:, [clip.body.joints.index(joint) for joint in body.joints]]
    known = None
    if forces is not None:
        beside = forces.known[measured, None].repeat(len(body.forces), axis=1)
        known = np.concatenate([np.ones_like(values, np.bool_), beside], axis=1)
        values = np.concatenate([values, forces.values[measured]], axis=1)
    # A row a frame, as a copy has it: so both have the same statistics.
    skeleton = np.broadcast_to(np.array(clip.offsets, np.float32), (len(measured), len(clip.offsets)))
    texts = clip.texts or ("",)
    cameras, seen = shown.of(clip.scene, times[measured])
    return Episode(
        name=f"{root.stem if root.is_file() else root.name}/{clip.name}",
        index=index,
        timestamps=times[measured],
        instructions=Texts.of([texts[frame % len(texts)] for frame in measured]),
        confidence=np.ones(len(measured)),
        actions=Stream(timestamps=times[measured], values=values),
        state=Stream(timestamps=times[measured], values=skeleton) if clip.offsets else None,
        cameras=cameras,
        seen=seen,
        facts=clip.facts if forces is None else {**clip.facts, WEIGHT: forces.weight_n},
        known=known,
        columns=dict(zip(clip.columns, columns, strict=True)),
    )


def layout_of(
    root: Path,
    body: Body,
    clips: Sequence[Converted],
    selection: Selection,
    shown: Shown,
    *,
    kinds: Collection[str],
    unread: Sequence[Unread],
    left_out: tuple[int, ...],
    said: Sequence[str],
) -> Layout:
    """The layout of the folder."""
    remarks = [*remarks_of(clips, body, unread), *said, *remarks_on_settings(selection.motion, kinds), *shown.remarks]
    remarks += remarks_of_a_copy(clips) if selection.carry else []
    return Layout(
        root=str(root),
        format=f"human motion ({', '.join(sorted(kinds))})",
        fps=selection.motion.rate_hz,
        cameras=shown.cameras,
        state_dim=len(body.offset_names),
        action_dim=len(body.names),
        state_names=body.offset_names,
        state_units=("m",) * len(body.offset_names),
        action_names=body.names,
        action_units=body.units,
        action_periods=(0.0,) * len(body.names),
        body=body,
        facts=body_facts(body),
        remarks=(*remarks, *remark_left_out(left_out)),
        left_out=left_out,
    )
