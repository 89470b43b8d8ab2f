"""What is found of each item, before anything is decided: it takes time, follows from the data alone, and is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla.critic.critic import Critic
from vla.critic_settings import CriticConfig
from vla.curation import robots
from vla.curation.items import Item
from vla.data.episode import Episode, Reader
from vla.data.retargeting import moves_of

CAMERA_HZ = 25.0
"""At which a camera's jerk is counted in units a frame cubed, as the figures of such drawings are."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that the critic says."""

    check: str
    detail: str
    unsafe: bool
    """Whether it is severe enough to reject a motion."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one item; of several actors the worst of each."""

    seconds: float
    problem: str = ""
    """Why it cannot be judged."""
    quality: float | None = None
    """Combined; None of a robot, and of what cannot be judged."""
    realism: float | None = None
    artifact: float | None = None
    smoothness: float | None = None
    physics: float | None = None
    variety: float | None = None
    camera_stability: float | None = None
    """None where it has no camera."""
    faults: tuple[Fault, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)
    """Of a robot, the largest of each dimension."""
    frozen: Mapping[str, float] = field(default_factory=dict)
    clipped: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    succeeded: bool | None = None


def score(item: Item, reader: Reader, config: CriticConfig) -> Scores:
    """What is found of an item of some root."""
    if reader.layout.body is None:
        return score_robot(item.episodes[0], reader)
    source = item.source(reader.layout.root)
    return worst([score_motion(episode, reader, Critic(config=config), source) for episode in item.episodes])


def seconds_of(episode: Episode, fps: float) -> float:
    """How long an episode is, its last frame with it: 25 frames at 25 Hz are a second."""
    return (round(float(episode.timestamps[-1] - episode.timestamps[0]) * fps) + 1) / fps


def score_motion(episode: Episode, reader: Reader, critic: Critic, source: str) -> Scores:
    """What the critic says of a clip."""
    stable, seconds = camera_stability(episode, reader.layout.fps), seconds_of(episode, reader.layout.fps)
    try:
        found = critic.examine(
            moves_of(reader, episode),
            " ".join(episode.instructions.different),
            source=source,
            camera_stability=stable,
        )
    except ValueError as problem:  # too short, or not finite: it is dropped with this reason
        return Scores(seconds=seconds, problem=str(problem), camera_stability=stable)
    quality, rejected = found.quality, found.verdict.rejections
    return Scores(
        seconds=seconds,
        quality=quality.combined,
        realism=quality.realism,
        artifact=quality.artifact,
        smoothness=quality.smoothness,
        physics=quality.physics,
        variety=quality.variety,
        camera_stability=stable,
        faults=tuple(
            Fault(check=issue.check, detail=issue.detail, unsafe=issue in rejected) for issue in found.verdict.issues
        ),
    )


def camera_stability(episode: Episode, fps: float) -> float | None:
    """1 / (1 + jerk) of a drawing's camera, 0 to 1: x, y and zoom, in units a frame cubed of 25 Hz, in the mean.

    None where no camera was measured at four successive frames.
    """
    keys = [key for key in episode.columns if key == "camera" or key.startswith("camera.")]
    if not keys:
        return None
    values = np.concatenate([np.asarray(episode.columns[key], np.float64) for key in keys], axis=1)
    jerk = np.linalg.norm(np.diff(values, n=3, axis=0) * (fps / CAMERA_HZ) ** 3, axis=1)
    jerk = jerk[np.isfinite(jerk)]
    return 1 / (1 + float(jerk.mean())) if len(jerk) else None


def worst(several: Sequence[Scores]) -> Scores:
    """Of the actors of a scene: the lowest of each score, the most faults, and what is wrong with any."""
    if len(several) == 1:
        return several[0]

    def lowest(name: str) -> float | None:
        values = [value for scores in several if (value := vars(scores)[name]) is not None]
        return min(values) if values else None

    artifacts = [scores.artifact for scores in several if scores.artifact is not None]
    return Scores(
        seconds=min(scores.seconds for scores in several),
        problem=next((scores.problem for scores in several if scores.problem), ""),
        quality=lowest("quality"),
        realism=lowest("realism"),
        artifact=max(artifacts) if artifacts else None,
        smoothness=lowest("smoothness"),
        physics=lowest("physics"),
        variety=lowest("variety"),
        camera_stability=lowest("camera_stability"),
        faults=tuple(
            Fault(check=fault.check, detail=f"actor {number}: {fault.detail}", unsafe=fault.unsafe)
            for number, scores in enumerate(several)
            for fault in scores.faults
        ),
    )


def score_robot(episode: Episode, reader: Reader) -> Scores:
    """What an episode of a robot says of itself."""
    layout, seconds = reader.layout, seconds_of(episode, reader.layout.fps)
    if problem := robots.not_finite(episode):
        return Scores(seconds=seconds, problem=problem)
    return Scores(
        seconds=seconds,
        steps=robots.largest_steps(episode, layout),
        frozen=robots.frozen(episode),
        clipped=robots.clipped(episode),
        seen=robots.seen(episode, layout),
        succeeded=robots.succeeded(episode),
    )
