"""Which items go where: thresholds, subjects held out, caps on the final sets; and what is said of it."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vla.curation.caps import balance
from vla.curation.robots import usual_steps
from vla.curation.scores import Scores
from vla.curation.thresholds import WORDS, Reason, reasons
from vla.curation_settings import CurationConfig

Split = Literal["pretrain", "sft", "held_out"]
SPLITS: tuple[Split, ...] = ("pretrain", "sft", "held_out")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An item and what was found of it."""

    name: str
    action: str
    source: str
    subject: str
    """Itself where nobody is named."""
    digest: str
    scores: Scores


@dataclass(kw_only=True)
class Decision:
    """Where a candidate goes, and why not elsewhere."""

    splits: list[Split] = field(default_factory=list)
    dropped: list[Reason] = field(default_factory=list)
    """Why it is in no split at all; the first one counts."""
    not_for_sft: list[Reason] = field(default_factory=list)
    """Why it is not for fine-tuning beside that."""


@dataclass(frozen=True, kw_only=True)
class Curated:
    """All candidates and decisions, in order."""

    candidates: Sequence[Candidate]
    decisions: Sequence[Decision]
    problems: Sequence[str]
    """What could not be read, a sentence each."""
    remarks: Sequence[str]
    """What was chosen by itself, a sentence each."""
    held_subjects: Sequence[str]
    """Where nobody is named, the candidate's own name."""

    def members(self, split: Split) -> list[int]:
        """The places of a split's candidates."""
        return [place for place, decision in enumerate(self.decisions) if split in decision.splits]

    def to_json(self) -> dict[str, Any]:
        """`curation_stats.json`, but for what it was made with."""
        dropped = Counter(decision.dropped[0].check for decision in self.decisions if decision.dropped)
        names = {one.name for one in self.candidates}
        dropped["corrupt"] += len(self.problems)
        not_for_sft = Counter(decision.not_for_sft[0].check for decision in self.decisions if decision.not_for_sft)
        return {
            "total_input": len(self.candidates) + len(self.problems),
            **{f"dropped_{check}": dropped[check] for check in WORDS if check not in ("issue", "camera_stability")},
            **{split: self.figures(split) for split in SPLITS},
            "not_for_sft": {check: not_for_sft[check] for check in WORDS if not_for_sft[check]},
            "held_out_subjects": [subject for subject in self.held_subjects if subject not in names],
            "held_out_without_subject": sum(subject in names for subject in self.held_subjects),
            "problems": list(self.problems),
            "remarks": list(self.remarks),
        }

    def figures(self, split: Split) -> dict[str, Any]:
        """What a split holds; a mean of nothing is None."""
        members = [self.candidates[place] for place in self.members(split)]
        qualities = [one.scores.quality for one in members if one.scores.quality is not None]
        return {
            "num_samples": len(members),
            "mean_quality": math.fsum(qualities) / len(qualities) if qualities else None,
            "action_distribution": shares([one.action for one in members]),
            "source_distribution": shares([one.source for one in members]),
        }

    def lines(self) -> list[dict[str, Any]]:
        """`clips.jsonl`: a line a candidate."""
        return [
            {
                "name": one.name,
                "splits": decision.splits,
                "dropped": [asdict(reason) for reason in decision.dropped],
                "not_for_sft": [asdict(reason) for reason in decision.not_for_sft],
                "action": one.action,
                "source": one.source,
                "subject": one.subject,
                "digest": one.digest,
                "scores": asdict(one.scores),
            }
            for one, decision in zip(self.candidates, self.decisions, strict=True)
        ] + [
            {"name": None, "splits": [], "dropped": [{"check": "corrupt", "detail": problem}], "not_for_sft": []}
            for problem in self.problems
        ]


def shares(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(sorted(Counter(names).items(), key=lambda entry: (-entry[1], entry[0])))


def select(
    candidates: Sequence[Candidate], config: CurationConfig, *, motion: bool, problems: Sequence[str] = ()
) -> Curated:
    """Decide on all.

    Raises:
        ValueError: nothing passes, or what passes cannot keep both caps.
    """
    usual = None if motion else usual_steps([one.scores.steps for one in candidates])
    decisions, better = [], []
    for one in candidates:
        against, finer = reasons(one.scores, config, usual)
        decisions.append(Decision(dropped=against))
        better.append(finer)
    passed = [place for place, decision in enumerate(decisions) if not decision.dropped]
    if not passed:
        refuse_all(decisions, problems)
    held, remarks = hold_out(candidates, passed, config)
    for place in passed:
        if candidates[place].subject in held:
            decisions[place].splits.append("held_out")
    usable = [place for place in passed if not decisions[place].splits]
    remarks += cap(candidates, decisions, usable, config, "pretrain")
    if motion:
        good = [place for place in usable if "pretrain" in decisions[place].splits]
        for place in good:
            decisions[place].not_for_sft += better[place]
        remarks += cap(candidates, decisions, [place for place in good if not better[place]], config, "sft")
    else:
        remarks.append("episodes of robots have no scores of quality: there is one set, pretrain")
    return Curated(
        candidates=candidates, decisions=decisions, problems=problems, remarks=remarks, held_subjects=sorted(held)
    )


def refuse_all(decisions: Sequence[Decision], problems: Sequence[str]) -> None:
    """Say what most candidates fail by (ValueError)."""
    counts = Counter(decision.dropped[0].check for decision in decisions)
    if not counts:
        raise ValueError(f"there is nothing to curate but {len(problems)} that cannot be read; restore them")
    (check, count), first = counts.most_common(1)[0], decisions[0].dropped[0]
    raise ValueError(
        f"none of {len(decisions)} passes, and {count} fail by {WORDS[check]} (the first one: {first.detail}): change "
        "what is asked of them, or give other data"
    )


def hold_out(
    candidates: Sequence[Candidate], passed: Sequence[int], config: CurationConfig
) -> tuple[set[str], list[str]]:
    """The subjects that are held out, and what is said of them.

    They follow from the seed and their names, so that most stay when others come.
    """
    named = {candidates[place].subject for place in passed}
    if not config.held_out:
        return set(), []
    if len(named) < 2:
        return set(), ["nothing is held out: there is one subject"]

    def drawn(subject: str) -> str:
        return hashlib.sha256(f"{config.seed} {subject}".encode()).hexdigest()

    count = min(max(1, round(config.held_out * len(named))), len(named) - 1)
    held = set(sorted(named, key=drawn)[:count])
    alone = sum(candidates[place].subject == candidates[place].name for place in passed)
    said = [f"held out: {count} of {len(named)} subjects"]
    if alone:
        said.append(f"{alone} name no subject, so each stands for itself: the same person may be on both sides")
    return held, said


def cap(
    candidates: Sequence[Candidate],
    decisions: Sequence[Decision],
    places: Sequence[int],
    config: CurationConfig,
    split: Split,
) -> list[str]:
    """Put the best candidates that keep the caps into a split, and say why the others are not in it.

    ValueError where none can be kept.
    """

    def rank(place: int) -> tuple[float, str]:
        quality = candidates[place].scores.quality
        return (0.0 if quality is None else -quality), candidates[place].digest

    order = sorted(places, key=rank)
    shares = config.balance_max_fraction, config.source_max_fraction
    cells = [(candidates[place].action, candidates[place].source) for place in order]
    found = balance(cells, shares)
    if order and not found.kept:
        raise ValueError(
            f"no set of the {len(order)} clips for {split} keeps both caps, since their actions and sources go "
            "together: give a larger --balance-max-fraction or --source-max-fraction"
        )
    for number, place in enumerate(order):
        if number in found.kept:
            decisions[place].splits.append(split)
            continue
        why = found.dropped[number]
        of, most = (candidates[place].action, shares[0]) if why == "balance" else (candidates[place].source, shares[1])
        detail = f"{most:.0%} of {split} are better ones of {'action' if why == 'balance' else 'source'} {of!r}"
        reason = Reason(check=why, detail=detail)
        (decisions[place].dropped if split == "pretrain" else decisions[place].not_for_sft).append(reason)
    remarks = [
        f"clips for {split} are of {len({cell[kind] for cell in cells})} {what}(s), too few for each to be at most "
        f"{share:g} of it: they are not capped"
        for kind, (what, share) in enumerate(zip(("action", "source"), shares, strict=True))
        if share < 1 and order and not found.applied[kind]
    ]
    if len(found.kept) < len(order) / 2:
        remarks.append(f"the caps keep {len(found.kept)} of the {len(order)} that are good enough for {split}")
    return remarks
