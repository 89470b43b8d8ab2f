"""LeRobot datasets, versions 3.0, 2.1 and 2.0, as episodes."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float64

from vla import cache
from vla.data.angles import angle_periods
from vla.data.bodies import body_of
from vla.data.depth import Depth
from vla.data.episode import STATE, Episode, Frames, Layout, Stream
from vla.data.formats.lerobot.checks import Indexed, check_videos, episode_rows, with_sound_files
from vla.data.formats.lerobot.choices import Chosen, choose, weighs
from vla.data.formats.lerobot.clock import on_unix, row_times
from vla.data.formats.lerobot.metadata import EpisodeRecord, Metadata, read_metadata
from vla.data.formats.lerobot.remarks import remarks_on
from vla.data.formats.lerobot.sensor import describe_stream, sensor_stream
from vla.data.formats.lerobot.stored import StoredImages, check_images
from vla.data.pairing import pair
from vla.data.selection import EVERYTHING, Problems, Selection, refuse
from vla.data.tables import double_rows, float_rows, integer_column, opened_table
from vla.data.texts import Texts
from vla.data.video import UnreadableFrames, VideoFrames
from vla.errors import CorruptData


@dataclass(frozen=True, kw_only=True)
class LerobotReader:
    """One opened LeRobot root."""

    layout: Layout
    episodes: Sequence[Episode]
    sources: Sequence[Path]
    """The tables."""
    reopen: Callable[[], "LerobotReader"] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[[], "LerobotReader"], tuple[()]]:
        return self.reopen, ()


def open_lerobot(root: Path, selection: Selection = EVERYTHING, report: Problems = refuse) -> LerobotReader:
    """Open a LeRobot folder and check its metadata against its files; what is damaged is told and left out.

    Raises CorruptData where nothing can be read and ValueError where what was selected is not there.
    """
    metadata = read_metadata(root)
    chosen = choose(metadata, selection, report)
    records = with_sound_files(metadata, chosen.episodes.records, report)
    files = sorted({record.data_file for record in records})
    entry = rows_entry(metadata, records, files, chosen)
    known = entry.recall()
    with opened_table(root, files, chosen.table_columns, sparingly=known is not None) as table:
        if known is None:
            rows = episode_rows(table, metadata, records, chosen.episodes.empty, report)
        else:
            rows = [(record, (start, stop)) for record, (start, stop) in zip(records, known["rows"], strict=True)]
        having = [record for record, _ in rows]
        cameras = check_videos(metadata, chosen.cameras, having, depth=chosen.depth, selection=selection, report=report)
        unix = on_unix(table["timestamp"])
        built: list[Episode] = []
        for record, (start, stop) in rows:
            own = table.slice(start, stop - start)
            try:
                built.append(
                    build_episode(
                        metadata,
                        record,
                        own,
                        chosen,
                        cameras=cameras[record.index],
                        selection=selection,
                        even=known is not None,
                    )
                )
            except ValueError as problem:
                report(problem)
    if not built:
        raise CorruptData(f"{root} has no episode that can be read; see the problems above or restore its files")
    periods = action_periods(metadata, chosen, built) if known is None else tuple(known["periods"])
    if known is None and len(built) == len(records):
        entry.keep({"rows": [place for _, place in rows], "periods": periods})
    remarks = [*remarks_on(metadata, selection, chosen), *unix]
    return LerobotReader(
        layout=describe(metadata, chosen, periods, remarks),
        episodes=tuple(built),
        sources=files,
        reopen=functools.partial(open_lerobot, root, selection),
    )


def rows_entry(
    metadata: Metadata, records: Sequence[EpisodeRecord], files: Sequence[Path], chosen: Chosen
) -> cache.Entry:
    """Where it is kept which rows each episode has, that the lists in them are even, and which actions wrap."""
    promised = [[record.index, record.length, str(record.data_file)] for record in records]
    actions = [
        chosen.action,
        metadata.names(chosen.action),
        metadata.row_units(chosen.action),
        [*chosen.angles.items()],
    ]
    return cache.Entry(
        purpose=f"lerobot rows {json.dumps([promised, chosen.table_columns, actions])}",
        stamps={metadata.root: cache.stamp(files)},
    )


def action_periods(metadata: Metadata, chosen: Chosen, episodes: Sequence[Episode]) -> tuple[float, ...]:
    """Per action dimension the period of an angle that wraps, 0 where it is none."""
    key = chosen.action
    width, names = int(np.prod(metadata.shapes[key])), metadata.names(key)
    return angle_periods(width, names, metadata.row_units(key), chosen.angles, episodes)


def build_episode(
    metadata: Metadata,
    record: EpisodeRecord,
    rows: pa.Table,
    chosen: Chosen,
    *,
    cameras: Mapping[str, Indexed],
    selection: Selection,
    even: bool,
) -> Episode:
    """One episode as views of the table and stretches of the videos.

    `even` says that all lists of a column are known to be of one length.
    """
    name = f"{metadata.root.name}/episode_{record.index:06d}"
    timestamps, start_s = row_times(rows["timestamp"], metadata.fps, name)
    seen = {key: flags for key in cameras if (flags := camera_flags(rows, key, name)) is not None}

    def values(key: str) -> Float[np.ndarray, "N C"]:
        return float_rows(rows[key], (int(np.prod(metadata.shapes[key])),), f"{name}: {key}", even=even)

    measured = {
        key: sensor_stream(metadata, record, rows, key, timestamps=timestamps, start_s=start_s, name=name, even=even)
        for key in chosen.streams
    }
    return Episode(
        name=name,
        index=record.index,
        timestamps=timestamps,
        instructions=read_instructions(metadata, record, rows, name),
        confidence=double_rows(rows["confidence"], (), f"{name}: confidence")
        if weighs(metadata) and "confidence" in rows.column_names
        else np.ones(len(timestamps)),
        actions=Stream(timestamps=timestamps, values=values(chosen.action)),
        state=None if chosen.state is None else Stream(timestamps=timestamps, values=values(chosen.state)),
        streams={key: stream for key, stream in measured.items() if stream is not None},
        cameras={
            key: camera_frames(
                metadata,
                record,
                rows,
                key,
                index=index,
                depth=chosen.depth.get(key),
                selection=selection,
                timestamps=timestamps,
                seen=seen.get(key),
                name=name,
            )
            for key, index in cameras.items()
            if key not in seen or seen[key].any()
        },
        seen={key: flags for key, flags in seen.items() if flags.any() and not flags.all()},
        columns={key: values(key) for key in chosen.columns},
        carried={key: rows[key] for key in chosen.carried.columns},
    )


def read_instructions(metadata: Metadata, record: EpisodeRecord, rows: pa.Table, name: str) -> Texts:
    """The task of each frame: by its task_index, or the episode's where it has but one.

    Raises:
        CorruptData: there is no telling which of several tasks a frame has, or it has none.
    """
    only = record.tasks[0] if len(set(record.tasks)) == 1 else None
    if "task_index" not in rows.column_names:
        if only is None:
            said = "no task" if not record.tasks else f"{len(record.tasks)} tasks"
            raise CorruptData(f"{name} has {said} and no column task_index that says which: restore it")
        return Texts.throughout(only, len(rows))
    indices = integer_column(rows["task_index"], f"{name}: task_index")
    different, first, places = np.unique(indices, return_index=True, return_inverse=True)
    texts = [metadata.tasks.get(index, only) for index in different.tolist()]
    for text, index, frame in zip(texts, different.tolist(), first.tolist(), strict=True):
        if text is None:
            raise CorruptData(f"{name}: task_index {index} of frame {frame} stands in no task list; restore meta/tasks")
    if len(different) == 1:
        return Texts.throughout(str(texts[0]), len(rows))
    return Texts.of([str(texts[place]) for place in places.tolist()])


def camera_flags(rows: pa.Table, key: str, name: str) -> Bool[np.ndarray, " N"] | None:
    """Whether a camera has a picture at each frame; None where nothing says so."""
    column = f"{key}_valid"
    return float_rows(rows[column], (), f"{name}: {column}") > 0 if column in rows.column_names else None


def camera_frames(
    metadata: Metadata,
    record: EpisodeRecord,
    rows: pa.Table,
    key: str,
    *,
    index: Indexed,
    depth: Depth | None,
    selection: Selection,
    timestamps: Float64[np.ndarray, " N"],
    seen: Bool[np.ndarray, " N"] | None,
    name: str,
) -> Frames:
    """The frames of one camera: a stretch of a video, or images in the table.

    Raises:
        CorruptData: rows have no frame, and damage is not kept.
        ValueError: the clocks of rows and frames run apart, and nobody says by which to pair.
    """
    if index is None:
        check_images(rows[key].type, f"{record.data_file}: {key}")
        images = StoredImages(
            timestamps=timestamps,
            column=rows[key],
            folder=metadata.root,
            table=record.data_file,
            name=f"{name} {key}",
            depth=depth,
        )
        images.check()
        return images
    if isinstance(index, CorruptData):
        return UnreadableFrames(timestamps=timestamps, problem=str(index))
    place, shown = record.videos[key], index.seconds
    what = f"{name}, {key} in {place.path}"
    paired = pair(timestamps, shown, offset_s=place.offset_s, fps=metadata.fps, how=selection.pairing, what=what)
    lost = np.flatnonzero(paired.frames < 0)
    lost = lost if seen is None else lost[seen[lost]]
    if len(lost) and not selection.keep_damaged:
        raise CorruptData(
            f"{what}: {len(lost)} of {len(timestamps)} rows have no frame, the first at "
            f"{timestamps[lost[0]] + place.offset_s:.3f} s; the file has {len(shown)}, shown from {shown[0]:.3f} to "
            f"{shown[-1]:.3f} s: restore it, correct the time stamps, or leave the episode out with "
            f"`--data.without {record.index}`"
        )
    return VideoFrames(path=place.path, timestamps=paired.timestamps, index=index, frames=paired.frames, depth=depth)


def describe(metadata: Metadata, chosen: Chosen, action_periods: tuple[float, ...], remarks: Sequence[str]) -> Layout:
    """The layout of the root."""
    return Layout(
        root=str(metadata.root),
        format=f"lerobot {metadata.version}",
        fps=metadata.fps,
        cameras=chosen.cameras,
        state_dim=0 if chosen.state is None else int(np.prod(metadata.shapes[chosen.state])),
        action_dim=int(np.prod(metadata.shapes[chosen.action])),
        state_names=() if chosen.state is None else metadata.names(chosen.state),
        action_names=metadata.names(chosen.action),
        action_periods=action_periods,
        streams={key: describe_stream(metadata, key) for key in chosen.streams},
        state_key=chosen.state or STATE,
        action_key=chosen.action,
        state_units=() if chosen.state is None else metadata.row_units(chosen.state),
        action_units=metadata.row_units(chosen.action),
        depth={key: depth.range for key, depth in chosen.depth.items()},
        body=body_of(metadata.facts, metadata.names(chosen.action), metadata.root / "meta" / "info.json"),
        remarks=tuple(remarks),
        carried=chosen.carried.columns,
        tasks=chosen.carried.tasks,
        facts=chosen.carried.facts,
        files=chosen.carried.files,
        left_out=chosen.episodes.left_out,
    )
