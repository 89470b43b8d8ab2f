"""What the policy uses: how much worse it is without an input."""

import matplotlib as mpl
import numpy as np

from vla.report import words
from vla.report.folder import Json
from vla.report.markup import Html, details, element, paragraph, section, table
from vla.report.plots import DRAWING, Frame, cards, color, decorate, legend, panel, svg

VERDICTS = {"used": "good", "not used": "bad", "not shown": "open", "needed": "good", "not needed": "bad"}
"""A verdict's class in the style sheet."""


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
    rows = [[str(entry.get("input")), verdict(entry), str(entry.get("sentence", ""))] for entry in entries]
    told = (
        f"Each input was taken away at test time, on {words.number(ablation.get('samples'))} samples of "
        f"{words.plural(int(ablation.get('episodes', 0)), 'episode')}, and the actions compared again with those "
        f"recorded. With every input the error is {words.number(baseline.get('error'), 3)}"
        + success_words(baseline.get("success"), ", and {} of the episodes succeed")
        + "."
    )
    return [
        section(
            "What the policy uses",
            "ablation",
            paragraph(told),
            table(("input", "verdict", "why"), rows, label="Verdict on each input", stacked=True),
            *forests(entries, [str(phase) for phase in ablation.get("phases", ())]),
            *control(ablation),
            details("Numbers", number_table(entries)),
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


def forests(entries: list[Json], phases: list[str]) -> list[Html]:
    """One plot an input, all with the same axis."""
    drawn = [entry for entry in entries if kinds_of(entry)]
    if not drawn:
        return []
    ends = [
        value
        for entry in drawn
        for kind in kinds_of(entry)
        for part in (kind, *(kind.get("by_phase") or {}).values())
        for value in (part.get("low", part["change"]), part.get("high", part["change"]))
    ]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.05 * (high - low or 1.0)
    figures = [forest(entry, phases, (low - room, high + room)) for entry in drawn]
    key = legend(
        [("all frames", -1), *((phase, place) for place, phase in enumerate(phases))], ["solid"] * (1 + len(phases))
    )
    return [
        element("h3", "Change of the action error"),
        paragraph("Right of 0 the policy is worse without the input. Bars are 95 % intervals over the episodes."),
        key,
        cards(*figures),
    ]


def forest(entry: Json, phases: list[str], ends: tuple[float, float]) -> Html:
    """Change of the error for each way to take an input away, over all frames and by phase."""
    kinds = kinds_of(entry)
    with mpl.rc_context(DRAWING):
        figure, axes = panel(0.8 + 0.42 * len(kinds) * (1 + 0.35 * len(phases)))
        axes.axvline(0, color=color(-1), linewidth=0.9)
        for row, kind in enumerate(kinds):
            parts = [
                (-1, kind),
                *(
                    (place, part)
                    for place, phase in enumerate(phases)
                    if (part := (kind.get("by_phase") or {}).get(phase))
                ),
            ]
            offsets = np.linspace(-0.3, 0.3, len(parts)) if len(parts) > 1 else [0.0]
            for offset, (index, part) in zip(offsets, parts, strict=True):
                change = part["change"]
                bars = [[max(change - part.get("low", change), 0)], [max(part.get("high", change) - change, 0)]]
                axes.errorbar(
                    change, row + offset, xerr=bars, color=color(index), marker="o", markersize=4, linewidth=1.4
                )
        decorate(axes, Frame(label="", x="change of the error [data units]", y=""))
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


def number_table(entries: list[Json]) -> Html:
    """Every change with its interval."""
    rows = [
        [
            str(entry.get("input")),
            str(kind.get("kind")),
            phase,
            words.number(part.get("change"), 3),
            f"{words.number(part.get('low'), 3)} to {words.number(part.get('high'), 3)}",
            success_words(part.get("success"), "{}") or "-",
        ]
        for entry in entries
        for kind in kinds_of(entry)
        for phase, part in (("all", kind), *(kind.get("by_phase") or {}).items())
    ]
    return table(
        ("input", "taken away by", "phase", "change of the error", "95 % interval", "success"),
        rows,
        label="Changes of the error",
    )
