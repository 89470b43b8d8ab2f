"""`vla ablate`."""

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla.commandline import UsageError, progress
from vla.commands.recordings import (
    Device,
    EvaluationData,
    choose_device,
    describe,
    open_phases,
    open_policy,
    open_recordings,
)
from vla.commands.worlds import choose_arena

if TYPE_CHECKING:
    from vla.batch import DataContract
    from vla.evaluation.alteration import Alteration
    from vla.evaluation.findings import Rate


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Find out which inputs a policy uses: zero, shuffle, delay and freeze each.

    What it could do without one, only a policy trained without it shows.
    """

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    data: EvaluationData
    """The recordings."""
    inputs: tuple[str, ...] = ()
    """Cameras (key or its last part), instruction, state, sensor; none: all there are."""
    phase: str | None = None
    """Column of the data set that tells phases apart; None: all frames together."""
    phase_names: tuple[str, ...] = ()
    """Names of the phases, from the column's smallest value on; none: the values."""
    env: str | None = None
    """Environment to act in too: needle, metaworld, or module:factory of your own."""
    env_settings: tuple[str, ...] = ()
    """Of the environment, NAME=VALUE each, e.g. error-mm=3."""
    episodes: int = 50
    """Episodes in the environment for each alteration, >= 1."""
    within: int = 40
    """Steps within which an episode must succeed to count."""
    execute: int = 1
    """Actions of a chunk to carry out before the policy looks again."""
    workers: int = 2
    """Processes that run episodes, >= 1; on a GPU one."""
    out: Path | None = None
    """Folder for ablation.json and the picture; None: beside the policy, POLICY-evaluation."""
    samples: int = 500
    """At most this many frames, evenly spread; 0: all."""
    delay: float = 0.25
    """How far back a delayed input lies, in seconds."""
    margin: float = 0.05
    """Share of the error within which a change counts as none, > 0."""
    seed: int | None = None
    """Of noise, shuffling and split. None: as in training, which finds the episodes it held out."""
    steps: int | None = None
    """Sampling steps; None: as the policy says."""
    batch_size: int = 8
    """Frames per forward pass, >= 1."""
    device: Device = "auto"
    """Where to compute; auto: on a GPU when there is one."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the result as JSON."""


def ablate(command: Ablate) -> None:
    """`vla ablate`: table, ablation.json and a picture."""
    import torch

    from vla.evaluation import ablation, figures, open_loop
    from vla.evaluation.alteration import kinds_of

    check_settings(command)
    device = choose_device(command.device)
    contract, split = describe(command.policy)
    inputs = choose_inputs(command.inputs, contract)
    seed = split.seed if command.seed is None else command.seed
    config = ablation.AblationConfig(
        delay_s=command.delay,
        margin=command.margin,
        seed=seed,
        batch_size=command.batch_size,
        workers=command.data.workers,
        steps=command.steps,
    )
    config.delay_steps(contract.fps)  # refused before anything is loaded
    samples = open_recordings(command.data, contract, split, seed)
    phases = open_phases(command.data, command.phase, command.phase_names)
    chosen = open_loop.spread(len(samples), command.samples)
    policy = open_policy(command.policy, command.backbone, device)
    with progress(len(chosen), "samples") as bar:
        answers = ablation.answer(
            policy, samples, chosen, inputs, config, device=torch.device(device), progress=bar.update
        )
    out = command.out or command.policy.resolve().with_name(f"{command.policy.resolve().name}-evaluation")
    if command.env is None:
        result = ablation.judge(answers, config, policy=str(command.policy), phases=phases)
    else:
        alterations = 1 + sum(len(kinds_of(name)) for name in inputs)
        with let_loose(command, contract, seed, device, out) as success_of, progress(alterations, "alterations") as bar:
            result = ablation.judge(
                answers, config, policy=str(command.policy), phases=phases, success_of=success_of, progress=bar.update
            )
    figures.draw_ablation(result, out / "ablation.png")
    text = json.dumps(result.to_json(), indent=2)
    (out / "ablation.json").write_text(text + "\n", encoding="utf-8")
    print(text if command.json else "\n".join(result.lines()))
    print(f"ablation.json and ablation.png are in {out}", file=sys.stderr)


@contextmanager
def let_loose(
    command: Ablate, contract: "DataContract", seed: int, device: str, out: Path
) -> "Iterator[Callable[[Alteration | None], Rate]]":
    """How often the policy succeeds when it is deprived of something, over the same episodes each time."""
    from vla.evaluation import closed_loop
    from vla.evaluation.findings import Rate

    assert command.env is not None
    config = closed_loop.RolloutConfig(
        episodes=command.episodes,
        seed=seed,
        execute=command.execute,
        max_steps=command.within,
        sampling_steps=command.steps,
    )
    workers = 1 if device == "cuda" else command.workers
    arena = choose_arena(
        config,
        contract,
        policy=command.policy,
        backbone=command.backbone,
        device=device,
        environment=command.env,
        settings=command.env_settings,
        out=out,
        workers=workers,
    )

    with closed_loop.processes(workers) as spread:

        def success_of(alteration: "Alteration | None") -> Rate:
            rollouts = closed_loop.run(replace(arena, alteration=alteration), spread)
            success = closed_loop.Success.within(command.within, rollouts)
            return Rate(rate=success.rate, low=success.low, high=success.high, episodes=success.episodes)

        yield success_of


def choose_inputs(asked: tuple[str, ...], contract: "DataContract") -> tuple[str, ...]:
    """The inputs asked for, or all.

    Raises:
        ValueError: the policy has no such input.
    """
    from vla.evaluation.alteration import inputs_of

    known = inputs_of(contract)
    by_name = {key.rsplit(".", 1)[-1]: key for key in known} | {key: key for key in known}
    for name in asked:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f"did you mean {near[0]}?" if near else f"give some of {', '.join(known)}"
            raise ValueError(f"--inputs has {name}, which the policy does not look at: {hint}")
    return tuple(dict.fromkeys(by_name[name] for name in asked)) or known


def check_settings(command: Ablate) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ValueError: a number is too small.
        UsageError: there is nothing to measure on.
    """
    if not command.data.roots:
        raise UsageError("give recordings with --data.roots DIR")
    for flag, value, least in (
        ("--samples", command.samples, 0),
        ("--batch-size", command.batch_size, 1),
        ("--seed", command.seed or 0, 0),
        ("--episodes", command.episodes, 1),
        ("--within", command.within, 1),
        ("--execute", command.execute, 1),
        ("--workers", command.workers, 1),
        ("--steps", 1 if command.steps is None else command.steps, 1),
    ):
        if value < least:
            raise ValueError(f"{flag} is {value}; give {least} or more")
    if not 0 < command.margin < 1:
        raise ValueError(f"--margin is {command.margin:g}; give a share of the error between 0 and 1, e.g. 0.05")
