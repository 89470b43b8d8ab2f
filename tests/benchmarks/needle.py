"""The needle, end to end: demonstrations, both stages, closed loop; with and without the sensor, and with random words.

    python -m tests.benchmarks.needle [--json docs/benchmarks/needle.json] [--work runs/needle] [--seeds 0 1 2]
    python -m tests.benchmarks.needle --arms noisy_window noisy_last_sample --seeds 0 --json noise.json

Every policy is trained by examples/needle.json on demonstrations alone and measured on the same 300 episodes. What is
finished stays in the work folder: started again, the benchmark goes on where it was. The scripted references are the
expert with and without its force, and a random walk, on the same episodes. Policies with the sensor are also let loose
where they were not trained: other hidden errors, held-out sentences, moved cameras.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.data.order import derive
from vla.evaluation.closed_loop import episode_seed
from vla.evaluation.intervals import wilson
from vla.needle.config import NeedleConfig
from vla.needle.environment import Needle
from vla.needle.expert import Expert

REPOSITORY = Path(__file__).resolve().parents[2]
WITHIN = 40
EVALUATION_SEED = 1234
NOISE = ("force-noise-n=0.9", "torque-noise-nm=0.06")
DEMONSTRATIONS = {
    "named": (),
    "shuffled": ("--instruction", "shuffled"),
    "joints": ("--state", "joints"),
    "noisy": tuple(f"--{setting}" for setting in NOISE),
    "ascan": ("--sensor", "ascan", "--sensor-rate-hz", "650"),
}
"""Flags of each kind."""
RATES = {"stage1": "1e-3", "stage2": "3e-4"}
"""Of the trained parts in each stage; LoRA opens the backbone at a third of the second."""
BLIND = ("--data.sensor", "none", "--data.compand", "actions")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    demonstrations: str = "named"
    flags: tuple[str, ...] = ()
    """Of both stages."""
    stages: tuple[str, ...] = ("stage1", "stage2")
    further: tuple[str, ...] = ()
    """Of the first stage alone."""
    settings: tuple[str, ...] = ()
    """Of the environment."""


ARMS = {
    "with_sensor": Arm(),
    "without_sensor": Arm(flags=BLIND),
    "shuffled_instruction": Arm(demonstrations="shuffled"),
}
"""What the benchmark is about."""
FURTHER = {
    # The joints bend under the torque: what a policy without the sensor reads from them.
    "joints_without_sensor": Arm(demonstrations="joints", flags=BLIND),
    # A sensor so noisy that its rate matters.
    "noisy_window": Arm(demonstrations="noisy", settings=NOISE),
    "noisy_last_sample": Arm(demonstrations="noisy", flags=("--data.sensor-samples", "1"), settings=NOISE),
    # Seeing without a camera encoder: with the backbone frozen, and opened from the start.
    "frozen_backbone": Arm(flags=("--camera.width", "0"), stages=("stage1",)),
    "opened_backbone": Arm(
        flags=("--camera.width", "0"),
        stages=("stage1",),
        further=("--finetune-vl", "full", "--finetune-layers", "2", "--stage.lr.backbone", "1e-3"),
    ),
    # The last 50 ms of the optical sensor in place of the torque.
    "ascan": Arm(demonstrations="ascan", flags=("--data.sensor-samples", "32")),
}
"""For the record."""
ELSEWHERE = {
    "error_0mm": ("error-mm=0",),
    "error_1mm": ("error-mm=1",),
    "error_3mm": ("error-mm=3",),
    "held_out_phrasings": ("phrasings=held-out",),
    "cameras_moved_10mm": ("camera-shift-mm=10",),
}
"""Settings of the environment that no policy was trained with."""


@dataclass(frozen=True)
class Result:
    """Success within 40 steps over the episodes of all training seeds."""

    success: float
    low: float
    high: float
    episodes: int
    seeds: int


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    work: Path
    demonstrations: int
    steps: tuple[int, int]
    """Of stage 1 and of stage 2."""
    episodes: int
    ranks: int


def call(made: Path, *words: str) -> None:
    """Run a command of the project that makes something, unless that is there; how long it took stands beside it."""
    if made.exists():
        return
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | os.environ
    print(f"+ {shlex.join(words)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, env=environment, check=True, stdout=sys.stderr)
    clock_of(made).write_text(f"{(time.monotonic() - began) / 60:.2f}\n")


def clock_of(made: Path) -> Path:
    """Where the minutes stand that something took."""
    return made.with_name(f"{made.name}.minutes")


def record(plan: Plan, name: str) -> Path:
    """Demonstrations."""
    folder = plan.work / f"demonstrations-{name}"
    words = [word for flag in DEMONSTRATIONS[name] for word in flag.split("=")]
    count = ["--episodes", str(plan.demonstrations), "--seed", "0", "--workers", str(plan.ranks)]
    call(folder, "vla", "needle", "demos", *count, *words, "--out", str(folder))
    return folder


def train(plan: Plan, name: str, seed: int) -> list[Path]:
    """The stages of an arm, one after the other; returns the folders of the policies."""
    arm, run = (ARMS | FURTHER)[name], plan.work / f"{name}-{seed}"
    launch = ["accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0"]
    launch += ["--num_processes", str(plan.ranks)]
    common = ["--config", "examples/needle.json", "--data.roots", str(record(plan, arm.demonstrations)), *arm.flags]
    common += ["--seed", str(seed)]
    policies: list[Path] = []
    for stage, steps in zip(arm.stages, plan.steps, strict=False):
        flags = ["--out", str(run / stage), "--stage.steps", str(steps)]
        rate = RATES["stage2" if policies else "stage1"]
        flags += [word for group in ("camera", "sensor", "expert") for word in (f"--stage.lr.{group}", rate)]
        flags += ["--stage.lr.lora", "1e-4", "--init-from", str(policies[-1].parent)] if policies else arm.further
        if not (run / stage / "policy").exists():
            shutil.rmtree(run / stage, ignore_errors=True)  # what an interrupted benchmark has left
        call(run / stage / "policy", *launch, f"training/{stage}.py", *common, *flags)
        policies.append(run / stage / "policy")
    return policies


def evaluate(plan: Plan, policy: Path, settings: Sequence[str] = (), name: str = "") -> list[bool]:
    """Whether each episode succeeded in time; `name` tells apart where the policy is let loose."""
    folder = policy.with_name(f"policy-evaluation{f'-{name}' if name else ''}")
    words = ["--episodes", str(plan.episodes), "--seed", str(EVALUATION_SEED), "--env", "needle"]
    words += ["--workers", str(plan.ranks), "--out", str(folder)]
    words += ["--env-settings", *settings] if settings else []
    results = folder / "closed_loop.json"
    call(results, "vla", "evaluate", str(policy), *words)
    rollouts = json.loads(results.read_text())["rollouts"]
    return [rollout["success"] and rollout["steps"] <= WITHIN for rollout in rollouts]


def scripted(plan: Plan, force: Literal["tip", "none", "random"]) -> list[bool]:
    """The same of the expert."""
    needle = Needle(NeedleConfig(cameras=(), max_steps=WITHIN))
    successes = []
    for episode in range(plan.episodes):
        expert = Expert(needle, force=force, draw=derive(EVALUATION_SEED, "scripted", episode))
        needle.reset(seed=episode_seed(EVALUATION_SEED, episode))
        success = truncated = False
        while not success and not truncated:
            _, _, success, truncated, _ = needle.step(expert.act()[0])
        successes.append(success)
    return successes


def result(successes: Sequence[bool], seeds: int) -> dict[str, Any]:
    """A row of the results."""
    low, high = wilson(sum(successes), len(successes))
    return asdict(Result(float(np.mean(successes)), low, high, len(successes), seeds))


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "needle")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *FURTHER], default=list(ARMS))
    parser.add_argument("--demonstrations", type=int, default=2000)
    parser.add_argument("--steps", type=int, nargs=2, default=[4000, 300])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--ranks", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    plan = Plan(given.work.resolve(), given.demonstrations, tuple(given.steps), given.episodes, given.ranks)
    rows: dict[str, Any] = {}
    for name in given.arms:
        outcomes: dict[str, list[bool]] = {}
        for seed in given.seeds:
            *first, last = train(plan, name, seed)
            outcomes.setdefault(name, []).extend(evaluate(plan, last, (ARMS | FURTHER)[name].settings))
            if name == "with_sensor":
                outcomes.setdefault("stage1_only", []).extend(evaluate(plan, first[0]))
                for where, settings in ELSEWHERE.items():
                    outcomes.setdefault(where, []).extend(evaluate(plan, last, settings, where))
        rows |= {row: result(successes, len(given.seeds)) for row, successes in outcomes.items()}
    rows["scripted_with_force"] = result(scripted(plan, "tip"), 1)
    rows["scripted_without_force"] = result(scripted(plan, "none"), 1)
    rows["random"] = result(scripted(plan, "random"), 1)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
    command = f"python -m tests.benchmarks.needle {shlex.join(sys.argv[1:])}".strip()
    minutes = round(minutes_of(plan, given.arms[0], given.seeds[0]), 1)
    text = json.dumps(rows | {"command": command, "machine": machine, "minutes": minutes}, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


def minutes_of(plan: Plan, name: str, seed: int) -> float:
    """How long demonstrations, training and evaluation of one policy took."""
    arm, run = (ARMS | FURTHER)[name], plan.work / f"{name}-{seed}"
    parts = [record(plan, arm.demonstrations), *(run / stage / "policy" for stage in arm.stages)]
    parts.append(run / arm.stages[-1] / "policy-evaluation" / "closed_loop.json")
    return sum(float(clock_of(part).read_text()) for part in parts)


if __name__ == "__main__":
    main()
