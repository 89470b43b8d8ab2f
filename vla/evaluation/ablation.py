"""Ablation: which of its inputs a policy uses, measured on recordings by altering one at a time.

The error of a sample is the mean absolute error of its chunk, each dimension as a share of the error of always
answering the mean action, so that metres, radians and grippers count alike. Altered and unaltered chunks start from
the same noise, and their errors are subtracted sample by sample. Intervals resample whole episodes and hold together,
with 95 %, for all kinds and phases of an input (Bonferroni).

The kinds other than zeroed decide, in all frames and within each phase:

used       in an environment, the interval of an altered success rate lies below that of the unaltered one
not used   else, every interval of the change lies within a margin round 0, a share of the unaltered error
used       else, some interval lies above 0
not shown  else; and where there are too few episodes, or the input is the same in all frames
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch.utils.data import DataLoader, Dataset

from vla.batch import Batch, Observation, Sample, collate
from vla.data.order import derive
from vla.evaluation.alteration import Alteration, Blank, Kind, alike, kinds_of, swap
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
    short,
    shown,
)
from vla.evaluation.intervals import LEVEL, bootstrap
from vla.evaluation.open_loop import Predictions, Progress, Samples, randomness
from vla.evaluation.phases import Phases
from vla.policy import Policy

SuccessOf = Callable[[Alteration | None], Rate | None]
"""How often the policy succeeds in an environment with an alteration, or with none; None without an environment."""
DECIDING: tuple[Kind, ...] = ("shuffled", "delayed", "frozen")
"""What replaces an input by one as the data holds it."""
FEWEST_EPISODES = 5
"""Of fewer, no resampling tells how much episodes differ; a phase of fewer is left out."""
SMALLEST_ERROR = 1e-9
"""What changes are a share of where a policy makes no error at all."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """How inputs are altered and what counts as a change."""

    delay_s: float = 0.25
    """How far back a delayed input lies, in seconds; at least one frame."""
    margin: float = 0.05
    """Share of the unaltered error within which a change is none, > 0."""
    seed: int = 0
    """Of noise, shuffling and resampling."""
    batch_size: int = 8
    workers: int = 0
    steps: int | None = None
    """Sampling steps; None: as the policy says."""

    def delay_steps(self, fps: float) -> int:
        """The delay in frames.

        Raises:
            ValueError: it is less than one.
        """
        steps = round(self.delay_s * fps)
        if steps < 1:
            raise ValueError(f"a delay of {self.delay_s:g} s is no frame at {fps:g} Hz; give {1 / fps:.3g} s or more")
        return steps


@dataclass(frozen=True, kw_only=True)
class StandIns:
    """Whose inputs a sample is given."""

    shuffled: int
    """A sample of another episode."""
    delayed: int
    frozen: int
    instruction: str
    """That of an episode with another one; its own where all have the same."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Unaltered predictions, and the chunks with each alteration, on the same samples and from the same noise."""

    plain: Predictions
    altered: dict[Alteration, Predictions]
    """Without the alterations that changed no sample."""
    inputs: tuple[str, ...]


def stand_ins(samples: Samples, indices: Sequence[int], delay_steps: int, seed: int) -> list[StandIns]:
    """Of each sample, a random frame of another episode, the newest frame that is late enough, and the first one.

    Raises:
        ValueError: there is only one episode.
    """
    frames = episode_frames(samples)
    if len(frames) < 2:
        raise ValueError(
            "an ablation shuffles inputs between episodes, but the data has only one to evaluate on; hold out more "
            "with --data.validation-share, or evaluate on all with --data.validation-share 0"
        )
    starts = {name: next(iter(own.values())) for name, own in frames.items()}
    chosen = sorted({samples.locate(index)[0] for index in indices})
    instructions = {name: samples[starts[name]].instruction for name in chosen}
    found = []
    for index in indices:
        name, frame = samples.locate(index)
        draw = derive(seed, "stand-ins", index)
        others = [other for other in frames if other != name]
        other = list(frames[others[draw.integers(len(others))]].values())
        before = [at for own, at in frames[name].items() if own <= frame - delay_steps]
        different = [text for text in instructions.values() if text != instructions[name]]
        found.append(
            StandIns(
                shuffled=other[draw.integers(len(other))],
                delayed=before[-1] if before else starts[name],
                frozen=starts[name],
                instruction=different[draw.integers(len(different))] if different else instructions[name],
            )
        )
    return found


def episode_frames(samples: Samples) -> dict[str, dict[int, int]]:
    """By episode, the indices of its samples by frame."""
    frames: dict[str, dict[int, int]] = {}
    for index in range(len(samples)):
        name, frame = samples.locate(index)
        frames.setdefault(name, {})[frame] = index
    return frames


class Together(Dataset[tuple[Sample, ...]]):
    """Each sample with those that stand in for it: itself, shuffled, delayed, frozen."""

    def __init__(self, samples: Samples, indices: Sequence[int], others: Sequence[StandIns]) -> None:
        self.samples = samples
        self.rows = [
            (index, other.shuffled, other.delayed, other.frozen) for index, other in zip(indices, others, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Sample, ...]:
        """The four, each read once."""
        read = {index: self.samples[index] for index in set(self.rows[row])}
        return tuple(read[index] for index in self.rows[row])


def collate_each(rows: Sequence[tuple[Sample, ...]]) -> tuple[Batch, ...]:
    """One batch of each kind."""
    return tuple(collate(column) for column in zip(*rows, strict=True))


def answer(
    policy: Policy,
    samples: Samples,
    indices: Sequence[int],
    inputs: Sequence[str],
    config: AblationConfig,
    *,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Answers:
    """The policy's chunks for some samples, unaltered and with every alteration of some inputs."""
    device = torch.device("cpu") if device is None else device
    delay_steps = config.delay_steps(policy.contract.fps)
    others = stand_ins(samples, indices, delay_steps, config.seed)
    policy.to(device).set_mode(training=False)
    alterations = [
        Alteration(input=name, kind=kind, delay_steps=delay_steps) for name in inputs for kind in kinds_of(name)
    ]
    chunks: dict[Alteration | None, list[np.ndarray]] = {alteration: [] for alteration in (None, *alterations)}
    changed: set[Alteration] = set()
    recorded, valid = [], []
    together = Together(samples, indices, others)
    loader = DataLoader(together, batch_size=config.batch_size, collate_fn=collate_each, num_workers=config.workers)
    size = config.batch_size
    for start, batches in zip(range(0, len(indices), size), loader, strict=True):
        rows, stands = indices[start : start + size], others[start : start + size]
        observed = [batch.observation.to(device) for batch in batches]
        for alteration, observation in versions(policy, observed, stands, alterations):
            if alteration is not None and not alike(observation, observed[0]):
                changed.add(alteration)
            noise, generator = randomness(config.seed, rows, policy.contract)
            chunks[alteration].append(policy.act(observation, noise.to(device), config.steps, generator).cpu().numpy())
        recorded.append(batches[0].actions.numpy())
        valid.append(batches[0].action_valid.numpy())
        if progress is not None:
            progress(len(rows))
    places = [samples.locate(index) for index in indices]
    plain = Predictions(
        contract=policy.contract,
        episodes=[name for name, _ in places],
        frames=[frame for _, frame in places],
        predicted=np.concatenate(chunks[None]),
        recorded=np.concatenate(recorded),
        valid=np.concatenate(valid),
        losses=np.zeros(len(places)),
    )
    altered = {
        entry: replace(plain, predicted=np.concatenate(chunks[entry])) for entry in alterations if entry in changed
    }
    return Answers(plain=plain, altered=altered, inputs=tuple(inputs))


def versions(
    policy: Policy,
    observed: Sequence[Observation],
    stands: Sequence[StandIns],
    alterations: Sequence[Alteration],
) -> Iterator[tuple[Alteration | None, Observation]]:
    """The observation of some samples as it is, and with each alteration."""
    plain, shuffled, delayed, frozen = observed
    sources: dict[Kind, Observation] = {
        "zeroed": Blank.of(policy).out(plain),
        "shuffled": replace(shuffled, instructions=tuple(stand.instruction for stand in stands)),
        "delayed": delayed,
        "frozen": frozen,
    }
    yield None, plain
    for alteration in alterations:
        yield alteration, swap(plain, sources[alteration.kind], alteration.input, policy.contract)


def sample_errors(predictions: Predictions, scale: Float64[np.ndarray, " A"]) -> Float64[np.ndarray, " N"]:
    """The mean over valid steps and dimensions of the absolute error in units of a scale; those of scale 0 left out."""
    error = np.abs(predictions.differences(predictions.predicted).astype(np.float64))
    shares = (error[..., scale > 0] / scale[scale > 0]).mean(axis=-1)
    valid = predictions.valid
    errors: Float64[np.ndarray, " N"] = np.where(valid, shares, 0.0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    return errors


def constant_error(predictions: Predictions) -> Float64[np.ndarray, " A"]:
    """Of each dimension, the mean absolute error of always answering the mean action.

    Raises:
        ValueError: no dimension varies.
    """
    error = np.abs(predictions.differences(predictions.mean())[predictions.valid]).astype(np.float64)
    scale: Float64[np.ndarray, " A"] = error.mean(axis=0)
    if not scale.any():
        raise ValueError("all recorded actions are the same, so no input can matter; evaluate on other episodes")
    return scale


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
    episodes = len(set(plain.episodes))
    findings = []
    for name in answers.inputs:
        own = {entry: made for entry, made in answers.altered.items() if entry.input == name}
        level = 1 - (1 - LEVEL) / max(1, sum(entry.kind in DECIDING for entry in own) * scopes.shape[1])
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
        findings.append(find(name, effects, baseline, margin=config.margin, episodes=episodes))
    return Ablation(
        policy=policy,
        samples=len(unaltered),
        episodes=episodes,
        margin=config.margin,
        delay_s=config.delay_s,
        phases=list(names),
        baseline=baseline,
        inputs=findings,
    )


def scoped(plain: Predictions, phases: Phases | None) -> tuple[tuple[str, ...], Bool[np.ndarray, "N K"]]:
    """The phases of enough episodes, and which samples are looked at: all that are valid, and those of each phase."""
    labels = [None] * len(plain.frames) if phases is None else phases.of(plain.episodes, plain.frames)
    names = () if phases is None else frequent(phases.names, labels, plain.episodes)
    scopes = np.stack([plain.valid.any(axis=1), *([label == name for label in labels] for name in names)], axis=1)
    return names, scopes


def frequent(names: Sequence[str], labels: Sequence[str | None], episodes: Sequence[str]) -> tuple[str, ...]:
    """The phases of enough episodes to say something of each."""
    seen = set(zip(labels, episodes, strict=True))
    return tuple(name for name in names if sum(label == name for label, _ in seen) >= FEWEST_EPISODES)


def changes(
    difference: Float64[np.ndarray, " N"],
    scopes: Bool[np.ndarray, "N K"],
    episodes: Sequence[str],
    level: float,
    seed: int,
) -> list[Change]:
    """The mean difference in each scope, with its interval."""
    values = np.broadcast_to(difference[:, None], scopes.shape)
    intervals = bootstrap(values, scopes, episodes, level=level, seed=seed)
    return [
        Change(change=float(difference[scope].mean()), low=float(low), high=float(high))
        for scope, (low, high) in zip(scopes.T, intervals, strict=True)
    ]


def find(name: str, effects: Sequence[Effect], baseline: Baseline, *, margin: float, episodes: int) -> Finding:
    """The verdict on an input, and why."""
    deciding = [effect for effect in effects if effect.kind in DECIDING]
    cells = [
        (effect.kind, phase, entry, max(baseline.error_in(phase), SMALLEST_ERROR))
        for effect in deciding
        for phase, entry in ((None, effect.overall()), *effect.by_phase.items())
    ]
    telling = max(cells, key=lambda cell: cell[2].low / cell[3], default=None)
    success = worst_success(deciding, baseline)
    verdict: Verdict = "not shown"
    if telling is None:
        why = "it is the same in all these frames"
    elif episodes < FEWEST_EPISODES:
        why = f"{episodes} episodes are too few to tell, give {FEWEST_EPISODES} or more"
    elif success is not None:
        verdict, why = "used", success
    elif all(max(-entry.low, entry.high) <= margin * error for _, _, entry, error in cells):
        verdict, why = "not used", f"no alteration changes the error by more than {100 * margin:g} %"
    elif telling[2].low > 0:
        kind, phase, entry, error = telling
        where = "" if phase is None else f" in {phase}"
        verdict, why = "used", f"{kind}, it changes the error{where} by {shown(entry, error)} %"
    else:
        kind, _, entry, error = max(cells, key=lambda cell: cell[2].high / cell[3])
        why = f"{kind}, it changes the error by {shown(entry, error)} %, which may be nothing"
    return Finding(input=name, verdict=verdict, sentence=f"{short(name)} is {verdict}: {why}", kinds=list(effects))


def worst_success(effects: Sequence[Effect], baseline: Baseline) -> str | None:
    """The lowest success rate, where its interval lies below the unaltered one's; None where none does."""
    before = baseline.success
    rates = [
        (effect.success.high, effect.success.rate, effect.kind) for effect in effects if effect.success is not None
    ]
    if before is None or not rates:
        return None
    high, rate, kind = min(rates, key=lambda entry: entry[0])
    return f"{kind}, it takes success from {before.rate:.0%} to {rate:.0%}" if high < before.low else None


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
    not needed  all those intervals lie below the margin, and that of success, if there is one, not below
    not shown   else, and where there are too few episodes

    One training on each side: how much trainings differ among themselves, no interval here knows.
    """
    places = list(zip(plain.episodes, plain.frames, strict=True))
    assert list(zip(without.episodes, without.frames, strict=True)) == places, "predictions for other frames"
    names, scopes = scoped(plain, phases)
    scale = constant_error(plain)
    difference = sample_errors(without, scale) - sample_errors(plain, scale)
    level = 1 - (1 - LEVEL) / scopes.shape[1]
    overall, *within = changes(difference, scopes, plain.episodes, level, config.seed)
    before = result.baseline.success
    cells = [
        (phase, entry, max(result.baseline.error_in(phase), SMALLEST_ERROR))
        for phase, entry in zip((None, *names), (overall, *within), strict=True)
    ]
    phase, worst, error = max(cells, key=lambda cell: cell[1].low / cell[2])
    where = "" if phase is None else f" in {phase}"
    verdict: Worth = "not shown"
    if success is not None and before is not None and success.high < before.low:
        verdict, why = "needed", f"success falls from {before.rate:.0%} to {success.rate:.0%}"
    elif result.episodes < FEWEST_EPISODES:
        why = f"{result.episodes} episodes are too few to tell"
    elif success is None and worst.low > config.margin * error:
        verdict, why = "needed", f"the error{where} changes by {shown(worst, error)} %"
    elif all(entry.high <= config.margin * own for _, entry, own in cells):
        verdict, why = "not needed", f"the error grows by no more than {100 * config.margin:g} %"
    else:
        why = f"the error{where} changes by {shown(worst, error)} %" + (
            "" if success is None or before is None else f", success from {before.rate:.0%} to {success.rate:.0%}"
        )
    return Control(
        input=name,
        policy=policy,
        verdict=verdict,
        sentence=f"{short(name)} is {verdict}: trained without it, {why}",
        error=float(sample_errors(without, scale)[scopes[:, 0]].mean()),
        **vars(overall),
        by_phase=dict(zip(names, within, strict=True)),
        success=success,
    )
