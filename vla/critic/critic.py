"""The critic: seven checks of a motion of any skeleton, in SI units, and a robot's limits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from vla.critic.measures import FIGURE_M, RATE_HZ, Measures, measure
from vla.critic.quality import Quality, quality_of
from vla.critic.robot import Limits, issues_of
from vla.critic.verdict import Issue, Verdict
from vla.critic_settings import CriticConfig
from vla.motion.moves import Moves

STILL = re.compile(
    r"\b(still|stands?|standing|stationary|motionless|idles?|idling|waits?|waiting|pauses?|pausing|rests?|resting"
    r"|sits?|sitting|lies|lying|sleeps?|sleeping|freezes?|frozen|statue|holds? (a|the|his|her|their) pose)\b",
    re.IGNORECASE,
)
"""What a text says of a motion that is to be still."""
ROUND = re.compile(
    r"\b(repeats?|repeating|repeatedly|again and again|over and over|loops?|looping|cycles?)\b", re.IGNORECASE
)
"""What it says of one that is to go round."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A motion that was judged: what was measured, its quality, and what is wrong with it."""

    measures: Measures
    quality: Quality
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Critic:
    """Says what is wrong with motions, and with a robot's actions; the same object curates, samples and evaluates."""

    config: CriticConfig = field(default_factory=CriticConfig)
    limits: Limits | None = None
    """Of the robot whose actions are judged."""

    def judge(
        self, motion: Moves, text: str | None = None, *, source: str = "", camera_stability: float | None = None
    ) -> Verdict:
        """What is wrong with a motion; `text` says what it is to show, None: what the motion itself says.

        Raises:
            ValueError: it cannot be judged: too short, not finite, or coordinates of a model.
        """
        return self.examine(motion, text, source=source, camera_stability=camera_stability).verdict

    def examine(
        self, motion: Moves, text: str | None = None, *, source: str = "", camera_stability: float | None = None
    ) -> Judgement:
        """The same, with what was measured. Errors as `judge`."""
        config = self.config
        measures = measure(motion, still_mps=config.frozen_mps, jitter_mps2=config.jitter_mps2)
        quality = quality_of(measures, config, source=source, camera_stability=camera_stability)
        values = {name: value for name, value in measures.to_json().items() if value is not None}
        verdict = Verdict(
            issues=self.issues(measures, quality, motion.text if text is None else text),
            unsafe_severity=config.unsafe_severity,
            values=values | quality.to_json(),
            unjudged=unjudged(motion),
        )
        return Judgement(measures=measures, quality=quality, verdict=verdict)

    def judge_actions(
        self,
        actions: Float[np.ndarray, "H A"],
        *,
        last: Float[np.ndarray, " A"] | None = None,
        streams: Mapping[str, tuple[Float[np.ndarray, "S C"], Bool[np.ndarray, " S"]]] | None = None,
    ) -> Verdict:
        """What is wrong with a chunk of a robot's actions, before it is executed.

        `last` is the action that was executed before, None at the beginning; `streams` are the windows that sensors
        show, and which of their samples were measured.
        """
        assert self.limits is not None, "a critic of actions has the limits of their robot"
        issues = tuple(issues_of(actions, self.limits, self.config, last=last, streams=streams or {}))
        return Verdict(
            issues=issues,
            unsafe_severity=self.config.unsafe_severity,
            values={issue.check: issue.value for issue in issues},
            unjudged=unjudged_actions(self.limits, last is None, streams or {}),
        )

    def issues(self, measures: Measures, quality: Quality, text: str) -> tuple[Issue, ...]:
        """What of that is wrong, of a motion that is to show a text; what cannot be measured is not."""
        config = self.config
        asked_still, asked_round = STILL.search(text) is not None, ROUND.search(text) is not None
        found = (
            measures.still > config.frozen_share and not asked_still,
            measures.repetition < config.repetitive and not asked_round,
            measures.jitter > config.jitter_share,
            measures.speed_mps > config.speed_mps,
            measures.acceleration_mps2 > config.acceleration_mps2,
            measures.lowest_m < config.ground_m,
            quality.combined < config.quality,
        )
        told = (
            Issue(
                check="frozen",
                value=measures.still,
                limit=config.frozen_share,
                detail=f"nothing moves in {measures.still:.0%} of the frames, at most {config.frozen_share:.0%} may",
            ),
            Issue(
                check="repetitive",
                value=measures.repetition,
                limit=config.repetitive,
                detail=f"three rounds are alike to {measures.repetition:.1%} of what moves, from "
                f"{config.repetitive:.1%} on they are a motion's own",
            ),
            Issue(
                check="jitter",
                value=measures.jitter,
                limit=config.jitter_share,
                detail=f"accelerations turn back at once in {measures.jitter:.0%} of the frames, at most "
                f"{config.jitter_share:.0%} may",
            ),
            Issue(
                check="speed",
                value=measures.speed_mps,
                limit=config.speed_mps,
                detail=f"the root moves at {measures.speed_mps:.3g} m/s, at most {config.speed_mps:g} m/s may be",
            ),
            Issue(
                check="acceleration",
                value=measures.acceleration_mps2,
                limit=config.acceleration_mps2,
                detail=f"the root accelerates by {measures.acceleration_mps2:.3g} m/s2, at most "
                f"{config.acceleration_mps2:g} m/s2 may be",
            ),
            Issue(
                check="ground",
                value=measures.lowest_m,
                limit=config.ground_m,
                detail=f"a joint is at {measures.lowest_m:.2f} m, the floor at 0, and {config.ground_m:g} m is allowed",
            ),
            Issue(
                check="quality",
                value=quality.combined,
                limit=config.quality,
                detail=f"its quality is {quality.combined:.2f}, at least {config.quality:g} is wanted",
            ),
        )
        return tuple(issue for issue, wrong in zip(told, found, strict=True) if wrong)


def unjudged(motion: Moves) -> tuple[str, ...]:
    """The checks that a motion gives nothing for, and what is assumed of it."""
    said = []
    if motion.body.kind == "plane":
        said += [
            f"speed and acceleration: a drawing has no unit, so its height stands for {FIGURE_M:g} m",
            "ground: a drawing does not say where its floor is",
        ]
    if motion.rate_hz < RATE_HZ:
        said.append(f"jitter: {motion.rate_hz:g} frames a second do not show it, {RATE_HZ:g} do")
    return tuple(said)


def unjudged_actions(
    limits: Limits,
    first: bool,
    streams: Mapping[str, tuple[Float[np.ndarray, "S C"], Bool[np.ndarray, " S"]]],
) -> tuple[str, ...]:
    """The checks that a chunk gives nothing for: the first one no step, sensors without a limit or samples no force."""
    said = ["step: nothing was executed before"] if first else []
    for name in dict.fromkeys([*limits.force, *streams]):
        if name not in limits.force:
            said.append(f"force: there is no limit for {name}")
        elif name not in streams or not streams[name][1].any():
            said.append(f"force: nothing was measured of {name}")
    return tuple(said)
