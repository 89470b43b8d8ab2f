"""Sensor streams: which of a root are read, and how long and how fast the window of each is."""

import math
from collections.abc import Mapping, Sequence

from vla.contract import StreamContract, name_streams
from vla.data.agreement import agree_on_names, agree_on_units
from vla.data.episode import Layout
from vla.data.selection import Problems
from vla.names import by_word, hint
from vla.settings import DataConfig
from vla.units import units_of

AUTO, NONE = "auto", "none"
MOST_VALUES = 2**26
"""Of a window: 256 MiB in each sample."""
SAME_RATE = 0.01
"""Rates of a stream in two roots this close are the same: free clocks, measured."""


def check_asked(asked: Sequence[str]) -> None:
    """Refuse a choice of sensor streams that no data could satisfy (ValueError)."""
    if not asked:
        raise ValueError("--data.sensor has no value: give the key of a sensor stream, or several, or auto or none")
    for word in (AUTO, NONE):
        if word in asked and len(asked) > 1:
            raise ValueError(f"--data.sensor has {word} beside {len(asked) - 1} more: give {word} alone, or keys alone")
    if twice := [word for word in asked if asked.count(word) > 1]:
        raise ValueError(f"--data.sensor names {twice[0]} twice: give each sensor stream once")


def choose_streams(
    asked: Sequence[str], offered: Sequence[str], likely: Sequence[str], root: object, report: Problems
) -> tuple[str, ...]:
    """The keys of the sensor streams to read of a root, in the order in which they were asked for.

    Of those that are `offered`, `auto` takes the only one that is `likely` to be a sensor. What is not there, or cannot
    be told apart, is told and left out.
    """
    if tuple(asked) == (NONE,):
        return ()
    if tuple(asked) == (AUTO,):
        if len(likely) > 1:
            report(
                ValueError(
                    f"{root} has several features that may be sensors: {', '.join(likely)}; name one or more, such as "
                    f"`--data.sensor {' '.join(likely)}`, or give `--data.sensor none`"
                )
            )
        return tuple(likely) if len(likely) == 1 else ()
    known, found = by_word(offered), list[str]()
    for word in asked:
        if word not in known:
            report(
                ValueError(f"{root} has no sensor stream {word} among its float features: {hint(word, list(offered))}")
            )
        elif known[word] in found:
            report(ValueError(f"--data.sensor names {known[word]} of {root} twice: give each sensor stream once"))
        else:
            found.append(known[word])
    return tuple(found)


def parse_each(words: Sequence[str], flag: str, *, whole: bool = False) -> dict[str, float]:
    """What is said of each sensor stream: `100` for all, under an empty name, or `wrench=100 tactile=12`.

    Raises:
        ValueError: it is written otherwise, or is no number above 0, or no `whole` one.
    """
    found: dict[str, float] = {}
    for word in words:
        name, named, text = word.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf or (whole and value != int(value)) or (named and not name):
            expected = "a whole number of at least 1" if whole else "a finite number > 0"
            raise ValueError(f"--data.{flag} has {word}, expected {expected}, or NAME=NUMBER for each sensor stream")
        if name in found:
            raise ValueError(f"--data.{flag} has {' '.join(words)}, {name or 'every stream'} twice: say it once")
        found[name] = value
    if "" in found and len(found) > 1:
        raise ValueError(
            f"--data.{flag} has {' '.join(words)}: give one number for every sensor stream, or NAME=NUMBER for each"
        )
    return found


def each_of(words: Sequence[str], flag: str, keys: Sequence[str], *, whole: bool = False) -> dict[str, float]:
    """What is said of the sensor streams with these keys, of those of which something is said.

    Raises:
        ValueError: as `parse_each`; there is no such stream, or one is called in two ways.
    """
    given, known, found = parse_each(words, flag, whole=whole), by_word(keys), dict[str, float]()
    if "" in given:
        return dict.fromkeys(keys, given[""])
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"--data.{flag} names {name}, which is no sensor stream of this training: {hint(name, list(keys))}"
            )
        if known[name] in found:
            raise ValueError(f"--data.{flag} has {' '.join(words)}, {known[name]} twice: say it once")
        found[known[name]] = value
    return found


def agree_on_streams(layouts: Sequence[Layout], config: DataConfig) -> dict[str, StreamContract]:
    """The sensor streams of a sample, by name; a root may be without any.

    Raises:
        ValueError: two roots differ, or what is asked of a window is of no stream.
    """
    having = [layout for layout in layouts if layout.streams]
    if not having:
        if config.sensor_samples or config.sensor_rate_hz:
            raise ValueError(
                "a sensor window was asked for but the data has no sensor: name one with --data.sensor KEY, "
                "or leave out --data.sensor-samples and --data.sensor-rate-hz"
            )
        return {}
    first = having[0]
    samples = each_of(config.sensor_samples, "sensor-samples", list(first.streams), whole=True)
    rates = each_of(config.sensor_rate_hz, "sensor-rate-hz", list(first.streams))
    for layout in having[1:]:
        if widths_of(layout) != widths_of(first):
            raise ValueError(
                f"{first.root} has the sensor streams {told(first)} and {layout.root} {told(layout)}: choose common "
                "ones with --data.sensor, train without (--data.sensor none), or on one root"
            )
        for key in layout.streams:
            check_windows(key, (first, layout), rated=key in rates, cut=key in samples)
    roots = [layout.root for layout in having]
    measured = {key: [layout.streams[key] for layout in having] for key in first.streams}
    names = {
        key: agree_on_names(f"channels of {key}", roots, [stream.names for stream in streams])
        for key, streams in measured.items()
    }
    units = {
        key: agree_on_units(f"units of {key}", roots, [units_of(stream.names, stream.units) for stream in streams])
        for key, streams in measured.items()
    }
    agreed = {
        name: StreamContract(
            key=key,
            channels=first.streams[key].channels,
            samples=int(samples.get(key, first.streams[key].samples)),
            rate_hz=rates.get(key, first.streams[key].rate_hz),
            names=names[key],
            units=units[key],
        )
        for name, key in name_streams(list(first.streams)).items()
    }
    for stream in agreed.values():
        if stream.samples * stream.channels > MOST_VALUES:
            raise ValueError(
                f"a window of {stream.key} has {stream.samples:,} samples of {stream.channels:,} channels, more than "
                f"{MOST_VALUES:,} values: give fewer with --data.sensor-samples"
            )
    return agreed


def check_windows(key: str, layouts: tuple[Layout, Layout], *, rated: bool, cut: bool) -> None:
    """Refuse a stream whose windows differ between two roots, where nobody says how to read it (ValueError)."""
    one, other = (layout.streams[key] for layout in layouts)
    if abs(other.rate_hz / one.rate_hz - 1) > SAME_RATE and not rated:
        raise ValueError(
            f"{key} comes at {one.rate_hz:g} Hz in {layouts[0].root} and at {other.rate_hz:g} Hz in {layouts[1].root}: "
            "say how to read it with --data.sensor-rate-hz"
        )
    if other.samples != one.samples and not cut:
        raise ValueError(
            f"{layouts[0].root} stores windows of {one.samples} samples of {key} and {layouts[1].root} of "
            f"{other.samples}: say how many to read with --data.sensor-samples"
        )


def widths_of(layout: Layout) -> Mapping[str, int]:
    """The channels of each sensor stream of a root, by key."""
    return {key: stream.channels for key, stream in layout.streams.items()}


def told(layout: Layout) -> str:
    """The sensor streams of a root in words."""
    return " and ".join(f"{key} of {stream.channels} channels" for key, stream in layout.streams.items())
