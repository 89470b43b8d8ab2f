"""How LeRobot v3.0 describes what a data set holds: info.json, the types of the table, the list of tasks."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa
from datasets.features.features import generate_from_arrow_type

from vla.data.episode import Layout
from vla.data.writing.pieces import SensorFormat
from vla.data.writing.videos import pixel_format

ARRAYS = {2: datasets.Array2D, 3: datasets.Array3D, 4: datasets.Array4D, 5: datasets.Array5D}
"""LeRobot's types of features of several axes."""


def feature(
    dtype: str,
    *shape: int,
    names: Sequence[str] | Mapping[str, Sequence[str]] = (),
    info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One feature of info.json."""
    extra = {"info": dict(info)} if info else {}
    told = dict(names) if isinstance(names, Mapping) else list(names)
    return {"dtype": dtype, "shape": list(shape), "names": told or None, **extra}


def camera_feature(height: int, width: int, fps: int) -> dict[str, Any]:
    """A camera whose frames are a video."""
    return feature(
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


def describe_features(
    layout: Layout,
    fps: int,
    sensors: Sequence[SensorFormat],
    *,
    sizes: Mapping[str, tuple[int, int]],
    masked: Sequence[str],
    weighted: bool,
    columns: Mapping[str, int],
    carried: Mapping[str, Mapping[str, Any]],
    doubles: Collection[str],
) -> dict[str, dict[str, Any]]:
    """The features of info.json. ValueError where a column has the name of another feature.

    `sizes` are those of the frames of each camera, `masked` the cameras that some episodes lack, `weighted` says that
    episodes have a confidence, `columns` are the widths of the further ones, `carried` describes what is kept as it
    is, and `doubles` are the features that need float64.
    """

    def kind(key: str) -> str:
        return "float64" if key in doubles else "float32"

    features = {}
    for camera in layout.cameras:
        height, width = sizes[camera]
        features[camera] = camera_feature(height, width, fps)
    if layout.state_dim:
        features["observation.state"] = feature(
            kind("observation.state"), layout.state_dim, names=layout.state_names, info=_units(layout.state_units)
        )
    for sensor in sensors:
        stream, key = sensor.stream, sensor.stream.key
        told = {"sensor_hz": stream.rate_hz, "window_samples": stream.samples, **_units(stream.units)}
        channels = {"channels": list(stream.names)} if stream.names else ()
        features[key] = feature(kind(key), sensor.samples, stream.channels, names=channels, info=told)
        features[f"{key}_valid"] = feature("bool", sensor.samples)
        if sensor.own_times:
            features[f"{key}_timestamp"] = feature("float64", sensor.samples)
    for camera in masked:
        features[f"{camera}_valid"] = feature("bool", 1)
    if weighted:
        features["confidence"] = feature("float32", 1)
    features["action"] = feature(
        kind("action"), layout.action_dim, names=layout.action_names, info=_units(layout.action_units)
    )
    features["timestamp"] = feature("float32", 1)
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = feature("int64", 1)
    taken = sorted(features.keys() & {*columns, *carried} | columns.keys() & carried.keys())
    if taken:
        raise ValueError(
            f"{layout.root} has a column {taken[0]}, which is the name of another feature; give the column another name"
        )
    marked = {key: feature(kind(key), width, info={"column": True}) for key, width in columns.items()}
    return features | marked | {key: dict(description) for key, description in carried.items()}


def _units(units: Sequence[str]) -> dict[str, Any]:
    """What is said beside the names; nothing where no unit is known."""
    return {"units": list(units)} if any(units) else {}


def table_features(
    features: Mapping[str, Mapping[str, Any]], carried: Mapping[str, pa.ChunkedArray]
) -> datasets.Features:
    """The features of the table, as lerobot declares them; language is of the type that it is stored in."""
    declared = {}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "language":
            declared[key] = generate_from_arrow_type(carried[key].type)
            continue
        shape, value = tuple(feature["shape"]), datasets.Value(feature["dtype"])
        if shape in ((1,), ()):
            declared[key] = value
        elif len(shape) == 1:
            declared[key] = datasets.Sequence(value, length=shape[0])
        else:
            declared[key] = ARRAYS[len(shape)](shape=shape, dtype=feature["dtype"])
    return datasets.Features(declared)


def text_table(texts: Mapping[str, int], kind: str = "task") -> pa.Table:
    """Numbers under their texts, as pandas stores a table with an index."""
    index, number = "__index_level_0__", f"{kind}_index"
    column = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    described = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": number, "field_name": number, **column},
            {"name": None, "field_name": index, **text},
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({number: pa.array(texts.values(), pa.int64()), index: pa.array(texts.keys(), pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
