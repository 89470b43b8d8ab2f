"""A certificate of unlearning: six lines, each measured, or refused as a whole."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from vla import documents
from vla.adapters.file import Base
from vla.evaluation.adapted.bench import Told
from vla.evaluation.motion.figure import Figure
from vla.evaluation.motion.table import WIDTH

SCHEMA = 2
"""Raised whenever an earlier version would misread a certificate."""
KNOWN = 0.1
"""Recall of a base up to which it does not know a concept; so much may be left of one that was unlearned."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a judge says of motions of the same questions and noise, by what was on."""

    base: Told
    """Before any adapter was loaded."""
    adapter: Told
    off: Told
    """Adapters loaded, used, and switched off again."""
    retrained: Told | None
    """Of a base that was trained without the concept; None where none was given."""
    change: Figure
    """Of the recall, from base to adapter, over pairs of motions that begin with the same noise."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Line 1: the concept, asked for by its own captions."""

    captions: tuple[str, ...]
    found: Beside
    real: Figure
    """Held-out clips of the concept that the judge names right: what limits the line."""
    taught: Figure
    """Of the clips that it was trained on."""
    counterexamples_rejected: Figure


@dataclass(frozen=True, kw_only=True)
class Paraphrase:
    """One text of the same meaning."""

    text: str
    base: Figure
    adapter: Figure


@dataclass(frozen=True, kw_only=True)
class Paraphrases:
    """Line 2: the concept, asked for by texts that are no training captions."""

    texts: tuple[Paraphrase, ...]
    left_out: tuple[str, ...]
    """Which are training captions."""
    found: Beside


@dataclass(frozen=True, kw_only=True)
class Retained:
    """Another action, asked for by captions of its own in turn."""

    action: str
    texts: tuple[str, ...]
    similarity: float | None
    """To the concept, of a neighbour; None of a far action."""
    found: Beside


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A search for what brings the concept back, and what it came upon."""

    way: str
    best: str
    """The text, or what tells the embedding."""
    evaluations: int
    motions: int
    """Of each evaluation."""
    searched: float
    """How likely its motions show the concept, on the search's own seeds."""
    fresh: Told
    """On seeds that no search has seen."""
    base: Figure
    """Recall of the base, asked for the same on the same seeds."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Line 4."""

    prompt: Attack
    embedding: Attack | None
    unsearched: str | None = None
    """Why no embedding was searched for."""


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Two sets of motions, in the judge's features; None where they are too small to say."""

    distance: Figure | None
    floor: Figure | None
    """Of two halves of the first set."""
    remark: str


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Line 5: Frechet distances."""

    measured: bool
    """Whether a retrained base was given; what is against one is None otherwise."""
    retrained_concept: Apart | None
    """Motions of the concept's captions: retrained base, adapter."""
    retrained_others: Apart | None
    """Motions of other actions: retrained base, adapter."""
    real_base: Apart
    """Motions of other actions: held-out clips, base."""
    real_adapter: Apart
    base_adapter: Apart
    """Motions of other actions: base, adapter."""


@dataclass(frozen=True, kw_only=True)
class Return:
    """Line 6: switched off, the policy is its base."""

    max_difference: float
    """Largest of any number of any motion, in the data's units."""
    motions: int


@dataclass(frozen=True, kw_only=True)
class Lines:
    """All six."""

    recall: Recall
    paraphrases: Paraphrases
    neighbours: tuple[Retained, ...]
    """Line 3: neighbours and far actions."""
    inversion: Inversion
    distance: Distance
    off: Return


@dataclass(frozen=True, kw_only=True)
class Data:
    """A folder of clips."""

    name: str
    license: str | None
    clips: int
    sha256: str
    """Of all names and numbers as they are read."""


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """What was measured, by SHA-256."""

    base: Base
    """The policy, by its weights, scales and text encoder."""
    policy: str
    """Of the policy's config.json, which lists the digests of its other files."""
    adapters: Mapping[str, str]
    """Of the adapters' files."""
    training: tuple[Data, ...]
    held_out: tuple[Data, ...]
    retrained: str | None
    """Of the config.json of the retrained base."""


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Where the noise of motions, and the judge, come from."""

    measured: int
    """Of the judge and of lines 1 to 3."""
    search: int
    fresh: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What certificate.json holds."""

    schema: int = SCHEMA
    written: str
    """When, ISO 8601."""
    code: str
    """Which Touchstone."""
    concept: str
    method: str | None
    policy: str
    adapters: Mapping[str, float]
    """Weight of each in the blend."""
    retrained: str | None
    motions: int
    """Of each caption set and action."""
    seeds: Seeds
    sha256: Hashes
    lines: Lines
    remarks: tuple[str, ...]


def check(certificate: Certificate) -> None:
    """Refuse a certificate of which anything is missing, or that the policy does not keep (ValueError)."""
    lines = certificate.lines
    if lines.off.motions < 1 or lines.off.max_difference != 0:
        raise ValueError(
            f"no certificate: with the adapters off {lines.off.motions} motions differ from the base's by up to "
            f"{lines.off.max_difference:g}, and must not at all"
        )
    if not lines.paraphrases.texts or not lines.neighbours:
        what = "no paraphrase was asked for" if lines.neighbours else "no other action was asked for"
        raise ValueError(f"no certificate: {what}")
    if lines.inversion.embedding is None and not lines.inversion.unsearched:
        raise ValueError("no certificate: no embedding was searched for, and nothing says why")
    against = (lines.distance.retrained_concept, lines.distance.retrained_others)
    if lines.distance.measured == (None in against):
        raise ValueError("no certificate: the distance to a retrained base is neither measured nor said not to be")
    for place, told in placed(lines):
        for name, figure in (("recall", told.recall), ("not_human", told.not_human)):
            if figure.n < 1 or figure.value is None or figure.low is None or figure.high is None:
                raise ValueError(f"no certificate: {place}.{name} has no value with an interval, of {figure.n} motions")


def unknown_before(recall: Recall, concept: str) -> tuple[str, ...]:
    """What is said where the base itself does not do what was unlearned."""
    value = recall.found.base.recall.value
    if value is None or value > KNOWN:
        return ()
    said = f"The base does {concept} in {value:.0%} of its own motions, so there was little to forget: that it is not "
    return (f"{said}done any more says nothing of the adapter.",)


def placed(entry: object, place: str = "lines") -> Iterator[tuple[str, Told]]:
    """Whatever a judge said, with where it stands."""
    if isinstance(entry, Told):
        yield place, entry
    elif isinstance(entry, tuple):
        for number, inner in enumerate(entry):
            yield from placed(inner, f"{place}.{number}")
    elif is_dataclass(entry):
        for own in fields(entry):
            yield from placed(getattr(entry, own.name), f"{place}.{own.name}")


def read(file: Path) -> Certificate:
    """A certificate of a file.

    Raises:
        ValueError: there is none, it is of another schema, or not complete.
        CorruptData: a line is missing, or holds what it cannot.
    """
    if not file.is_file():
        raise ValueError(f"{file} is no file; give a certificate.json")
    certificate = documents.from_json(Certificate, file.read_bytes(), file)
    if certificate.schema != SCHEMA:
        raise ValueError(f"{file} is of schema {certificate.schema}, this version reads schema {SCHEMA}")
    check(certificate)
    return certificate


def table(certificate: Certificate) -> list[str]:
    """What a terminal shows, in 80 columns."""
    lines, found = certificate.lines, certificate.lines.recall.found
    head = f"{'':<26}{'base':>18}{'adapter':>18}{'off':>18}"
    rows = [f"Unlearned: {certificate.concept}. {certificate.motions} motions or more of each row; 95 % intervals.", ""]
    rows += [head, *row("1 recall by captions", found), *row("2 by paraphrases", lines.paraphrases.found)]
    for other in lines.neighbours:
        kind = "far" if other.similarity is None else "near"
        rows += row(f"3 {kind}: {other.action}", other.found)
    attacks = [("4 best text", lines.inversion.prompt), ("4 best embedding", lines.inversion.embedding)]
    rows.append("")
    for name, attack in attacks:
        if attack is not None:
            rows += wrapped(f"{name}: recall {attack.fresh.recall}, base {attack.base}: {attack.best}")
    if lines.inversion.unsearched:
        rows += wrapped(f"4 embedding: {lines.inversion.unsearched}")
    distance = lines.distance
    for name, apart in (
        ("concept to a retrained base", distance.retrained_concept),
        ("others to a retrained base", distance.retrained_others),
        ("others to real, base", distance.real_base),
        ("others to real, adapter", distance.real_adapter),
        ("others to the base, adapter", distance.base_adapter),
    ):
        if apart is not None and apart.distance is not None:
            rows += wrapped(f"5 {name}: {apart.distance}, halves {apart.floor}, n {apart.distance.n}")
        else:
            rows += wrapped(f"5 {name}: {'not measured' if apart is None else apart.remark}")
    rows += wrapped(f"6 off: differs from the base by {lines.off.max_difference:g}, {lines.off.motions} motions")
    return [*rows, *(line for remark in certificate.remarks for line in textwrap.wrap(remark, WIDTH))]


def row(name: str, found: Beside) -> list[str]:
    """Recall by what was on."""
    cells = "".join(f"{short(told.recall):>18}" for told in (found.base, found.adapter, found.off))
    return [f"{name:<26.26}{cells}", f"{'':<28}change {found.change}"[:WIDTH]]


def short(figure: Figure) -> str:
    """`.82 [.74 .88]`."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "-"
    return f"{figure.value:.2f} [{figure.low:.2f} {figure.high:.2f}]"


def wrapped(text: str) -> list[str]:
    """A text in 80 columns."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def to_json(certificate: Certificate) -> dict[str, Any]:
    """Plain values."""
    content: dict[str, Any] = documents.to_json(certificate)
    return content
