"""Plots as SVG within the page, drawn by matplotlib and coloured by the page's style sheet.

Colours are drawn as stand-ins that become variables of the style sheet, so that one plot serves light and dark. Names
that come from the data stand in the page around a plot, never in it: matplotlib knows no glyph for most of them.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from vla.report.markup import Html, element, join, text
from vla.report.words import short

INK, GRID = "#010300", "#010301"
"""Stand-ins for the colours of the text and of the grid."""
DECIMALS = re.compile(r"(\.\d\d)\d+")
"""Digits of a coordinate that nobody sees."""
NUM_COLORS = 8
"""Colours of the style sheet: --c0 to --c7."""
WIDTH_IN, HEIGHT_IN = 4.2, 2.4
"""A plot fills a phone's width at this size."""
STEPS = [1, 2, 2.5, 5, 10]
"""Distances of the numbers at an axis, but for powers of ten."""
DRAWING: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


def color(index: int) -> str:
    """The stand-in for a colour of the style sheet; -1 is the text's."""
    return INK if index < 0 else f"#0102{index % NUM_COLORS:02x}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve."""

    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    color: int
    style: Literal["solid", "faint", "dashed", "points"] = "solid"
    width: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What stands around the curves of a plot."""

    label: str
    """What it shows, for those who cannot see it."""
    x: str
    """The quantity of the horizontal axis and its unit."""
    y: str
    log: bool = False
    """A logarithmic vertical axis."""
    from_zero: bool = False
    """The vertical axis begins at 0."""
    marks: tuple[float, ...] = ()
    """Places of dashed vertical lines."""
    whole_x: bool = False
    """Only whole numbers on the horizontal axis."""
    whole_y: bool = False


def plot(lines: Sequence[Line], frame: Frame) -> Html:
    """Curves in one plot."""
    with mpl.rc_context(DRAWING):
        figure, axes = panel()
        for line in lines:
            draw(axes, line)
        for place in frame.marks:
            axes.axvline(place, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.6)
        decorate(axes, frame)
        return svg(figure, frame.label)


def panel(height_in: float = HEIGHT_IN) -> tuple[Figure, Axes]:
    """A figure and its axes, which begin and end at the same places in every plot."""
    figure = Figure(figsize=(WIDTH_IN, height_in))
    figure.subplots_adjust(left=0.17, right=0.975, bottom=0.46 / height_in, top=1 - 0.08 / height_in)
    return figure, figure.add_subplot()


def draw(axes: Axes, line: Line) -> None:
    """Add a curve."""
    ink = color(line.color)
    match line.style:
        case "solid":
            axes.plot(line.x, line.y, color=ink, linewidth=line.width)
        case "faint":
            axes.plot(line.x, line.y, color=ink, linewidth=0.8, alpha=0.4)
        case "dashed":
            axes.plot(line.x, line.y, color=ink, linewidth=1.3, linestyle=(0, (4, 2)))
        case "points":
            axes.plot(line.x, line.y, color=ink, linewidth=1.3, marker="o", markersize=4)


class Apart(FuncFormatter):
    """Numbers at an axis with as many digits as tell them apart."""

    def format_ticks(self, values: Iterable[float]) -> list[str]:
        """Of all ticks."""
        places = list(values)
        for digits in range(4, 12):
            said = [short(place, digits=digits) for place in places]
            if len(set(said)) == len(said):
                break
        return said


def decorate(axes: Axes, frame: Frame) -> None:
    """Name and scale the axes."""
    axes.set_xlabel(frame.x)
    axes.set_ylabel(frame.y)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=frame.whole_x, steps=STEPS))
    axes.xaxis.set_major_formatter(Apart(short))
    if frame.log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=frame.whole_y, steps=STEPS))
        if frame.from_zero:
            axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(Apart(short))


def wants_log(values: Float[np.ndarray, " N"], ratio: float = 30.0) -> bool:
    """Whether values are positive and far enough apart for a logarithmic axis."""
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and bool(finite.min() > 0 and finite.max() / finite.min() > ratio)


def svg(figure: Figure, label: str) -> Html:
    """A figure as an element of the page: as wide as its place, in the page's colours, names of its own."""
    written = io.StringIO()
    with mpl.rc_context(DRAWING):
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = written.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    head, body = drawing.split(">", 1)
    found = re.search(r'viewBox="[^"]*"', head)
    assert found is not None
    prefix = f"p{hashlib.sha256((label + body).encode()).hexdigest()[:10]}-"
    body = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{prefix}", body)
    body = body.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    body = re.sub(r"#01020([0-7])", r"var(--c\1)", body)
    body = re.sub(r"<(text|g|path)([^>]*) font-family=\"[^\"]*\"", r"<\1\2", body)
    body = re.sub(r'\b(?:d|x|y|points|transform)="[^"]*"', lambda found: DECIMALS.sub(r"\1", found[0]), body)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Html(f'<svg {names} {found[0]} role="img" aria-label="{text(label)}">{body}')


def legend(entries: Sequence[tuple[str, int]], styles: Sequence[str] = ()) -> Html:
    """What the colours mean."""
    marks = [
        element("i", class_=f"swatch {style} s{index % NUM_COLORS if index >= 0 else 'ink'}")
        for (_, index), style in zip(entries, styles or ["solid"] * len(entries), strict=True)
    ]
    return element(
        "ul",
        *(element("li", mark, name) for mark, (name, _) in zip(marks, entries, strict=True)),
        class_="legend",
    )


def card(title: str, drawing: Html, caption: str, key: Html | None = None, level: str = "h3") -> Html:
    """A plot under its title, with what its colours mean and what it shows in words."""
    parts = [element(level, title), drawing, *([key] if key is not None else [])]
    return element("figure", join(*parts), element("figcaption", caption))


def cards(*figures: Html) -> Html:
    """Plots side by side, as many as fit."""
    return element("div", *figures, class_="cards")
