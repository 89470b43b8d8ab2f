"""`vla evaluate`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vla.commandline import progress
from vla.commands.adapted import UNLEARNING, AdapterSettings, Certified, certify, check_adapted, wanted
from vla.commands.limits import FILE as LIMITS
from vla.commands.limits import TRIES, Unsafe, check_critic, check_limits, critic_of
from vla.commands.measuring import (
    OF_RECORDINGS,
    Measuring,
    changed,
    check_consumers,
    check_numbers,
    check_results,
    choose_arena,
    processes_of,
)
from vla.commands.motions import against_clips
from vla.commands.recordings import choose_device, describe, open_phases, open_policy, open_recordings
from vla.commands.styles import measure_styles
from vla.commands.suites import SAMPLES, Tried, against_prompts, check_suites, open_suites
from vla.critic_settings import CriticConfig
from vla.errors import UsageError

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.evaluation.adapted.blending import Blended
    from vla.evaluation.closed_loop import ClosedLoop
    from vla.evaluation.motion.table import Table
    from vla.evaluation.open_loop import Report
    from vla.policy_folder import HeldOut


DENOISED = 3
"""Frames of which the way from noise to actions is shown."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Measuring):
    """Measure a policy against recordings, or let loose in an environment."""

    within: tuple[int, ...] = (40, 60, 100)
    """Steps within which an episode must succeed to count; an episode ends after the largest."""
    group: int = 10
    """Episodes in lockstep in a process, >= 1; like the seed, it decides the numbers to the last digit."""
    training: tuple[str, ...] = ()
    """Of a policy of human motion: the clips it was trained on. Its motions are then judged beside these and others."""
    motions: int = 100
    """Motions of each action that are judged, >= 1."""
    record: int = 4
    """Episodes of which a video and the traces are kept."""
    adapter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Adapter to measure the policy with, and its weight, `FILE:0.7` (1 without), or a quantity of its curve,
    `FILE:speed=0.9`; or the name of one in POLICY/adapters; may be given several times."""
    adapted: Annotated[AdapterSettings, tyro.conf.arg(name="")] = field(default_factory=AdapterSettings)
    """Of `--suites unlearning` and `--suites style`."""
    suites: tuple[str, ...] | None = None
    """Of a policy of human motion: prompt suites to try it with, none named: all. Tells how many motions are safe.
    `unlearning` or `style` alone: what adapters have unlearned, or do over their weights."""
    suites_file: Path | None = None
    """YAML file of suites of your own: further ones, or in place of those that ship under the same names."""
    samples_a_prompt: int = SAMPLES
    """Motions of each prompt, >= 1."""
    limits: Path | None = None
    """In an environment: demonstrations whose steps and forces no chunk may exceed by far, or a file of such limits."""
    tries: int = TRIES
    """Chunks that are drawn for one that is unsafe, >= 1."""
    unsafe: Unsafe = "execute"
    """The best chunk where none of them is safe: execute it and count it, or stop, which ends the episode."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """From where on a motion or a chunk is unsafe."""


def evaluate(command: Evaluate) -> None:
    """`vla evaluate`: open loop where recordings are given, closed loop where an environment is, prompts of suites."""
    check_settings(command)
    device = choose_device(command.device)
    contract, split = describe(command.policy, command.sampling)
    if command.training and contract.body is None:
        raise ValueError("--training is of policies of human motion, which this is not: leave it out")
    if command.data.roots and contract.body is not None and contract.body.forces:
        raise ValueError("this policy models forces, which `vla forces POLICY TRIALS --out DIR` measures: use that")
    if (suite := wanted(command.suites)) is not None:
        if contract.body is None:
            raise ValueError(f"--suites {suite} is of policies of human motion, which this is not: leave it out")
        check_results(command)
        measured = certify if suite == UNLEARNING else measure_styles
        told = measured(
            command,
            adapters=command.adapter,
            training=command.training,
            motions=command.motions,
            settings=command.adapted,
            contract=contract,
            device=device,
        )
        show(command, {suite: told})
        return
    asked = None
    if command.suites is not None:
        asked = open_suites(command.suites, command.suites_file, command.samples_a_prompt, command.critic, contract)
    check_results(command)
    results: dict[str, Report | ClosedLoop | Table | Tried] = {}
    if command.training:
        results["motions"] = against_clips(
            command, command.training, command.motions, contract, device, adapters=command.adapter
        )
    elif command.data.roots:
        results["open_loop"] = against_recordings(command, contract, split, device)
    if command.env is not None:
        seed = split.seed if command.seed is None else command.seed
        results["closed_loop"] = in_environment(command, contract, seed, device)
    if asked is not None:
        results["suites"] = tried = against_prompts(command, asked, device, command.adapter)
    show(command, results)
    if asked is not None:
        tried.check()


def show(command: Evaluate, results: "Mapping[str, Report | ClosedLoop | Table | Tried | Certified | Blended]") -> None:
    """Print what was measured."""
    if command.json:
        content = {name: result.to_json() for name, result in results.items()}
        if command.adapter:
            content = {name: {"adapters": list(command.adapter)} | told for name, told in content.items()}
        print(json.dumps(content if len(content) > 1 else next(iter(content.values())), indent=2))
        return
    if command.adapter:
        print(f"measured with {', '.join(command.adapter)}\n")
    print("\n\n".join("\n".join(result.lines()) for result in results.values()))


def against_recordings(command: Evaluate, contract: "DataContract", split: "HeldOut", device: str) -> "Report":
    """Open loop: report.json, denoising.json, three pictures, and the episode behind them."""
    import numpy as np
    import torch

    from vla.evaluation import denoising, figures, open_loop, rivals, standing
    from vla.report.episodes import episode_arrays

    out, seed = command.results, split.seed if command.seed is None else command.seed
    samples = open_recordings(command.data, contract, split)
    phases = open_phases(command.data, contract, command.phase, command.phase_names)
    policy = open_policy(
        command.policy, command.backbone, device, command.sampling, command.embeddings, adapters=command.adapter
    )
    looked_at = samples.resized(policy.sizes)
    chosen = open_loop.spread(len(samples), command.samples)
    shown = open_loop.episode_indices(samples)
    with progress(len(chosen) + len(shown), "samples") as bar:
        measured, episode = (
            open_loop.predict(
                policy,
                looked_at,
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
        looked_at,
        [shown[place] for place in open_loop.spread(len(shown), DENOISED)],
        seed=seed,
        device=torch.device(device),
        steps=command.steps,
    )
    beside = rivals.standings(replace(measured, last=samples.last_actions(chosen)), phases, seed=seed)
    report = replace(
        open_loop.measure(measured, phases),
        denoising=watched.remaining().tolist(),
        standings=beside,
        verdict=standing.sentence(beside),
    )
    figures.draw_episode(episode, out / "actions.png")
    figures.draw_horizon(report, out / "horizon.png")
    figures.draw_denoising(watched, out / "denoising.png")
    (out / "denoising.json").write_text(json.dumps(watched.to_json()) + "\n", encoding="utf-8")
    np.savez_compressed(out / "episode.npz", allow_pickle=False, **episode_arrays(episode, samples, shown))
    write(out / "report.json", report.to_json())
    print(f"report.json, actions.png, horizon.png and denoising.png are in {out}", file=sys.stderr)
    return report


def in_environment(command: Evaluate, contract: "DataContract", seed: int, device: str) -> "ClosedLoop":
    """Closed loop: closed_loop.json, and videos and traces of some episodes."""
    from vla.evaluation import closed_loop, recording
    from vla.evaluation.arena import processes, run

    assert command.env is not None
    config = closed_loop.RolloutConfig(
        episodes=command.episodes,
        seed=seed,
        execute=command.execute,
        max_steps=max(command.within),
        sampling_steps=command.steps,
        group=command.group,
        record=command.record,
        critic=None if command.limits is None else critic_of(command.limits, contract, command.critic, command.results),
        tries=command.tries,
        unsafe=command.unsafe,
    )
    arena = choose_arena(command, command.policy, config, contract, device)
    workers = processes_of(command, device)
    out = command.results
    (out / "closed_loop.json").unlink(missing_ok=True)  # what was recorded belongs to what is told
    recording.clear(out)
    with progress(config.episodes, "episodes") as bar, processes(workers) as spread:
        rollouts = run(arena, spread, bar.update)
        result = closed_loop.summarize(
            rollouts,
            config,
            within=sorted(command.within),
            environment=command.env,
            settings=command.env_settings,
            policy=str(command.policy),
        )
        write(out / "closed_loop.json", result.to_json())  # before environments are closed, which may fail
    files = [
        "closed_loop.json",
        *([LIMITS] if command.limits else []),
        *(["videos and traces"] if command.record else []),
    ]
    print(f"{', '.join(files)} are in {out}", file=sys.stderr)
    return result


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a result."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_settings(command: Evaluate) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ValueError: a number is too small, or a setting would have no effect.
        UsageError: there is nothing to measure on.
    """
    suite = wanted(command.suites)
    check_adapted(command, command.adapter, command.training, command.adapted, suite)
    if command.training and (not command.data.roots or command.env is not None):
        raise UsageError(
            "--training compares motions with clips: give held-out ones with --data.roots DIR, and no --env"
        )
    if command.training:
        of_data = [entry.name for entry in fields(command.data) if entry.name not in ("roots", "motion")]
        if idle := changed(command, OF_RECORDINGS) + changed(command.data, of_data, "--data."):
            raise ValueError(
                f"{' and '.join(idle)} would have no effect with --training, which takes whole folders of clips: leave "
                "that out"
            )
    if command.training and command.data.motion.pictures:
        raise ValueError(
            "--data.motion.pictures has no effect with --training, where motions are made of texts alone: leave it out"
        )
    if command.motions != Evaluate.motions and not command.training:
        raise ValueError("--motions has no effect without --training, the clips that a policy of motion was trained on")
    if not command.data.roots and command.env is None and command.suites is None:
        raise UsageError(
            "give recordings with --data.roots DIR, an environment with --env needle, or both; a policy of human "
            "motion can be tried with --suites"
        )
    check_suites(None if suite else command.suites, command.suites_file, command.samples_a_prompt)
    check_limits(command.limits, command.env, command.tries, command.unsafe)
    check_critic(command.critic, suites=command.suites is not None and suite is None, limits=command.limits is not None)
    check_numbers(
        command,
        {
            "--group": (command.group, 1),
            "--motions": (command.motions, 1),
            "--record": (command.record, 0),
            "--samples-a-prompt": (command.samples_a_prompt, 1),
            "--tries": (command.tries, 1),
            "--within": (min(command.within, default=0), 1),
        },
    )
    check_consumers(command)
