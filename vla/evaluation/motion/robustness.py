"""A policy of motion, asked for the prompts of some suites: how often what it makes is safe.

A prompt that is refused as it should be, and one that fails, are told apart from motions that are unsafe, and count in
no share.
"""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from vla.critic.critic import Critic
from vla.critic.verdict import Verdict
from vla.evaluation.motion.grading import Grade, Graded, Share, grades_of
from vla.evaluation.motion.suites import Prompt, Suite
from vla.evaluation.motion.table import WIDTH
from vla.motion.moves import Moves
from vla.randomness import derive

SHOWN = 100
"""Characters of a text that are written down."""


@runtime_checkable
class Mover(Protocol):
    """What is asked of a policy."""

    def sample(self, text: str, seconds: float, *, n: int, seed: int, steps: int | None) -> list[Moves]:
        """Motions that show a text. ValueError says why there are none."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one prompt."""

    prompt: Prompt
    seed: int
    """With which `vla sample` makes its motions again."""
    frames: int = 0
    """Of a motion."""
    verdicts: Mapping[int, Verdict]
    """By the number of the motion, of those that could be judged."""
    refusal: str | None = None
    """Why there is no motion, of a prompt that is to be refused."""
    errors: tuple[str, ...] = ()
    """Why motions could not be made or judged."""

    @property
    def share(self) -> Share:
        """The safe ones of its motions."""
        return Share(safe=sum(verdict.is_safe for verdict in self.verdicts.values()), count=len(self.verdicts))

    @property
    def is_safe(self) -> bool:
        """Whether all that was judged is."""
        return bool(self.verdicts) and self.share.safe == self.share.count

    def to_json(self) -> dict[str, Any]:
        """Plain values: of its motions together, and of each."""
        prompt = self.prompt
        told = {"prompt_id": prompt.id, "prompt_text": prompt.text[:SHOWN], "seconds": prompt.seconds}
        if self.refusal is not None:
            return told | {"refusal": self.refusal}
        if not self.verdicts:
            return told | {"error": self.errors[0]}
        verdicts = self.verdicts
        worst = min(verdicts, key=lambda number: verdicts[number].score)
        types = issue_types(verdicts.values())
        reasons = [reason for verdict in verdicts.values() for reason in verdict.get_rejection_reasons()]
        motions = [
            {
                "sample": number,
                "is_safe": verdict.is_safe,
                "overall_score": verdict.score,
                "issue_types": [issue.check for issue in verdict.issues],
                "rejection_reasons": verdict.get_rejection_reasons(),
                "check_results": dict(verdict.values),
            }
            for number, verdict in verdicts.items()
        ]
        return told | {
            "num_frames": self.frames,
            "is_safe": self.is_safe,
            "overall_score": sum(verdict.score for verdict in verdicts.values()) / len(verdicts),
            "issue_count": types.total(),
            "issue_types": list(types),
            "rejection_reasons": list(dict.fromkeys(reasons)),
            "check_results": dict(verdicts[worst].values),
            "seed": self.seed,
            "safe_samples": self.share.safe,
            "total_samples": self.share.count,
            "worst_sample": worst,
            "samples": motions,
            "errors": list(self.errors),
        }


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of one suite."""

    name: str
    suite: Suite
    answers: tuple[Answer, ...]

    @property
    def judged(self) -> list[Answer]:
        """The prompts of which a motion was judged."""
        return [answer for answer in self.answers if answer.verdicts]

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all motions."""
        return [verdict for answer in self.answers for verdict in answer.verdicts.values()]

    @property
    def share(self) -> Share:
        """The safe ones of its motions."""
        return sum((answer.share for answer in self.answers), Share())

    @property
    def score(self) -> float | None:
        """Of its motions, in the mean; None of none."""
        scores = [verdict.score for verdict in self.verdicts]
        return sum(scores) / len(scores) if scores else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        share = self.share
        return {
            "suite_name": self.name,
            "description": self.suite.description,
            "expect_degradation": self.suite.expect_degradation,
            "total_prompts": len(self.judged),
            "safe_count": sum(answer.is_safe for answer in self.judged),
            "safe_ratio": share.ratio,
            "mean_score": self.score,
            "issue_distribution": dict(issue_types(self.verdicts)),
            "prompts": [answer.to_json() for answer in self.answers],
            "safe_samples": share.safe,
            "total_samples": share.count,
            "safe_ratio_interval": share.interval,
            "refusals": sum(answer.refusal is not None for answer in self.answers),
            "errors": sum(len(answer.errors) for answer in self.answers),
        }


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What came of all suites."""

    suites: tuple[Answers, ...]
    critic: Critic
    samples: int
    """Motions of each prompt."""
    seed: int
    steps: int | None
    """Network calls for a chunk; None: the policy's."""
    remarks: tuple[str, ...] = ()
    """Where suites are from that do not ship."""

    @property
    def judged(self) -> list[Answer]:
        """The prompts of which a motion was judged."""
        return [answer for suite in self.suites for answer in suite.judged]

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """Prompts that were refused as they should be: suite/id, and the reason."""
        return [(where, answer.refusal) for where, answer in self.placed() if answer.refusal is not None]

    @property
    def errors(self) -> list[tuple[str, str]]:
        """What could not be made or judged: suite/id, and the reason."""
        return [(where, error) for where, answer in self.placed() for error in answer.errors]

    def placed(self) -> Iterator[tuple[str, Answer]]:
        """Every answer with suite/id."""
        for suite in self.suites:
            yield from ((f"{suite.name}/{answer.prompt.id}", answer) for answer in suite.answers)

    def share(self, *, degraded: bool | None = None) -> Share:
        """The safe ones of all motions, or of those of suites that are to put a policy off, or not to."""
        chosen = (suite for suite in self.suites if degraded in (None, suite.suite.expect_degradation))
        return sum((suite.share for suite in chosen), Share())

    def grades(self) -> dict[Graded, Grade | None]:
        """Baseline, adversarial and the gap between them."""
        return grades_of(self.share(degraded=False), self.share(degraded=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        share, grades = self.share(), self.grades()
        ratios = {kind: None if grade is None else grade.value for kind, grade in grades.items()}
        return {
            "summary": {
                "total_prompts": len(self.judged),
                "total_safe": sum(answer.is_safe for answer in self.judged),
                "overall_safe_ratio": share.ratio,
                "baseline_safe_ratio": ratios["baseline"],
                "adversarial_safe_ratio": ratios["adversarial"],
                "robustness_gap": ratios["gap"],
                "total_samples": share.count,
                "safe_samples": share.safe,
                "overall_safe_ratio_interval": share.interval,
                "refusals": len(self.refusals),
                "errors": len(self.errors),
            },
            "suites": [suite.to_json() for suite in self.suites],
            "grades": {kind: None if grade is None else grade.to_json() for kind, grade in grades.items()},
            "samples_a_prompt": self.samples,
            "seed": self.seed,
            "steps": self.steps,
            "critic": asdict(self.critic.config),
            "unjudged": self.unjudged(),
            "refusals": [{"prompt": where, "refusal": reason} for where, reason in self.refusals],
            "errors": [{"prompt": where, "error": reason} for where, reason in self.errors],
            "remarks": list(self.remarks),
        }

    def unjudged(self) -> list[str]:
        """Checks that could not be made, each with its reason."""
        verdicts = (verdict for suite in self.suites for verdict in suite.verdicts)
        return list(dict.fromkeys(reason for verdict in verdicts for reason in verdict.unjudged))

    def lines(self) -> list[str]:
        """The table in 80 columns."""
        told = (
            f"{self.samples} motions of each prompt, seed {self.seed}. Unsafe: an issue of severity "
            f"{self.critic.config.unsafe_severity:g} or more. Shares are of motions; their 95 % intervals say what "
            "others of these prompts would give, not of other prompts."
        )
        wide = max(len(suite.name) for suite in self.suites)
        lines = [*textwrap.wrap(told, WIDTH), "", f"{'suite':<{wide}}  prompts  motions  {'safe':<19}  score"]
        for suite in self.suites:
            score = "-" if suite.score is None else f"{suite.score:.2f}"
            counts = f"{len(suite.judged):>7}  {suite.share.count:>7}"
            lines.append(f"{suite.name:<{wide}}  {counts}  {suite.share!s:<19}  {score}")
            if types := issue_types(suite.verdicts):
                lines += wrapped("    ", ", ".join(f"{check} {count}" for check, count in types.items()))
        lines.append("")
        for kind, grade in self.grades().items():
            lines.append(f"{kind:<11}  {'no motions' if grade is None else grade}")
        for name, apart in (
            ("refused, as they should be", self.refusals),
            ("errors, which count in no share", self.errors),
        ):
            lines.append(f"{name}: {len(apart)}")
            lines += [line for where, reason in apart for line in wrapped("    ", f"{where}: {reason}")]
        return [*lines, *(line for told in (*self.unjudged(), *self.remarks) for line in textwrap.wrap(told, WIDTH))]


def wrapped(indent: str, text: str) -> list[str]:
    """A text in 80 columns, moved in."""
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def issue_types(verdicts: Iterable[Verdict]) -> Counter[str]:
    """How many motions have an issue of each kind, most of them first."""
    found = Counter(issue.check for verdict in verdicts for issue in verdict.issues)
    return Counter(dict(found.most_common()))


def try_policy(
    policy: Mover,
    suites: Mapping[str, Suite],
    critic: Critic,
    *,
    samples: int,
    seed: int,
    steps: int | None = None,
    remarks: Sequence[str] = (),
    progress: Callable[[int], object] = lambda _: None,
) -> Robustness:
    """A policy, asked for motions of every prompt, each with noise of its own, whatever suites stand beside it."""

    def answers(name: str, suite: Suite) -> Iterator[Answer]:
        for prompt in suite.prompts:
            own = int(derive(seed, f"suites/{name}/{prompt.id}").integers(2**31))
            yield answer(policy, prompt, critic, samples=samples, seed=own, steps=steps)
            progress(1)

    return Robustness(
        suites=tuple(
            Answers(name=name, suite=suite, answers=tuple(answers(name, suite))) for name, suite in suites.items()
        ),
        critic=critic,
        samples=samples,
        seed=seed,
        steps=steps,
        remarks=tuple(remarks),
    )


def answer(
    policy: Mover, prompt: Prompt, critic: Critic, *, samples: int, seed: int, steps: int | None = None
) -> Answer:
    """Motions of one prompt, judged. What fails with a sentence is an answer; a mistake of ours is raised."""
    to_refuse = prompt.expect == "refusal"
    try:
        motions = policy.sample(prompt.text, prompt.seconds, n=samples, seed=seed, steps=steps)
    except ValueError as error:
        reason = str(error)
        if to_refuse:
            return Answer(prompt=prompt, seed=seed, verdicts={}, refusal=reason)
        return Answer(prompt=prompt, seed=seed, verdicts={}, errors=(reason,))
    if to_refuse:
        return Answer(prompt=prompt, seed=seed, verdicts={}, errors=("it was to be refused, and motions were made",))
    verdicts, errors = {}, []
    for number, motion in enumerate(motions):
        try:
            verdicts[number] = critic.judge(motion, prompt.text)
        except ValueError as error:
            errors.append(f"motion {number}: {error}")
    return Answer(prompt=prompt, seed=seed, frames=len(motions[0].rows), verdicts=verdicts, errors=tuple(errors))
