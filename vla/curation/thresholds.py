"""Why an item is dropped: the scores against the settings, in the order in which they are looked at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vla.curation.scores import Scores
from vla.curation_settings import CurationConfig

Check = Literal[
    "corrupt", "length", "unjudged", "unsafe", "issue", "artifact", "realism", "quality", "camera_stability",
    "jump", "frozen", "clipped", "camera", "failed", "balance", "source",
]  # fmt: skip
WORDS: Mapping[Check, str] = {
    "corrupt": "cannot be read",
    "length": "too short or too long",
    "unjudged": "cannot be judged",
    "unsafe": "rejected by the critic",
    "issue": "the critic has something to say",
    "artifact": "faults",
    "realism": "not real enough",
    "quality": "not good enough",
    "camera_stability": "an unsteady camera",
    "jump": "a jump",
    "frozen": "a stream stands still",
    "clipped": "a sensor at its end",
    "camera": "a camera is missing",
    "failed": "it did not succeed",
    "balance": "enough of its action",
    "source": "enough of its source",
}
"""In the order in which an item is looked at."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why an item is not in a split."""

    check: Check
    detail: str
    """What was found and what was wanted, in words and units."""


def reasons(
    scores: Scores, config: CurationConfig, usual: Mapping[str, float] | None
) -> tuple[list[Reason], list[Reason]]:
    """Why an item is in neither split, and why not for fine-tuning; `usual` are steps of robots, None of motion."""
    if usual is not None:
        return list(on_robots(scores, config, usual)), []
    return list(on_motions(scores, config)), list(on_fine_tuning(scores, config))


def on_length(seconds: float, limits: tuple[float | None, float | None]) -> Iterator[Reason]:
    """Too short, or too long."""
    least, most = limits
    if least is not None and seconds < least:
        yield Reason(check="length", detail=f"{seconds:.4g} s, at least {least:g} s are wanted")
    if most is not None and seconds > most:
        yield Reason(check="length", detail=f"{seconds:.4g} s, at most {most:g} s are wanted")


def on_motions(scores: Scores, config: CurationConfig) -> Iterator[Reason]:
    """Of a motion, why it is in neither split."""
    yield from on_length(scores.seconds, config.seconds(motion=True))
    if scores.problem:
        yield Reason(check="unjudged", detail=scores.problem)
        return
    for fault in scores.faults:
        if fault.unsafe:
            yield Reason(check="unsafe", detail=f"{fault.check}: {fault.detail}")
    yield from above("artifact", scores.artifact, config.max_artifact)
    yield from below("realism", scores.realism, config.min_realism_pretrain)
    yield from below("quality", scores.quality, config.min_quality_pretrain)


def on_fine_tuning(scores: Scores, config: CurationConfig) -> Iterator[Reason]:
    """Of a motion that is good enough for pre-training, why it is not for fine-tuning."""
    for fault in scores.faults:
        yield Reason(check="issue", detail=f"{fault.check}: {fault.detail}")
    yield from below("realism", scores.realism, config.min_realism_sft)
    yield from below("quality", scores.quality, config.min_quality_sft)
    yield from below("camera_stability", scores.camera_stability, config.min_camera_stability_sft)


def above(check: Check, value: float | None, most: float) -> Iterator[Reason]:
    """A score that is too high."""
    if value is not None and value > most:
        yield Reason(check=check, detail=f"{check} {value:.3f}, at most {most:g} is wanted")


def below(check: Check, value: float | None, least: float) -> Iterator[Reason]:
    """A score that is too low."""
    if value is not None and value < least:
        yield Reason(check=check, detail=f"{check.replace('_', ' ')} {value:.3f}, at least {least:g} is wanted")


def on_robots(scores: Scores, config: CurationConfig, usual: Mapping[str, float]) -> Iterator[Reason]:
    """Of a robot's episode."""
    limits = config.robot
    yield from on_length(scores.seconds, config.seconds(motion=False))
    if scores.problem:
        yield Reason(check="unjudged", detail=scores.problem)
        return
    for name, step in scores.steps.items():
        if step > limits.max_jump * usual.get(name, 0.0):
            detail = f"{name} changes by {step:.3g} from one row to the next, {step / usual[name]:.3g} times as far as"
            yield Reason(check="jump", detail=f"{detail} is usual, at most {limits.max_jump:g} times is wanted")
    for name, share in scores.frozen.items():
        if share > limits.max_frozen:
            detail = f"{name} stands still in {share:.0%} of the episode while others move, at most "
            yield Reason(check="frozen", detail=f"{detail}{limits.max_frozen:.0%} is wanted")
    for name, share in scores.clipped.items():
        if share > limits.max_clipped:
            detail = f"a channel of {name} is at its end in {share:.0%} of the samples, at most "
            yield Reason(check="clipped", detail=f"{detail}{limits.max_clipped:.0%} is wanted")
    for name, share in scores.seen.items():
        if share < limits.min_seen:
            detail = f"{name} shows something in {share:.0%} of the frames, at least "
            yield Reason(check="camera", detail=f"{detail}{limits.min_seen:.0%} is wanted")
    if scores.succeeded is False:
        yield Reason(check="failed", detail="its data say that it did not succeed")
