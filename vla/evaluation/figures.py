"""Pictures of evaluations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vla.evaluation.alteration import KINDS, Kind
from vla.evaluation.denoising import Denoising
from vla.evaluation.findings import Ablation, Change
from vla.evaluation.motion.forces import AXES, LEVEL, Trial, interval
from vla.evaluation.open_loop import Predictions, Report, dimension_names, titled
from vla.evaluation.varying import more, most_varying


def draw_episode(predictions: Predictions, file: Path) -> None:
    """A picture of one episode: recorded and predicted actions by time, one panel a dimension that varies."""
    contract = predictions.contract
    order = np.argsort(predictions.frames)
    time = np.asarray(predictions.frames)[order] / contract.fps
    predicted, recorded, valid = predictions.predicted[order], predictions.recorded[order], predictions.valid[order]
    ahead = np.arange(contract.horizon) / contract.fps
    spreads = [
        float(max(np.ptp(recorded[..., axis]), np.ptp(predicted[..., axis]))) for axis in range(contract.action_dim)
    ]
    varying, names = most_varying(spreads), dimension_names(contract)
    figure, panels = grid(len(varying))
    for axis, panel in zip(varying, panels, strict=True):
        panel.plot(time, recorded[:, 0, axis], color="black", linewidth=1.6, label="recorded")
        for row in range(0, len(time), contract.horizon):
            inside = valid[row]
            panel.plot(
                time[row] + ahead[inside], predicted[row, inside, axis], color="tab:orange", linewidth=0.9, alpha=0.7
            )
        panel.plot(time, predicted[:, 0, axis], color="tab:blue", linewidth=1.2, label="predicted, first step")
        panel.plot([], [], color="tab:orange", linewidth=0.9, label=f"predicted, {contract.horizon} steps")
        panel.set_title(names[axis], fontsize=10)
    finish(figure, titled_with(f"{predictions.episodes[0]}: actions by time [s]", more(spreads)), file)


def draw_horizon(report: Report, file: Path) -> None:
    """A picture of the error of each dimension that varies, by step of the horizon, beside a constant answer's."""
    spreads = [max(entry.constant_mae, entry.mae) for entry in report.dimensions]
    varying = [report.dimensions[place] for place in most_varying(spreads)]
    figure, panels = grid(len(varying))
    for entry, panel in zip(varying, panels, strict=True):
        steps = range(1, len(entry.mae_by_step) + 1)
        panel.plot(steps, entry.mae_by_step, color="tab:blue", marker="o", markersize=3, label="policy")
        panel.axhline(entry.constant_mae, color="black", linestyle="--", linewidth=1, label="mean action")
        panel.set_title(titled(entry), fontsize=10)
        panel.set_ylim(bottom=0)
    finish(figure, titled_with("mean absolute error by step of the horizon", more(spreads)), file)


def titled_with(title: str, remark: str) -> str:
    """A title, and below it what there is to say of it."""
    return f"{title}\n{remark}" if remark else title


def grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of some panels, four in a row at most."""
    columns = max(1, min(count, 4))
    rows = -(-count // columns)
    figure = Figure(figsize=(3 + 3.2 * columns, 1 + 2.2 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def finish(figure: Figure, title: str, file: Path) -> None:
    """Add grid, title and legend, and write the picture."""
    figure.suptitle(title, fontsize=11)
    if figure.axes:
        for panel in figure.axes:
            panel.grid(alpha=0.3)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def draw_ablation(result: Ablation, file: Path) -> None:
    """A picture of the change of the error with each alteration, in all frames and in each phase."""
    scopes = [None, *result.phases]
    figure = Figure(figsize=(3 + 3 * len(scopes), 1.2 + 0.9 * len(result.inputs)), layout="constrained")
    panels = figure.subplots(1, len(scopes), sharey=True, squeeze=False)[0]
    colours: dict[Kind, str] = {
        "zeroed": "tab:gray",
        "shuffled": "tab:blue",
        "delayed": "tab:green",
        "frozen": "tab:orange",
    }
    for scope, panel in zip(scopes, panels, strict=True):
        error = result.baseline.error_in(scope) or 1.0
        panel.axvspan(-100 * result.margin, 100 * result.margin, color="black", alpha=0.08, linewidth=0)
        for place, kind in enumerate(KINDS):
            found = [
                (row + 0.18 * (place - 1.5), effect.change_in(scope))
                for row, finding in enumerate(result.inputs)
                for effect in finding.kinds
                if effect.kind == kind
            ]
            draw_changes(panel, found, error, colours[kind], label=kind, alpha=0.6 if kind == "zeroed" else 1.0)
        removed = [
            (row + 0.45, control.change_in(scope))
            for row, finding in enumerate(result.inputs)
            for control in result.control
            if control.input == finding.input
        ]
        if result.control:
            draw_changes(panel, removed, error, "tab:red", label="left out in training", fmt="D")
        panel.set_title(scope or "all frames", fontsize=10)
        panel.set_yticks(
            range(len(result.inputs)), [f"{finding.label}\n{finding.verdict}" for finding in result.inputs]
        )
    panels[0].invert_yaxis()
    finish(figure, "change of the action error [%]; the band counts as none", file)


def draw_changes(
    panel: Axes,
    found: Sequence[tuple[float, Change]],
    error: float,
    color: str,
    *,
    label: str,
    fmt: str = "o",
    alpha: float = 1.0,
) -> None:
    """Changes of an error as shares of it, each with its interval at its height."""
    reach = [[100 * (entry.change - entry.low) / error for _, entry in found]]
    reach.append([100 * (entry.high - entry.change) / error for _, entry in found])
    panel.errorbar(
        [100 * entry.change / error for _, entry in found],
        [height for height, _ in found],
        xerr=np.maximum(reach, 0),
        color=color,
        fmt=fmt,
        markersize=4,
        alpha=alpha,
        label=label,
    )


def draw_denoising(denoising: Denoising, file: Path) -> None:
    """A picture of how chunks come out of noise: one row a dimension that varies, one column a sample."""
    contract = denoising.contract
    recorded = denoising.recorded
    spreads = [float(np.ptp(denoising.noised[..., axis])) for axis in range(contract.action_dim)]
    varying = most_varying(spreads)
    names = dimension_names(contract)
    columns, rows = len(recorded), max(len(varying), 1)
    figure = Figure(figsize=(2 + 3.2 * columns, 1.4 + 1.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    ahead = np.arange(contract.horizon) / contract.fps
    steps = denoising.noised.shape[1]
    shades = colormaps["viridis"](np.linspace(0, 0.9, steps))
    for row, axis in enumerate(varying):
        for column in range(columns):
            panel = panels[row, column]
            for step in range(steps):
                label = {0: "noise", steps - 1: "answer"}.get(step)
                panel.plot(ahead, denoising.noised[column, step, :, axis], color=shades[step], linewidth=1, label=label)
            panel.plot(ahead, recorded[column, :, axis], color="black", linestyle="--", linewidth=1.4, label="recorded")
            if row == 0:
                panel.set_title(denoising.places[column].rsplit("/", 1)[-1], fontsize=9)
        panels[row, 0].set_ylabel(names[axis], fontsize=9)
    title = f"from noise to actions in {steps - 1} steps, by time ahead [s]"
    finish(figure, titled_with(title, more(spreads)), file)


def draw_forces(trial: Trial, scale: Float64[np.ndarray, " 3"] | None, file: Path) -> None:
    """A picture of the forces of a trial by time, a panel an axis: said with their interval, and measured."""
    time = np.arange(len(trial.mean)) / trial.rate_hz
    figure, panels = grid(len(AXES))
    for axis, panel in enumerate(panels):
        if scale is not None:
            low, high = interval(trial, scale)
            panel.fill_between(
                time,
                low[:, axis],
                high[:, axis],
                color="tab:blue",
                alpha=0.2,
                linewidth=0,
                label=f"{LEVEL:.0%} interval",
            )
        if trial.measured is not None:
            # Where it is not believed a mean stands in its place: a gap says more.
            shown = np.where(trial.known, trial.measured[:, axis], np.nan)
            panel.plot(time, shown, color="black", linewidth=1.6, label="measured, where it can be trusted")
        panel.plot(time, trial.mean[:, axis], color="tab:blue", linewidth=1.2, label="said")
        panel.set_title(f"{AXES[axis]} [N]", fontsize=10)
        panel.set_xlabel("time [s]", fontsize=9)
    finish(figure, f"{trial.name}: sum of the ground-reaction forces", file)
