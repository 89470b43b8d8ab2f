"""What an ablation found, as JSON and as a table."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vla.evaluation.alteration import KINDS, Kind
from vla.evaluation.intervals import rate_change, wilson
from vla.evaluation.standing import Standing

Verdict = Literal["used", "not used", "not shown"]
Worth = Literal["needed", "not needed", "not shown"]
"""Of an input to a policy that is trained without it."""
WIDTH = 80
TITLE, CELL = 12, 16
UNIT = "of the error of always answering the mean action"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often a policy succeeds, with its interval."""

    rate: float
    low: float
    high: float
    episodes: int
    outcomes: str
    """One character an episode, in order: 1 where it succeeds, 0 where it fails."""

    @staticmethod
    def of(outcomes: Sequence[bool]) -> "Rate":
        """Of what became of some episodes."""
        low, high = wilson(sum(outcomes), len(outcomes))
        return Rate(
            rate=sum(outcomes) / len(outcomes),
            low=low,
            high=high,
            episodes=len(outcomes),
            outcomes="".join("1" if success else "0" for success in outcomes),
        )

    def change_from(self, before: "Rate") -> "Change":
        """What becomes of a rate in the same episodes, with its interval."""
        pair = [[outcome == "1" for outcome in rate.outcomes] for rate in (before, self)]
        low, high = rate_change(pair[0], pair[1])
        return Change(change=self.rate - before.rate, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Change:
    """By how much something changes, with its interval."""

    change: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The policy without alterations."""

    error: float
    by_phase: dict[str, float]
    success: Rate | None
    """In the environment; None without one."""

    def error_in(self, phase: str | None) -> float:
        """The error in a phase; in all frames for None."""
        return self.error if phase is None else self.by_phase[phase]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one alteration of an input does."""

    kind: Kind
    error: float
    change: float
    """Of the error, sample by sample."""
    low: float
    high: float
    moved: float
    """How far the answers move, in the unit of the error, whether nearer to the recorded actions or further away."""
    by_phase: dict[str, Change]
    success: Rate | None

    def overall(self) -> Change:
        """The change in all frames."""
        return Change(change=self.change, low=self.low, high=self.high)

    def change_in(self, phase: str | None) -> Change:
        """The change in a phase; in all frames for None."""
        return self.overall() if phase is None else self.by_phase[phase]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one input."""

    input: str
    label: str
    """What tables call it."""
    verdict: Verdict
    sentence: str
    kinds: list[Effect]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A policy that was trained without one of the inputs, against the one that has them all."""

    input: str
    label: str
    """What tables call it."""
    policy: str
    """Its folder."""
    verdict: Worth
    sentence: str
    error: float
    change: float
    """Of the error, sample by sample."""
    low: float
    high: float
    by_phase: dict[str, Change]
    success: Rate | None

    def change_in(self, phase: str | None) -> Change:
        """The change in a phase; in all frames for None."""
        return Change(change=self.change, low=self.low, high=self.high) if phase is None else self.by_phase[phase]


@dataclass(frozen=True, kw_only=True)
class Where:
    """An environment in which success is counted."""

    environment: str
    settings: dict[str, str]
    """Of the environment, without secrets."""
    within: int
    """Steps within which an episode must succeed."""
    seed: int
    executed: int
    """Actions of a chunk that are carried out before the policy looks again."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The result of an ablation; errors are shares of the error of always answering the mean action."""

    policy: str
    samples: int
    episodes: int
    margin: float
    fall: float
    delay_s: float
    phases: list[str]
    baseline: Baseline
    inputs: list[Finding]
    control: list[Control] = field(default_factory=list)
    """One a training without an input."""
    where: Where | None = None
    """Where success was counted; None without an environment."""
    standings: list[Standing] = field(default_factory=list)
    verdict: str = ""
    """Whether the policy is better than answers that need none, in one sentence."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump; controls by input."""
        return {**asdict(self), "unit": UNIT, "control": {control.input: asdict(control) for control in self.control}}

    def lines(self) -> list[str]:
        """The result as a person reads it, in 80 columns."""
        text = (
            f"{self.samples:,} samples of {self.episodes} episodes; the error is {self.baseline.error:.3g} {UNIT}. "
            f"Below, by how much it changes, in percent, with an interval that resamples episodes. Delayed: by "
            f"{self.delay_s:g} s. Zeroed is unlike the data and decides nothing."
        )
        rows = [*textwrap.wrap(text, WIDTH), *textwrap.wrap(self.verdict, WIDTH), "", *head()]
        for finding in self.inputs:
            for phase in (None, *self.phases):
                error = self.baseline.error_in(phase)
                cells = {effect.kind: shown(effect.change_in(phase), error) for effect in finding.kinds}
                rows += row(finding.label if phase is None else f"  {phase}", cells)
        if self.baseline.success is not None:
            place = "" if self.where is None else f" in {self.where.environment} within {self.where.within} steps"
            told = f"success{place}, in percent; unaltered {percent(self.baseline.success)}"
            rows += ["", *textwrap.wrap(told, WIDTH), *head()]
            for finding in self.inputs:
                rates = {effect.kind: percent(effect.success) for effect in finding.kinds if effect.success is not None}
                rows += row(finding.label, rates)
        if self.control:
            rows += ["", f"{'trained without it':<29}{'error':>17}{'success':>17}"]
        for control in self.control:
            for phase in (None, *self.phases):
                change = shown(control.change_in(phase), self.baseline.error_in(phase))
                success = "-" if control.success is None else percent(control.success)
                title = control.label if phase is None else f"  {phase}"
                rows.append(f"{title:<29}{change:>17}" + (f"{success:>17}" if phase is None else ""))
        sentences = [finding.sentence for finding in self.inputs] + [control.sentence for control in self.control]
        return [*rows, "", *(line for sentence in sentences for line in wrapped(sentence))]


def shown(entry: Change, error: float) -> str:
    """A change as a share of an error, in percent: `+12 [8 16]`; the change alone where that is too long for a cell."""
    if error == 0:
        return "-"
    change, low, high = (100 * value / error for value in (entry.change, entry.low, entry.high))
    digits = 0 if max(abs(low), abs(high)) >= 10 else 1
    text = f"{change:+.{digits}f} [{low:.{digits}f} {high:.{digits}f}]"
    return text if len(text) <= CELL else f"{change:+.2g}"


def percent(rate: Rate) -> str:
    """A success rate in percent: `93 [88 96]`."""
    return f"{100 * rate.rate:.0f} [{100 * rate.low:.0f} {100 * rate.high:.0f}]"


def head() -> list[str]:
    """The first row of a table."""
    return row("", {kind: kind for kind in KINDS})


def row(title: str, cells: dict[Kind, str]) -> list[str]:
    """One row of a table, with a dash where an alteration was not tried; a long title has a line of its own."""
    above, beside = ([], title) if len(title) <= TITLE else ([title], "")
    return [*above, f"{beside:<{TITLE}}" + "".join(f"{cells.get(kind, '-'):>{CELL + 1}}" for kind in KINDS)]


def wrapped(sentence: str) -> Sequence[str]:
    """A sentence in lines of 80 columns."""
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="    ")
