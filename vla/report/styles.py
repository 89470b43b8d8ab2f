"""Style adapters, alone and blended, as a page: curves over the weight, figures, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vla.adapters.curves import MONOTONE
from vla.evaluation.adapted.blending import Blended, Other, Point
from vla.evaluation.adapted.quantities import QUANTITIES
from vla.report import words
from vla.report.certificate import cell, change, document, picture, tile, verdict_word
from vla.report.markup import Html, details, element, paragraph, section, table
from vla.report.plots import Frame, Line, card, cards, legend, plot


def page(found: Blended, policy: str, pictures: Mapping[float, Path]) -> Html:
    """The whole document, with a picture by weight."""
    name = " and ".join(found.adapters)
    last = found.points[-1]
    sections = [
        section("Over the weight", "blend", *blend_part(found)),
        section("What it looks like", "pictures", *picture_part(found, pictures)),
        section("Other actions", "others", *other_part(found)),
        *([section("Do the two fit?", "conflict", *conflict_part(found))] if found.cosine is not None else []),
    ]
    tiles = []
    for style in found.styles:
        most = max(found.points, key=lambda point: point.styles[style].value or 0.0)
        tiles.append(tile(words.percent(most.styles[style].value), f"called {style}", f"most, at {most.on()}"))
    tiles += [
        tile(words.percent(last.stepping.value), "stepping", f"at {last.on()}"),
        tile(f"{found.off:g}", "difference when off"),
    ]
    told = (
        f"{found.motions} motions of {found.prompt!r} at each weight, seed {found.seed}, of the same noise. "
        "Styles are what a judge calls them that was trained on real clips; intervals are of 95 %."
    )
    if len(found.adapters) > 1:
        told += f" The weight is that of {found.adapters[-1]}; {found.adapters[0]} has the rest of 1."
    header = [element("h1", name), paragraph(f"Style adapters of {policy}.", "lead"), paragraph(told)]
    return document(f"{name}: style", [*header, element("div", *tiles, class_="tiles")], sections)


def blend_part(found: Blended) -> list[Html]:
    """Curves of shares and quantities, and their table."""
    at = np.array([point.weight for point in found.points])
    shares = {f"called {style}": [point.styles[style].value for point in found.points] for style in found.styles}
    shares |= {"action kept": [point.kept.value for point in found.points]}
    shares |= {"stepping": [point.stepping.value for point in found.points]}
    lines = [Line(x=at, y=numbers(values), color=place, style="points") for place, values in enumerate(shares.values())]
    drawn = [
        card(
            "Shares of motions",
            plot(lines, Frame(label="shares over the weight", x="weight", y="share", from_zero=True)),
            "Called so by the judge; stepping: a gait amplitude above half of that of real clips of the style.",
            legend([(name, place) for place, name in enumerate(shares)]),
        )
    ]
    for name, (unit, _) in QUANTITIES.items():
        values = numbers([point.quantities[name].value for point in found.points])
        curve = plot(
            [Line(x=at, y=values, color=0, style="points")],
            Frame(label=f"{name} over the weight", x="weight", y=unit),
        )
        drawn.append(card(name.capitalize(), curve, f"Mean of {found.motions} motions."))
    rows = [
        [name, words.number(value, 3), verdict_word(abs(value) >= MONOTONE)]
        for name, value in found.correlations.items()
    ]
    told = f"Held: the rank correlation of the means with the weight is {MONOTONE:g} or more, either way."
    judged = "; ".join(
        f"{cell(figure)} of {style} (held out: {cell(found.unseen[style])})" for style, figure in found.judged.items()
    )
    return [
        cards(*drawn),
        paragraph(f"Of the training windows the judge itself names right: {judged}."),
        paragraph(told),
        table(("quantity", "rank correlation", "monotone"), rows, label="Monotone"),
        *curve_part(found),
        details("All figures", table(head(found), [row(point) for point in found.points], label="All figures")),
    ]


def curve_part(found: Blended) -> list[Html]:
    """Which weights make equal steps of what goes with them."""
    if not found.curves:
        return [paragraph("No quantity goes with the weight, so none can be asked for by its value.")]
    rows = [
        [f"{name} [{QUANTITIES[name][0]}]", *(f"{value:.3g} at {weight:.2f}" for value, weight in steps)]
        for name, steps in found.curves.items()
    ]
    head = ("quantity", *(f"step {place}" for place in range(len(found.points))))
    told = "Half of a style is not at half of the weight. Equal steps of a quantity, each at its weight:"
    return [paragraph(told), table(head, rows, label="Weights for equal steps")]


def numbers(values: Sequence[float | None]) -> Float64[np.ndarray, " N"]:
    """With NaN where there is none."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def head(found: Blended) -> list[str]:
    """Columns of the table of points."""
    quantities = [f"{name} [{unit}]" for name, (unit, _) in QUANTITIES.items()]
    return ["weight", "blend", *(f"called {style}" for style in found.styles), "kept", "stepping", *quantities]


def row(point: Point) -> list[str]:
    """A point of the table."""
    shares = [*point.styles.values(), point.kept, point.stepping]
    quantities = [
        f"{words.number(figure.value, 3)} ({words.number(figure.low, 3)} to {words.number(figure.high, 3)})"
        for figure in point.quantities.values()
    ]
    return [f"{point.weight:g}", point.on(), *map(cell, shares), *quantities]


def picture_part(found: Blended, pictures: Mapping[float, Path]) -> list[Html]:
    """The first motion at each weight."""
    drawn: list[Html] = []
    for point in found.points:
        drawn += [
            element("h3", f"Weight {point.weight:g}: {point.on()}"),
            *picture(pictures.get(point.weight), "poses"),
        ]
    return drawn


def other_part(found: Blended) -> list[Html]:
    """Recall of what the adapters were not trained for."""
    rows = [other_row(other) for other in found.others]
    return [
        paragraph(f"With {found.points[-1].on()}; motions of a row begin with the same noise."),
        table(("action", "texts", "base", "adapters", "change"), rows, label="Other actions"),
    ]


def other_row(other: Other) -> list[str]:
    """One action."""
    return [
        other.action,
        "; ".join(other.texts),
        cell(other.base.recall),
        cell(other.adapter.recall),
        change(other.change),
    ]


def conflict_part(found: Blended) -> list[Html]:
    """How the updates lie to one another."""
    told = (
        f"The updates of all weights together have a cosine of {found.cosine:.2f}. Near 1 they do the same, near -1 "
        "they undo one another; near 0 they do not meet, and their blend is their sum."
    )
    order = sorted(found.layers, key=lambda layer: -abs(layer.cosine))
    rows = [[layer.name, f"{layer.cosine:.3f}"] for layer in order]
    return [paragraph(told), details("Every layer", table(("layer", "cosine"), rows, label="Cosines"))]
