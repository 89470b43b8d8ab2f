"""What is said of a LeRobot dataset: what was chosen by itself, what is not read, what is odd in its metadata."""

import re
from collections.abc import Iterator

from vla.data.bodies import MOTION_BODY, body_of
from vla.data.formats.lerobot.checks import some
from vla.data.formats.lerobot.choices import Chosen, known_features
from vla.data.formats.lerobot.metadata import Metadata
from vla.data.selection import Selection
from vla.data.streams import AUTO


def remarks_on(metadata: Metadata, selection: Selection, chosen: Chosen) -> Iterator[str]:
    """A sentence each."""
    if tuple(selection.sensor) == (AUTO,) and chosen.streams:
        yield f"{chosen.streams[0]} is taken for the sensor: the only feature that says of itself to be one"
    for key, depth in chosen.depth.items():
        yield (
            f"{key} is read as depth from {depth.range}: red is the distance, green its inverse, blue where it was "
            "measured; what is nearer or farther is shown as the nearest or farthest"
        )
    if unread := [key for key in metadata.features if metadata.is_depth(key) and key not in chosen.cameras]:
        fix = "a copy holds none" if selection.carry else "--data.depth CAMERA=NEAR:FAR reads it"
        yield f"{', '.join(unread)} left out: depth is no colour; {fix}"
    if not selection.carry and (others := not_read(metadata, chosen)):
        yield f"not read: {', '.join(others)}"
    rows = [chosen.action, *([chosen.state] if chosen.state else [])]
    units = {key: metadata.row_units(key) for key in rows} | {
        key: metadata.channel_units(key) for key in chosen.streams
    }
    if strange := [key for key in units if not units[key] and metadata.said_of_units(key)]:
        yield f"units of {', '.join(strange)} are not one for all, nor one each as texts: taken for unsaid"
    names, file = metadata.names(chosen.action), metadata.root / "meta" / "info.json"
    if MOTION_BODY in metadata.facts and body_of(metadata.facts, names, file) is None:
        yield f"meta/info.json tells of a body that is not that of {chosen.action}: its numbers are taken as they are"
    yield from (*chosen.carried.remarks, *chosen.episodes.remarks)
    yield from odd_metadata(metadata, {record.index for record in chosen.episodes.records})


def not_read(metadata: Metadata, chosen: Chosen) -> list[str]:
    """The columns that nobody looks at."""
    rows = [chosen.action, *([chosen.state] if chosen.state else []), *chosen.columns]
    read = known_features(metadata, [*rows, *chosen.streams, *chosen.cameras], chosen.streams, chosen.cameras)
    return [
        key
        for key, feature in metadata.features.items()
        if key not in read and feature["dtype"] not in ("video", "image")
    ]


def odd_metadata(metadata: Metadata, read: set[int]) -> Iterator[str]:
    """What the metadata say and does not hold, or is not obeyed; `read` are the indices of the episodes that are."""
    if metadata.listed_again:
        yield f"episode {some(metadata.listed_again)} listed more than once in meta: the last row of each counts"
    listed = sum(record.length for record in metadata.episodes.values())
    whole = metadata.total_episodes == len(metadata.episodes)
    if whole and metadata.total_frames not in (None, listed):
        yield f"meta/info.json counts {metadata.total_frames} frames, the episode list {listed}: the list counts"
    for name, text in metadata.splits.items():
        if name != "train" and (apart := sorted(in_split(text) & read)):
            yield (
                f"meta/info.json keeps episodes {some(apart)} apart as `{name}`, and they are read like all others: "
                "--data.without leaves them out"
            )


def in_split(text: str) -> set[int]:
    """The episodes of `90:100`; none of what is written otherwise."""
    found = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text)
    return set(range(int(found[1]), int(found[2]))) if found else set()
