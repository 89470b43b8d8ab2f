"""Closed-loop evaluation: a policy let loose in an environment, episode after episode.

Episodes run in groups, in lockstep, so that one forward pass serves those of a group that are under way.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from vla.batch import Observation
from vla.contract import DataContract
from vla.critic.critic import Critic
from vla.environment import Environment, Observed, observe
from vla.evaluation.alteration import Alter
from vla.evaluation.environments import parse_settings
from vla.evaluation.intervals import wilson
from vla.evaluation.latency import Latency, Seconds, Stopwatch
from vla.evaluation.recording import Recorder
from vla.policy import Policy
from vla.randomness import derive, torch_seed
from vla.redaction import hide_tree
from vla.rejection import Guard

Unsafe = Literal["execute", "stop"]
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
    critic: Critic | None = field(default=None, hash=False)
    """Judges each chunk before it is executed, by the robot's limits; None: nobody does."""
    tries: int = 4
    """Chunks that are drawn at most where one is unsafe, >= 1."""
    unsafe: Unsafe = "execute"
    """What becomes of the best chunk where none was safe: executed and counted, or the end of its episode."""

    def __post_init__(self) -> None:
        for name in ("episodes", "execute", "max_steps", "group", "tries"):
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
    calls: list[Seconds] = field(default_factory=list, compare=False, repr=False)
    """What the calls of the policy took in the group that this episode is the first of; of others none."""

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
    latency: Latency | None = field(default=None, compare=False)
    """Of the policy; None where it was never called."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump."""
        told = asdict(self)
        for rollout in told["rollouts"]:
            del rollout["calls"]
        return told

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
        return rows if self.latency is None else [*rows, "", *textwrap.wrap(self.latency.line(), 80)]


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
        latency=Latency.of([call for rollout in rollouts for call in rollout.calls]),
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
    before = np.full((len(episodes), policy.contract.action_dim), np.nan)
    counts: list[Counter[str]] = [Counter() for _ in episodes]
    infos: list[dict[str, Any]] = [{} for _ in episodes]

    def end(row: int, steps: int, info: dict[str, Any]) -> None:
        told = "; ".join(said[row])
        rollouts[row] = outcome(episodes[row], seeds[row], told, steps, info, counts=counts[row])

    watch = Stopwatch(policy)
    for step in range(config.max_steps):
        under_way = [row for row in range(len(episodes)) if row not in rollouts]
        if not under_way:
            break
        observation = observe(observed, policy.contract)
        if alter is not None:
            observation = alter(observation)
        if step % config.execute == 0:
            acting = [episodes[row] for row in under_way]
            guard = guarding(config, acting, step, before[under_way], policy.contract)
            seen = observation.rows(under_way)
            chunks[under_way] = act(policy, seen, acting, step, config, guard=guard, watch=watch)
            for row, check in count(guard, under_way, counts, config.unsafe).items():
                end(row, step, infos[row] | {"success": False, "failure": f"stopped: {check}"})
            under_way = [row for row in under_way if row not in rollouts]
        for row in under_way:
            said[row][str(observed[row]["task"])] = None
            action = chunks[row, step % config.execute].astype(np.float32)
            before[row] = action
            observed[row], _, ended, cut_off, infos[row] = environments[row].step(action)
            if (watcher := watchers[row]) is not None:
                watcher.add(action, observed[row], environments[row])
            if ended or cut_off or step + 1 == config.max_steps:
                end(row, step + 1, infos[row])
    rollouts[0].calls.extend(watch.calls)
    return [rollouts[row] for row in range(len(episodes))]


def act(
    policy: Policy,
    observation: Observation,
    episodes: Sequence[int],
    step: int,
    config: RolloutConfig,
    *,
    watch: Stopwatch,
    guard: Guard | None = None,
) -> Float[np.ndarray, "B H A"]:
    """The chunks of some episodes; their noise follows from the seed, the episode and the step."""
    device = policy.device
    noise = noise_of(config, episodes, step, policy.contract)
    generator = torch.Generator().manual_seed(torch_seed(config.seed, "closed loop", position(episodes[0], step)))
    there = observation.resized(policy.sizes).to(device)
    given = torch.from_numpy(noise).to(device)
    with watch.call(len(episodes)):
        actions = policy.act(there, given, config.sampling_steps, generator, guard=guard)
    chunks: Float[np.ndarray, "B H A"] = actions.cpu().numpy()
    return chunks


def position(episode: int, step: int) -> int:
    """Where the noise of a step stands in its stream."""
    return episode * STEPS_AN_EPISODE + step


def noise_of(
    config: RolloutConfig, episodes: Sequence[int], step: int, contract: DataContract, attempt: int = 0
) -> Float32[np.ndarray, "B H A"]:
    """Of a try at the chunks of some episodes."""
    shape, purpose = (contract.horizon, contract.action_dim), f"closed loop/{attempt}" if attempt else "closed loop"
    draws = [derive(config.seed, purpose, position(episode, step)) for episode in episodes]
    return np.stack([draw.standard_normal(shape, dtype=np.float32) for draw in draws])


def guarding(
    config: RolloutConfig,
    episodes: Sequence[int],
    step: int,
    before: Float[np.ndarray, "B A"],
    contract: DataContract,
) -> Guard | None:
    """What judges the chunks of some episodes that follow the actions `before`; None where nobody does."""
    if config.critic is None:
        return None
    return Guard(
        critic=config.critic,
        noise=lambda attempt: noise_of(config, episodes, step, contract, attempt),
        tries=config.tries,
        last=before,
    )


def count(guard: Guard | None, rows: Sequence[int], counts: Sequence[Counter[str]], unsafe: Unsafe) -> dict[int, str]:
    """Add what a guard has found to the numbers of its episodes; the rows that are to stop for it, and why."""
    stopped = dict[int, str]()
    for row, verdict, drawn in zip(rows, guard.verdicts, guard.drawn, strict=True) if guard is not None else ():
        found = {f"unsafe_{issue.check}": 1 for issue in verdict.rejections}
        counts[row].update({"chunks_drawn_again": drawn - 1, "chunks_unsafe": int(not verdict.is_safe)} | found)
        if not verdict.is_safe and unsafe == "stop":
            stopped[row] = verdict.rejections[0].check
    return stopped


def outcome(
    episode: int, seed: int, instruction: str, steps: int, info: dict[str, Any], *, counts: Mapping[str, int]
) -> Rollout:
    """What the last `info` of an episode says, and what a critic has counted in it."""
    success = bool(info["success"])
    return Rollout(
        episode=episode,
        seed=seed,
        instruction=instruction,
        success=success,
        steps=steps,
        failure=None if success else str(info.get("failure") or "timed out"),
        metrics={name: float(value) for name, value in {**info.get("metrics", {}), **counts}.items()},
    )
