"""The sensors of a LeRobot dataset: samples at a rate of their own, out of the windows that the frames store."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float64

from vla.cache import stored_array
from vla.contract import StreamContract
from vla.data.episode import Stream
from vla.data.formats.lerobot.clock import UNIX_S
from vla.data.formats.lerobot.metadata import EpisodeRecord, Metadata
from vla.data.tables import double_rows, float_rows


def sensor_rate(metadata: Metadata, key: str) -> tuple[float, int]:
    """Rate of a sensor feature in Hz and samples a frame; from the metadata, else as many as fill a frame."""
    shape = metadata.shapes[key]
    samples = shape[0] if len(shape) == 2 else 1
    feature = metadata.features[key]
    info = feature.get("info") or {}
    for value in (info.get("sensor_hz"), info.get("rate_hz"), info.get("fps"), feature.get("sensor_hz")):
        if value:
            return float(value), samples
    # `fps` of a feature is written by the converter of v3.0 for every feature: that of the table says nothing.
    own = feature.get("fps")
    return float(own) if own and own != metadata.fps else samples * metadata.fps, samples


def describe_stream(metadata: Metadata, key: str) -> StreamContract:
    """What a sensor feature holds; a plain stream's window is one second."""
    rate_hz, samples = sensor_rate(metadata, key)
    shape = metadata.shapes[key]
    if len(shape) == 1:
        samples = max(1, round(rate_hz))
    stored = (metadata.features[key].get("info") or {}).get("window_samples")
    return StreamContract(
        key=key,
        channels=shape[-1],
        samples=int(stored or samples),
        rate_hz=rate_hz,
        names=metadata.channel_names(key),
        units=metadata.channel_units(key),
    )


def sensor_stream(
    metadata: Metadata,
    record: EpisodeRecord,
    rows: pa.Table,
    key: str,
    *,
    timestamps: Float64[np.ndarray, " N"],
    start_s: float,
    name: str,
    even: bool,
) -> Stream | None:
    """The samples of the windows that the frames store, each once, in order of time.

    The window of frame i ends at the frame's time; `<key>_timestamp` says otherwise where it is stored, on the clock of
    the rows, from which `start_s` was taken off. Samples that
    `<key>_valid` denies are left out; None where it denies all. What follows from columns is kept for the next start.
    """
    rate_hz, samples = sensor_rate(metadata, key)
    channels = metadata.shapes[key][-1]
    windows = float_rows(rows[key], (samples, channels), f"{name}: {key}", even=even)
    own_clock = f"{key}_timestamp" in rows.column_names
    slack_s = 0.5 / max(rate_hz, metadata.fps)  # a sensor slower than the frames is stored again with each of them

    @functools.cache
    def measured() -> tuple[Float64[np.ndarray, "N T"], Bool[np.ndarray, "N T"]]:
        if own_clock:
            times = double_rows(rows[f"{key}_timestamp"], (samples,), f"{name}: {key}_timestamp")
            times = np.where(times > UNIX_S, times - start_s, times)
        else:
            times = timestamps[:, None] - np.arange(samples - 1, -1, -1) / rate_hz
        valid = valid_samples(rows, key, samples, name) & np.isfinite(times)
        return times, first_seen(times, valid, 0.0 if own_clock else slack_s)

    def build_times() -> Float64[np.ndarray, " M"]:
        times, keep = measured()
        return np.asarray(times[keep])

    def kept(what: str, build: Callable[[], Float[np.ndarray, "M *C"]]) -> Float[np.ndarray, "M *C"]:
        purpose = f"lerobot {key} {what} of episode {record.index}: {samples} at {rate_hz} Hz, {slack_s} s apart"
        purpose += f", from {start_s!r} s" if start_s else ""
        return stored_array(metadata.root, [record.data_file], purpose, build)

    from_columns = own_clock or f"{key}_valid" in rows.column_names
    times = kept("times", build_times) if from_columns else build_times()
    if not len(times):
        return None
    if len(times) == windows.shape[0] * samples:
        return Stream(timestamps=times, values=windows.reshape(-1, channels))
    return Stream(timestamps=times, values=kept("values", lambda: windows[measured()[1]]))


def valid_samples(rows: pa.Table, key: str, samples: int, name: str) -> Bool[np.ndarray, "N T"]:
    """Which samples of the windows were measured: a flag a sample or a frame, true where there is none."""
    if f"{key}_valid" not in rows.column_names:
        return np.ones((rows.num_rows, samples), dtype=bool)
    column = rows[f"{key}_valid"]
    first = column[0].as_py() if len(column) else True
    width = len(first) if isinstance(first, list) else 1
    flags = float_rows(column, (width,), f"{name}: {key}_valid") > 0
    return np.ascontiguousarray(np.broadcast_to(flags, (rows.num_rows, samples)))


def first_seen(
    times: Float64[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"], slack_s: float
) -> Bool[np.ndarray, "N T"]:
    """The valid samples that are later than all before them, so that overlapping windows give each sample once."""
    flat = np.where(valid, times, -math.inf).reshape(-1)
    before = np.maximum.accumulate(np.concatenate([[-math.inf], flat[:-1]]))
    keep = valid.reshape(-1) & (flat > before + slack_s)
    return np.asarray(keep.reshape(times.shape))
