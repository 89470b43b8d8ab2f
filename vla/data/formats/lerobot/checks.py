"""Whether the files of a LeRobot dataset hold what its metadata promise, before anything is decoded."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vla.data.containers import FrameIndex, check_colour, check_depth, read_frame_index
from vla.data.depth import Depth
from vla.data.formats.lerobot.metadata import EpisodeRecord, Metadata
from vla.data.selection import Problems, Selection
from vla.data.tables import check_parquet, integer_column
from vla.errors import CorruptData, MissingFiles

Indexed = FrameIndex | CorruptData | None
"""When the frames of a video file are shown, or why it cannot be opened; None of images in the table."""


def with_sound_files(metadata: Metadata, records: Sequence[EpisodeRecord], report: Problems) -> list[EpisodeRecord]:
    """The records whose table is there and complete; the others are reported."""
    there: dict[Path, bool] = {}
    sound: dict[Path, bool] = {}
    for path in sorted({record.data_file for record in records}):
        there[path] = sound[path] = path.is_file()
        if there[path]:
            try:
                check_parquet(path)
            except CorruptData as problem:
                report(problem)
                sound[path] = False
    lost = [record for record in records if not there[record.data_file]]
    report_lost(metadata, lost, records, report)
    kept = [record for record in records if sound[record.data_file]]
    if not kept:
        raise CorruptData(f"{metadata.root} has no table that can be read; restore the files in {metadata.root}/data")
    return kept


def report_lost(
    metadata: Metadata, lost: Sequence[EpisodeRecord], records: Sequence[EpisodeRecord], report: Problems
) -> None:
    """Report the episodes that metadata names and the data lack, and how to train on the rest."""
    if not lost:
        return
    first = ", ".join(f"episode {record.index}: {record.data_file.relative_to(metadata.root)}" for record in lost[:3])
    if len(lost) > 3:
        first += ", ..."
    fix = "restore them"
    if len(lost) < len(records):
        fix += f", or {way_out([record.index for record in lost], [record.index for record in records])}"
    sentence = f"{metadata.root}: the data of {len(lost)} of {len(records)} episodes are not there ({first}); {fix}"
    report(MissingFiles(sentence, [str(record.data_file) for record in lost]))


def way_out(lost: Sequence[int], listed: Sequence[int]) -> str:
    """How to train on the episodes that are listed but for those that are lost, in the fewer words."""
    left = [index for index in listed if index not in set(lost)]
    if len(left) < len(lost):
        return f"train on what is there with `--data.episodes {' '.join(map(str, left))}`"
    return f"leave them out with `--data.without {' '.join(map(str, lost))}`"


def episode_rows(
    table: pa.Table,
    metadata: Metadata,
    records: Sequence[EpisodeRecord],
    empty: Sequence[EpisodeRecord],
    report: Problems,
) -> list[tuple[EpisodeRecord, tuple[int, int]]]:
    """Where each episode stands in the table: first row and one past the last."""
    indices = integer_column(table["episode_index"], f"{metadata.root}: episode_index")
    starts = np.flatnonzero(np.diff(indices, prepend=indices[:1] - 1)).tolist()
    places: dict[int, tuple[int, int]] = {}
    for start, stop in zip(starts, [*starts[1:], len(indices)], strict=True):
        index = int(indices[start])
        if index in places:
            raise CorruptData(f"{metadata.root}: the rows of episode {index} do not stand together; convert it again")
        places[index] = (start, stop)
    report_lost(metadata, [record for record in records if record.index not in places], records, report)
    rows = []
    for record in (*records, *empty):
        if record.index not in places:
            continue
        start, stop = places[record.index]
        if stop - start != record.length:
            report(other_length(record, stop - start))
        else:
            rows.append((record, (start, stop)))
    return rows


def other_length(record: EpisodeRecord, rows: int) -> CorruptData:
    """What is said of a table with more or fewer rows than the metadata say."""
    return CorruptData(
        f"{record.data_file}: episode {record.index} has {rows} rows, its metadata says {record.length}; restore the "
        "file or the metadata"
    )


def check_empty(metadata: Metadata, empty: Sequence[EpisodeRecord], report: Problems) -> None:
    """Report episodes without a frame whose own table has rows; `episode_rows` looks into tables of several."""
    if metadata.version == "v3.0":
        return
    for record in empty:
        if record.data_file.is_file() and (rows := check_parquet(record.data_file)):
            report(other_length(record, rows))


def check_videos(
    metadata: Metadata,
    cameras: Sequence[str],
    records: Sequence[EpisodeRecord],
    *,
    depth: Mapping[str, Depth],
    selection: Selection,
    report: Problems,
) -> dict[int, dict[str, Indexed]]:
    """The cameras that each episode has, and when the frames of their files are shown.

    What cannot be opened is reported or, where damage is kept, is there as what is wrong with it.
    """
    videos = [key for key in cameras if metadata.features[key]["dtype"] == "video"]
    paths = {place.path for record in records for key in videos if (place := record.videos.get(key)) is not None}
    indices = index_all(paths, whole=not selection.keep_damaged)
    for index in indices.values():
        if isinstance(index, CorruptData) and not selection.keep_damaged:
            report(index)
    check_pixels(metadata, records, videos, depth, indices)
    found: dict[int, dict[str, Indexed]] = {record.index: {} for record in records}
    lost: list[tuple[int, str]] = []
    for record in records:
        for key in cameras:
            place = record.videos.get(key)
            if key not in videos:
                found[record.index][key] = None
            elif place is None or place.path not in indices:
                lost.append((record.index, key if place is None else f"{place.path.relative_to(metadata.root)}"))
            elif selection.keep_damaged or isinstance(indices[place.path], FrameIndex):
                found[record.index][key] = indices[place.path]
    if lost and selection.missing_cameras == "refuse":
        first = ", ".join(f"episode {index}: {what}" for index, what in lost[:3])
        sentence = (
            f"{metadata.root}: {len(lost)} videos are not there ({first}{', ...' * (len(lost) > 3)}); "
            "restore them, or train with those cameras masked: `--data.missing-cameras mask`"
        )
        report(MissingFiles(sentence, [f"{metadata.root}/{what}" for _, what in lost]))
    for key in cameras:
        if records and not any(key in keys for keys in found.values()):
            report(
                ValueError(
                    f"{metadata.root}: no episode has a readable video of camera {key}; restore the files, "
                    "or choose other cameras with --data.cameras"
                )
            )
    return found


def check_pixels(
    metadata: Metadata,
    records: Sequence[EpisodeRecord],
    videos: Sequence[str],
    depth: Mapping[str, Depth],
    indices: Mapping[Path, FrameIndex | CorruptData],
) -> None:
    """Refuse cameras whose first video is neither 8-bit colour nor depth that is to be read as such (ValueError)."""
    for key in videos:
        own = [place.path for record in records if (place := record.videos.get(key)) is not None]
        first = next((path for path in own if isinstance(indices.get(path), FrameIndex)), None)
        one_channel = metadata.shapes[key][-1:] == (1,)
        if first is not None and key in depth:
            check_depth(first, depth[key], one_channel=one_channel)
        elif first is not None:
            check_colour(first, one_channel=one_channel)


def index_all(paths: Iterable[Path], *, whole: bool) -> dict[Path, FrameIndex | CorruptData]:
    """When the frames of the video files that are there are shown, or why one cannot be opened, by several threads."""

    def index(path: Path) -> FrameIndex | CorruptData:
        try:
            return read_frame_index(path, whole=whole)
        except CorruptData as problem:
            return problem

    there = sorted(path for path in paths if path.is_file())
    with ThreadPoolExecutor(8) as threads:
        return dict(zip(there, threads.map(index, there), strict=True))


def some(indices: Sequence[Any]) -> str:
    """The first few of a list."""
    return " ".join(map(str, indices[:8])) + (" ..." if len(indices) > 8 else "")
