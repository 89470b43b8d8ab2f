"""What `vla evaluate` does with adapters of a policy of human motion: a certificate of unlearning."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vla.commandline import progress
from vla.commands.measuring import Measuring, changed
from vla.commands.motions import open_clips
from vla.commands.recordings import as_body_of, describe, open_policy
from vla.commands.suites import put_aside

if TYPE_CHECKING:
    from vla.adapters.file import Stored
    from vla.contract import DataContract
    from vla.data.episode import Reader
    from vla.evaluation.adapted.certificate import Certificate, Data, Hashes, Lines
    from vla.evaluation.adapted.certifying import Plan, Set
    from vla.policy import Policy

UNLEARNING, STYLE = "unlearning", "style"
SUITES = (UNLEARNING, STYLE)
"""Names of --suites that ask for more than prompts."""
NAME = "certificate"
OWN = {UNLEARNING: ("concept", "captions", "paraphrases", "retrained", "search"), STYLE: ("styles", "prompt")}
"""Settings of each."""
EVALUATIONS = 50
DRAWN = 2
"""Motions of each action in its picture, beside one another by what was on."""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What `--suites unlearning` and `--suites style` are told of adapters."""

    concept: str | None = None
    """What was unlearned: an action of the training clips. None: as the adapter says."""
    captions: tuple[str, ...] = ()
    """With which it was unlearned; none: as the adapter says, or those of the clips."""
    paraphrases: tuple[str, ...] = ()
    """Texts of the same meaning; none: those that ship. Training captions are left out."""
    retrained: Path | None = None
    """A policy that was trained without the concept: what unlearning would have at best."""
    search: int = EVALUATIONS
    """Texts that are scored, and steps of an embedding, to bring the concept back, >= 2."""
    styles: tuple[str, ...] = ()
    """Of `--suites style`: what each adapter does, an action of the training clips, or a caption, whose clips the judge
    then tells from others. None: as the adapters say."""
    prompt: str | None = None
    """Of `--suites style`: the caption that is asked for. None: as the adapters say, or that of walking."""


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A certificate that is complete."""

    certificate: "Certificate"

    def to_json(self) -> dict[str, object]:
        """Plain values for json.dump."""
        from vla.evaluation.adapted import certificate

        return certificate.to_json(self.certificate)

    def lines(self) -> list[str]:
        """The table in 80 columns."""
        from vla.evaluation.adapted import certificate

        return certificate.table(self.certificate)


def wanted(suites: tuple[str, ...] | None) -> str | None:
    """The one of SUITES that is asked for.

    Raises:
        ValueError: prompt suites are asked for, too.
    """
    asked = [name for name in suites or () if name in SUITES]
    if asked and len(suites or ()) > 1:
        raise ValueError(f"--suites {asked[0]} measures adapters, not prompts: ask for it alone")
    return asked[0] if asked else None


def check_adapted(
    command: Measuring, adapters: Sequence[str], training: Sequence[str], settings: AdapterSettings, suite: str | None
) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ValueError: something is missing, or would have no effect.
    """
    if adapters and command.env is not None:
        raise ValueError(
            "--adapter has no effect in an environment: merge it with `vla merge POLICY OUT --adapter FILE`, and "
            "measure what that writes"
        )
    for name, own in OWN.items():
        if suite != name and (idle := changed(settings, own)):
            raise ValueError(f"{' and '.join(idle)} would have no effect without --suites {name}: leave that out")
    if suite is None:
        return
    if not adapters:
        raise ValueError(f"--suites {suite} measures an adapter: name it with --adapter FILE")
    if not training or not command.data.roots:
        raise ValueError(
            f"--suites {suite} judges by real clips: give those of the training with --training DIR, and held-out ones "
            "with --data.roots DIR"
        )
    if settings.search < 2:
        raise ValueError(f"--search is {settings.search}; give 2 or more")


def certify(
    command: Measuring,
    *,
    adapters: Sequence[str],
    training: Sequence[str],
    motions: int,
    settings: AdapterSettings,
    contract: "DataContract",
    device: str,
) -> Certified:
    """A certificate of what adapters have unlearned: certificate.json, certificate.html and pictures."""
    from vla import adapting
    from vla.evaluation.adapted import certifying
    from vla.evaluation.adapted.bench import Bench
    from vla.evaluation.adapted.certificate import check
    from vla.evaluation.adapted.concepts import Wanted, concept_of

    motion = as_body_of(contract, command.data.motion)
    known = [open_clips(root, contract, motion) for root in training]
    held_out = [open_clips(root, contract, motion) for root in command.data.roots]
    policy = opened(command, device)
    read = stored_of(policy, adapters, command.policy)
    retrained = None if settings.retrained is None else opened_beside(command, settings.retrained, contract, device)
    asked = Wanted(concept=settings.concept, captions=settings.captions, paraphrases=settings.paraphrases)
    descriptions = [stored.description for stored in read if stored.description is not None]
    concept = concept_of(policy, descriptions, known, asked)
    bench = Bench.of(policy, known, held_out, command.seed or 0, command.steps)
    hashes = hashes_of(
        command,
        policy,
        adapters=[stored.place for stored in read],
        training=known,
        held_out=held_out,
        retrained=settings.retrained,
    )
    seeds = certifying.seeds_of(command.seed or 0)
    questions = len(concept.captions) + len(concept.paraphrases) + sum(map(len, concept.texts.values()))
    total = questions * (3 if retrained is None else 4) + settings.search - (-settings.search // 5) + 1

    weights: dict[str, float] = {}

    def put_on() -> None:
        for line in adapting.blend(policy, adapters, command.policy):
            print(line, file=sys.stderr)
        weights.update(policy.blend.weights)

    with progress(total, "questions") as bar:
        plan = certifying.Plan(
            concept=concept, motions=motions, seeds=seeds, evaluations=settings.search, progress=bar.update
        )
        lines, sets = certifying.measure(bench, policy, put_on, retrained, plan)
    certificate = written(command, weights=weights, plan=plan, lines=lines, hashes=hashes, retrained=settings.retrained)
    check(certificate)
    write(command.results, certificate, sets, concept.action)
    return Certified(certificate=certificate)


def opened(command: Measuring, device: str) -> "Policy":
    """The policy without adapters, to be asked."""
    policy = open_policy(command.policy, command.backbone, device, command.sampling, command.embeddings).to(device)
    policy.set_mode(training=False)
    return policy


def opened_beside(command: Measuring, folder: Path, contract: "DataContract", device: str) -> "Policy":
    """A policy of the same body, rate and chunks (ValueError where it is another)."""
    other, _ = describe(folder, command.sampling)
    for what, own, its in (
        ("body", contract.body, other.body),
        ("rate", contract.fps, other.fps),
        ("length of a chunk", contract.horizon, other.horizon),
    ):
        if own != its:
            raise ValueError(f"--retrained {folder} has another {what} than the policy: train it as the policy was")
    policy = open_policy(folder, command.backbone, device, command.sampling, command.embeddings).to(device)
    policy.set_mode(training=False)
    return policy


def stored_of(policy: "Policy", words: Sequence[str], folder: Path) -> "list[Stored]":
    """The adapters that a command is told of, which fit (errors as `adapting.load_adapter`)."""
    from vla import adapting
    from vla.adapters import file

    base, found = adapting.base_of(policy), []
    for word in words:
        place = adapting.place_of(adapting.parse(word).place, folder)
        stored = file.read(place)
        if stored.description is not None:
            adapting.check_base(stored.description, base, place)
        found.append(stored)
    return found


def hashes_of(
    command: Measuring,
    policy: "Policy",
    *,
    adapters: Sequence[Path],
    training: "Sequence[Reader]",
    held_out: "Sequence[Reader]",
    retrained: Path | None,
) -> "Hashes":
    """What is measured, by SHA-256."""
    from vla.adapters.file import WEIGHTS_FILE
    from vla.adapting import base_of
    from vla.evaluation.adapted.certificate import Hashes
    from vla.policy_folder import digest

    files = [place / WEIGHTS_FILE if place.is_dir() else place for place in adapters]
    return Hashes(
        base=base_of(policy),
        policy=digest(command.policy / "config.json"),
        adapters={str(file): digest(file) for file in files},
        training=tuple(map(data_of, training)),
        held_out=tuple(map(data_of, held_out)),
        retrained=None if retrained is None else digest(retrained / "config.json"),
    )


def data_of(reader: "Reader") -> "Data":
    """A folder of clips by its name, licence and content."""
    from vla.data.episode import mark_of
    from vla.evaluation.adapted.certificate import Data
    from vla.provenance import source

    root = reader.layout.root
    origin = source(root, Path(root))
    marks = sorted(mark_of(episode) for episode in reader.episodes)
    return Data(
        name=origin.name,
        license=origin.license,
        clips=len(marks),
        sha256=hashlib.sha256("\n".join(marks).encode()).hexdigest(),
    )


def written(
    command: Measuring,
    *,
    weights: dict[str, float],
    plan: "Plan",
    lines: "Lines",
    hashes: "Hashes",
    retrained: Path | None,
) -> "Certificate":
    """The certificate of what was measured."""
    from vla import provenance
    from vla.evaluation.adapted.certificate import Certificate, unknown_before

    return Certificate(
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        code=str(provenance.code()),
        concept=plan.concept.action,
        method=plan.concept.method,
        policy=str(command.policy),
        adapters=weights,
        retrained=None if retrained is None else str(retrained),
        motions=plan.motions,
        seeds=plan.seeds,
        sha256=hashes,
        lines=lines,
        remarks=(*plan.concept.remarks, *unknown_before(lines.recall, plan.concept.action)),
    )


def write(out: Path, certificate: "Certificate", sets: "Mapping[str, Set]", action: str) -> None:
    """certificate.json, which is kept under its time where one is there, a page, and a picture an action."""
    from vla.evaluation.adapted.certificate import to_json
    from vla.evaluation.adapted.certifying import CAPTIONS
    from vla.motion.drawing import strip
    from vla.report.certificate import page

    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    groups = {action: CAPTIONS} | {other.action: other.action for other in certificate.lines.neighbours}
    for name, group in groups.items():
        figures = [
            own[group].motions[number].figure(f"{state} {number}")
            for number in range(DRAWN)
            for state, own in sets.items()
            if state != "off"
        ]
        pictures[name] = out / f"certificate_{''.join(letter if letter.isalnum() else '_' for letter in name)}.png"
        strip(figures).save(pictures[name])
    for file in (out / f"{NAME}.json", out / f"{NAME}.html"):
        if (kept := put_aside(file)) is not None:
            print(f"the {file.name} that was there is {kept} now", file=sys.stderr)
    (out / f"{NAME}.json").write_text(json.dumps(to_json(certificate), indent=2) + "\n", encoding="utf-8")
    (out / f"{NAME}.html").write_text(page(certificate, pictures), encoding="utf-8")
    print(f"{NAME}.json and {NAME}.html are in {out}", file=sys.stderr)
