"""Verdicts: which of its inputs a policy uses, by its answers with one of them altered, or left out in training.

The error of a sample is the mean absolute error of its chunk, each dimension as a share of the error of always
answering the mean action, so that metres, radians and grippers count alike. Altered and unaltered chunks start from
the same noise, and their errors are subtracted sample by sample. Intervals resample whole episodes and hold together,
with 95 %, for all kinds and phases of an input (Bonferroni). What comes in fewer episodes than such an interval needs
decides nothing, and no input is called unused as long as it might matter there.

The kinds other than zeroed decide, in all frames and within each phase:

used       in an environment, the interval of an altered success rate lies below that of the unaltered one
not used   else, every interval of the change lies within a margin round 0, a share of the unaltered error; and every
           interval of the change of success, in the same episodes, excludes a fall beyond what is called none
used       else, some interval of the error's change lies above 0, and not all of them within the margin
not shown  else, or where the input is the same in all frames
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vla.evaluation.ablation import AblationConfig, Answers
from vla.evaluation.alteration import Alteration, Kind, inputs_of
from vla.evaluation.changes import changes, constant_error, episodes_of, level_of, sample_errors, scoped
from vla.evaluation.findings import (
    Ablation,
    Baseline,
    Change,
    Control,
    Effect,
    Finding,
    Rate,
    Verdict,
    Worth,
    shown,
)
from vla.evaluation.intervals import fewest
from vla.evaluation.open_loop import Predictions, Progress
from vla.evaluation.phases import Phases
from vla.evaluation.rivals import standings
from vla.evaluation.standing import sentence
from vla.names import labels

SuccessOf = Callable[[Alteration | None], Rate | None]
"""How often the policy succeeds in an environment with an alteration, or with none; None without an environment."""
DECIDING: tuple[Kind, ...] = ("shuffled", "delayed", "frozen")
"""What replaces an input by one as the data holds it."""
SMALLEST_ERROR = 1e-9
"""What changes are a share of where a policy makes no error at all."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A change of the error that bears on a verdict."""

    change: Change
    error: float
    """That of the policy as it is, in the same frames."""
    phase: str | None
    """None: in all frames."""
    episodes: int
    """With such frames."""
    kind: Kind | None = None
    """The alteration; None where the input is left out in training."""

    @property
    def low(self) -> float:
        """Where the interval begins, as a share of the error."""
        return self.change.low / max(self.error, SMALLEST_ERROR)

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.change.high / max(self.error, SMALLEST_ERROR)

    def told(self) -> str:
        """The change in words, in percent."""
        where = "" if self.phase is None else f" in {self.phase}"
        percent = shown(self.change, max(self.error, SMALLEST_ERROR))
        if self.kind is None:
            return f"the error{where} changes by {percent} %"
        return f"{self.kind}, it changes the error{where} by {percent} %"

    def too_few(self, needed: int) -> str:
        """That its episodes decide nothing."""
        where = "" if self.phase is None else f" in {self.phase}"
        return f"{self.episodes} episodes{where} are too few to tell, {needed} would do"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Success in an environment that bears on a verdict."""

    before: Rate
    """That of the policy as it is."""
    after: Rate
    kind: Kind | None = None
    """The alteration; None where the input is left out in training."""

    @property
    def falls(self) -> bool:
        """Whether the intervals of the two rates lie apart."""
        return self.after.high < self.before.low

    @property
    def change(self) -> Change:
        """Of the rate in the same episodes."""
        return self.after.change_from(self.before)

    def told(self) -> str:
        """The rates in words."""
        cause = "" if self.kind is None else f"{self.kind}, "
        return f"{cause}success goes from {self.before.rate:.0%} to {self.after.rate:.0%}"

    def unsettled(self, fall: float) -> str:
        """That success may have fallen."""
        low, high = 100 * self.change.low, 100 * self.change.high
        return f"{self.told()}, and a fall by more than {100 * fall:g} points is not excluded ({low:.0f} to {high:.0f})"


def judge(
    answers: Answers,
    config: AblationConfig,
    *,
    policy: str,
    phases: Phases | None = None,
    success_of: SuccessOf | None = None,
    progress: Progress | None = None,
) -> Ablation:
    """What the answers say, by phase where phases are given, and of success where there is an environment.

    `policy` is the name in the result; `progress` is told of every alteration that is done.
    """
    plain = answers.plain
    names, scopes = scoped(plain, phases)
    episodes = episodes_of(names, scopes, plain.episodes)
    scale = constant_error(plain)
    unaltered = sample_errors(plain, scale)

    def succeed(alteration: Alteration | None) -> Rate | None:
        rate = None if success_of is None else success_of(alteration)
        if progress is not None:
            progress(1)
        return rate

    baseline = Baseline(
        error=float(unaltered[scopes[:, 0]].mean()),
        by_phase={name: float(unaltered[scopes[:, place]].mean()) for place, name in enumerate(names, start=1)},
        success=succeed(None),
    )
    findings, called = list[Finding](), labels(inputs_of(plain.contract))
    for name in answers.inputs:
        own = {entry: made for entry, made in answers.altered.items() if entry.input == name}
        level = level_of(sum(entry.kind in DECIDING for entry in own), phases)
        effects = []
        for entry, made in own.items():
            difference = sample_errors(made, scale) - unaltered
            overall, *within = changes(difference, scopes, plain.episodes, level, config.seed)
            effects.append(
                Effect(
                    kind=entry.kind,
                    error=float((unaltered + difference)[scopes[:, 0]].mean()),
                    **vars(overall),
                    moved=float(sample_errors(replace(made, recorded=plain.predicted), scale)[scopes[:, 0]].mean()),
                    by_phase=dict(zip(names, within, strict=True)),
                    success=succeed(entry),
                )
            )
        findings.append(
            find(name, effects, baseline, config, label=called[name], episodes=episodes, needed=fewest(level))
        )
    beside = standings(plain, phases, seed=config.seed)
    return Ablation(
        policy=policy,
        samples=len(unaltered),
        episodes=len(set(plain.episodes)),
        margin=config.margin,
        fall=config.fall,
        delay_s=config.delay_s,
        phases=list(names),
        baseline=baseline,
        inputs=findings,
        standings=beside,
        verdict=sentence(beside),
    )


def find(
    name: str,
    effects: Sequence[Effect],
    baseline: Baseline,
    config: AblationConfig,
    *,
    label: str,
    episodes: Mapping[str | None, int],
    needed: int,
) -> Finding:
    """The verdict on an input, and why; `episodes` by phase, `needed` so many that an interval decides."""
    deciding = [effect for effect in effects if effect.kind in DECIDING]
    cells = [
        Cell(kind=effect.kind, phase=phase, change=change, error=baseline.error_in(phase), episodes=episodes[phase])
        for effect in deciding
        for phase, change in ((None, effect.overall()), *effect.by_phase.items())
    ]
    telling = [cell for cell in cells if cell.episodes >= needed]
    silent = [cell for cell in cells if cell.episodes < needed]
    trials = [
        Trial(kind=effect.kind, before=baseline.success, after=effect.success)
        for effect in deciding
        if baseline.success is not None and effect.success is not None
    ]
    fallen = min((trial for trial in trials if trial.falls), key=lambda trial: trial.after.high, default=None)
    worst = min(trials, key=lambda trial: trial.change.low, default=None)
    calm = f"no alteration changes the error by more than {100 * config.margin:g} %"
    told = "" if worst is None else f"; {worst.told()}"
    verdict: Verdict = "not shown"
    if not cells:
        why = "it is the same in all these frames"
    elif fallen is not None:
        before, after = fallen.before.rate, fallen.after.rate
        verdict, why = "used", f"{fallen.kind}, it takes success from {before:.0%} to {after:.0%}"
    elif all(max(-cell.low, cell.high) <= config.margin for cell in telling):
        if silent:
            why = silent[0].too_few(needed) + told
        elif worst is not None and worst.change.low < -config.fall:
            why = f"{calm}, but {worst.unsettled(config.fall)}"
        else:
            none = "" if worst is None else f", nor takes more than {100 * config.fall:g} points from success"
            verdict, why = "not used", calm + none + told
    elif (strongest := max(telling, key=lambda cell: cell.low)).low > 0:
        verdict, why = "used", strongest.told() + told
    else:
        widest = max(telling, key=lambda cell: max(-cell.low, cell.high))
        why = f"{widest.told()}, {'for the better' if widest.high < 0 else 'which may be nothing'}{told}"
    sentence = f"{label} is {verdict}: {why}"
    return Finding(input=name, label=label, verdict=verdict, sentence=sentence, kinds=list(effects))


def compare(
    result: Ablation,
    plain: Predictions,
    without: Predictions,
    config: AblationConfig,
    *,
    name: str,
    policy: str,
    phases: Phases | None = None,
    success: Rate | None = None,
) -> Control:
    """What a policy that was trained without an input says of it, by the predictions of both for the same frames.

    needed      its interval of success lies below that of the policy with all inputs; without an environment, some
                interval of the change of the error lies above 0 and beyond the margin
    not needed  all those intervals lie below the margin, and that of the change of success, if there is one, excludes a
                fall beyond what is called none
    not shown   else, and where there are too few episodes

    One training on each side: how much trainings differ among themselves, no interval here knows.
    """
    places = list(zip(plain.episodes, plain.frames, strict=True))
    assert list(zip(without.episodes, without.frames, strict=True)) == places, "predictions for other frames"
    names, scopes = scoped(plain, phases)
    scale = constant_error(plain)
    difference = sample_errors(without, scale) - sample_errors(plain, scale)
    level = level_of(1, phases)
    overall, *within = changes(difference, scopes, plain.episodes, level, config.seed)
    before = result.baseline.success
    episodes, needed = episodes_of(names, scopes, plain.episodes), fewest(level)
    cells = [
        Cell(phase=phase, change=change, error=result.baseline.error_in(phase), episodes=episodes[phase])
        for phase, change in zip((None, *names), (overall, *within), strict=True)
    ]
    telling = [cell for cell in cells if cell.episodes >= needed]
    silent = [cell for cell in cells if cell.episodes < needed]
    grown = [cell for cell in telling if cell.low > config.margin]
    trial = None if before is None or success is None else Trial(before=before, after=success)
    calm = f"the error grows by no more than {100 * config.margin:g} %"
    told = "" if trial is None else f"; {trial.told()}"
    verdict: Worth = "not shown"
    label = labels(inputs_of(plain.contract))[name]
    if trial is not None and trial.falls:
        verdict, why = "needed", f"success falls from {trial.before.rate:.0%} to {trial.after.rate:.0%}"
    elif grown:
        verdict = "needed" if trial is None else "not shown"
        why = max(grown, key=lambda cell: cell.low).told() + told
    elif not all(cell.high <= config.margin for cell in telling):
        why = max(telling, key=lambda cell: cell.high).told() + told
    elif silent:
        why = silent[0].too_few(needed) + told
    elif trial is not None and trial.change.low < -config.fall:
        why = f"{calm}, but {trial.unsettled(config.fall)}"
    else:
        none = "" if trial is None else f", and success does not fall by more than {100 * config.fall:g} points"
        verdict, why = "not needed", calm + none + told
    return Control(
        input=name,
        label=label,
        policy=policy,
        verdict=verdict,
        sentence=f"{label} is {verdict}: trained without it, {why}",
        error=float(sample_errors(without, scale)[scopes[:, 0]].mean()),
        **vars(overall),
        by_phase=dict(zip(names, within, strict=True)),
        success=success,
    )
