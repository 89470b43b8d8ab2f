"""What the training did: losses, rates, gradient norms, speed, memory, checkpoints, samples left out."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vla.parts import GROUPS
from vla.report import words
from vla.report.curves import smooth, thin
from vla.report.folder import Json, Metrics, Run
from vla.report.markup import Html, details, element, paragraph, section, table
from vla.report.plots import Frame, Line, card, cards, legend, plot, wants_log
from vla.run_folder import GroupSize

STEP = "optimizer step"
MEASURED = ("samples_per_s", "memory_mb")
ORDER = tuple(GROUPS)
"""Groups have the same colour in every plot."""


def training_section(run: Run) -> Html:
    """Curves over the steps."""
    metrics = run.metrics
    if not len(metrics):
        return section("Training", "training", paragraph("The run has not recorded a step yet."))
    cut = "".join(f" A dashed line marks where {name} begins (step {step:,})." for name, step in metrics.starts[1:])
    return section(
        "Training",
        "training",
        paragraph(
            f"{words.plural(len(metrics), 'step')} of {words.number(metrics.last('samples_seen'), 9)} samples in all. "
            f"Values are means over all ranks; spikes are kept in every curve.{cut}"
        ),
        cards(
            loss_card(run),
            *part_cards(run),
            *action_error_cards(run),
            *group_card(metrics, "lr", "Learning rates", "learning rate", "The rate of each group that trains."),
            *group_card(
                metrics,
                "grad_norm",
                "Gradient norms",
                "gradient norm",
                "The norm of the gradient before clipping, by group and of all of them.",
            ),
            *speed_cards(metrics),
        ),
        *planned_table(run),
    )


def marks(metrics: Metrics) -> tuple[float, ...]:
    """Where stages after the first begin."""
    return tuple(step - 0.5 for _, step in metrics.starts[1:])


def curve(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], color: int) -> list[Line]:
    """Every step faintly and a moving average on it; a short curve as it is."""
    if len(x) < 30:
        return [Line(x=x, y=y, color=color)]
    faint, average = thin(x, y), smooth(x, y)
    return [
        Line(x=faint[0], y=faint[1], color=color, style="faint"),
        Line(x=average[0], y=average[1], color=color),
    ]


def loss_card(run: Run) -> Html:
    """The loss in training and on held-out episodes."""
    metrics = run.metrics
    steps, loss = metrics.columns["step"], metrics.columns.get("loss", np.full(len(metrics), np.nan))
    lines, key = curve(steps, loss, 0), [("training", 0)]
    caption = f"From {words.number(first_of(loss))} to {words.number(metrics.last('loss'))} in training."
    if held_out := validation_points(run):
        places, values = held_out
        lines.append(Line(x=places, y=values, color=1, style="points"))
        key.append(("held-out episodes", 1))
        best = int(np.argmin(values))
        caption += (
            f" On held-out episodes, with averaged weights: from {words.number(float(values[0]))} to "
            f"{words.number(float(values[-1]))}, lowest {words.number(float(values[best]))} at step "
            f"{places[best]:,.0f}."
        )
    if skipped := int(np.nansum(metrics.columns.get("skipped", np.zeros(1)))):
        caption += f" {words.plural(skipped, 'step')} skipped: loss or gradient was not finite, or a spike."
    frame = Frame(
        label=f"Loss by optimizer step. {caption}",
        x=STEP,
        y="loss",
        log=wants_log(np.concatenate([line.y for line in lines])),
        marks=marks(metrics),
    )
    return card("Loss", plot(lines, frame), caption, legend(key))


def first_of(values: Float[np.ndarray, " N"]) -> float | None:
    """The first finite number."""
    finite = values[np.isfinite(values)]
    return float(finite[0]) if len(finite) else None


def validation_points(run: Run) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and losses of the validations; None without any."""
    points = [(line["step"], line["loss"]) for line in run.validations if isinstance(line["loss"], int | float)]
    return (np.array([x for x, _ in points], float), np.array([y for _, y in points], float)) if points else None


def part_cards(run: Run) -> list[Html]:
    """Each part of the loss as it is weighed, where there are several: a small one would not show beside others."""
    parts = run.metrics.groups("losses")
    return [part_card(run, part) for part in sorted(parts)] if len(parts) > 1 else []


def part_card(run: Run, part: str) -> Html:
    """One part of the loss in training and on held-out episodes."""
    metrics, values = run.metrics, run.metrics.columns[f"losses.{part}"]
    lines, key = curve(metrics.columns["step"], values, 0), [("training", 0)]
    caption = f"From {words.number(first_of(values))} to {words.number(metrics.last(f'losses.{part}'))} in training."
    found = [(line["step"], (line.get("losses") or {}).get(part)) for line in run.validations]
    if points := [(step, value) for step, value in found if isinstance(value, int | float)]:
        places, held_out = np.array(points, float).T
        lines.append(Line(x=places, y=held_out, color=1, style="points"))
        key.append(("held-out episodes", 1))
        ends = words.number(float(held_out[0])), words.number(float(held_out[-1]))
        caption += f" On held-out episodes: from {ends[0]} to {ends[1]}."
    frame = Frame(
        label=f"The part {part} of the loss by optimizer step. {caption}",
        x=STEP,
        y=part,
        log=wants_log(np.concatenate([line.y for line in lines])),
        marks=marks(metrics),
    )
    return card(f"Part of the loss: {part}", plot(lines, frame), caption, legend(key))


def action_error_cards(run: Run) -> list[Html]:
    """The error of sampled actions on held-out episodes, by validation."""
    lines = [line for line in run.validations if is_matrix(line.get("action_mae"))]
    if len(lines) < 2:
        return []
    steps = np.array([line["step"] for line in lines], float)
    errors = [np.array(line["action_mae"], float) for line in lines]
    first, whole = np.array([error[0].mean() for error in errors]), np.array([error.mean() for error in errors])
    caption = (
        "Mean absolute error of sampled actions on held-out episodes, over all dimensions in the data's units: "
        f"{words.number(float(whole[0]))} before, {words.number(float(whole[-1]))} last."
    )
    drawn = plot(
        [Line(x=steps, y=first, color=2, style="points"), Line(x=steps, y=whole, color=3, style="points")],
        Frame(label=caption, x=STEP, y="error [data units]", from_zero=True, marks=marks(run.metrics)),
    )
    return [card("Action error", drawn, caption, legend([("first action", 2), ("whole chunk", 3)]))]


def is_matrix(value: object) -> bool:
    """Whether a value of a validation is one row a step of the horizon."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) and row for row in value)


def group_card(metrics: Metrics, name: str, title: str, axis: str, caption: str) -> list[Html]:
    """One curve a group."""
    groups = [group for group in metrics.groups(name) if group != "all"]
    if not groups:
        return []
    groups.sort(key=lambda group: ORDER.index(group) if group in ORDER else len(ORDER))
    colors = {group: ORDER.index(group) if group in ORDER else 5 + place for place, group in enumerate(groups)}
    if "all" in metrics.groups(name):
        colors["all"] = -1
    steps, columns = metrics.columns["step"], {group: metrics.columns[f"{name}.{group}"] for group in colors}
    draw = rates if name == "lr" else norms
    lines = [line for place, group in enumerate(columns) for line in draw(steps, columns[group], colors[group], place)]
    last = ", ".join(f"{group} {words.number(metrics.last(f'{name}.{group}'), 3)}" for group in colors)
    caption = f"{caption} Last: {last}."
    log = wants_log(np.concatenate([*columns.values()]), 5.0 if name == "lr" else 30.0)
    frame = Frame(label=caption, x=STEP, y=axis, log=log, marks=marks(metrics))
    return [card(title, plot(lines, frame), caption, legend([*colors.items()]))]


def rates(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], color: int, place: int) -> list[Line]:
    """A curve without noise. Rates are often equal: the first is the widest, so that each is seen."""
    thinned = thin(x, y)
    return [Line(x=thinned[0], y=thinned[1], color=color, width=max(1.2, 4 - 1.4 * place))]


def norms(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], color: int, _: int) -> list[Line]:
    """A curve with noise."""
    return curve(x, y, color)


def speed_cards(metrics: Metrics) -> list[Html]:
    """Throughput, waiting for data, memory, use of the GPU."""
    kinds = (
        ("samples_per_s", "Throughput", "samples/s", 1.0, "Samples a second over all ranks, median {}."),
        ("data_wait", "Waiting for data", "share of the step [%]", 100.0, "Part of a step spent waiting, median {} %."),
        ("memory_mb", "Memory", "memory a rank [MB]", 1.0, "Mean over the ranks, median {} MB."),
        ("mfu", "Use of the GPU", "model FLOPs use [%]", 100.0, "Share of the peak FLOP/s, median {} %."),
        ("tflops", "Model FLOP/s", "TFLOP/s a rank", 1.0, "FLOPs that the model needs, a second: median {} TFLOP/s."),
        ("padding", "Padding", "share of the tokens [%]", 100.0, "Part of the tokens read that is none, median {} %."),
    )
    figures = []
    for name, title, axis, factor, words_of in kinds:
        values = metrics.columns.get(name, np.zeros(0)) * factor
        if not np.isfinite(values).any() or (name == "padding" and not values[np.isfinite(values)].any()):
            continue
        caption = words_of.format(words.number(float(np.nanmedian(values)), 3))
        frame = Frame(label=f"{title}. {caption}", x=STEP, y=axis, from_zero=True, marks=marks(metrics))
        figures.append(card(title, plot(curve(metrics.columns["step"], values, 4), frame), caption))
    return figures


def planned_table(run: Run) -> list[Html]:
    """What was planned of each stage beside what it measured, where its GPUs are known."""
    metrics, rows = run.metrics, []
    for stage in run.schedule.stages:
        if (planned := stage.planned) is None:
            continue
        within = (metrics.columns["step"] > stage.start) & (metrics.columns["step"] <= stage.end)
        speed, memory = (metrics.columns.get(name, np.full(len(metrics), np.nan))[within] for name in MEASURED)
        spread = f"{words.number(planned.slowest, 3)} to {words.number(planned.fastest, 3)}"
        rows.append(
            [
                stage.name,
                planned.gpu,
                f"{words.number(planned.samples_per_s, 3)} ({spread})",
                words.number(float(np.nanmedian(speed)), 3) if np.isfinite(speed).any() else "-",
                words.number(planned.memory_mb, 3),
                words.number(float(np.nanmax(memory)), 3) if np.isfinite(memory).any() else "-",
            ]
        )
    head = ("stage", "GPU", "samples/s planned", "measured", "MB a rank planned", "measured")
    return [table(head, rows, label="Planned and measured speed and memory")] if rows else []


def checkpoint_section(run: Run) -> Html:
    """The checkpoints that are left, and what they hold."""
    if not run.checkpoints:
        return section("Checkpoints", "checkpoints", paragraph("There is no checkpoint."))
    rows = [
        [
            f"step {entry.step:,}",
            entry.stage,
            words.number(entry.samples_seen),
            words.size(sum(file.bytes for file in entry.files)),
            str(entry.ranks),
            str(entry.zero_stage),
        ]
        for entry in run.checkpoints
    ]
    last = run.checkpoints[-1]
    return section(
        "Checkpoints",
        "checkpoints",
        table(("checkpoint", "stage", "samples seen", "size", "ranks", "ZeRO"), rows, label="Checkpoints"),
        *group_table(last.groups),
    )


def group_table(groups: Mapping[str, GroupSize]) -> list[Html]:
    """What trains."""
    rows = [
        [name, *(words.number(size) for size in (group.tensors, group.parameters, group.lr, group.weight_decay))]
        for name, group in groups.items()
    ]
    total = sum(group.parameters for group in groups.values())
    head = ("group", "tensors", "parameters", "learning rate", "weight decay")
    return [
        element("h3", f"{total:,} trained parameters"),
        table(head, rows, label="Parameters by group, with their last learning rates"),
    ]


def quarantine_section(left_out: Sequence[Json], limit: int = 200) -> list[Html]:
    """Samples that could not be read."""
    if not left_out:
        return []
    rows = [[str(line.get(key, "-")) for key in ("episode", "frame", "step", "reason")] for line in left_out[:limit]]
    more = f"; the first {limit} are listed" if len(left_out) > limit else ""
    told = paragraph(f"Samples that could not be read and were left out: {len(left_out):,}{more}.")
    listed = details("Which ones", table(("episode", "frame", "step", "why"), rows, label="Samples left out"))
    return [section("Samples left out", "left-out", told, listed)]
