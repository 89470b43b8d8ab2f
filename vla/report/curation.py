"""What was kept of some data and why the rest was not, as one page."""

import io
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float

from vla.curation.curating import Opened
from vla.curation.items import Item
from vla.curation.selection import SPLITS, Curated
from vla.curation.thresholds import WORDS, Check, Reason
from vla.data.retargeting import moves_of
from vla.motion import drawing
from vla.report import words
from vla.report.markup import Html, data_uri, details, element, facts, join, paragraph, section, table
from vla.report.plots import Frame, Line, card, cards, legend, plot
from vla.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page runs no script and asks the network for nothing."""
SHOWN = 3
"""Clips of which poses are drawn, a reason."""
GROUPS = 12
"""Actions and sources that are listed; the others are one row."""
BINS = 25
NAMES = {"pretrain": "pre-training", "sft": "fine-tuning", "held_out": "held out"}


def page(name: str, opened: Opened, curated: Curated, stats: dict[str, Any]) -> Html:
    """The whole document; it follows from the data and the settings alone."""
    motion = opened.reader.layout.body is not None
    sections = [
        section("Why clips were dropped", "reasons", *reason_tables(curated, stats)),
        *([section("Scores", "scores", *score_plots(curated, stats["thresholds"]))] if motion else []),
        section("Actions and sources", "balance", *(balance_table(curated, kind) for kind in ("action", "source"))),
        *([section("Clips", "clips", *strips(opened, curated))] if motion else []),
        section("Settings", "settings", *settings(opened)),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{name}: curation"),
        element("link", rel="icon", href=Html("data:,")),
        element("style", Html(STYLE)),
    )
    total = stats["total_input"]
    dropped = sum(stats[f"dropped_{check}"] for check in WORDS if f"dropped_{check}" in stats)
    tiles = [tile(f"{total:,}", "clips" if motion else "episodes")]
    tiles += [
        tile(f"{stats[split]['num_samples']:,}", NAMES[split], quality(stats[split]["mean_quality"]))
        for split in SPLITS
        if stats[split]["num_samples"]
    ]
    tiles.append(tile(f"{dropped:,}", "dropped", words.percent(dropped / total)))
    body = element(
        "body",
        element(
            "header",
            element("h1", name),
            paragraph(f"What vla curate kept of {opened.reader.layout.root}, and why the rest was not.", "lead"),
            element("div", *tiles, class_="tiles"),
            *(paragraph(remark[:1].upper() + remark[1:] + ".") for remark in curated.remarks),
        ),
        element("main", *sections),
    )
    return Html("<!doctype html>\n" + element("html", head, body, lang="en") + "\n")


def tile(value: str, name: str, more: str = "") -> Html:
    """A number to see at once."""
    parts = [element("b", value), element("span", name), *([element("small", more)] if more else [])]
    return element("div", *parts, class_="tile")


def quality(mean: float | None) -> str:
    """The mean quality of a split, where it has one."""
    return "" if mean is None else f"mean quality {mean:.2f}"


def reason_tables(curated: Curated, stats: dict[str, Any]) -> list[Html]:
    """Reasons as bars, the most frequent first, with an example each."""
    found = [paragraph("Each clip counts under the first reason that it was looked at for; clips.jsonl has them all.")]
    dropped = {check: stats[f"dropped_{check}"] for check in WORDS if stats.get(f"dropped_{check}")}
    found.append(bars(dropped, examples(curated, "dropped"), stats["total_input"]))
    if stats["not_for_sft"]:
        found.append(element("h3", "Kept for pre-training, not for fine-tuning"))
        found.append(bars(stats["not_for_sft"], examples(curated, "not_for_sft"), stats["pretrain"]["num_samples"]))
    return found


def examples(curated: Curated, kind: str) -> dict[str, str]:
    """Of each reason the first clip, and what was found of it."""
    found: dict[str, str] = {}
    for one, decision in zip(curated.candidates, curated.decisions, strict=True):
        if listed := vars(decision)[kind]:
            first: Reason = listed[0]
            found.setdefault(first.check, f"{one.name}: {first.detail}")
    if curated.problems:
        found["corrupt"] = curated.problems[0]
    return found


def bars(counts: dict[Check, int], example: dict[str, str], total: int) -> Html:
    """How many clips each reason has."""
    if not counts:
        return paragraph("None.")
    most = max(counts.values())
    rows = [
        element(
            "li",
            element("span", f"{words.plural(count, 'clip')}: {WORDS[check]}"),
            element("i", class_="bar", style=f"width: {60 * count / most:.1f}%"),
            words.percent(count / max(1, total)),
            element("small", f" {example.get(check, '')}"),
        )
        for check, count in sorted(counts.items(), key=lambda entry: -entry[1])
    ]
    return element("ul", *rows, class_="bars")


def score_plots(curated: Curated, thresholds: dict[str, Any]) -> list[Html]:
    """How the scores are spread, with the thresholds as dashed lines."""
    drawn = []
    for score, title, marks in (
        ("quality", "Combined quality", ("min_quality_pretrain", "min_quality_sft")),
        ("realism", "Realism", ("min_realism_pretrain", "min_realism_sft")),
        ("artifact", "Faults", ("max_artifact",)),
        ("camera_stability", "Stability of the camera", ("min_camera_stability_sft",)),
    ):
        values = {
            "all": [vars(one.scores)[score] for one in curated.candidates],
            **{
                NAMES[split]: [vars(curated.candidates[place].scores)[score] for place in curated.members(split)]
                for split in SPLITS[:2]
            },
        }
        known = {name: np.array([value for value in some if value is not None]) for name, some in values.items()}
        if not len(known["all"]):
            continue
        limits = tuple(float(thresholds[mark]) for mark in marks)
        lines = [histogram(some, color) for color, some in enumerate(known.values())]
        said = f"Dashed: {' and '.join(f'{limit:g}' for limit in limits)}, the thresholds."
        frame = Frame(label=f"{title} of all clips and of those kept", x=title, y="clips", from_zero=True, marks=limits)
        key = legend([(name, color) for color, name in enumerate(known)])
        drawn.append(card(title, plot(lines, frame), said, key))
    return [cards(*drawn)]


def histogram(values: Float[np.ndarray, " N"], color: int) -> Line:
    """How many values lie in each of the equal parts of 0 to 1, as a line of steps."""
    counts, edges = np.histogram(values.clip(0, 1), bins=BINS, range=(0, 1))
    return Line(x=np.repeat(edges, 2)[1:-1], y=np.repeat(counts, 2).astype(np.float64), color=color)


def balance_table(curated: Curated, kind: str) -> Html:
    """How many clips each action or source has: of those good enough, and in each split."""
    capped = ("balance", "source")
    good = [
        place
        for place, decision in enumerate(curated.decisions)
        if not decision.dropped or decision.dropped[0].check in capped
    ]
    columns = {"good enough": good} | {NAMES[split]: curated.members(split) for split in SPLITS}
    columns = {name: places for name, places in columns.items() if places}
    counts = {
        name: Counter(vars(curated.candidates[place])[kind] for place in places) for name, places in columns.items()
    }
    order = [name for name, _ in counts["good enough"].most_common()]
    rows = [[group, *(cell(counts[name][group], len(columns[name])) for name in columns)] for group in order[:GROUPS]]
    if rest := order[GROUPS:]:
        others = [cell(sum(counts[name][group] for group in rest), len(columns[name])) for name in columns]
        rows.append([f"{len(rest):,} others", *others])
    return join(element("h3", f"By {kind}"), table((kind, *columns), rows, label=f"Clips of each {kind}"))


def cell(count: int, total: int) -> str:
    """A count and its share."""
    return f"{count:,} ({words.percent(count / total)})" if count else "-"


def strips(opened: Opened, curated: Curated) -> list[Html]:
    """Poses of a few clips that were kept, best first, and of a few of each reason."""
    ranked = sorted(curated.members("pretrain"), key=lambda place: -(curated.candidates[place].scores.quality or 0.0))
    shown: list[tuple[str, list[int]]] = [("Kept, the best", ranked[:SHOWN])]
    if len(ranked) > SHOWN:
        shown.append(("Kept, the worst", ranked[SHOWN:][-SHOWN:]))
    for check in WORDS:
        places = [
            place
            for place, decision in enumerate(curated.decisions)
            if decision.dropped and decision.dropped[0].check == check
        ]
        if places:
            shown.append((f"Dropped: {WORDS[check]}", places[:SHOWN]))
    found = [paragraph("Poses at equal distances in time. Left is blue, right is orange.")]
    for title, places in shown:
        found.append(element("h3", title))
        found += [strip(opened, opened.items[place], curated, place) for place in places]
    return found


def strip(opened: Opened, item: Item, curated: Curated, place: int) -> Html:
    """Poses of one clip, and what is said of it."""
    one, decision = curated.candidates[place], curated.decisions[place]
    said = "; ".join(reason.detail for reason in decision.dropped) or quality_of(one.scores.quality)
    figure = moves_of(opened.reader, item.episodes[0]).figure(" ")
    written = io.BytesIO()
    drawing.strip([figure], view=drawing.View(pixels=130)).save(written, "png")
    source = Html(data_uri(written.getvalue(), "image/png"))
    picture = element("div", element("img", src=source, alt=f"poses of {one.name}"), class_="scroll paper")
    return element("figure", picture, element("figcaption", f"{one.name}, {one.action}: {said}"))


def quality_of(value: float | None) -> str:
    """A quality in words."""
    return "" if value is None else f"quality {value:.2f}"


def settings(opened: Opened) -> list[Html]:
    """Every setting by its flag."""
    rows: list[tuple[str, str]] = []
    for name, value in opened.made_with["settings"].items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"--{name}{'.' if key else ''}{key}".replace("_", "-"), str(what)) for key, what in inner]
    return [details("All settings", facts(rows))]
