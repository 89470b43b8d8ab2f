"""Which of the episodes that the metadata list are read."""

from collections.abc import Sequence
from dataclasses import dataclass

from vla.data.formats.lerobot.checks import check_empty, way_out
from vla.data.formats.lerobot.metadata import EpisodeRecord, Metadata
from vla.data.selection import Problems, Selection, remark_left_out
from vla.names import ranges


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The episodes of a dataset, sorted."""

    records: tuple[EpisodeRecord, ...]
    """Those that are read."""
    empty: tuple[EpisodeRecord, ...]
    """Those without a frame, which are passed over."""
    left_out: tuple[int, ...]
    """The indices that were left out by request."""
    remarks: tuple[str, ...]


def choose_episodes(metadata: Metadata, selection: Selection, report: Problems) -> Listed:
    """The records asked for, or all of them, but for those to leave out and those without a frame.

    Raises:
        ValueError: one that was asked for is not in the metadata, or has no frame; or none is left.
    """
    known, without = metadata.episodes, set(selection.without)
    asked = sorted(set(selection.episodes)) or list(known)
    if unknown := [index for index in asked if index not in known]:
        raise ValueError(
            f"{metadata.root} has no episode {ranges(unknown)}; it has {len(known)}, from {min(known)} to "
            f"{max(known)}: correct --data.episodes"
        )
    if not selection.episodes:
        report_unlisted(metadata, without, report)
    chosen = [known[index] for index in asked if index not in without]
    empty = tuple(record for record in chosen if record.length == 0)
    if empty and selection.episodes:
        raise ValueError(
            f"{metadata.root} has no frame in episode {ranges([record.index for record in empty])}: take it out of "
            "--data.episodes"
        )
    records = tuple(record for record in chosen if record.length > 0)
    if not records:
        raise ValueError(f"{metadata.root} has no episode with a frame that is not left out: correct --data.without")
    check_empty(metadata, empty, report)
    left_out = tuple(sorted(index for index in without if index in known or index < metadata.total_episodes))
    return Listed(
        records=records,
        empty=empty,
        left_out=left_out,
        remarks=(*remark_left_out(left_out), *remark_empty(empty)),
    )


def report_unlisted(metadata: Metadata, without: set[int], report: Problems) -> None:
    """Report episodes that info.json counts and the list lacks, unless they are to be left out."""
    lacking = metadata.total_episodes - len(metadata.episodes)
    missing = [index for index in range(metadata.total_episodes) if index not in metadata.episodes]
    if lacking <= 0 or without.issuperset(missing):
        return
    report(
        ValueError(
            f"{metadata.root}/meta/info.json counts {metadata.total_episodes} episodes, the episode list has "
            f"{len(metadata.episodes)}; restore it, or {way_out(missing, list(metadata.episodes))}"
        )
    )


def remark_empty(empty: Sequence[EpisodeRecord]) -> list[str]:
    """That episodes without a frame are passed over."""
    return [f"episodes without a frame passed over: {ranges([record.index for record in empty])}"] if empty else []
