"""Made again where a critic finds it unsafe: the best of several tries, with the reasons where none is safe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vla.batch import Observation
from vla.critic.critic import Critic
from vla.critic.verdict import Verdict
from vla.motion.moves import Moves


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best of the motions that were made for one."""

    motion: Moves
    verdict: Verdict
    tries: int
    """Motions that were made: 1 where the first was safe."""


Make = Callable[[Sequence[int], int], Sequence[Moves]]
"""Motions of some numbers, at a try of theirs from 0 on: motion k of try j follows from both alone."""


def better(first: Verdict, second: Verdict) -> bool:
    """Whether the first verdict is the better one: safe, or of a higher score."""
    return (first.is_safe, first.score) > (second.is_safe, second.score)


@dataclass(kw_only=True)
class Rejection:
    """Stands between a policy of motion and who asks it: what is unsafe is made again."""

    critic: Critic = field(default_factory=Critic)
    tries: int = 4
    """Motions that are made for one, at least 1."""
    results: list[Chosen] = field(default_factory=list)
    """Of the motions that were given last."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"{self.tries} tries at a motion were asked for; give at least 1")

    def choose(self, make: Make, numbers: Sequence[int], text: str, *, again: bool = True) -> list[Moves]:
        """For each number the first safe motion, else the best of all tries; of one try where `again` changes nothing.

        Raises:
            ValueError: a motion cannot be judged.
        """
        found: dict[int, Chosen] = {}
        waiting = list(numbers)
        for attempt in range(self.tries if again else 1):
            for number, motion in zip(waiting, make(waiting, attempt), strict=True):
                made = Chosen(motion=motion, verdict=self.critic.judge(motion, text), tries=attempt + 1)
                before = found.get(number)
                worse = before is not None and not better(made.verdict, before.verdict)
                found[number] = replace(before, tries=attempt + 1) if before is not None and worse else made
            waiting = [number for number in waiting if not found[number].verdict.is_safe]
            if not waiting:
                break
        self.results = [found[number] for number in numbers]
        return [chosen.motion for chosen in self.results]


@dataclass(kw_only=True)
class Guard:
    """Stands between a robot's policy and what executes its actions; `Policy.act` calls it, a row an episode."""

    critic: Critic
    noise: Callable[[int], Float32[np.ndarray, "B H A"]]
    """Of a try, from 1 on: that of the first, 0, is given to `Policy.act`."""
    tries: int = 4
    """Chunks that are drawn for one, at least 1."""
    last: Float[np.ndarray, "B A"] | None = None
    """The actions that were executed before; NaN in rows where nothing was."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Of the chunks that were given last, a row each."""
    drawn: list[int] = field(default_factory=list)
    """How many chunks were drawn for each of them."""

    def choose(
        self,
        observation: Observation,
        actions: Float[Tensor, "B H A"],
        draw: Callable[[Tensor], Float[Tensor, "B H A"]],
    ) -> Float[Tensor, "B H A"]:
        """The actions, each row redrawn until it is safe, or else the best of its tries.

        What sensors felt does not change by another chunk: a row whose force is too high is not drawn again.
        """
        best, chosen = actions.clone(), self.judge(observation, actions)
        self.drawn = [1] * len(chosen)
        for attempt in range(1, self.tries):
            waiting = [row for row, verdict in enumerate(chosen) if self.may_change(verdict)]
            if not waiting:
                break
            again = draw(torch.from_numpy(self.noise(attempt)).to(actions.device))
            found = self.judge(observation, again)
            for row in waiting:
                self.drawn[row] += 1
                if better(found[row], chosen[row]):
                    best[row], chosen[row] = again[row], found[row]
        self.verdicts = chosen
        return best

    def may_change(self, verdict: Verdict) -> bool:
        """Whether another chunk could be safe."""
        return not verdict.is_safe and all(issue.check != "force" for issue in verdict.rejections)

    def judge(self, observation: Observation, actions: Float[Tensor, "B H A"]) -> list[Verdict]:
        """What is wrong with each row."""
        values = actions.double().cpu().numpy()
        streams = {
            name: (readings.values.double().cpu().numpy(), readings.valid.cpu().numpy())
            for name, readings in observation.streams.items()
        }
        rows = range(len(values))
        before = [None if self.last is None or np.isnan(self.last[row]).any() else self.last[row] for row in rows]
        return [
            self.critic.judge_actions(
                values[row],
                last=before[row],
                streams={name: (felt[row], valid[row]) for name, (felt, valid) in streams.items()},
            )
            for row in rows
        ]
