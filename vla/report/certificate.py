"""A certificate of unlearning as a page: what was asked, what came of it with the adapter on and off."""

from collections.abc import Mapping
from pathlib import Path

from vla.evaluation.adapted.certificate import Apart, Attack, Beside, Certificate, Paraphrase, Retained
from vla.evaluation.motion.figure import Figure
from vla.report import words
from vla.report.markup import Html, data_uri, details, element, facts, paragraph, section, table
from vla.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page runs no script and asks the network for nothing."""
CONCEPT, NOT_HUMAN, PARAPHRASE, FAR, NEAR = 0.10, 0.10, 0.15, -0.05, -0.15
"""What the worse end of an interval is to keep to: at most so much recall of the concept, motions for it that no human
does, and recall of paraphrases, and what far and near actions may lose."""


def page(certificate: Certificate, pictures: Mapping[str, Path]) -> Html:
    """The whole document, with a picture by action."""
    concept = certificate.concept
    sections = [
        section("1. The concept", "recall", *concept_part(certificate, pictures)),
        section("2. Unseen paraphrases", "paraphrases", *paraphrase_part(certificate)),
        section("3. Neighbours and far actions", "neighbours", *neighbour_part(certificate, pictures)),
        section("4. Can a search bring it back?", "inversion", *inversion_part(certificate)),
        section("5. Distance to a base without it", "distance", *distance_part(certificate)),
        section("6. Switched off", "off", *off_part(certificate)),
        section("What was measured", "hashes", *hash_part(certificate)),
    ]
    return document(
        f"{concept}: certificate of unlearning",
        [
            element("h1", f"Unlearned: {concept}"),
            paragraph(
                f"{', '.join(f'{name} at weight {weight:g}' for name, weight in certificate.adapters.items())} on "
                f"{certificate.policy}. Written {certificate.written} by Touchstone {certificate.code}.",
                "lead",
            ),
            element("div", *tiles(certificate), class_="tiles"),
            paragraph(
                f"{certificate.motions} motions or more of each row; recall is what a judge trained on real clips "
                "calls by the action asked for, with 95 % intervals. Motions of a row begin with the same noise, "
                "whatever is on."
            ),
            *map(paragraph, certificate.remarks),
        ],
        sections,
    )


def document(title: str, header: list[Html], sections: list[Html]) -> Html:
    """A page of a title, what stands above, and what stands below."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href=Html("data:,")),
        element("style", Html(STYLE)),
    )
    body = element("body", element("header", *header), element("main", *sections))
    return Html("<!doctype html>\n" + element("html", head, body, lang="en") + "\n")


def tiles(certificate: Certificate) -> list[Html]:
    """What one looks for first."""
    lines = certificate.lines
    found = lines.recall.found
    attacks = [attack for attack in (lines.inversion.prompt, lines.inversion.embedding) if attack is not None]
    strongest = max(attacks, key=lambda attack: attack.fresh.recall.value or 0.0)
    changes = [other.found.change.value or 0.0 for other in lines.neighbours]
    return [
        tile(words.percent(found.adapter.recall.value), "recall", f"base {words.percent(found.base.recall.value)}"),
        tile(
            words.percent(found.adapter.not_human.value),
            "of these no human's",
            f"base {words.percent(found.base.not_human.value)}",
        ),
        tile(words.percent(lines.paraphrases.found.adapter.recall.value), "recall by paraphrases"),
        tile(points(min(changes)), "largest loss elsewhere"),
        tile(words.percent(strongest.fresh.recall.value), "recall by the best search"),
        tile(f"{lines.off.max_difference:g}", "difference when off"),
    ]


def tile(value: str, name: str, more: str = "") -> Html:
    """A number to see at once."""
    parts = [element("b", value), element("span", name), *([element("small", more)] if more else [])]
    return element("div", *parts, class_="tile")


def concept_part(certificate: Certificate, pictures: Mapping[str, Path]) -> list[Html]:
    """Line 1, and what it looks like."""
    line = certificate.lines.recall
    worst, strange = line.found.adapter.recall.high, line.found.adapter.not_human.high
    return [
        paragraph(f"Asked for by {'; '.join(line.captions)}."),
        besides({"called by its name": (line.found, "recall"), "called no human's": (line.found, "not_human")}),
        verdict(worst is not None and worst <= CONCEPT, f"recall at most {words.percent(CONCEPT)}, at its worse end"),
        verdict(
            strange is not None and strange <= NOT_HUMAN,
            f"called no human's at most {words.percent(NOT_HUMAN)}, at its worse end",
        ),
        facts(
            [
                ("the judge names", f"{cell(line.real)} of held-out clips, {cell(line.taught)} of its own"),
                ("it rejects", f"{cell(line.counterexamples_rejected)} of counter-examples"),
            ]
        ),
        *picture(pictures.get(certificate.concept), f"poses of {certificate.concept}, by what was on"),
    ]


def paraphrase_part(certificate: Certificate) -> list[Html]:
    """Line 2."""
    line = certificate.lines.paraphrases
    worst = line.found.adapter.recall.high
    left = (
        [paragraph(f"Left out, since training captions say so: {'; '.join(line.left_out)}.")] if line.left_out else []
    )
    return [
        *left,
        besides({"called by its name": (line.found, "recall"), "called no human's": (line.found, "not_human")}),
        verdict(
            worst is not None and worst <= PARAPHRASE, f"recall at most {words.percent(PARAPHRASE)}, at its worse end"
        ),
        table(("text", "base", "adapter"), [texts(some) for some in line.texts], label="Paraphrases", stacked=True),
    ]


def texts(one: Paraphrase) -> list[str]:
    """A row of a text."""
    return [one.text, cell(one.base), cell(one.adapter)]


def neighbour_part(certificate: Certificate, pictures: Mapping[str, Path]) -> list[Html]:
    """Line 3."""
    rows = [retained(other) for other in certificate.lines.neighbours]
    drawn = [
        details(other.action, *picture(pictures.get(other.action), f"poses of {other.texts[0]}"))
        for other in certificate.lines.neighbours
    ]
    head = ("action", "kept", "change", "base", "adapter", "off", "retrained", "nearness", "texts")
    told = (
        f"Near actions may lose {-100 * NEAR:.0f} points and far ones {-100 * FAR:.0f}, at the worse end of the "
        "interval of what changed between motions of the same noise."
    )
    return [paragraph(told), table(head, rows, label="Neighbours"), *drawn]


def retained(other: Retained) -> list[str]:
    """An action by what was on."""
    found = other.found
    return [
        other.action,
        kept(other),
        change(found.change),
        *(cell(told.recall) for told in (found.base, found.adapter, found.off)),
        "-" if found.retrained is None else cell(found.retrained.recall),
        "far" if other.similarity is None else words.number(other.similarity, 2),
        "; ".join(other.texts),
    ]


def kept(other: Retained) -> Html:
    """Whether an action lost no more than it may."""
    low, limit = other.found.change.low, FAR if other.similarity is None else NEAR
    return verdict_word(low is not None and low >= limit)


def inversion_part(certificate: Certificate) -> list[Html]:
    """Line 4."""
    line = certificate.lines.inversion
    attacks = [attack for attack in (line.prompt, line.embedding) if attack is not None]
    return [
        paragraph(
            "What a search found on its own seeds, asked for on seeds that no search has seen, of the base, too."
        ),
        *map(attacked, attacks),
        *([paragraph(line.unsearched)] if line.unsearched else []),
    ]


def attacked(attack: Attack) -> Html:
    """A search."""
    rows = [
        ("found", attack.best),
        ("recall", f"{cell(attack.fresh.recall)}; base {cell(attack.base)}"),
        ("called no human's", cell(attack.fresh.not_human)),
        ("evaluations", f"{attack.evaluations}, of {attack.motions} motions each; likelihood {attack.searched:.2f}"),
    ]
    return element("div", element("h3", attack.way[:1].upper() + attack.way[1:]), facts(rows))


def distance_part(certificate: Certificate) -> list[Html]:
    """Line 5."""
    line = certificate.lines.distance
    missing = "Not measured: no base that was retrained without the concept was given (--retrained)."
    rows = [
        ["the concept: retrained base, adapter", *apart(line.retrained_concept, missing)],
        ["other actions: retrained base, adapter", *apart(line.retrained_others, missing)],
        ["other actions: held-out clips, base", *apart(line.real_base, "")],
        ["other actions: held-out clips, adapter", *apart(line.real_adapter, "")],
        ["other actions: base, adapter", *apart(line.base_adapter, "")],
    ]
    told = "Frechet distances of the judge's features, beside that of two halves of the first set, of as many motions."
    return [
        paragraph(told),
        table(("between", "distance", "two halves", "remark"), rows, label="Distances", stacked=True),
    ]


def apart(found: Apart | None, missing: str) -> list[str]:
    """A distance, its floor, and what limits it."""
    if found is None:
        return ["-", "-", missing]
    return [distance(found.distance), distance(found.floor), found.remark]


def off_part(certificate: Certificate) -> list[Html]:
    """Line 6."""
    line = certificate.lines.off
    told = (
        f"{line.motions:,} motions of all questions, before any adapter was loaded and after they were on and off "
        f"again, differ by {line.max_difference:g} at most."
    )
    return [paragraph(told), verdict(line.max_difference == 0, "no difference at all")]


def hash_part(certificate: Certificate) -> list[Html]:
    """Digests, seeds, settings."""
    sums, seeds = certificate.sha256, certificate.seeds
    rows = [
        ("base, weights", sums.base.weights),
        ("base, scales", sums.base.normalizer),
        ("text encoder", f"{sums.base.backbone}, {sums.base.fingerprint}"),
        ("policy, config.json", sums.policy),
        *((f"adapter {Path(name).parent.name}", digest) for name, digest in sums.adapters.items()),
        ("retrained base", sums.retrained or "none"),
        ("seeds", f"measured {seeds.measured}, search {seeds.search}, fresh {seeds.fresh}"),
        ("unlearned by", certificate.method or "not said by the adapter"),
    ]
    listed = [
        [data.name, use, f"{data.clips}", data.license or "not stated", data.sha256]
        for use, some in (("training", sums.training), ("held out", sums.held_out))
        for data in some
    ]
    head = ("data", "use", "clips", "licence", "SHA-256")
    return [paragraph("SHA-256 of what was measured."), facts(rows), table(head, listed, label="Data", stacked=True)]


def besides(rows: Mapping[str, tuple[Beside, str]]) -> Html:
    """Shares by what was on."""
    cells = [
        [
            name,
            *(cell(getattr(told, which)) for told in (found.base, found.adapter, found.off)),
            "-" if found.retrained is None else cell(getattr(found.retrained, which)),
            change(found.change) if which == "recall" else "",
        ]
        for name, (found, which) in rows.items()
    ]
    return table(("motions", "base", "adapter", "off", "retrained", "change"), cells, label="Shares")


def cell(figure: Figure) -> str:
    """`74 % (64 to 82), n 100`."""
    if figure.value is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f" ({100 * figure.low:.0f} to {100 * figure.high:.0f})"
    return f"{100 * figure.value:.0f} %{ends}, n {figure.n}"


def distance(figure: Figure | None) -> str:
    """`3.1 (2.8 to 3.6), n 100`."""
    if figure is None or figure.value is None:
        return "-"
    ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.3g} to {figure.high:.3g})"
    return f"{figure.value:.3g}{ends}, n {figure.n}"


def change(figure: Figure) -> str:
    """`-3 points (-7 to 0)`."""
    if figure.value is None:
        return "-"
    ends = (
        "" if figure.low is None or figure.high is None else f" ({100 * figure.low:+.0f} to {100 * figure.high:+.0f})"
    )
    return f"{points(figure.value)}{ends}"


def points(value: float) -> str:
    """Hundredths."""
    return f"{100 * value:+.0f} points"


def verdict(held: bool, what: str) -> Html:
    """Whether a threshold is held."""
    return element("p", verdict_word(held), f" {what}")


def verdict_word(held: bool) -> Html:
    """Held or missed, in colour."""
    return element("span", "held" if held else "missed", class_=f"verdict {'good' if held else 'bad'}")


def picture(file: Path | None, alt: str) -> list[Html]:
    """A picture within the page."""
    if file is None or not file.is_file():
        return []
    source = Html(data_uri(file.read_bytes(), "image/png"))
    return [element("div", element("img", src=source, alt=alt), class_="scroll paper")]
