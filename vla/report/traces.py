"""What the sensor felt beside what the cameras saw."""

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from vla.contract import TIMES, StreamContract
from vla.report import words
from vla.report.curves import thin
from vla.report.folder import Json, Run
from vla.report.markup import Html, data_uri, element, paragraph, section
from vla.report.plots import DRAWING, INK, STEPS, WIDTH_IN, color, legend, svg
from vla.report.words import short

WIDE_IN = 8.4
"""Width of a plot on a desk."""
NUM_FRAMES = 6
"""Pictures a camera."""
MOST_PIXELS = 240
"""Longest side of a picture in the page."""
MOST_CURVES = 8
"""More channels than these are drawn as a map."""
LEFT, RIGHT = 0.15, 0.985
"""Where the time axis begins and ends, as shares of the plot; the pictures above it stand between the same places."""


def trace_section(run: Run) -> list[Html]:
    """Some episodes: pictures above the curves of each sensor stream, on one time axis."""
    streams = run.schedule.contract.streams
    needed = {"frame_times_s", *streams, *(f"{name}{TIMES}" for name in streams)}
    rollouts = [(told(rollout.entry), rollout.arrays) for rollout in run.evaluation.rollouts]
    recorded = [("A recorded episode", run.evaluation.episode)] if run.evaluation.episode is not None else []
    found = [entry for entry in rollouts if entry[1].keys() >= needed] or [
        entry for entry in recorded if entry[1].keys() >= needed
    ]
    if not streams or not found:
        return []
    episodes = [episode_block(title, arrays, streams) for title, arrays in found]
    note = paragraph("Pictures stand at their times above the sensor's samples; dotted lines mark the same times.")
    return [section("Sensor and cameras", "traces", note, *episodes)]


def told(entry: Json) -> str:
    """An episode's title."""
    ended = entry.get("failure") or "failure"
    result = {True: "success", False: str(ended)}.get(entry.get("success", None), "")
    parts = [f"Episode {entry.get('episode', '-')}", *([result] if result else [])]
    if isinstance(steps := entry.get("steps"), int):
        parts.append(f"{steps} steps")
    instruction = entry.get("instruction")
    return ", ".join(parts) + (f": “{instruction}”" if instruction else "")


def episode_block(title: str, arrays: Mapping[str, np.ndarray], streams: Mapping[str, StreamContract]) -> Html:
    """An episode's pictures and curves."""
    measured = {name: (arrays[f"{name}{TIMES}"].astype(float), arrays[name].astype(float)) for name in streams}
    felt = {name: entry for name, entry in measured.items() if entry[1].ndim == 2 and entry[1].size > 0}
    at = arrays["frame_times_s"].astype(float)
    end = max((float(times[-1]) for times, _ in felt.values()), default=0.0) or float(at[-1]) or 1.0
    places = nearest(at, end)
    strips = [
        strip(name, frames, at, places) for name, frames in arrays.items() if name.startswith("frames.") and len(frames)
    ]
    drawn = []
    for name, (times, values) in felt.items():
        heading = [element("p", streams[name].key, class_="camera")] if len(streams) > 1 else []
        drawn += [*heading, *sensor_figure(times, values, at[places], list(streams[name].names), end)]
    return element("article", element("h3", title), *strips, *drawn, class_="episode")


def sensor_figure(
    times: Float[np.ndarray, " M"],
    values: Float[np.ndarray, "M C"],
    marks: Float[np.ndarray, " K"],
    names: list[str],
    end: float,
) -> list[Html]:
    """The sensor's samples up to a time, drawn for a desk and for a phone."""
    count = values.shape[1]
    caption = (
        f"{words.plural(count, 'channel')} at {rate_hz(times):,.0f} Hz over {times[-1]:.3g} s, largest magnitude "
        f"{words.number(float(np.nanmax(np.abs(values))), 3)}, in the data's units."
    )
    if count <= MOST_CURVES:
        key = [legend([(names[index] if index < len(names) else f"channel {index}", index) for index in range(count)])]
        wide, narrow = (curves(times, values, marks, end, width_in=width) for width in (WIDE_IN, WIDTH_IN))
    else:
        key, caption = [], f"{caption} Red is positive, blue is negative, white is 0."
        wide, narrow = (channel_map(times, values, end, width_in=width) for width in (WIDE_IN, WIDTH_IN))
    drawings = (element("div", wide, class_="wide"), element("div", narrow, class_="narrow"))
    return [element("figure", *key, *drawings, element("figcaption", caption))]


def rate_hz(times: Float[np.ndarray, " M"]) -> float:
    """Samples a second."""
    return 1 / float(np.median(np.diff(times))) if len(times) > 1 else float("nan")


def nearest(times: np.ndarray, end: float) -> list[int]:
    """Frames nearest to the middles of equal parts of the episode."""
    count = min(NUM_FRAMES, len(times))
    middles = (np.arange(count) + 0.5) / count * end
    return [int(np.argmin(np.abs(times - middle))) for middle in middles]


def strip(name: str, frames: UInt8[np.ndarray, "K _ _ 3"], times: np.ndarray, places: list[int]) -> Html:
    """A camera's pictures in a row."""
    camera = name.removeprefix("frames.").rsplit(".", 1)[-1]
    pictures = [
        element(
            "figure",
            element(
                "img",
                src=Html(data_uri(jpeg(frames[place]), "image/jpeg")),
                alt=f"Camera {camera} at {times[place]:.2f} s",
            ),
            element("figcaption", f"{times[place]:.2f} s"),
        )
        for place in places
        if place < len(frames)
    ]
    row = element("div", *pictures, class_="strip")
    return element("div", element("p", camera, class_="camera"), row)


def jpeg(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A picture of sane size."""
    image = Image.fromarray(frame)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    written = io.BytesIO()
    image.save(written, format="JPEG", quality=82, optimize=True)
    return written.getvalue()


def curves(
    times: Float[np.ndarray, " M"],
    values: Float[np.ndarray, "M C"],
    marks: Float[np.ndarray, " K"],
    end: float,
    *,
    width_in: float,
) -> Html:
    """One row a channel, each with a scale of its own."""
    count = values.shape[1]
    with mpl.rc_context(DRAWING):
        figure, rows = stacked(count, 0.5, width_in)
        for index, axes in enumerate(rows):
            x, y = thin(times, values[:, index], 250)
            axes.plot(x, y, color=color(index), linewidth=0.9)
            for mark in marks:
                axes.axvline(mark, color=INK, linewidth=0.7, linestyle=(0, (1, 3)), alpha=0.7)
            axes.set_xlim(0, end)
            axes.yaxis.set_major_locator(MaxNLocator(2, steps=STEPS))
            axes.yaxis.set_major_formatter(FuncFormatter(short))
            axes.tick_params(labelbottom=index == count - 1, labelsize=9)
        rows[-1].set_xlabel("time [s]")
        figure.supylabel("value [data units]", x=0.005, fontsize=10)
        return svg(figure, f"{words.plural(count, 'sensor channel')} by time")


def stacked(count: int, height_in: float, width_in: float) -> tuple[Figure, list[Axes]]:
    """Rows of axes above one another, between LEFT and RIGHT."""
    whole = count * height_in + 0.55
    figure = Figure(figsize=(width_in, whole))
    figure.subplots_adjust(left=LEFT, right=RIGHT, top=1 - 0.06 / whole, bottom=0.45 / whole, hspace=0.25)
    return figure, [figure.add_subplot(count, 1, row + 1) for row in range(count)]


def channel_map(
    times: Float[np.ndarray, " M"], values: Float[np.ndarray, "M C"], end: float, *, width_in: float
) -> Html:
    """Many channels as a map of time and channel; each cell holds the value of largest magnitude of those in it."""
    cells = strongest(strongest(values, 400).T, 160)
    reach = float(np.nanmax(np.abs(cells))) or 1.0
    with mpl.rc_context(DRAWING):
        figure, (axes,) = stacked(1, 2.6, width_in)
        extent = (float(times[0]), float(times[-1]) or end, values.shape[1], 0)
        axes.imshow(
            cells, aspect="auto", cmap="RdBu_r", vmin=-reach, vmax=reach, extent=extent, interpolation="nearest"
        )
        axes.set_xlim(0, end)
        axes.grid(visible=False)
        axes.set_xlabel("time [s]")
        axes.set_ylabel("channel")
        return svg(figure, f"{values.shape[1]} sensor channels by time, as a map")


def strongest(values: Float[np.ndarray, "M C"], rows: int) -> Float[np.ndarray, "R C"]:
    """At most `rows` rows; each holds, by column, the value of largest magnitude of those it stands for."""
    if len(values) <= rows:
        return values
    pieces = np.array_split(np.nan_to_num(values), rows)
    return np.stack([piece[np.abs(piece).argmax(axis=0), np.arange(piece.shape[1])] for piece in pieces])
