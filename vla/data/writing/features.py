"""How LeRobot v3.0 describes what a data set holds: info.json, the types of the table, the list of tasks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa

from vla.data.episode import Layout
from vla.data.writing.pieces import SensorFormat
from vla.data.writing.videos import pixel_format


def describe_features(
    layout: Layout,
    fps: int,
    sensors: Sequence[SensorFormat],
    *,
    sizes: Mapping[str, tuple[int, int]],
    masked: Sequence[str],
    weighted: bool,
    columns: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """The features of info.json. ValueError where a column has the name of another feature.

    `sizes` are those of the frames of each camera, `masked` the cameras that some episodes lack, `weighted` says that
    episodes have a confidence, and `columns` are the widths of the further ones.
    """
    features = {}
    for camera in layout.cameras:
        height, width = sizes[camera]
        features[camera] = feature(
            "video",
            height,
            width,
            3,
            names=("height", "width", "channel"),
            info={
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": pixel_format(height, width),
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        )
    if layout.state_dim:
        features["observation.state"] = feature(
            "float32", layout.state_dim, names=layout.state_names, info=_units(layout.state_units)
        )
    for sensor in sensors:
        stream, key = sensor.stream, sensor.stream.key
        told = {"sensor_hz": stream.rate_hz, "window_samples": stream.samples, **_units(stream.units)}
        channels = {"channels": list(stream.names)} if stream.names else ()
        features[key] = feature("float32", sensor.samples, stream.channels, names=channels, info=told)
        features[f"{key}_valid"] = feature("bool", sensor.samples)
        if sensor.own_times:
            features[f"{key}_timestamp"] = feature("float64", sensor.samples)
    for camera in masked:
        features[f"{camera}_valid"] = feature("bool", 1)
    if weighted:
        features["confidence"] = feature("float32", 1)
    features["action"] = feature(
        "float32", layout.action_dim, names=layout.action_names, info=_units(layout.action_units)
    )
    features["timestamp"] = feature("float32", 1)
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = feature("int64", 1)
    taken = sorted(features.keys() & columns)
    if taken:
        raise ValueError(
            f"{layout.root} has a column {taken[0]}, which is the name of another feature; give the column another name"
        )
    return features | {key: feature("float32", width, info={"column": True}) for key, width in columns.items()}


def feature(
    dtype: str,
    *shape: int,
    names: Sequence[str] | Mapping[str, Sequence[str]] = (),
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An entry of info.json."""
    extra = {"info": dict(info)} if info else {}
    told = dict(names) if isinstance(names, Mapping) else list(names)
    return {"dtype": dtype, "shape": list(shape), "names": told or None, **extra}


def _units(units: Sequence[str]) -> dict[str, Any]:
    """What is said beside the names; nothing where no unit is known."""
    return {"units": list(units)} if any(units) else {}


def table_features(features: Mapping[str, Mapping[str, Any]]) -> datasets.Features:
    """The features of the table, as lerobot declares them."""
    declared = {}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            continue
        shape, value = tuple(feature["shape"]), datasets.Value(feature["dtype"])
        if shape == (1,):
            declared[key] = value
        elif len(shape) == 1:
            declared[key] = datasets.Sequence(value, length=shape[0])
        else:
            declared[key] = datasets.Array2D(shape=shape, dtype=feature["dtype"])
    return datasets.Features(declared)


def task_table(tasks: Mapping[str, int]) -> pa.Table:
    """Task indices under their texts, as pandas stores a table with an index."""
    index = "__index_level_0__"
    column = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    described = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **column},
            {"name": None, "field_name": index, **text},
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), index: pa.array(tasks.keys(), pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
