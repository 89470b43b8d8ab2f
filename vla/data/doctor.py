"""What is wrong with data, before anything is trained on them: `examine` looks at everything and refuses nothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vla.contract import SENSOR, StreamContract, name_streams
from vla.data.angles import named_period
from vla.data.cameras import oldest_frames, pictures, seen_pictures
from vla.data.clocks import newest
from vla.data.decoding import measure_decoding
from vla.data.diagnosis import OUTLIER_Z, Dimension, Gap, Report, RootReport
from vla.data.episode import Episode, Layout, Reader, Stream
from vla.data.formats import open_folder
from vla.data.quaternions import sign_flips
from vla.data.remarks import on_chunks, on_episodes, on_units
from vla.data.selection import EVERYTHING, Selection, check_left_out
from vla.data.tables import forget_numbers
from vla.errors import DONE, MissingFiles, told
from vla.frames import check_aspect
from vla.instruction import check_instruction
from vla.statistics import span, without_strays

GAP_PERIODS = 1.5
"""A step of a clock longer than this many of its median steps is a gap."""
LEAST_CHUNK_S, USUAL_CHUNK_S, MOST_CHUNK_S = 0.4, 1.0, 2.0
"""How long the chunks of policies are: 8 steps at 20 Hz, 16 at 10 Hz, 50 at 50 Hz, 100 at 50 Hz."""
ROWS = 50_000
"""Rows of a stream that the statistics look at, evenly spread; values that are no numbers are counted in all rows."""


def examine(
    sources: Sequence[Reader | Path], horizon: int = 8, selection: Selection = EVERYTHING, decode_s: float = 0.0
) -> Report:
    """Examine opened roots, or folders that need not be sound: what is missing is reported and the rest examined.

    `decode_s` seconds of each root are for measuring how fast its frames decode; 0: that is not measured. ValueError
    where no root has an episode that is to be left out.
    """
    roots = tuple(
        examine_folder(source, horizon, selection, decode_s)
        if isinstance(source, Path)
        else examine_reader(source, horizon, decode_s=decode_s)
        for source in sources
    )
    if all(root.episodes for root in roots):
        check_left_out({root.root: root.left_out for root in roots}, selection.without)
    return Report(roots=roots)


def examine_folder(
    root: Path, horizon: int = 8, selection: Selection = EVERYTHING, decode_s: float = 0.0
) -> RootReport:
    """Open what can be opened of a folder and report the rest; nothing that earlier starts found is believed."""
    forget_numbers([root])
    problems: list[ValueError] = []
    try:
        reader = open_folder(root, selection, problems.append)
    except ValueError as problem:
        return _unreadable(root, [*problems, problem])
    return examine_reader(reader, horizon, problems, decode_s)


def missing_files(problems: Sequence[ValueError]) -> tuple[str, ...]:
    """The files that the problems name as missing."""
    return tuple(file for problem in problems if isinstance(problem, MissingFiles) for file in problem.files)


def _unreadable(root: Path, problems: Sequence[ValueError]) -> RootReport:
    return RootReport(
        root=str(root),
        format="cannot be read",
        episodes=0,
        samples=0,
        duration_s=0.0,
        problems=tuple(dict.fromkeys(map(str, problems))),
        exit_code=exit_code(problems),
        missing_files=missing_files(problems),
        remarks=(),
        left_out=(),
        short_episodes=(),
        gaps=(),
        oldest_frames_s={},
        modalities={},
        dimensions=(),
    )


def examine_reader(
    reader: Reader, horizon: int = 8, problems: Sequence[ValueError] = (), decode_s: float = 0.0
) -> RootReport:
    """Examine the episodes of one root."""
    layout, episodes = reader.layout, reader.episodes
    samples = sum(len(episode.timestamps) for episode in episodes)
    found = [*problems, *(problem for episode in episodes for problem in episode_problems(episode, layout.fps))]
    return RootReport(
        root=layout.root,
        format=layout.format,
        episodes=len(episodes),
        samples=samples,
        duration_s=float(sum(episode.timestamps[-1] - episode.timestamps[0] + 1 / layout.fps for episode in episodes)),
        problems=tuple(dict.fromkeys(map(str, found))),
        exit_code=exit_code(found),
        missing_files=missing_files(problems),
        remarks=(
            *layout.remarks,
            on_units(layout),
            *on_episodes(episodes, motion=layout.body is not None),
            *on_chunks(episodes, layout.fps, horizon),
        ),
        advice=(horizon_advice(horizon, layout.fps, [len(episode.timestamps) for episode in episodes]),),
        left_out=layout.left_out,
        short_episodes=tuple(
            f"{episode.name}: {len(episode.timestamps)} frames, a chunk has {horizon} steps"
            for episode in episodes
            if len(episode.timestamps) < horizon
        ),
        gaps=tuple(gap for episode in episodes for gap in find_gaps(episode, layout)),
        oldest_frames_s=oldest_frames(episodes, layout.cameras, layout.fps),
        modalities=count_modalities(episodes, layout),
        # The numbers of a motion are computed: joints that never turn, and leaps, are as they should be.
        dimensions=() if layout.body is not None else tuple(examine_dimensions(episodes, layout)),
        decoding=measure_decoding(episodes, layout.cameras, decode_s) if decode_s else (),
    )


def exit_code(problems: Sequence[ValueError]) -> int:
    """Of a training that meets these problems: that of the first."""
    return told(problems[0])[0] if problems else DONE


def horizon_advice(horizon: int, fps: float, lengths: Sequence[int]) -> str:
    """How long a chunk is, and how many steps would be usual where that is far from it."""
    said = f"a chunk of {horizon} steps lasts {horizon / fps:.2g} s at {fps:g} frames a second"
    if LEAST_CHUNK_S <= horizon / fps <= MOST_CHUNK_S:
        return said
    usual = max(1, min(round(fps * USUAL_CHUNK_S), *lengths) if lengths else round(fps * USUAL_CHUNK_S))
    if usual == horizon:
        return said
    return f"{said}, where {LEAST_CHUNK_S:g} to {MOST_CHUNK_S:g} s are usual: try --data.horizon {usual}"


def episode_problems(episode: Episode, fps: float) -> list[ValueError]:
    """What the episode's texts and some of its frames say: a file that opens may still be damaged."""
    problems = list[ValueError]()
    for text in episode.instructions.different:
        try:
            check_instruction(text, episode.name)
        except ValueError as problem:
            problems.append(problem)
    for key, frames in episode.cameras.items():
        seen = seen_pictures(episode, key, fps)
        try:
            for frame in frames.read([int(seen[place]) for place in (0, len(seen) // 2, -1) if len(seen)]):
                check_aspect(*frame.shape[1:])
        except ValueError as problem:
            problems.append(type(problem)(f"{episode.name}, {key}: {problem}"))
    return problems


def find_gaps(episode: Episode, layout: Layout) -> list[Gap]:
    """Steps of the clocks of frames, cameras and sensors that are too long."""
    clocks = {"frames": (episode.timestamps, 1 / layout.fps)}
    for key, frames in episode.cameras.items():
        if len(frames.timestamps) != len(episode.timestamps) or (frames.timestamps != episode.timestamps).any():
            clocks[key] = (frames.timestamps, 0.0)
    if episode.state is not None and len(episode.state.timestamps) != len(episode.timestamps):
        clocks["state"] = (episode.state.timestamps, 0.0)
    for name, key in name_streams(list(layout.streams)).items():
        if key in episode.streams:
            clocks[name] = (episode.streams[key].timestamps, 1 / layout.streams[key].rate_hz)
    gaps = []
    for stream, (timestamps, period_s) in clocks.items():
        steps = np.diff(timestamps)
        if not len(steps):
            continue
        late = np.flatnonzero(steps > GAP_PERIODS * (period_s or float(np.median(steps))))
        if len(late):
            longest = int(late[np.argmax(steps[late])])
            gaps.append(
                Gap(
                    stream=stream,
                    episode=episode.name,
                    count=len(late),
                    longest_s=float(steps[longest]),
                    at_s=float(timestamps[longest]),
                )
            )
    return gaps


def count_modalities(episodes: Sequence[Episode], layout: Layout) -> dict[str, float]:
    """Share of the samples that has each camera, the state, and a reading of each sensor in the window before it."""
    samples = sum(len(episode.timestamps) for episode in episodes)
    shares = {
        camera: sum(int((pictures(episode, camera, layout.fps) >= 0).sum()) for episode in episodes)
        for camera in layout.cameras
    }
    shares["state"] = sum(len(episode.timestamps) for episode in episodes if episode.state is not None)
    shares |= {SENSOR: 0} if not layout.streams else {}
    for name, key in name_streams(list(layout.streams)).items():
        shares[name] = sum(_sensed(episode, layout.streams[key]) for episode in episodes)
    return {name: count / max(1, samples) for name, count in shares.items()}


def _sensed(episode: Episode, stream: StreamContract) -> int:
    """Samples with a reading of a sensor stream in their window."""
    if stream.key not in episode.streams:
        return 0
    stamps = episode.streams[stream.key].timestamps
    places = newest(stamps, episode.timestamps)
    age_s = np.where(places >= 0, episode.timestamps - stamps[places], np.inf)
    return int((age_s < stream.samples / stream.rate_hz).sum())


def examine_dimensions(episodes: Sequence[Episode], layout: Layout) -> list[Dimension]:
    """Range, outliers and missing numbers of every dimension of every stream."""
    named: dict[str, tuple[list[Stream], tuple[str, ...]]] = {
        "action": ([episode.actions for episode in episodes], layout.action_names),
        "state": ([episode.state for episode in episodes if episode.state is not None], layout.state_names),
    }
    for name, key in name_streams(list(layout.streams)).items():
        parts = [episode.streams[key] for episode in episodes if key in episode.streams]
        named[name] = (parts, layout.streams[key].names)
    found = []
    for stream, (parts, names) in named.items():
        if not parts:
            continue
        missing = sum((_not_finite(part) for part in parts), np.zeros(parts[0].values.shape[1], dtype=np.int64))
        values = _spread(parts)
        flips = sign_flips(parts, values)
        found += [
            _dimension(
                stream,
                index,
                names[index] if names else "",
                values[:, index],
                not_finite=int(missing[index]),
                jumps=_jumps(parts, index) if names and named_period(names[index], "") < 0 else 0,
                flips=flips.get(index, 0),
            )
            for index in range(values.shape[1])
        ]
    return found


def _not_finite(part: Stream) -> np.ndarray:
    counts = np.zeros(part.values.shape[1], dtype=np.int64)
    step = max(1, 2**22 // part.values.shape[1])
    for start in range(0, len(part.values), step):
        counts += (~np.isfinite(part.values[start : start + step])).sum(axis=0)
    return counts


def _spread(parts: Sequence[Stream]) -> Float64[np.ndarray, "N C"]:
    """Rows of all parts, evenly spread, at most about ROWS and fewer where rows are wide."""
    rows = sum(len(part.values) for part in parts)
    stride = max(1, -(-rows // max(1, min(ROWS, 2**24 // parts[0].values.shape[1]))))
    return np.concatenate([np.asarray(part.values[::stride], dtype=np.float64) for part in parts])


def _jumps(parts: Sequence[Stream], index: int) -> int:
    """Steps of more than half of a dimension's range: an orientation does not turn so far from one row to the next.

    A step farther than the range leads to a stray value, which is named as such.
    """
    columns = [np.asarray(part.values[:, index], dtype=np.float64) for part in parts]
    reach = span(columns)
    steps = [np.abs(np.diff(column)) for column in columns]
    return sum(int(((step > reach / 2) & (step <= reach)).sum()) for step in steps)


def _dimension(
    stream: str, index: int, name: str, values: Float64[np.ndarray, " N"], *, not_finite: int, jumps: int, flips: int
) -> Dimension:
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):
        finite = np.full(1, np.nan)
    median = float(np.median(finite))
    # Half of a gripper's values may be equal: then the median deviation is 0 and the quantiles are the scale.
    low, high = np.quantile(finite, [0.01, 0.99])
    scale = max(1.4826 * float(np.median(np.abs(finite - median))), float(high - low) / 4.65)
    spread = float(finite[-1] - finite[0])
    z = np.abs(finite - median) / (scale or spread or 1.0)
    return Dimension(
        stream=stream,
        index=index,
        name=name,
        minimum=float(finite[0]),
        median=median,
        maximum=float(finite[-1]),
        constant=len(finite) > 1 and spread == 0.0,
        outlier_share=float((z > OUTLIER_Z).mean()),
        worst_z=float(z.max()),
        not_finite=not_finite,
        strays=len(finite) - len(without_strays(finite)),
        jumps=jumps,
        flips=flips,
    )
