"""What is wrong with data, before anything is trained on them: `examine` looks at everything and refuses nothing."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vla.data.episode import Episode, Layout, Reader, Stream
from vla.data.formats import open_folder
from vla.data.numbers import forget_numbers
from vla.errors import MissingFiles
from vla.instruction import check_instruction

OUTLIER_Z = 8.0
"""Robust standard deviations from the median beyond which a value is called an outlier."""
GAP_PERIODS = 1.5
"""A step of a clock longer than this many of its median steps is a gap."""
ROWS = 50_000
"""Rows of a stream that the statistics look at, evenly spread; values that are no numbers are counted in all rows."""
WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of actions, state or sensor, over all episodes of a root."""

    stream: str
    index: int
    name: str
    minimum: float
    median: float
    maximum: float
    constant: bool
    outlier_share: float
    """Share of the values further than OUTLIER_Z robust standard deviations from the median."""
    worst_z: float
    not_finite: int

    @property
    def sound(self) -> bool:
        """Whether there is nothing to say about it."""
        return not (self.constant or self.outlier_share or self.not_finite)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Steps of one clock in one episode that are too long."""

    stream: str
    episode: str
    count: int
    longest_s: float
    at_s: float
    """Where the longest one starts, seconds since the start of the episode."""


@dataclass(frozen=True, kw_only=True)
class RootReport:
    """Findings about one root."""

    root: str
    format: str
    episodes: int
    samples: int
    duration_s: float
    problems: tuple[str, ...]
    """What is missing, damaged or contradicts itself: one sentence each."""
    missing_files: tuple[str, ...]
    short_episodes: tuple[str, ...]
    """Episodes with fewer frames than the chunk has steps."""
    gaps: tuple[Gap, ...]
    modalities: Mapping[str, float]
    """Share of the samples that has a camera, the state, a valid sensor reading."""
    dimensions: tuple[Dimension, ...]

    def lines(self) -> list[str]:
        """The findings as text of at most 80 columns."""
        title = f"{self.root}: {self.format}, {self.episodes} episodes, {self.samples} samples, {self.duration_s:.1f} s"
        lines = textwrap.wrap(title, WIDTH)
        lists = {
            "problems": self.problems,
            "missing files": self.missing_files,
            "shorter than a chunk": self.short_episodes,
        }
        for heading, found in lists.items():
            if found:
                lines.append(f"  {heading} ({len(found)}):")
                for item in found[:20]:
                    lines += textwrap.wrap(item, WIDTH, initial_indent="    ", subsequent_indent="      ")
                if len(found) > 20:
                    lines.append(f"    ... and {len(found) - 20} more, see --json")
        if self.modalities:
            lines.append("  samples that have")
            lines += [f"    {name[:60]:<60}{share:>8.1%}" for name, share in self.modalities.items()]
        lines += self._gap_lines() + self._dimension_lines()
        found_any = self.problems or self.short_episodes or self.gaps
        if not found_any and all(dimension.sound for dimension in self.dimensions):
            lines.append("  nothing to report")
        return lines

    def _gap_lines(self) -> list[str]:
        if not self.gaps:
            return []
        lines = [f"  gaps in time ({len(self.gaps)})", f"    {'episode':<38}{'stream':<20}{'count':>7}{'longest':>10}"]
        lines += [
            f"    {gap.episode[-37:]:<38}{gap.stream[-19:]:<20}{gap.count:>7}{gap.longest_s:>8.3f} s"
            for gap in self.gaps[:20]
        ]
        return lines + ([f"    ... and {len(self.gaps) - 20} more, see --json"] if len(self.gaps) > 20 else [])

    def _dimension_lines(self) -> list[str]:
        found = [dimension for dimension in self.dimensions if not dimension.sound]
        if not found:
            return []
        lines = [
            f"  dimensions to look at ({len(found)} of {len(self.dimensions)})",
            f"    {'dimension':<26}{'min':>10}{'median':>10}{'max':>10}  finding",
        ]
        for dimension in found[:40]:
            label = f"{dimension.stream}[{dimension.index}] {dimension.name}"[:25]
            if dimension.not_finite:
                finding = f"{dimension.not_finite} not a number"
            elif dimension.constant:
                finding = "constant"
            else:
                finding = f"{dimension.outlier_share:.2%} far off"
            numbers = f"{dimension.minimum:>10.3g}{dimension.median:>10.3g}{dimension.maximum:>10.3g}"
            lines.append(f"    {label:<26}{numbers}  {finding}"[:WIDTH])
        return lines + ([f"    ... and {len(found) - 40} more, see --json"] if len(found) > 40 else [])


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings about several roots. As text it is a table of at most 80 columns."""

    roots: tuple[RootReport, ...]

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON, all of them; numbers that do not exist are null."""
        return {"roots": [_finite(asdict(root)) for root in self.roots]}

    def __str__(self) -> str:
        return "\n\n".join("\n".join(root.lines()) for root in self.roots)


def examine(sources: Sequence[Reader | Path], horizon: int = 8) -> Report:
    """Examine opened roots, or folders that need not be sound: what is missing is reported and the rest examined."""
    return Report(
        roots=tuple(
            examine_folder(source, horizon) if isinstance(source, Path) else examine_reader(source, horizon)
            for source in sources
        )
    )


def examine_folder(root: Path, horizon: int = 8) -> RootReport:
    """Open what can be opened of a folder and report the rest; nothing that earlier starts found is believed."""
    forget_numbers([root])
    problems: list[ValueError] = []
    try:
        reader = open_folder(root, report=problems.append)
    except ValueError as problem:
        return _unreadable(root, [*problems, problem])
    return examine_reader(reader, horizon, problems)


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
        missing_files=missing_files(problems),
        short_episodes=(),
        gaps=(),
        modalities={},
        dimensions=(),
    )


def examine_reader(reader: Reader, horizon: int = 8, problems: Sequence[ValueError] = ()) -> RootReport:
    """Examine the episodes of one root."""
    layout, episodes = reader.layout, reader.episodes
    samples = sum(len(episode.timestamps) for episode in episodes)
    sentences = [str(problem) for problem in problems]
    for episode in episodes:
        sentences += episode_problems(episode)
    return RootReport(
        root=layout.root,
        format=layout.format,
        episodes=len(episodes),
        samples=samples,
        duration_s=float(sum(episode.timestamps[-1] - episode.timestamps[0] + 1 / layout.fps for episode in episodes)),
        problems=tuple(dict.fromkeys(sentences)),
        missing_files=missing_files(problems),
        short_episodes=tuple(
            f"{episode.name}: {len(episode.timestamps)} frames, a chunk has {horizon} steps"
            for episode in episodes
            if len(episode.timestamps) < horizon
        ),
        gaps=tuple(gap for episode in episodes for gap in find_gaps(episode, layout)),
        modalities=count_modalities(episodes, layout),
        dimensions=tuple(examine_dimensions(episodes, layout)),
    )


def episode_problems(episode: Episode) -> list[str]:
    """What the episode's text and some of its frames say: a file that opens may still be damaged."""
    problems = []
    try:
        check_instruction(episode.instruction, episode.name)
    except ValueError as problem:
        problems.append(str(problem))
    for key, frames in episode.cameras.items():
        try:
            frames.read([0, len(frames.timestamps) // 2, len(frames.timestamps) - 1])
        except ValueError as problem:
            problems.append(f"{episode.name}, {key}: {problem}")
    return problems


def find_gaps(episode: Episode, layout: Layout) -> list[Gap]:
    """Steps of the clocks of frames, cameras and sensor that are too long."""
    clocks = {"frames": (episode.timestamps, 1 / layout.fps)}
    for key, frames in episode.cameras.items():
        if len(frames.timestamps) != len(episode.timestamps) or (frames.timestamps != episode.timestamps).any():
            clocks[key] = (frames.timestamps, 0.0)
    if episode.state is not None and len(episode.state.timestamps) != len(episode.timestamps):
        clocks["state"] = (episode.state.timestamps, 0.0)
    if episode.sensor is not None:
        clocks["sensor"] = (episode.sensor.timestamps, 1 / layout.sensor_rate_hz)
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
    """Share of the samples that has each camera, the state, and a sensor reading in the window before it."""
    samples = sum(len(episode.timestamps) for episode in episodes)
    shares = {
        camera: sum(
            int((episode.timestamps >= episode.cameras[camera].timestamps[0] - 1e-3).sum())
            for episode in episodes
            if camera in episode.cameras
        )
        for camera in layout.cameras
    }
    shares["state"] = sum(len(episode.timestamps) for episode in episodes if episode.state is not None)
    shares["sensor"] = sum(_sensed(episode, layout) for episode in episodes)
    return {name: count / max(1, samples) for name, count in shares.items()}


def _sensed(episode: Episode, layout: Layout) -> int:
    """Samples with a sensor reading in their window."""
    if episode.sensor is None:
        return 0
    stamps = episode.sensor.timestamps
    newest = np.searchsorted(stamps, episode.timestamps, side="right") - 1
    age_s = np.where(newest >= 0, episode.timestamps - stamps[newest], np.inf)
    return int((age_s < layout.sensor_samples / layout.sensor_rate_hz).sum())


def examine_dimensions(episodes: Sequence[Episode], layout: Layout) -> list[Dimension]:
    """Range, outliers and missing numbers of every dimension of every stream."""
    named: dict[str, tuple[list[Stream], tuple[str, ...]]] = {
        "action": ([episode.actions for episode in episodes], layout.action_names),
        "state": ([episode.state for episode in episodes if episode.state is not None], layout.state_names),
        "sensor": ([episode.sensor for episode in episodes if episode.sensor is not None], ()),
    }
    found = []
    for stream, (parts, names) in named.items():
        if not parts:
            continue
        missing = sum((_not_finite(part) for part in parts), np.zeros(parts[0].values.shape[1], dtype=np.int64))
        values = _spread(parts)
        found += [
            _dimension(stream, index, names[index] if names else "", values[:, index], int(missing[index]))
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


def _dimension(stream: str, index: int, name: str, values: Float64[np.ndarray, " N"], not_finite: int) -> Dimension:
    finite = values[np.isfinite(values)]
    if not len(finite):
        finite = np.full(1, np.nan)
    median = float(np.median(finite))
    # Half of a gripper's values may be equal: then the median deviation is 0 and the quantiles are the scale.
    low, high = np.quantile(finite, [0.01, 0.99])
    scale = max(1.4826 * float(np.median(np.abs(finite - median))), float(high - low) / 4.65)
    spread = float(finite.max() - finite.min())
    z = np.abs(finite - median) / (scale or spread or 1.0)
    return Dimension(
        stream=stream,
        index=index,
        name=name,
        minimum=float(finite.min()),
        median=median,
        maximum=float(finite.max()),
        constant=len(finite) > 1 and spread == 0.0,
        outlier_share=float((z > OUTLIER_Z).mean()),
        worst_z=float(z.max()),
        not_finite=not_finite,
    )


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not np.isfinite(value):
            return None
        case _:
            return value
