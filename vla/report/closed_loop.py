"""The closed loop: how often the policy succeeds in an environment, how it fails, what it measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from vla import redaction
from vla.report import words
from vla.report.folder import Evaluation, Json
from vla.report.markup import Html, data_uri, details, element, paragraph, section, table
from vla.report.plots import DRAWING, Frame, card, cards, color, decorate, panel, svg

MOST_ROLLOUTS = 300
"""Rows of the table of episodes."""
MOST_VIDEOS, MOST_VIDEO_BYTES = 4, 6_000_000
"""What of the videos goes into the page."""


def closed_loop_section(evaluation: Evaluation) -> list[Html]:
    """Success, failures, measurements, videos, episodes."""
    result = evaluation.closed_loop
    if result is None:
        return []
    rollouts = [entry for entry in result.get("rollouts", ()) if isinstance(entry, dict)]
    return [
        section(
            "Closed loop",
            "closed-loop",
            paragraph(conditions(result, rollouts)),
            cards(*success_card(result), *failure_card(result), *histogram_cards(result, rollouts)),
            *measurement_table(result),
            *videos(evaluation),
            *rollout_table(rollouts),
            details("Settings of the environment", element("pre", pretty(result.get("settings", {})))),
        )
    ]


def conditions(result: Json, rollouts: Sequence[Json]) -> str:
    """What was run, in a sentence."""
    return (
        f"{words.plural(int(result.get('episodes', len(rollouts))), 'episode')} of {result.get('environment', '-')}, "
        f"seed {result.get('seed', '-')}, {words.plural(int(result.get('executed', 1)), 'action')} of each chunk "
        f"executed, at most {words.number(result.get('max_steps'))} steps.{words.latency(result)}"
    )


def pretty(value: Any) -> str:
    """JSON as a person reads it."""
    return json.dumps(redaction.hide_tree(value), indent=1, ensure_ascii=False)


def limits(result: Json) -> list[Json]:
    """The successes by step limit, fewest steps first."""
    entries = [
        entry for entry in result.get("success", ()) if isinstance(entry, dict) and {"steps", "rate"} <= set(entry)
    ]
    return sorted(entries, key=lambda entry: entry["steps"])


def success_card(result: Json) -> list[Html]:
    """The share of successes by step limit, with intervals."""
    entries = limits(result)
    if not entries:
        return []
    steps, rates = (100.0 * np.array([entry[key] for entry in entries], float) for key in ("steps", "rate"))
    steps /= 100
    low, high = (
        100.0 * np.array([entry.get(key, entry["rate"]) for entry in entries], float) for key in ("low", "high")
    )
    told = "; ".join(
        f"{words.percent(entry['rate'])} within {entry['steps']} steps"
        + (f" ({words.interval(entry)})" if "low" in entry else "")
        for entry in entries
    )
    with mpl.rc_context(DRAWING):
        figure, axes = panel()
        axes.errorbar(
            steps,
            rates,
            yerr=np.abs([rates - low, high - rates]),
            color=color(2),
            marker="o",
            markersize=5,
            linewidth=1.5,
            elinewidth=1.2,
            capsize=4,
        )
        decorate(axes, Frame(label="", x="step limit", y="success [%]"))
        axes.set_ylim(0, 105)
        axes.set_xticks(steps)
        drawing = svg(figure, f"Success by step limit: {told}")
    return [card("Success", drawing, f"{told}. Bars are 95 % intervals.")]


def failure_card(result: Json) -> list[Html]:
    """How the episodes ended that did not succeed."""
    failures = {str(kind): int(count) for kind, count in (result.get("failures") or {}).items() if count}
    if not failures:
        return []
    most, total = max(failures.values()), sum(failures.values())
    rows = [
        element(
            "li",
            element("span", kind),
            element("i", class_="bar", style=f"width:{40 * count / most:.1f}%"),
            element("b", f"{count:,}"),
        )
        for kind, count in sorted(failures.items(), key=lambda item: -item[1])
    ]
    caption = element("figcaption", f"{words.plural(total, 'episode')} without success, by kind.")
    return [element("figure", element("h3", "Failures"), element("ul", *rows, class_="bars"), caption)]


def histogram_cards(result: Json, rollouts: Sequence[Json], most: int = 4) -> list[Html]:
    """How long successes take, and what each episode measured."""
    taken = np.array([entry["steps"] for entry in rollouts if entry.get("success") and "steps" in entry], float)
    figures = [histogram("Steps to success", "steps", taken)] if len(taken) > 1 else []
    names = list(result.get("metrics") or {})
    for name in names[:most]:
        values = [(entry.get("metrics") or {}).get(name) for entry in rollouts]
        measured = np.array([value for value in values if isinstance(value, int | float)], float)
        if len(measured) > 1:
            title, unit = with_unit(name)
            figures.append(histogram(title, f"{title.lower()} [{unit}]" if unit else "value", measured))
    return figures


UNITS = {"n": "N", "nm": "Nm", "m": "m", "mm": "mm", "s": "s", "hz": "Hz", "rad": "rad"}
"""Ends of the names of measurements."""


def with_unit(name: str) -> tuple[str, str | None]:
    """`peak_force_n` as `Peak force` and `N`."""
    *start, last = name.split("_")
    if start and last in UNITS and name.isascii():
        return " ".join(start).capitalize(), UNITS[last]
    return name.replace("_", " ").capitalize(), None


def histogram(title: str, axis: str, values: np.ndarray) -> Html:
    """How often which value came."""
    middle, high = np.quantile(values, [0.5, 0.9])
    caption = (
        f"Median {words.number(float(middle), 3)}, 90 % at most {words.number(float(high), 3)}, largest "
        f"{words.number(float(values.max()), 3)}; {words.plural(len(values), 'episode')}."
    )
    with mpl.rc_context(DRAWING):
        figure, axes = panel()
        axes.hist(values, bins=min(30, max(5, len(values) // 4)), color=color(0), alpha=0.85)
        decorate(axes, Frame(label="", x=axis, y="episodes", from_zero=True, whole_y=True))
        drawing = svg(figure, f"{title}: {caption}")
    return card(title, drawing, caption)


def measurement_table(result: Json) -> list[Html]:
    """Median, 90th percentile and maximum of what was measured."""
    metrics = {name: entry for name, entry in (result.get("metrics") or {}).items() if isinstance(entry, dict)}
    if not metrics:
        return []
    rows = []
    for name, entry in metrics.items():
        title, unit = with_unit(name)
        rows.append(
            [
                f"{title} [{unit}]" if unit else title,
                *(words.number(entry.get(key)) for key in ("median", "p90", "max")),
            ]
        )
    return [table(("measured", "median", "90th percentile", "largest"), rows, label="Measurements over the episodes")]


def videos(evaluation: Evaluation) -> list[Html]:
    """Some episodes to look at, as far as they are small."""
    chosen: list[Path] = []
    left = MOST_VIDEO_BYTES
    for path in evaluation.videos:
        size = path.stat().st_size
        if len(chosen) < MOST_VIDEOS and size <= left:
            chosen.append(path)
            left -= size
    if not chosen:
        return []
    figures = [
        element(
            "figure",
            element(
                "video",
                src=Html(data_uri(path.read_bytes(), "video/mp4")),
                controls="",
                loop="",
                muted="",
                playsinline="",
            ),
            element("figcaption", path.stem),
        )
        for path in chosen
    ]
    others = len(evaluation.videos) - len(chosen)
    more = [paragraph(f"{words.plural(others, 'more video')} in {evaluation.folder / 'videos'}.")] if others else []
    return [element("h3", "Videos"), element("div", *figures, class_="cards"), *more]


def rollout_table(rollouts: Sequence[Json]) -> list[Html]:
    """Every episode, failures first."""
    if not rollouts:
        return []
    names = list(dict.fromkeys(name for entry in rollouts for name in entry.get("metrics") or {}))
    ordered = sorted(rollouts, key=lambda entry: bool(entry.get("success")))
    rows = [
        [
            str(entry.get("episode", "-")),
            "success" if entry.get("success") else str(entry.get("failure") or "failure"),
            words.number(entry.get("steps")),
            *(words.number((entry.get("metrics") or {}).get(name), 3) for name in names),
            str(entry.get("seed", "-")),
            str(entry.get("instruction", "-")),
        ]
        for entry in ordered[:MOST_ROLLOUTS]
    ]
    head = ("episode", "ended", "steps", *names, "seed", "instruction")
    more = f" The first {MOST_ROLLOUTS} are listed." if len(rollouts) > MOST_ROLLOUTS else ""
    return [details(f"All episodes, failures first.{more}", table(head, rows, label="Episodes"))]
