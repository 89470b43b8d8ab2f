"""Closed-loop evaluation: a policy let loose in an environment, episode after episode.

Episodes run in groups, in lockstep, so that one forward pass serves those of a group that are under way.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from vla.batch import Observation
from vla.environment import Environment, Observed, observe
from vla.evaluation.alteration import Alter
from vla.evaluation.environments import parse_settings
from vla.evaluation.intervals import wilson
from vla.evaluation.recording import Recorder
from vla.policy import Policy
from vla.randomness import derive, torch_seed
from vla.redaction import hide_tree

STEPS_AN_EPISODE = 2**20
"""Noise of episode e at step s stands at position e * this + s of its stream."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How a policy is let loose."""

    episodes: int = 100
    """Episodes, >= 1."""
    seed: int = 0
    """Of the episodes and of the policy's noise."""
    execute: int = 1
    """Actions of a chunk that are carried out before the policy looks again, from 1 to its horizon."""
    max_steps: int = 100
    """Steps after which an episode is over, >= 1."""
    sampling_steps: int | None = None
    """Sampling steps of the diffusion; None: as the policy says."""
    group: int = 10
    """Episodes in lockstep, >= 1: one forward pass for all of them."""
    record: int = 0
    """Episodes, from the first, of which a video and the traces are kept."""

    def __post_init__(self) -> None:
        for name in ("episodes", "execute", "max_steps", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How one episode went."""

    episode: int
    seed: int
    """What the environment was reset with."""
    instruction: str
    """What it was asked to do; where that changed, each text once, in order."""
    success: bool
    steps: int
    """Actions until the episode ended."""
    failure: str | None
    """The kind of failure; None where it succeeded."""
    metrics: dict[str, float]
    """What the environment measured."""

    def succeeds_within(self, steps: int) -> bool:
        """Whether it succeeded soon enough."""
        return self.success and self.steps <= steps


@dataclass(frozen=True, kw_only=True)
class Success:
    """How often an episode succeeded within some steps, with its 95 % interval (Wilson)."""

    steps: int
    successes: int
    episodes: int
    rate: float
    low: float
    high: float

    @staticmethod
    def within(steps: int, rollouts: Sequence[Rollout]) -> "Success":
        """Of some episodes."""
        count = sum(rollout.succeeds_within(steps) for rollout in rollouts)
        low, high = wilson(count, len(rollouts))
        return Success(
            steps=steps, successes=count, episodes=len(rollouts), rate=count / len(rollouts), low=low, high=high
        )


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """The result of a closed-loop evaluation."""

    environment: str
    settings: dict[str, str]
    """Of the environment, without secrets."""
    policy: str
    seed: int
    executed: int
    max_steps: int
    episodes: int
    success: list[Success]
    metrics: dict[str, dict[str, float]]
    """Median, 90 % quantile and maximum over the episodes that have it, by name."""
    failures: dict[str, int]
    rollouts: list[Rollout] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result as a person reads it, in 80 columns."""
        rows = [
            f"{self.environment}: {self.episodes} episodes, {self.executed} of a chunk executed, seed {self.seed}",
            "",
            f"{'within':<24}{'success':>11}{'95 % interval':>22}",
        ]
        rows += [
            f"{f'{entry.steps} steps':<24}{entry.rate:>11.1%}{f'{entry.low:.1%} to {entry.high:.1%}':>22}"
            for entry in self.success
        ]
        if self.metrics:
            rows += ["", f"{'measured':<24}{'median':>11}{'90 %':>11}{'largest':>11}"]
            rows += [
                f"{name[:23]:<24}{value['median']:>11.4g}{value['p90']:>11.4g}{value['max']:>11.4g}"
                for name, value in self.metrics.items()
            ]
        if self.failures:
            rows += ["", f"{'failure':<24}{'episodes':>11}"]
            rows += [f"{kind[:23]:<24}{count:>11}" for kind, count in self.failures.items()]
        return rows


def summarize(
    rollouts: Sequence[Rollout],
    config: RolloutConfig,
    *,
    within: Sequence[int],
    environment: str,
    settings: Sequence[str],
    policy: str,
) -> ClosedLoop:
    """The numbers of some episodes; success is counted within each of some numbers of steps."""
    names = list(dict.fromkeys(name for rollout in rollouts for name in rollout.metrics))
    kinds = [rollout.failure for rollout in rollouts if rollout.failure is not None]
    return ClosedLoop(
        environment=environment,
        settings=hide_tree(parse_settings(settings)),
        policy=policy,
        seed=config.seed,
        executed=config.execute,
        max_steps=config.max_steps,
        episodes=len(rollouts),
        success=[Success.within(steps, rollouts) for steps in within],
        metrics={
            name: spread_of([rollout.metrics[name] for rollout in rollouts if name in rollout.metrics])
            for name in names
        },
        failures={kind: kinds.count(kind) for kind in sorted(set(kinds), key=kinds.count, reverse=True)},
        rollouts=list(rollouts),
    )


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median, 90 % quantile and maximum."""
    median, p90, largest = np.quantile(values, (0.5, 0.9, 1.0))
    return {"median": float(median), "p90": float(p90), "max": float(largest)}


def episode_seed(seed: int, episode: int) -> int:
    """What an environment is reset with: 31 bits, which every library takes."""
    return int(derive(seed, "closed loop episode", episode).integers(2**31))


def roll_out(
    policy: Policy,
    environments: Sequence[Environment],
    episodes: Sequence[int],
    config: RolloutConfig,
    *,
    alter: Alter | None = None,
    recorders: Sequence[Recorder | None] | None = None,
) -> list[Rollout]:
    """One group of episodes, each in an environment of its own. The policy's parameters say on which device it acts.

    The policy acts for the episodes under way. `alter` changes what it sees; it is told of every step and shown all
    environments, row b always the same one.
    """
    assert len(environments) == len(episodes), f"{len(episodes)} episodes in {len(environments)} environments"
    policy.set_mode(training=False)
    watchers = [None] * len(episodes) if recorders is None else recorders
    seeds = [episode_seed(config.seed, episode) for episode in episodes]
    observed: list[Observed] = [
        environment.reset(seed=seed)[0] for environment, seed in zip(environments, seeds, strict=True)
    ]
    for row, recorder in enumerate(watchers):
        if recorder is not None:
            recorder.begin(observed[row], environments[row])
    rollouts: dict[int, Rollout] = {}
    said: list[dict[str, None]] = [{} for _ in episodes]
    chunks = np.zeros((len(episodes), policy.contract.horizon, policy.contract.action_dim))
    for step in range(config.max_steps):
        under_way = [row for row in range(len(episodes)) if row not in rollouts]
        if not under_way:
            break
        observation = observe(observed, policy.contract)
        if alter is not None:
            observation = alter(observation)
        if step % config.execute == 0:
            acting = [episodes[row] for row in under_way]
            chunks[under_way] = act(policy, observation.rows(under_way), acting, step, config)
        for row in under_way:
            said[row][str(observed[row]["task"])] = None
            action = chunks[row, step % config.execute].astype(np.float32)
            observed[row], _, ended, cut_off, info = environments[row].step(action)
            if (watcher := watchers[row]) is not None:
                watcher.add(action, observed[row], environments[row])
            if ended or cut_off or step + 1 == config.max_steps:
                rollouts[row] = outcome(episodes[row], seeds[row], "; ".join(said[row]), step + 1, info)
    return [rollouts[row] for row in range(len(episodes))]


def act(
    policy: Policy, observation: Observation, episodes: Sequence[int], step: int, config: RolloutConfig
) -> Float[np.ndarray, "B H A"]:
    """The chunks of some episodes; their noise follows from the seed, the episode and the step."""
    device = next(policy.parameters()).device
    shape = (policy.contract.horizon, policy.contract.action_dim)
    positions = [episode * STEPS_AN_EPISODE + step for episode in episodes]
    noise = np.stack(
        [derive(config.seed, "closed loop", at).standard_normal(shape, dtype=np.float32) for at in positions]
    )
    generator = torch.Generator().manual_seed(torch_seed(config.seed, "closed loop", positions[0]))
    there = observation.resized(policy.sizes).to(device)
    actions = policy.act(there, torch.from_numpy(noise).to(device), config.sampling_steps, generator)
    chunks: Float[np.ndarray, "B H A"] = actions.cpu().numpy()
    return chunks


def outcome(episode: int, seed: int, instruction: str, steps: int, info: dict[str, Any]) -> Rollout:
    """What the last `info` of an episode says."""
    success = bool(info["success"])
    return Rollout(
        episode=episode,
        seed=seed,
        instruction=instruction,
        success=success,
        steps=steps,
        failure=None if success else str(info.get("failure") or "timed out"),
        metrics={name: float(value) for name, value in info.get("metrics", {}).items()},
    )
