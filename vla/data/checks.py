"""What is read of every episode before training starts: whether samples can be made of it, and the statistics."""

import re
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Float64

from vla.batch import Sample
from vla.contract import SENSOR, DataContract
from vla.data.episode import Episode, Layout, Stream
from vla.data.labels import label_of
from vla.errors import CorruptData
from vla.instruction import check_instruction
from vla.names import ranges
from vla.statistics import Statistics, fit_chunks

SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")
"""Qwen's control tokens: in an instruction, the tokenizer would take them for images or the end of a turn."""

CHUNK_VALUES = 2**22
"""Values of a stream read at once; 16 MiB."""


def check_selected(layout: Layout, episodes: Sequence[Episode], selected: Sequence[int]) -> None:
    """Refuse a root without episodes, or without those that were asked for (ValueError)."""
    existing = [episode.index for episode in episodes]
    unknown = sorted(set(selected) - set(existing))
    if unknown:
        raise ValueError(f"{layout.root} has no episode {ranges(unknown)}: --data.episodes may name {ranges(existing)}")
    if not episodes:
        raise ValueError(f"{layout.root} has no episodes: give another folder with --data.roots")


def check_episode(episode: Episode, contract: DataContract, missing_cameras: str) -> None:
    """Refuse an episode that no sample could be made of, by what is known without reading its numbers (ValueError).

    CorruptData where its clock is not that of its root.
    """
    name = episode.name
    for text in episode.instructions.different if contract.instructed else ():
        check_instruction(text, name, "the task list, or withhold all of them with --data.withhold instruction")
        if special := SPECIAL_TOKEN.search(text):
            raise ValueError(
                f"{name} has the control token {special[0]} in its instruction: take it out of the task list"
            )
    unsure = np.flatnonzero(~((episode.confidence > 0) & (episode.confidence < np.inf)))
    if len(unsure):
        raise ValueError(
            f"{name} has confidence {episode.confidence[unsure[0]]:g} in frame {unsure[0]}, expected numbers > 0: "
            f"leave it out with `--data.without {episode.index}`"
        )
    apart_s = float(np.median(np.diff(episode.timestamps))) if len(episode.timestamps) > 1 else 0.0
    if apart_s * contract.fps > 1.5:
        raise CorruptData(
            f"{name} has rows {apart_s:.4g} s apart, its root says {contract.fps:g} frames a second: correct the rate "
            "in its metadata, or the unit of its time stamps, which are seconds"
        )
    # Those of a motion are context where there are any, and the reader has said how many clips have none.
    cameras = contract.cameras if contract.body is None else ()
    missing = [camera for camera in cameras if camera not in episode.cameras]
    if missing and missing_cameras == "refuse":
        raise ValueError(
            f"{name} has no camera {', '.join(missing)}: train on a black frame with --data.missing-cameras mask, "
            f"choose others with --data.cameras, or leave the episode out with `--data.without {episode.index}`"
        )


def check_streams(episode: Episode, layout: Layout, contract: DataContract) -> None:
    """Refuse an episode whose streams have other widths than its root says, or wrong clocks (CorruptData)."""
    name = episode.name
    _check_clock(name, "frame", episode.timestamps)
    state_dim = 0 if episode.state is None else episode.state.values.shape[1]
    if state_dim != contract.state_dim:
        raise CorruptData(f"{name} has {state_dim} state values, its root says {contract.state_dim}: record it again")
    if episode.actions.values.shape[1] != contract.action_dim:
        raise CorruptData(
            f"{name} has {episode.actions.values.shape[1]} action values, its root says {contract.action_dim}: "
            "record it again"
        )
    for kind, stream in streams(episode, contract).items():
        assert len(stream.timestamps) == len(stream.values), f"{name}: {kind}"
        _check_clock(name, kind, stream.timestamps)
    for key, stream in episode.streams.items():
        if len(stream.timestamps) < 2:
            continue
        period_s, rate_hz = float(np.median(np.diff(stream.timestamps))), layout.streams[key].rate_hz
        if period_s * rate_hz > 1.5:
            raise CorruptData(
                f"{name} has samples of {key} at {1 / period_s:.1f} Hz, its root says {rate_hz:g} Hz: correct the rate "
                "in its metadata, or train without that sensor (--data.sensor none)"
            )


def check_lengths(episodes: Sequence[Episode], horizon: int) -> None:
    """Refuse episodes of which none is as long as a chunk (ValueError): nothing would be learned of its last steps."""
    longest = max(len(episode.timestamps) for episode in episodes)
    if longest < horizon:
        raise ValueError(
            f"none of {len(episodes)} episodes has as many frames as a chunk has steps, {horizon}, and the longest has "
            f"{longest}: give longer ones, or train with --data.horizon {longest} at most"
        )


def _check_clock(name: str, kind: str, timestamps: Float64[np.ndarray, " N"]) -> None:
    if not np.isfinite(timestamps).all() or (np.diff(timestamps) <= 0).any():
        row = int(np.argmin(np.isfinite(timestamps) & np.append(True, np.diff(timestamps) > 0)))
        raise CorruptData(f"{name} has {kind} timestamps that do not increase at row {row}: record it again")


def streams(episode: Episode, contract: DataContract) -> dict[str, Stream]:
    """The streams of numbers that an episode has, by the name of their statistics."""
    sensors = {name: episode.streams.get(stream.key) for name, stream in contract.streams.items()}
    quantities = {name: label_of(episode, name) for name in contract.quantities}
    named = {"actions": episode.actions, "state": episode.state, **sensors, **quantities}
    return {kind: stream for kind, stream in named.items() if stream is not None}


def finite_chunks(
    episodes: Sequence[Episode], kind: str, contract: DataContract, *, keep_damaged: bool = False
) -> Iterator[Float[np.ndarray, "_ D"]]:
    """All values of one stream of some episodes, a bounded part at a time.

    CorruptData names the first value that is not finite; with `keep_damaged` its row is passed over instead.
    """
    for episode in episodes:
        stream = streams(episode, contract).get(kind)
        if stream is None:
            continue
        step = max(1, CHUNK_VALUES // max(1, stream.values.shape[1]))
        for start in range(0, len(stream.values), step):
            values = np.asarray(stream.values[start : start + step])
            if not np.isfinite(values).all():
                if keep_damaged:
                    yield values[np.isfinite(values).all(axis=1)]
                    continue
                row, dimension = np.argwhere(~np.isfinite(values))[0].tolist()
                raise CorruptData(
                    f"{episode.name} has {values[row, dimension]} in {kind}, row {start + row}, dimension {dimension}: "
                    f"repair the data, or leave the episode out with `--data.without {episode.index}`"
                )
            yield values


def check_finite(sample: Sample, where: str) -> None:
    """Refuse a sample of episodes whose rows `finite_chunks` passed over (CorruptData)."""
    sensors = {name: reading.values for name, reading in sample.streams.items()}
    for kind, values in {"actions": sample.actions, "state": sample.state, **sensors, **sample.labels}.items():
        if not np.isfinite(values).all():
            raise CorruptData(f"{where} has {values[~np.isfinite(values)][0]} in {kind}: repair the data")


def fit_statistics(
    episodes: Sequence[Episode], contract: DataContract, *, keep_damaged: bool = False, compand: Sequence[str] = ()
) -> dict[str, Statistics]:
    """Statistics of `actions`, `state`, sensor streams and labels, by name, at their rates; of width 0 without a state.

    Those in `compand` are of the streams' signed square roots; `sensor` there stands for every sensor stream.

    ValueError when no episode has a sample of a sensor stream; CorruptData as in `finite_chunks`.
    """
    periods = {
        "actions": contract.action_periods or (0.0,) * contract.action_dim,
        "state": (0.0,) * contract.state_dim,
    }
    periods |= {name: (0.0,) * stream.channels for name, stream in contract.streams.items()}
    periods |= {name: (0.0,) * width for name, width in contract.quantities.items()}
    held = [streams(episode, contract) for episode in episodes]
    chunks = {kind: partial(finite_chunks, episodes, kind, contract, keep_damaged=keep_damaged) for kind in periods}
    rows = {kind: sum(len(stream[kind].values) for stream in held if kind in stream) for kind in periods}
    if keep_damaged:
        rows = {kind: sum(map(len, chunks[kind]())) for kind in periods}
    for name, stream in contract.streams.items():
        if not rows[name]:
            raise ValueError(
                f"no training episode has a sample of {stream.key}: add some that have, or give --data.sensor "
                f"{' '.join(other.key for other in contract.streams.values() if other is not stream) or 'none'}"
            )
    companded = {*compand, *(contract.streams if SENSOR in compand else ())}
    return {
        kind: fit_chunks(chunks[kind], rows[kind], period, compand=kind in companded)
        for kind, period in periods.items()
    }
