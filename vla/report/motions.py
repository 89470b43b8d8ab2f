"""Motions that a policy makes, beside real ones and copies: pictures first, the figures below."""

from collections.abc import Sequence
from pathlib import Path

from vla.report import words
from vla.report.folder import Json
from vla.report.markup import Html, data_uri, details, element, paragraph, section, table

FIRST = ("recall", "gait amplitude", "airborne share", "steps")
"""Figures of an action, which stand beside its picture."""


def motion_section(motions: Json | None, folder: Path) -> list[Html]:
    """A picture an action with its figures, and the table of all."""
    if motions is None:
        return []
    rows = [row for row in motions.get("rows", ()) if isinstance(row, dict)]
    texts = motions.get("texts") or {}
    count, rate = words.plural(int(motions.get("motions", 0)), "motion"), words.number(motions.get("rate_hz"))
    told = (
        f"{count} of each action at {rate} Hz, beside held-out clips, and beside training clips in their place, which "
        "is what a policy has that copies. Left is blue, right is orange; strips show poses at equal distances in time."
    )
    return [
        section(
            "Motions",
            "motions",
            paragraph(told),
            *(paragraph(str(remark)) for remark in motions.get("remarks", ())),
            *(card(action, str(text), rows, folder) for action, text in texts.items()),
            details("All figures", figures([row for row in rows if ", " not in str(row.get("name"))], "All figures")),
        )
    ]


def card(action: str, text: str, rows: Sequence[Json], folder: Path) -> Html:
    """What an action looks like, and what is measured of it."""
    own = [row for row in rows if str(row.get("name")) in {f"{name}, {action}" for name in FIRST}]
    name = "".join(letter if letter.isalnum() else "_" for letter in action)
    file = folder / f"{name}.png"
    picture = []
    if file.is_file():
        source = Html(data_uri(file.read_bytes(), "image/png"))
        picture = [element("div", element("img", src=source, alt=f"poses of {text}"), class_="scroll paper")]
    return element("div", element("h3", f"{action}: {text}"), *picture, figures(own, f"Figures of {action}"))


def figures(rows: Sequence[Json], label: str) -> Html:
    """Samples, real motions and copies side by side, with their intervals."""
    cells = [
        [
            f"{row.get('name')} [{row['unit']}]" if row.get("unit") else str(row.get("name")),
            *(cell(row.get(column)) for column in ("samples", "real", "replay")),
        ]
        for row in rows
    ]
    return table(("figure", "samples", "real", "replay"), cells, label=label, stacked=True)


def cell(figure: object) -> str:
    """A value, its interval, and of how many it is."""
    if not isinstance(figure, dict) or figure.get("value") is None:
        return "-"
    low, high = figure.get("low"), figure.get("high")
    between = "" if low is None or high is None else f" ({words.number(low, 3)} to {words.number(high, 3)})"
    return f"{words.number(figure['value'], 3)}{between}, n {figure.get('n')}"
