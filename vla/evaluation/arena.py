"""Groups of closed-loop episodes, spread over processes.

Which episodes form a group follows from their number alone, so the result depends on the seed and on no number of
processes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import torch

from vla.environment import Environment
from vla.evaluation.alteration import Alteration
from vla.evaluation.closed_loop import Rollout, RolloutConfig, roll_out
from vla.evaluation.environments import open_environment
from vla.evaluation.recording import Recorder
from vla.parts.backbone import remember_texts
from vla.policy import Policy
from vla.policy_folder import load_policy
from vla.policy_settings import Sampling
from vla.processes import pool

Spread = Callable[[Callable[[range], list[Rollout]], Iterable[range]], Iterable[list[Rollout]]]
"""`map`, or the like over processes."""
OPENED = ExitStack()
"""Closes the environments that this process has opened."""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Everything a process needs to run groups of episodes on its own; equal ones are opened once a process."""

    policy: Path
    backbone: str | None
    """Where the policy's backbone lies here; None: where it lay in training."""
    sampling: Sampling = field(default_factory=Sampling)
    """What the policy is to sample otherwise than it says."""
    device: str
    environment: str
    settings: tuple[str, ...]
    """Of the environment, NAME=VALUE each."""
    config: RolloutConfig
    out: Path
    """Where recordings go."""
    threads: int
    """Of the arithmetic of a process."""
    embeddings: str | None = None
    """File of instructions that the policy's sentence encoder need not read again."""
    alteration: Alteration | None = None
    """What the policy is deprived of."""


@cache
def open_arena(arena: Arena) -> tuple[Policy, tuple[Environment, ...]]:
    """The policy and a group's environments; they live until `close_arenas`."""
    torch.set_num_threads(arena.threads)
    dtype = torch.bfloat16 if arena.device == "cuda" else torch.float32
    policy = load_policy(arena.policy, arena.backbone, dtype, fold=True).to(torch.device(arena.device))
    policy.sample_by(arena.sampling)
    remember_texts(policy.backbone, arena.embeddings)
    count = min(arena.config.group, arena.config.episodes)
    environments = []
    for _ in range(count):
        environments.append(
            open_environment(arena.environment, policy.contract, arena.settings, arena.config.max_steps)
        )
        OPENED.callback(environments[-1].close)  # also where the next one cannot be opened
    return policy, tuple(environments)


def close_arenas() -> None:
    """Close every environment that this process has opened."""
    open_arena.cache_clear()
    OPENED.close()


def run_group(arena: Arena, episodes: range) -> list[Rollout]:
    """The episodes of a group; the first of them all are recorded."""
    policy, environments = open_arena(replace(arena, alteration=None))
    recorders = [Recorder(policy.contract) if episode < arena.config.record else None for episode in episodes]
    alter = None if arena.alteration is None else arena.alteration.begin(policy)
    within = environments[: len(episodes)]
    rollouts = roll_out(policy, within, episodes, arena.config, alter=alter, recorders=recorders)
    for episode, recorder in zip(episodes, recorders, strict=True):
        if recorder is not None:
            recorder.write(arena.out, episode)
    return rollouts


@contextmanager
def processes(workers: int) -> Iterator[Spread]:
    """Something like `map` that runs in this process or in several, which end with the block.

    So do the environments that were opened in it.
    """
    if workers == 1:
        try:
            yield map
        finally:
            close_arenas()
        return
    with pool(workers, close_arenas) as executor:
        yield executor.map


def run(arena: Arena, spread: Spread, progress: Callable[[int], object] = lambda _: None) -> list[Rollout]:
    """All episodes, in order; the result does not depend on how they are spread over `processes`.

    `progress` is told of the episodes of every group that is done.
    """
    config = arena.config
    starts = range(0, config.episodes, config.group)
    groups = [range(start, min(start + config.group, config.episodes)) for start in starts]
    rollouts: list[Rollout] = []
    for done in spread(partial(run_group, arena), groups):
        rollouts += done
        progress(len(done))
    return rollouts
