"""What was found wrong with data, and how it reads."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

OUTLIER_Z = 8.0
"""Robust standard deviations from the median beyond which a value is called an outlier."""
WIDTH = 80
SLOW_FRAMES_PER_S = 100.0
"""Frames a core decodes in a second below which videos are called slow, if that is for want of key frames."""
FAR_APART = 8.0
"""Frames a key frame beyond which most of what a random access decodes is not asked for."""


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
    strays: int
    """Values that do not count for scales: so far off, and so few, that they may be glitches."""
    jumps: int
    """Steps from one end of its range to the other: an angle that wraps, and of which nothing says so."""
    flips: int = 0
    """Rows in which the quaternion that it is a part of changes its sign."""

    @property
    def sound(self) -> bool:
        """Whether there is nothing to say about it."""
        return not (self.constant or self.outlier_share or self.not_finite or self.jumps or self.flips or self.strays)


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
class Decoding:
    """How fast the frames of a camera decode one at a time in random order, as training asks for them."""

    camera: str
    frames_per_s: float
    """Of one core."""
    frames_a_key_frame: float | None
    """None of images, which need no others."""

    @property
    def slow(self) -> bool:
        """Whether it is slow, and more key frames would help."""
        return (self.frames_a_key_frame or 0.0) > FAR_APART and self.frames_per_s < SLOW_FRAMES_PER_S


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
    remarks: tuple[str, ...]
    """What was chosen by itself and what is not read."""
    left_out: tuple[int, ...]
    """Indices of the episodes that were not looked at, by request."""
    short_episodes: tuple[str, ...]
    """Episodes with fewer frames than the chunk has steps."""
    gaps: tuple[Gap, ...]
    oldest_frames_s: Mapping[str, float]
    """By camera with a clock of its own: how old the frame of a sample is at most."""
    modalities: Mapping[str, float]
    """Share of the samples that has a camera, the state, a valid sensor reading."""
    dimensions: tuple[Dimension, ...]
    decoding: tuple[Decoding, ...] = ()
    """Of each camera, where that was measured."""
    exit_code: int = 0
    """Of a training that meets the problems; 0 without any."""
    advice: tuple[str, ...] = ()
    """What settings suit the data."""

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
        for remark in self.remarks:
            lines += textwrap.wrap(remark, WIDTH, initial_indent="  ", subsequent_indent="    ")
        for sentence in self.advice:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ")
        if self.modalities:
            lines.append("  samples that have")
            lines += [f"    {name[:60]:<60}{share:>8.1%}" for name, share in self.modalities.items()]
        if self.oldest_frames_s:
            lines.append("  cameras with a clock of their own: age of the oldest frame that a sample sees")
            lines += [f"    {name[:60]:<60}{1000 * age_s:>7.1f} ms" for name, age_s in self.oldest_frames_s.items()]
        lines += self._decoding_lines() + self._gap_lines() + self._dimension_lines()
        found_any = self.problems or self.short_episodes or self.gaps or any(each.slow for each in self.decoding)
        if not found_any and all(dimension.sound for dimension in self.dimensions):
            lines.append("  nothing to report")
        return lines

    def _decoding_lines(self) -> list[str]:
        if not self.decoding:
            return []
        lines = [f"  decoding at random, by one core{'':<12}{'frames a key frame':>20}{'frames/s':>13}"]
        for each in self.decoding:
            apart = "-" if each.frames_a_key_frame is None else f"{each.frames_a_key_frame:.0f}"
            lines.append(f"    {each.camera[-39:]:<39}{apart:>20}{each.frames_per_s:>13.0f}")
        if any(each.slow for each in self.decoding):
            lines.append("    slow, for want of key frames; a copy in which every second frame is one:")
            lines.append(f"      vla import {self.format.split()[0]} {self.root} COPY")  # whole, to be copied
            lines.append("    or train with --cache.door frames, which decodes each frame once")
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
            elif dimension.jumps:
                finding = f"{dimension.jumps} jumps: angle?"
            elif dimension.flips:
                finding = f"{dimension.flips} sign flips"
            elif dimension.strays:
                finding = f"{dimension.strays} stray"
            else:
                finding = f"{dimension.outlier_share:.2%} far off"
            numbers = f"{dimension.minimum:>10.3g}{dimension.median:>10.3g}{dimension.maximum:>10.3g}"
            lines.append(f"    {label:<26}{numbers}  {finding}"[:WIDTH])
        lines += [f"    ... and {len(found) - 40} more, see --json"] if len(found) > 40 else []
        if any(dimension.strays for dimension in found):
            lines += ["    stray values count for no scale: they are taken for the end of the others"]
        return lines


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings about several roots. As text it is a table of at most 80 columns."""

    roots: tuple[RootReport, ...]
    refusal: str | None = None
    """Why a training on all of them is refused, in its own words; None where it is not."""
    exit_code: int = 0
    """Of that training."""

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON, all of them; numbers that do not exist are null."""
        roots = [_finite(asdict(root)) for root in self.roots]
        return {"roots": roots, "refusal": self.refusal, "exit_code": self.exit_code}

    def __str__(self) -> str:
        last = "training takes these data"
        if self.refusal is not None:
            last = f"training refuses these data with exit code {self.exit_code}: {self.refusal}"
        said = ["\n".join(root.lines()) for root in self.roots]
        return "\n\n".join([*said, "\n".join(textwrap.wrap(last, WIDTH, subsequent_indent="  "))])


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
