"""Pictures of evaluations."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vla.evaluation.open_loop import Predictions, Report, dimension_names


def draw_episode(predictions: Predictions, file: Path) -> None:
    """A picture of one episode: recorded and predicted actions by time, one panel a dimension that varies."""
    contract = predictions.contract
    order = np.argsort(predictions.frames)
    time = np.asarray(predictions.frames)[order] / contract.fps
    predicted, recorded, valid = predictions.predicted[order], predictions.recorded[order], predictions.valid[order]
    ahead = np.arange(contract.horizon) / contract.fps
    varying = [
        axis for axis in range(contract.action_dim) if max(np.ptp(recorded[..., axis]), np.ptp(predicted[..., axis]))
    ]
    names = dimension_names(contract)
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
    finish(figure, f"{predictions.episodes[0]}: actions by time [s]", file)


def draw_horizon(report: Report, file: Path) -> None:
    """A picture of the error of each dimension that varies, by step of the horizon, beside a constant answer's."""
    varying = [entry for entry in report.dimensions if entry.constant_mae or entry.mae]
    figure, panels = grid(len(varying))
    for entry, panel in zip(varying, panels, strict=True):
        steps = range(1, len(entry.mae_by_step) + 1)
        panel.plot(steps, entry.mae_by_step, color="tab:blue", marker="o", markersize=3, label="policy")
        panel.axhline(entry.constant_mae, color="black", linestyle="--", linewidth=1, label="mean action")
        panel.set_title(entry.name, fontsize=10)
        panel.set_ylim(bottom=0)
    finish(figure, "mean absolute error by step of the horizon, in data units", file)


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
