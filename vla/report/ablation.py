"""What the policy uses: how much worse it is without an input."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
import numpy as np

from vla.report import words
from vla.report.folder import Json
from vla.report.markup import Html, details, element, paragraph, section, table
from vla.report.plots import DRAWING, Frame, cards, color, decorate, legend, panel, svg

VERDICTS = {"used": "good", "not used": "bad", "not shown": "open", "needed": "good", "not needed": "bad"}
"""A verdict's class in the style sheet."""

TOGETHER = "Intervals resample episodes; those of an input hold together with 95 % (but zeroed, which decides nothing)."
"""What the intervals of changes say."""


def inputs(ablation: Json | None) -> list[Json]:
    """The inputs that were taken away."""
    return [entry for entry in (ablation or {}).get("inputs", ()) if isinstance(entry, dict)]


def verdict(entry: Json) -> Html:
    """The verdict on an input, in colour and in words."""
    word = str(entry.get("verdict", "not shown"))
    return element("span", word, class_=f"verdict {VERDICTS.get(word, 'open')}")


def ablation_section(ablation: Json | None) -> list[Html]:
    """A table of verdicts, a plot an input, the numbers."""
    if ablation is None:
        return []
    entries = inputs(ablation)
    baseline = ablation.get("baseline") or {}
    phases = [str(phase) for phase in ablation.get("phases", ())]
    rows = [[str(entry.get("input")), verdict(entry), str(entry.get("sentence", ""))] for entry in entries]
    told = (
        f"Each input was taken away at test time, on {words.number(ablation.get('samples'))} samples of "
        f"{words.plural(int(ablation.get('episodes', 0)), 'episode')}, and the actions compared again with those "
        f"recorded. With every input the error is {words.number(baseline.get('error'), 3)} {ablation.get('unit', '')}"
        + success_words(baseline.get("success"), ", and {} of the episodes succeed")
        + "."
    )
    return [
        section(
            "What the policy uses",
            "ablation",
            paragraph(told),
            *([paragraph(str(ablation["verdict"]))] if ablation.get("verdict") else []),
            table(("input", "verdict", "why"), rows, label="Verdict on each input", stacked=True),
            *forests(entries, phases, baseline),
            *control(ablation),
            details("Numbers", number_table(entries, phases, baseline)),
        )
    ]


def success_words(success: object, form: str) -> str:
    """A rate of success with its interval within a sentence; nothing without one."""
    if not isinstance(success, dict) or "rate" not in success:
        return ""
    between = words.interval(success)
    return form.format(words.percent(success["rate"]) + (f" ({between})" if between else ""))


def kinds_of(entry: Json) -> list[Json]:
    """The ways in which an input was taken away that have a number."""
    return [kind for kind in entry.get("kinds", ()) if isinstance(kind, dict) and "change" in kind]


class Part(NamedTuple):
    """A change of the error in percent of what it is with every input."""

    place: int
    """Of the phase; -1 for all frames."""
    change: float
    low: float
    high: float


def parts(kind: Json, phases: list[str], baseline: Json) -> Iterator[Part]:
    """The changes in all frames and by phase, where the error is more than none."""
    within, errors = kind.get("by_phase") or {}, baseline.get("by_phase") or {}
    scopes = [(kind, baseline.get("error")), *((within.get(phase), errors.get(phase)) for phase in phases)]
    for place, (entry, error) in enumerate(scopes, start=-1):
        if entry and error:
            change = entry["change"]
            ends = (change, entry.get("low", change), entry.get("high", change))
            yield Part(place, *(100 * value / error for value in ends))


def forests(entries: list[Json], phases: list[str], baseline: Json) -> list[Html]:
    """One plot an input, all with the same axis."""
    drawn = [(entry, [[*parts(kind, phases, baseline)] for kind in kinds_of(entry)]) for entry in entries]
    ends = [end for _, rows in drawn for row in rows for part in row for end in (part.low, part.high)]
    if not ends:
        return []
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.05 * (high - low or 1.0)
    figures = [forest(entry, rows, (low - room, high + room)) for entry, rows in drawn if any(rows)]
    key = legend(
        [("all frames", -1), *((phase, place) for place, phase in enumerate(phases))], ["solid"] * (1 + len(phases))
    )
    return [
        element("h3", "Change of the action error"),
        paragraph(f"In percent of the error with every input in the same frames; right of 0 it is larger. {TOGETHER}"),
        key,
        cards(*figures),
    ]


def forest(entry: Json, rows: list[list[Part]], ends: tuple[float, float]) -> Html:
    """Change of the error for each way to take an input away, over all frames and by phase."""
    kinds = kinds_of(entry)
    with mpl.rc_context(DRAWING):
        figure, axes = panel(0.8 + 0.42 * len(kinds) * (1 + 0.35 * (max(map(len, rows)) - 1)))
        axes.axvline(0, color=color(-1), linewidth=0.9)
        for row, drawn in enumerate(rows):
            offsets = np.linspace(-0.3, 0.3, len(drawn)) if len(drawn) > 1 else [0.0] * len(drawn)
            for offset, part in zip(offsets, drawn, strict=True):
                bars = [[max(part.change - part.low, 0)], [max(part.high - part.change, 0)]]
                ink = color(part.place)
                axes.errorbar(part.change, row + offset, xerr=bars, color=ink, marker="o", markersize=4, linewidth=1.4)
        decorate(axes, Frame(label="", x="change of the error [%]", y=""))
        axes.set_yticks(range(len(kinds)), [str(kind.get("kind")) for kind in kinds])
        axes.yaxis.set_major_formatter(mpl.ticker.FixedFormatter([str(kind.get("kind")) for kind in kinds]))
        axes.set_ylim(len(kinds) - 0.5, -0.5)
        axes.set_xlim(*ends)
        drawing = svg(figure, f"Change of the action error without {entry.get('input')}: {entry.get('sentence', '')}")
    closed = ", ".join(
        f"{kind.get('kind')} {words.percent(kind['success'].get('rate'))}"
        for kind in kinds
        if isinstance(kind.get("success"), dict)
    )
    title = element("h4", str(entry.get("input")), " ", verdict(entry))
    return element(
        "figure", title, drawing, *([element("figcaption", f"Success in the closed loop: {closed}.")] if closed else [])
    )


def control(ablation: Json) -> list[Html]:
    """Policies trained without an input."""
    trained = [entry for entry in (ablation.get("control") or {}).values() if isinstance(entry, dict)]
    if not trained:
        return []
    rows = [
        [
            str(entry.get("input")),
            verdict(entry),
            str(entry.get("sentence", "")),
            words.number(entry.get("error"), 3),
            success_words(entry.get("success"), "{}") or "-",
        ]
        for entry in trained
    ]
    return [
        element("h3", "Trained without it"),
        paragraph("The fair control: the same configuration, the input left out in training too. One training each."),
        table(
            ("input", "verdict", "why", "error", "success"),
            rows,
            label="Policies trained without an input",
            stacked=True,
        ),
    ]


def number_table(entries: list[Json], phases: list[str], baseline: Json) -> Html:
    """Every change with its interval."""
    rows = [
        [
            str(entry.get("input")),
            str(kind.get("kind")),
            "all" if part.place < 0 else phases[part.place],
            words.number(part.change, 3),
            f"{words.number(part.low, 3)} to {words.number(part.high, 3)}",
            (success_words(kind.get("success"), "{}") or "-") if part.place < 0 else "-",
        ]
        for entry in entries
        for kind in kinds_of(entry)
        for part in parts(kind, phases, baseline)
    ]
    return table(
        ("input", "taken away by", "phase", "change of the error [%]", "interval [%]", "success"),
        rows,
        label=f"Changes of the error in percent of what it is with every input. {TOGETHER}",
    )
