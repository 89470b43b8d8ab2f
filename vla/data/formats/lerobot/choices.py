"""What is read of a LeRobot dataset: what is asked for, or what looks like it."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vla.data.angles import parse_angles
from vla.data.depth import Depth
from vla.data.dimensions import places_of
from vla.data.episode import STATE
from vla.data.formats.lerobot.carried import Carried, choose_carried
from vla.data.formats.lerobot.listed import Listed, choose_episodes
from vla.data.formats.lerobot.metadata import Metadata
from vla.data.selection import Problems, Selection
from vla.data.streams import choose_streams
from vla.data.tables import columns_of
from vla.depth import parse_depth
from vla.names import by_word, hint

STANDARD = {"timestamp", "frame_index", "episode_index", "index", "task_index", "confidence"}
RATES = {"sensor_hz", "rate_hz", "fps", "window_samples"}
"""Facts of a feature which say that its samples have a rate of their own."""
SENSOR_WORDS = {
    "pressure",
    "touch",
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

    action: str
    """Feature key."""
    angles: Mapping[int, float]
    """Period of each of its dimensions that is said to be an angle that wraps."""
    state: str | None
    """Feature key; None without one."""
    cameras: tuple[str, ...]
    """Feature keys."""
    depth: Mapping[str, Depth]
    """Of the cameras that are read as depth, how."""
    streams: tuple[str, ...]
    """Feature keys of the sensor streams."""
    columns: tuple[str, ...]
    carried: Carried
    """What a copy keeps beside that."""
    episodes: Listed
    table_columns: tuple[str, ...]
    """All columns that are read; the others stay in the files."""


def choose(metadata: Metadata, selection: Selection, report: Problems) -> Chosen:
    """What a selection means here.

    Raises:
        ValueError: what was asked for is not there.
    """
    action = choose_action(metadata, selection.action_key)
    state = choose_state(metadata, selection, report)
    if state == action:
        raise ValueError(
            f"--data.state-key and --data.action-key are both {action} of {metadata.root}, so that the policy would "
            "see what it is to answer: name another column for one of them"
        )
    depth = choose_depth(metadata, selection.depth)
    cameras = choose_cameras(metadata, selection.cameras, depth)
    streams = choose_sensors(metadata, selection.sensor, {action, state}, report)
    choose_columns(metadata, selection.columns)
    rows = [action, *([state] if state else []), *selection.columns]
    episodes = choose_episodes(metadata, selection, report)
    read = known_features(metadata, [*rows, *streams, *cameras], streams, cameras)
    carried = choose_carried(metadata, read, [*rows, *streams]) if selection.carry else Carried()
    return Chosen(
        action=action,
        angles=choose_angles(metadata, action, selection.angles),
        state=state,
        cameras=cameras,
        depth=depth,
        streams=streams,
        columns=selection.columns,
        carried=carried,
        episodes=episodes,
        table_columns=tuple(table_columns(metadata, cameras, streams, [*rows, *carried.columns])),
    )


def rows_of_numbers(metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """The features that are a row of numbers a frame, (C,), and their shapes."""
    return {
        key: shape
        for key, shape in metadata.shapes.items()
        if len(shape) == 1 and re.match(r"float|u?int|bool", metadata.features[key]["dtype"])
    }


def choose_action(metadata: Metadata, key: str) -> str:
    """The feature key of the actions. ValueError where there is no such feature, or it is no row of numbers."""
    _check_rows(metadata, key, "the actions, which a policy learns", "--data.action-key")
    return key


def choose_angles(metadata: Metadata, action: str, words: Sequence[str]) -> dict[int, float]:
    """The periods that --data.angles gives, by dimension of the actions. ValueError where there is none such."""
    asked, width = parse_angles(words), int(np.prod(metadata.shapes[action]))
    places = places_of("action", list(asked), width, metadata.names(action), str(metadata.root), flag="--data.angles")
    return dict(zip(places, asked.values(), strict=True))


def choose_state(metadata: Metadata, selection: Selection, report: Problems) -> str | None:
    """The feature key of the state; None where the usual one is not there, and none that another name hides is told.

    ValueError where another than the usual one was asked for and is not there.
    """
    key = selection.state_key
    if key in metadata.features or key != STATE:
        _check_rows(metadata, key, "the state", "--data.state-key")
        return key
    alike = [name for name in rows_of_numbers(metadata) if re.split(r"[./]", name)[-1].lower() in ("state", "states")]
    if alike and not selection.withhold_state:
        report(
            ValueError(
                f"{metadata.root} has no feature {STATE}, but {alike[0]}: read it with `--data.state-key {alike[0]}`, "
                "or train without a state with `--data.withhold state`"
            )
        )
    return None


def _check_rows(metadata: Metadata, key: str, what: str, flag: str) -> None:
    """Refuse a key that is no feature, or one of images or text (ValueError)."""
    if key not in metadata.features:
        numbers = [name for name in rows_of_numbers(metadata) if name not in STANDARD]
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, numbers, 1) or difflib.get_close_matches(last, numbers, 1)
        hint = f"nearest is {near[0]}" if near else f"it has {', '.join(numbers) or 'no column of numbers'}"
        raise ValueError(
            f"{metadata.root} has no feature {key} in meta/info.json for {what}; {hint}: name it with "
            f"`{flag} {near[0] if near else 'KEY'}`"
        )
    if metadata.features[key]["dtype"] in ("video", "image", "string"):
        raise ValueError(
            f"{metadata.root} has {metadata.features[key]['dtype']} in {key}, where numbers are expected for {what}: "
            f"name another with {flag}"
        )


def choose_depth(metadata: Metadata, words: Sequence[str]) -> dict[str, Depth]:
    """How the cameras of --data.depth are read, by feature key. ValueError where there is none such."""
    keys = [key for key, feature in metadata.features.items() if feature["dtype"] in ("video", "image")]
    known, found = by_word(keys), dict[str, Depth]()
    for name, shown in parse_depth(words).items():
        if name not in known:
            raise ValueError(f"{metadata.root} has no camera {name} for --data.depth: {hint(name, keys)}")
        if known[name] in found:
            raise ValueError(f"--data.depth names {known[name]} of {metadata.root} twice: give each camera once")
        found[known[name]] = Depth(coding=metadata.depth_coding(known[name]), range=shown)
    return found


def choose_cameras(metadata: Metadata, asked: tuple[str, ...], depth: Collection[str]) -> tuple[str, ...]:
    """The camera keys asked for, or all of them in the order of the metadata; of depth those alone that are read."""
    cameras = [key for key, feature in metadata.features.items() if feature["dtype"] in ("video", "image")]
    keys = tuple(key for key in cameras if key in depth or not metadata.is_depth(key))
    known = by_word(keys)
    for name in asked:
        if name not in known and (unread := by_word(cameras).get(name)) is not None:
            raise ValueError(
                f"{metadata.root} has depth in {unread}, which is no colour: say which distances in metres it is to "
                f"show with `--data.depth {name}=NEAR:FAR`, or leave it out of --data.cameras"
            )
        if name not in known:
            raise ValueError(f"{metadata.root} has no camera {name}: {hint(name, keys)}")
    chosen = tuple(known[name] for name in asked) or keys
    if unused := [key for key in depth if key not in chosen]:
        raise ValueError(f"--data.depth names {unused[0]}, which --data.cameras leaves out: name it there too")
    return chosen


def choose_sensors(
    metadata: Metadata, asked: Sequence[str], taken: set[str | None], report: Problems
) -> tuple[str, ...]:
    """The feature keys of the sensor streams: those asked for, or the only one that looks like one.

    A column that the writer has marked as one does not, whatever its name, nor one that is `taken` already. Where there
    is no telling, the root is read without a sensor once that has been told.
    """
    floats = {
        key: shape
        for key, shape in metadata.shapes.items()
        if metadata.features[key]["dtype"] in ("float32", "float64", "float16")
        and len(shape) <= 2
        and key not in STANDARD | {"observation.environment_state"} | taken
        and not key.startswith("next.")
    }
    likely = [key for key in floats if like_a_sensor(metadata, key)]
    return choose_streams(asked, list(floats), likely, metadata.root, report)


def like_a_sensor(metadata: Metadata, key: str) -> bool:
    """Whether a feature of floats says of itself that it is a sensor: by a word, a rate, or marks of what is valid.

    What lies under `action` is commanded, not felt.
    """
    info = metadata.features[key].get("info") or {}
    if key.endswith("_timestamp") or info.get("column") or re.split(r"[./]", key)[0].lower() in ("action", "actions"):
        return False
    windows = len(metadata.shapes[key]) == 2 and (f"{key}_valid" in metadata.features or not RATES.isdisjoint(info))
    return windows or bool(SENSOR_WORDS & set(re.split(r"[^a-z]+", key.lower().rsplit(".", 1)[-1])))


def known_features(
    metadata: Metadata, chosen: Iterable[str], streams: Sequence[str], cameras: Sequence[str]
) -> set[str]:
    """The features that are read: what was chosen, what marks and times it, and LeRobot's own columns."""
    known = {
        *chosen,
        *(STANDARD - {"confidence"}),
        *(f"{key}_{of}" for key in streams for of in ("valid", "timestamp")),
    }
    known |= {f"{key}_valid" for key in cameras}
    return known | ({"confidence"} if weighs(metadata) else set())


def choose_columns(metadata: Metadata, asked: Sequence[str]) -> None:
    """Refuse a column that is not there, or is no row of numbers a frame (ValueError)."""
    numbers = rows_of_numbers(metadata)
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


def table_columns(metadata: Metadata, cameras: Sequence[str], streams: Sequence[str], rows: Sequence[str]) -> list[str]:
    """The columns that are read; the others stay in the files."""
    wanted = {"timestamp", "episode_index", "task_index", *rows}
    wanted |= {"confidence"} if weighs(metadata) else set()
    wanted |= {key for key in cameras if metadata.features[key]["dtype"] == "image"}
    wanted |= {f"{key}_valid" for key in cameras}
    for key in streams:
        wanted |= {key, f"{key}_valid", f"{key}_timestamp"}
    return [*unlisted(metadata), *(key for key in metadata.features if key in wanted)]


def weighs(metadata: Metadata) -> bool:
    """Whether the data have a weight a frame: a column `confidence` of another shape is somebody's own."""
    return metadata.shapes.get("confidence") in ((1,), ()) and metadata.features["confidence"]["dtype"] != "string"


def unlisted(metadata: Metadata) -> list[str]:
    """Columns that LeRobot adds by itself and metadata written by hand leave out: the clock, and where rows belong."""
    missing = [key for key in ("timestamp", "episode_index", "task_index") if key not in metadata.features]
    first = next((record.data_file for record in metadata.episodes.values() if record.data_file.is_file()), None)
    there = columns_of(first) if missing and first is not None else ()
    return [key for key in missing if key in there or key != "task_index"]
