"""`vla evaluate`."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from vla.evaluation.closed_loop import ClosedLoop
    from vla.evaluation.open_loop import Report
    from vla.policy_folder import HeldOut


DENOISED = 3
"""Frames of which the way from noise to actions is shown."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a policy against recordings, or let loose in an environment."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    data: EvaluationData = field(default_factory=EvaluationData)
    """The recordings."""
    phase: str | None = None
    """Column of the recordings that tells phases apart; None: all frames together."""
    phase_names: tuple[str, ...] = ()
    """Names of the phases, from the column's smallest value on; none: the values."""
    env: str | None = None
    """Environment to act in: needle, metaworld, or module:factory of your own (see vla/environment.py)."""
    env_settings: tuple[str, ...] = ()
    """Of the environment, NAME=VALUE each, e.g. error-mm=3."""
    episodes: int = 100
    """Episodes in the environment, >= 1."""
    within: tuple[int, ...] = (40, 60, 100)
    """Steps within which an episode must succeed to count; an episode ends after the largest."""
    execute: int = 1
    """Actions of a chunk to carry out before the policy looks again."""
    group: int = 10
    """Episodes in lockstep in a process, >= 1; like the seed, it decides the numbers to the last digit."""
    record: int = 4
    """Episodes of which a video and the traces are kept."""
    workers: int = 2
    """Processes that run episodes, >= 1; on a GPU one."""
    out: Path | None = None
    """Folder for the results and pictures; None: beside the policy, POLICY-evaluation."""
    samples: int = 1000
    """At most this many frames of the recordings, evenly spread; 0: all."""
    seed: int | None = None
    """Of noise, split and episodes. None: as in training, which finds the episodes it held out."""
    steps: int | None = None
    """Sampling steps; None: as the policy says."""
    batch_size: int = 8
    """Frames of the recordings per forward pass, >= 1."""
    device: Device = "auto"
    """Where to compute; auto: on a GPU when there is one."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the results as JSON."""


def evaluate(command: Evaluate) -> None:
    """`vla evaluate`: open loop where recordings are given, closed loop where an environment is."""
    check_settings(command)
    device = choose_device(command.device)
    contract, split = describe(command.policy)
    out = command.out or command.policy.resolve().with_name(f"{command.policy.resolve().name}-evaluation")
    results: dict[str, Report | ClosedLoop] = {}
    if command.data.roots:
        results["open_loop"] = against_recordings(command, contract, split, device, out)
    if command.env is not None:
        seed = split.seed if command.seed is None else command.seed
        results["closed_loop"] = in_environment(command, contract, seed, device, out)
    if command.json:
        content = {name: result.to_json() for name, result in results.items()}
        print(json.dumps(content if len(content) > 1 else next(iter(content.values())), indent=2))
    else:
        print("\n\n".join("\n".join(result.lines()) for result in results.values()))


def against_recordings(
    command: Evaluate, contract: "DataContract", split: "HeldOut", device: str, out: Path
) -> "Report":
    """Open loop: report.json, denoising.json, three pictures, and the episode behind them."""
    import numpy as np
    import torch

    from vla.evaluation import denoising, figures, open_loop
    from vla.report.episodes import episode_arrays

    seed = split.seed if command.seed is None else command.seed
    samples = open_recordings(command.data, contract, split, seed)
    phases = open_phases(command.data, command.phase, command.phase_names)
    policy = open_policy(command.policy, command.backbone, device)
    chosen = open_loop.spread(len(samples), command.samples)
    shown = open_loop.episode_indices(samples)
    with progress(len(chosen) + len(shown), "samples") as bar:
        measured, episode = (
            open_loop.predict(
                policy,
                samples,
                indices,
                seed=seed,
                batch_size=command.batch_size,
                workers=command.data.workers,
                device=torch.device(device),
                steps=command.steps,
                progress=bar.update,
            )
            for indices in (chosen, shown)
        )
    watched = denoising.watch_denoising(
        policy,
        samples,
        [shown[place] for place in open_loop.spread(len(shown), DENOISED)],
        seed=seed,
        device=torch.device(device),
        steps=command.steps,
    )
    report = replace(open_loop.measure(measured, phases), denoising=watched.remaining().tolist())
    figures.draw_episode(episode, out / "actions.png")
    figures.draw_horizon(report, out / "horizon.png")
    figures.draw_denoising(watched, out / "denoising.png")
    (out / "denoising.json").write_text(json.dumps(watched.to_json()) + "\n", encoding="utf-8")
    np.savez_compressed(out / "episode.npz", allow_pickle=False, **episode_arrays(episode, samples, shown))
    write(out / "report.json", report.to_json())
    print(f"report.json, actions.png, horizon.png and denoising.png are in {out}", file=sys.stderr)
    return report


def in_environment(command: Evaluate, contract: "DataContract", seed: int, device: str, out: Path) -> "ClosedLoop":
    """Closed loop: closed_loop.json, and videos and traces of some episodes."""
    from vla.evaluation import closed_loop

    assert command.env is not None
    config = closed_loop.RolloutConfig(
        episodes=command.episodes,
        seed=seed,
        execute=command.execute,
        max_steps=max(command.within),
        sampling_steps=command.steps,
        group=command.group,
        record=command.record,
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
    with progress(config.episodes, "episodes") as bar, closed_loop.processes(workers) as spread:
        rollouts = closed_loop.run(arena, spread, bar.update)
    result = closed_loop.summarize(
        rollouts,
        config,
        within=sorted(command.within),
        environment=command.env,
        settings=command.env_settings,
        policy=str(command.policy),
    )
    write(out / "closed_loop.json", result.to_json())
    print(f"closed_loop.json, videos and traces are in {out}", file=sys.stderr)
    return result


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a result."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_settings(command: Evaluate) -> None:
    """Refuse numbers out of range, before anything is loaded.

    Raises:
        ValueError: a number is too small.
        UsageError: there is nothing to measure on.
    """
    if not command.data.roots and command.env is None:
        raise UsageError("give recordings with --data.roots DIR, an environment with --env needle, or both")
    lowest = {
        "--samples": (command.samples, 0),
        "--batch-size": (command.batch_size, 1),
        "--seed": (command.seed or 0, 0),
        "--episodes": (command.episodes, 1),
        "--execute": (command.execute, 1),
        "--group": (command.group, 1),
        "--record": (command.record, 0),
        "--workers": (command.workers, 1),
        "--within": (min(command.within, default=0), 1),
    }
    if command.steps is not None:
        lowest["--steps"] = (command.steps, 1)
    for flag, (value, least) in lowest.items():
        if value < least:
            raise ValueError(f"{flag} is {value}; give {least} or more")
