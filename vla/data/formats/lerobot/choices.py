"""What is read of a LeRobot dataset: what is asked for, or what looks like it."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vla.data.episode import ACTION, STATE
from vla.data.formats.lerobot.checks import some
from vla.data.formats.lerobot.metadata import EpisodeRecord, Metadata
from vla.data.selection import Problems, Selection

STANDARD = {"timestamp", "frame_index", "episode_index", "index", "task_index", "confidence"}
SENSOR_WORDS = {
    "force",
    "forces",
    "ft",
    "torque",
    "torques",
    "wrench",
    "effort",
    "tactile",
    "sensor",
    "aline",
    "alines",
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a selection means in one dataset."""

    cameras: tuple[str, ...]
    """Feature keys."""
    sensor: str | None
    """Feature key; None without one."""
    columns: tuple[str, ...]
    records: tuple[EpisodeRecord, ...]
    table_columns: tuple[str, ...]
    """All columns that are read; the others stay in the files."""


def choose(metadata: Metadata, selection: Selection, report: Problems) -> Chosen:
    """What a selection means here.

    Raises:
        ValueError: what was asked for is not there.
    """
    if ACTION not in metadata.features:
        near = difflib.get_close_matches(ACTION, metadata.features, 1)
        hint = f"; rename {near[0]}" if near else ""
        raise ValueError(
            f"{metadata.root} has no feature `{ACTION}` in meta/info.json, which is what a policy learns{hint}"
        )
    cameras = choose_cameras(metadata, selection.cameras)
    sensor = choose_sensor(metadata, selection.sensor, report)
    choose_columns(metadata, selection.columns)
    return Chosen(
        cameras=cameras,
        sensor=sensor,
        columns=selection.columns,
        records=tuple(choose_episodes(metadata, selection.episodes, report)),
        table_columns=tuple(table_columns(metadata, cameras, sensor, selection.columns)),
    )


def choose_cameras(metadata: Metadata, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The camera keys asked for, or all of them in the order of the metadata."""
    keys = metadata.cameras
    by_name = {key.rsplit(".", 1)[-1]: key for key in keys} | {key: key for key in keys}
    for name in asked:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1) or list(keys)
            raise ValueError(
                f"{metadata.root} has no camera {name}; --data.cameras takes {', '.join(keys) or 'none here'}"
                + (f" (nearest: {near[0]})" if near else "")
            )
    return tuple(by_name[name] for name in asked) or keys


def choose_sensor(metadata: Metadata, asked: str, report: Problems) -> str | None:
    """The feature key of the sensor stream: the one asked for, or the only one that looks like one.

    A column that the writer has marked as one does not, whatever its name. Where there is no telling, the root is
    read without a sensor once that has been told.
    """
    if asked == "none":
        return None
    floats = {
        key: shape
        for key, shape in metadata.shapes.items()
        if metadata.features[key]["dtype"] in ("float32", "float64", "float16")
        and len(shape) <= 2
        and key not in STANDARD | {STATE, ACTION, "observation.environment_state"}
        and not key.startswith("next.")
    }
    if asked != "auto":
        if asked not in floats:
            near = difflib.get_close_matches(asked, floats, 1) or sorted(floats)[:1]
            hint = f"; nearest is {near[0]}" if near else ""
            report(
                ValueError(
                    f"{metadata.root} has no sensor feature {asked}{hint}; "
                    "--data.sensor takes a float feature, auto or none"
                )
            )
            return None
        return asked
    candidates = [
        key
        for key, shape in floats.items()
        if not key.endswith("_timestamp")
        and not (metadata.features[key].get("info") or {}).get("column")
        and (len(shape) == 2 or SENSOR_WORDS & set(re.split(r"[^a-z]+", key.lower().rsplit(".", 1)[-1])))
    ]
    if len(candidates) > 1:
        report(
            ValueError(
                f"{metadata.root} has several features that may be the sensor: {', '.join(candidates)}; "
                f"choose with `--data.sensor {candidates[0]}`, or `--data.sensor none`"
            )
        )
    return candidates[0] if len(candidates) == 1 else None


def choose_episodes(metadata: Metadata, asked: tuple[int, ...], report: Problems) -> list[EpisodeRecord]:
    """The records asked for, or all of them; ValueError names the ones the metadata does not know."""
    if not asked:
        if metadata.total_episodes > len(metadata.episodes):
            report(
                ValueError(
                    f"{metadata.root}/meta/info.json counts {metadata.total_episodes} episodes, the episode list has "
                    f"{len(metadata.episodes)}; restore it, or train on what is listed with "
                    f"`--data.episodes {' '.join(map(str, metadata.episodes))}`"
                )
            )
        return list(metadata.episodes.values())
    unknown = sorted(set(asked) - set(metadata.episodes))
    if unknown:
        known = sorted(metadata.episodes)
        raise ValueError(
            f"{metadata.root} has no episode {some(unknown)}; it has {len(known)}, from {known[0]} to {known[-1]}: "
            "correct --data.episodes"
        )
    return [metadata.episodes[index] for index in sorted(set(asked))]


def choose_columns(metadata: Metadata, asked: Sequence[str]) -> None:
    """Refuse a column that is not there, or is no row of numbers a frame (ValueError)."""
    numbers = {
        key: shape
        for key, shape in metadata.shapes.items()
        if len(shape) == 1 and re.match(r"float|u?int|bool", metadata.features[key]["dtype"])
    }
    for key in asked:
        if key in numbers:
            continue
        if key in metadata.features:
            found = f"{metadata.features[key]['dtype']} of shape {metadata.shapes[key]}"
            raise ValueError(
                f"{metadata.root} has {found} in {key}, a column is numbers of shape (C,): choose among "
                f"{', '.join(numbers)}"
            )
        near = difflib.get_close_matches(key, numbers, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ValueError(f"{metadata.root} has no column {key}{hint}: choose among {', '.join(numbers)}")


def table_columns(metadata: Metadata, cameras: Sequence[str], sensor: str | None, columns: Sequence[str]) -> list[str]:
    """The columns that are read; the others stay in the files."""
    wanted = {ACTION, STATE, "timestamp", "episode_index", "task_index", "confidence", *columns}
    wanted |= {key for key in cameras if metadata.features[key]["dtype"] == "image"}
    wanted |= {f"{key}_valid" for key in cameras}
    if sensor is not None:
        wanted |= {sensor, f"{sensor}_valid", f"{sensor}_timestamp"}
    return [key for key in metadata.features if key in wanted]
