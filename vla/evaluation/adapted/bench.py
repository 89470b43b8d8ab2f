"""What motions of a policy are judged with, whatever adapters are on: one judge, one set of seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vla.data.episode import Reader
from vla.evaluation.motion.clips import Clip, prepare, stack
from vla.evaluation.motion.counterexamples import NOT_HUMAN, UNSEEN, counterexamples
from vla.evaluation.motion.figure import Figure, share
from vla.evaluation.motion.judge import ConvolutionalJudge
from vla.evaluation.motion.landmarks import Landmarks
from vla.evaluation.motion.policies import clip_of, clips_of, judge_of, landmarks_of, windows_of
from vla.motion.moves import Moves
from vla.policy import Policy
from vla.randomness import derive
from vla.sampling import body_of


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a policy is asked for; the same one begins with the same noise, whatever is switched on."""

    text: str
    n: int
    seed: int
    label: str
    """The action that the text means."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a judge says of some motions."""

    recall: Figure
    """Share that is called by the action asked for."""
    not_human: Figure


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Motions that a policy made of some questions, and what a judge says of each."""

    motions: tuple[Moves, ...]
    clips: tuple[Clip, ...]
    """Prepared."""
    wanted: tuple[str, ...]
    """What each was asked to show."""
    said: tuple[str, ...]
    features: Float[np.ndarray, "N F"]

    @property
    def hits(self) -> Bool[np.ndarray, " N"]:
        """Which are called by the action asked for."""
        found: Bool[np.ndarray, " N"] = np.array(self.said) == np.array(self.wanted)
        return found

    def called(self, name: str, seed: int) -> Figure:
        """The share that is called by a name."""
        return share(np.array(self.said) == name, each(len(self.said)), seed=seed)

    def told(self, seed: int) -> Told:
        """Recall, and the share that no human does."""
        return Told(recall=share(self.hits, each(len(self.said)), seed=seed), not_human=self.called(NOT_HUMAN, seed))


def each(count: int) -> list[str]:
    """A source of its own for each."""
    return [str(place) for place in range(count)]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A judge of real clips and what it sees of a body."""

    judge: ConvolutionalJudge
    seen: tuple[int, ...]
    landmarks: Landmarks
    seconds: float
    """Length of a motion: a chunk's."""
    steps: int | None
    """Network calls for a chunk; None: the policy's."""
    real: tuple[Clip, ...]
    """Windows of held-out clips, prepared."""
    taught: tuple[Clip, ...]
    """Windows of training clips, prepared."""

    @staticmethod
    def of(
        policy: Policy, training: Sequence[Reader], held_out: Sequence[Reader], seed: int, steps: int | None
    ) -> "Bench":
        """A judge trained on training clips, as long as a policy's chunk.

        Raises:
            ValueError: the policy is none of motion, or its body cannot be judged.
        """
        seen, landmarks = landmarks_of(body_of(policy))
        seconds = policy.contract.horizon / policy.contract.fps
        real, taught = (
            tuple(prepare(window) for window in windows_of(clips_of(readers, seen), seconds))
            for readers in (held_out, training)
        )
        judge = judge_of(training, seen, landmarks, seconds, seed)
        return Bench(
            judge=judge, seen=tuple(seen), landmarks=landmarks, seconds=seconds, steps=steps, real=real, taught=taught
        )

    def ask(self, policy: Policy, questions: Sequence[Question]) -> Answers:
        """Motions that a policy makes of some questions, judged."""
        motions: list[Moves] = []
        clips: list[Clip] = []
        wanted: list[str] = []
        for question in questions:
            made = policy.sample(question.text, self.seconds, n=question.n, seed=question.seed, steps=self.steps)
            motions += made
            wanted += [question.label] * len(made)
            clips += [
                prepare(clip_of(motion, self.seen, f"{question.text} {number}", question.label))
                for number, motion in enumerate(made)
            ]
        windows = stack(clips)
        return Answers(
            motions=tuple(motions),
            clips=tuple(clips),
            wanted=tuple(wanted),
            said=tuple(self.judge.classify(windows)),
            features=self.judge.features(windows),
        )

    def chance(self, answers: Answers, label: str) -> float:
        """How likely motions show a label, in the mean."""
        return float(self.judge.chances(stack(answers.clips), label).mean())

    def recall_of(self, clips: Sequence[Clip], label: str, seed: int) -> Figure:
        """How many real windows of an action the judge names right; the interval resamples clips."""
        own = [clip for clip in clips if clip.label == label]
        said = self.judge.classify(stack(own)) if own else []
        return share(np.array([name == label for name in said], dtype=bool), [clip.source for clip in own], seed=seed)

    def rejected(self, seed: int) -> Figure:
        """How many counter-examples are rejected that are made of held-out windows by settings it never saw."""
        made = [
            clip for some in counterexamples(self.real, self.landmarks, UNSEEN, seed=seed).values() for clip in some
        ]
        said = self.judge.classify(stack(made)) if made else []
        named = np.array([name == NOT_HUMAN for name in said], dtype=bool)
        return share(named, [clip.source for clip in made], seed=seed)


def questions_of(texts: Sequence[str], label: str, n: int, seed: int) -> list[Question]:
    """At least so many motions over some texts, as many of each, each text with noise of its own."""
    own = -(-n // len(texts))
    return [
        Question(text=text, n=own, seed=int(derive(seed, f"adapted/{text}").integers(2**31)), label=label)
        for text in texts
    ]
