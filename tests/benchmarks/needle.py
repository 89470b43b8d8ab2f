"""The needle, end to end: demonstrations, both stages, closed loop; with and without the sensor, and with random words.

    python -m tests.benchmarks.needle [--json docs/benchmarks/needle.json] [--work runs/needle] [--seeds 0 1 2]

Every policy is trained by examples/needle.json on demonstrations alone and measured on the same 300 episodes. What is
finished stays in the work folder: started again, the benchmark goes on where it was. The scripted references are the
expert with and without its force, and a random walk, on the same episodes.
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


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    demonstrations: str
    """Name of their folder."""
    flags: tuple[str, ...] = ()
    """Of both stages."""


ARMS = {
    "with_sensor": Arm("named"),
    "without_sensor": Arm("named", ("--data.sensor", "none", "--data.compand", "actions")),
    "shuffled_instruction": Arm("shuffled"),
}


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
    count = ["--episodes", str(plan.demonstrations), "--seed", "0", "--instruction", name]
    call(folder, "vla", "needle", "demos", *count, "--out", str(folder))
    return folder


def train(plan: Plan, name: str, seed: int) -> Path:
    """Both stages of an arm; returns the folder with the two runs."""
    arm, run = ARMS[name], plan.work / f"{name}-{seed}"
    launch = ["accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0"]
    launch += ["--num_processes", str(plan.ranks)]
    common = ["--config", "examples/needle.json", "--data.roots", str(record(plan, arm.demonstrations)), *arm.flags]
    common += ["--seed", str(seed)]
    for stage, steps in zip(("stage1", "stage2"), plan.steps, strict=True):
        out = ["--out", str(run / stage), "--stage.steps", str(steps)]
        if not (run / stage / "policy").exists():
            shutil.rmtree(run / stage, ignore_errors=True)  # what an interrupted benchmark has left
        call(run / stage / "policy", *launch, f"training/{stage}.py", *common, *rates(stage, run), *out)
    return run


def rates(stage: str, run: Path) -> list[str]:
    """What the two stages differ in."""
    rate = {"stage1": "1e-3", "stage2": "3e-4"}[stage]
    flags = [word for group in ("camera", "sensor", "expert") for word in (f"--stage.lr.{group}", rate)]
    return flags if stage == "stage1" else [*flags, "--stage.lr.lora", "1e-4", "--init-from", str(run / "stage1")]


def evaluate(plan: Plan, policy: Path) -> list[bool]:
    """Whether each episode succeeded in time."""
    results = policy.with_name("policy-evaluation") / "closed_loop.json"
    episodes = ["--episodes", str(plan.episodes), "--seed", str(EVALUATION_SEED), "--env", "needle"]
    call(results, "vla", "evaluate", str(policy), *episodes, "--workers", str(plan.ranks))
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
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--demonstrations", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs=2, default=[5000, 400])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--ranks", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    plan = Plan(given.work.resolve(), given.demonstrations, tuple(given.steps), given.episodes, given.ranks)
    rows: dict[str, Any] = {}
    for name in given.arms:
        outcomes = {"stage1": list[bool](), "stage2": list[bool]()}
        for seed in given.seeds:
            run = train(plan, name, seed)
            outcomes["stage2"] += evaluate(plan, run / "stage2" / "policy")
            if name == "with_sensor":
                outcomes["stage1"] += evaluate(plan, run / "stage1" / "policy")
        rows[name] = result(outcomes["stage2"], len(given.seeds))
        if name == "with_sensor":
            rows["stage1_only"] = result(outcomes["stage1"], len(given.seeds))
    rows["scripted_with_force"] = result(scripted(plan, "tip"), 1)
    rows["scripted_without_force"] = result(scripted(plan, "none"), 1)
    rows["random"] = result(scripted(plan, "random"), 1)
    run = plan.work / f"{given.arms[0]}-{given.seeds[0]}"
    parts = [record(plan, ARMS[given.arms[0]].demonstrations), run / "stage1" / "policy", run / "stage2" / "policy"]
    parts.append(run / "stage2" / "policy-evaluation" / "closed_loop.json")
    minutes = sum(float(clock_of(part).read_text()) for part in parts)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
    command = f"python -m tests.benchmarks.needle --seeds {' '.join(map(str, given.seeds))}"
    text = json.dumps(rows | {"command": command, "machine": machine, "minutes": round(minutes, 1)}, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
