"""The open loop: predicted against recorded actions."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np

from vla.evaluation.varying import more, most_varying
from vla.report import words
from vla.report.folder import Run, corrupt
from vla.report.markup import Html, data_uri, element, paragraph, section, table
from vla.report.plots import DRAWING, Frame, Line, card, cards, color, decorate, draw, legend, panel, plot, svg

COLUMNS = {
    "mae": "error",
    "first_mae": "first action",
    "rmse": "RMSE",
    "constant_mae": "mean action's error",
    "correlation": "correlation",
}


def open_loop_section(run: Run) -> list[Html]:
    """Errors by dimension and by step of the horizon, and an episode."""
    report = run.evaluation.open_loop
    if report is None:
        return []
    dimensions = [entry for entry in report.get("dimensions", ()) if isinstance(entry, dict)]
    varying = [entry for entry in dimensions if entry.get("mae") or entry.get("constant_mae")]
    rows = [[named(entry), *(words.number(entry.get(key), 3) for key in COLUMNS)] for entry in varying]
    better = sum(entry.get("mae", np.inf) < entry.get("constant_mae", 0) for entry in varying)
    told = (
        f"What the policy would have done at {words.number(report.get('samples'))} recorded frames of "
        f"{words.plural(int(report.get('episodes', 0)), 'episode')}, against what was done; loss "
        f"{words.number(report.get('loss'))}. In {better} of {words.plural(len(varying), 'dimension')} that vary its "
        f"error is smaller than that of always answering the mean action.{words.latency(report)}"
    )
    return [
        section(
            "Open loop",
            "open-loop",
            paragraph(told),
            *([paragraph(str(report["verdict"]))] if report.get("verdict") else []),
            table(("action", *COLUMNS.values()), rows, label="Errors by action dimension"),
            paragraph("Mean absolute errors; where no unit is given, in that of the data."),
            *horizon_cards(varying, run.schedule.contract.fps),
            *overlays(run, dimensions),
            *denoising_cards(run, dimensions),
        )
    ]


def named(entry: Mapping[str, Any]) -> str:
    """A dimension and the unit of its errors."""
    return f"{entry.get('name')} [{entry['unit']}]" if entry.get("unit") else str(entry.get("name"))


def axis_of(quantity: str, entry: Mapping[str, Any]) -> str:
    """The words at an axis."""
    unit = str(entry.get("unit", ""))
    return f"{quantity} [{unit if unit and unit.isascii() else 'data units'}]"


def horizon_cards(dimensions: Sequence[Mapping[str, Any]], rate_hz: float) -> list[Html]:
    """The error of each dimension by how far ahead it looks."""
    figures, spreads = [], [float(entry.get("constant_mae") or entry.get("mae") or 0.0) for entry in dimensions]
    for entry in (dimensions[place] for place in most_varying(spreads)):
        errors = np.array(entry.get("mae_by_step", ()), float)
        ahead = np.arange(len(errors)) / rate_hz
        constant = float(entry.get("constant_mae", np.nan))
        caption = (
            f"{words.number(float(errors[0]), 3)} for the first action, {words.number(float(errors[-1]), 3)} for the "
            f"last; the mean action's error is {words.number(constant, 3)}."
        )
        lines = [
            Line(x=ahead, y=errors, color=0, style="points"),
            Line(x=ahead[[0, -1]], y=np.full(2, constant), color=-1, style="dashed"),
        ]
        frame = Frame(
            label=f"Error of {entry.get('name')} by time ahead. {caption}",
            x="time ahead [s]",
            y=axis_of("error", entry),
            from_zero=True,
        )
        key = legend([("policy", 0), ("mean action", -1)], ["solid", "dashed"])
        figures.append(card(str(entry.get("name")), plot(lines, frame), caption, key, "h4"))
    return headed("Error by time ahead", spreads, cards(*figures)) if figures else []


def headed(title: str, spreads: Sequence[float], *content: Html) -> list[Html]:
    """Plots below their title, and how many more dimensions vary."""
    remark = more(spreads)
    return [element("h3", title), *([paragraph(f"The {remark}.")] if remark else []), *content]


def overlays(run: Run, dimensions: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Recorded and predicted actions of an episode, drawn from its arrays; else the picture `vla evaluate` drew."""
    episode = run.evaluation.episode
    picture = run.evaluation.folder / "actions.png"
    if episode is not None and {"times_s", "recorded", "predicted", "valid"} <= set(episode):
        axes = range(episode["recorded"].shape[1])
        spreads = [
            float(max(np.ptp(episode["recorded"][:, axis]), np.ptp(episode["predicted"][..., axis]))) for axis in axes
        ]
        key = legend([("recorded", -1), ("predicted, first action", 0), ("predicted, whole chunks", 1)], ["solid"] * 3)
        entries = [dimensions[axis] if axis < len(dimensions) else {"name": f"action {axis}"} for axis in axes]
        figures = [
            card(
                named(entries[axis]),
                overlay(episode, axis, entries[axis]),
                f"Recorded from {words.number(factor * float(episode['recorded'][:, axis].min()), 3)} to "
                f"{words.number(factor * float(episode['recorded'][:, axis].max()), 3)}.",
                level="h4",
            )
            for axis in most_varying(spreads)
            for factor in (float(entries[axis].get("factor", 1.0)),)
        ]
        return headed("An episode: predicted and recorded actions", spreads, key, cards(*figures))
    if picture.exists():
        uri = data_uri(picture.read_bytes(), "image/png")
        image = element("img", src=Html(uri), alt="Predicted and recorded actions of an episode by time")
        title = element("h3", "An episode: predicted and recorded actions")
        return [title, element("div", image, class_="scroll paper", tabindex="0", role="region", aria_label="Actions")]
    return []


def overlay(episode: Mapping[str, np.ndarray], axis: int, entry: Mapping[str, Any]) -> Html:
    """One dimension: what was done, the first action of each chunk, and every chunk that does not overlap the last."""
    factor = float(entry.get("factor", 1.0))
    times = episode["times_s"]
    recorded, predicted = factor * episode["recorded"][:, axis], factor * episode["predicted"][..., axis]
    valid = episode["valid"].astype(bool)
    period_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    ahead = np.arange(predicted.shape[1]) * period_s
    with mpl.rc_context(DRAWING):
        figure, axes = panel()
        for row in range(0, len(times), predicted.shape[1]):
            inside = valid[row]
            axes.plot(times[row] + ahead[inside], predicted[row, inside], color=color(1), linewidth=1, alpha=0.8)
        draw(axes, Line(x=times, y=recorded, color=-1))
        draw(axes, Line(x=times, y=predicted[:, 0], color=0))
        decorate(axes, Frame(label="", x="time [s]", y=axis_of("action", entry)))
        return svg(figure, f"Action {axis} of an episode by time, recorded and predicted")


def denoising_cards(run: Run, dimensions: Sequence[Mapping[str, Any]]) -> list[Html]:
    """How the first action of some chunks comes out of noise: what each sampling step expects it to be."""
    denoising = run.evaluation.denoising
    if denoising is None:
        return []
    predicted = np.asarray(denoising.get("predicted", ()), float)
    recorded = np.asarray(denoising.get("recorded", ()), float)
    if predicted.ndim != 4 or recorded.ndim != 3 or predicted.shape[3] != len(dimensions):
        raise corrupt(run.evaluation.folder / "denoising.json", "its chunks are not those of report.json")
    steps = np.arange(predicted.shape[1], dtype=float)
    places = [str(place) for place in denoising.get("samples", ())]
    figures, spreads = [], [float(np.ptp(predicted[..., axis])) for axis in range(len(dimensions))]
    for axis in most_varying(spreads):
        entry = dimensions[axis]
        factor = float(entry.get("factor", 1.0))
        lines = [
            line
            for row in range(len(predicted))
            for line in (
                Line(x=steps, y=factor * predicted[row, :, 0, axis], color=row, style="points"),
                Line(x=steps[[0, -1]], y=np.full(2, factor * recorded[row, 0, axis]), color=row, style="dashed"),
            )
        ]
        frame = Frame(
            label=f"Expected first action {entry.get('name')} by sampling step",
            x="sampling step",
            y=axis_of("action", entry),
            whole_x=True,
        )
        figures.append(card(named(entry), plot(lines, frame), "Dashed: what was recorded.", level="h4"))
    key = legend([(place, row) for row, place in enumerate(places)], ["solid"] * len(places))
    return headed("From noise to actions", spreads, key, cards(*figures)) if figures else []
