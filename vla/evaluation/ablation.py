"""Ablation: what a policy answers when one of its inputs is altered, on recordings.

Altered and unaltered chunks start from the same noise, so that they differ by the input alone. What follows from them,
vla/evaluation/verdicts.py says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from vla.batch import Batch, Observation, Sample, collate
from vla.evaluation.alteration import INSTRUCTION, Alteration, Blank, Kind, alike, kinds_of, swap
from vla.evaluation.loading import batches
from vla.evaluation.open_loop import Predictions, Progress, Samples, randomness
from vla.policy import Policy
from vla.randomness import derive


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """How inputs are altered and what counts as a change."""

    delay_s: float = 0.25
    """How far back a delayed input lies, in seconds; at least one frame."""
    margin: float = 0.05
    """Share of the unaltered error within which a change is none, > 0."""
    fall: float = 0.1
    """Fall of the success rate that an input without use may not exceed, > 0."""
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
    """Another one, of another episode; its own where there is none."""


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
    instructions = {name: instructions_of(samples, frames[name]) for name in chosen}
    found = []
    for index in indices:
        name, frame = samples.locate(index)
        draw = derive(seed, "stand-ins", index)
        others = [other for other in frames if other != name]
        other = list(frames[others[draw.integers(len(others))]].values())
        before = [at for own, at in frames[name].items() if own <= frame - delay_steps]
        own = samples.instruction(index)
        elsewhere = [text for of, texts in instructions.items() if of != name for text in texts]
        different = [text for text in elsewhere if text != own]
        found.append(
            StandIns(
                shuffled=other[draw.integers(len(other))],
                delayed=before[-1] if before else starts[name],
                frozen=starts[name],
                instruction=different[draw.integers(len(different))] if different else own,
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


def instructions_of(samples: Samples, frames: Mapping[int, int]) -> tuple[str, ...]:
    """The different instructions of an episode, given its frames."""
    return tuple(dict.fromkeys(map(samples.instruction, frames.values())))


class Together:
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


def collate_each(seed: int, rows: Sequence[tuple[Sample, ...]]) -> tuple[Batch, ...]:
    """One batch of each kind."""
    return tuple(collate(column, seed, "validation") for column in zip(*rows, strict=True))


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
    told = any(len(instructions_of(samples, frames)) > 1 for frames in episode_frames(samples).values())
    alterations = [
        Alteration(input=name, kind=kind, delay_steps=delay_steps)
        for name in inputs
        for kind in kinds_of(changing=name != INSTRUCTION or told)
    ]
    chunks: dict[Alteration | None, list[np.ndarray]] = {alteration: [] for alteration in (None, *alterations)}
    changed: set[Alteration] = set()
    recorded, valid = [], []
    together = Together(samples, indices, others)
    size = config.batch_size
    read = batches(
        together.__getitem__,
        range(len(together)),
        partial(collate_each, config.seed),
        batch_size=size,
        workers=config.workers,
    )
    for start, made in zip(range(0, len(indices), size), read, strict=True):
        rows, stands = indices[start : start + size], others[start : start + size]
        observed = [batch.observation.to(device) for batch in made]
        for alteration, observation in versions(policy, observed, stands, alterations):
            if alteration is not None and not alike(observation, observed[0]):
                changed.add(alteration)
            noise, generator = randomness(config.seed, rows, policy.contract)
            chunks[alteration].append(policy.act(observation, noise.to(device), config.steps, generator).cpu().numpy())
        recorded.append(made[0].actions.numpy())
        valid.append(made[0].action_valid.numpy())
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
