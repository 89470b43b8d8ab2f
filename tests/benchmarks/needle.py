r"""The needle, end to end: demonstrations, both stages, closed loop; with and without sensor, and with random words.

    python -m tests.benchmarks.needle [--json docs/benchmarks/needle.json] [--seeds 0 1 2]
    python -m tests.benchmarks.needle --arms noisy_window noisy_last_sample --seeds 0
    python -m tests.benchmarks.needle --arms with_sensor frozen_backbone opened_backbone --seeds 0 --steps 1000 100 \
        --no-elsewhere --records docs/benchmarks/needle_short --json docs/benchmarks/needle_short.json

Every policy is trained by examples/needle.json on demonstrations alone and measured on the same 300 episodes. The
scripted references are the expert with and without its force, and a random walk, on the same episodes. Policies with
the sensor are also let loose where they were not trained: other hidden errors, held-out sentences, moved cameras.

What a policy did in each episode is recorded in docs/benchmarks/needle/ and not measured again; what is missing goes on
from what the work folder holds. The result is put together from all records. Everything is computed on the CPU.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vla.benchmarks.needle.config import NeedleConfig
from vla.benchmarks.needle.environment import Needle
from vla.benchmarks.needle.expert import Expert
from vla.evaluation.closed_loop import episode_seed
from vla.evaluation.intervals import wilson
from vla.randomness import derive

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
        further=("--finetune-vl", "full", "--stage.blocks", "2", "--stage.lr.backbone", "1e-3"),
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
SCRIPTED = ("scripted_with_force", "scripted_without_force", "random")
ROWS = (*ARMS, "stage1_only", *SCRIPTED)
"""Of the result; everything else is further."""


Episodes = list[int | str | None]
"""What became of each: the steps it took to succeed, or the kind of failure; None where the kind was not recorded."""
Outcomes = dict[str, Episodes]
"""By where the policy is let loose."""


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
    """How a policy is made and measured."""

    demonstrations: int = 2000
    steps: tuple[int, int] = (4000, 300)
    """Of stage 1 and of stage 2."""
    episodes: int = 300

    @property
    def folder(self) -> str:
        """A name that no other plan has."""
        return f"{self.demonstrations}-{self.steps[0]}-{self.steps[1]}-{self.episodes}"


@dataclass(frozen=True)
class Bench:
    """Where that happens."""

    plan: Plan
    work: Path
    records: Path
    ranks: int
    elsewhere: bool = True
    """Whether the policy with the sensor is also let loose where it was not trained."""


def call(made: Path, *words: str) -> None:
    """Run a command of the project that makes something, unless that is there; how long it took stands beside it."""
    if made.exists():
        return
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | os.environ
    environment["CUDA_VISIBLE_DEVICES"] = ""  # the records say that no GPU was used
    print(f"+ {shlex.join(words)}", file=sys.stderr, flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, env=environment, check=True, stdout=sys.stderr)
    clock_of(made).write_text(f"{(time.monotonic() - began) / 60:.2f}\n")


def clock_of(made: Path) -> Path:
    """Where the minutes stand that something took."""
    return made.with_name(f"{made.name}.minutes")


def demonstrate(bench: Bench, name: str) -> Path:
    """Demonstrations."""
    folder = bench.work / f"demonstrations-{name}-{bench.plan.demonstrations}"
    words = [word for flag in DEMONSTRATIONS[name] for word in flag.split("=")]
    count = ["--episodes", str(bench.plan.demonstrations), "--seed", "0", "--workers", str(bench.ranks)]
    call(folder, "vla", "needle", "demos", *count, *words, "--out", str(folder))
    return folder


def train(bench: Bench, name: str, seed: int) -> list[Path]:
    """The stages of an arm, one after the other; returns the folders of the policies."""
    arm, run = (ARMS | FURTHER)[name], bench.work / bench.plan.folder / f"{name}-{seed}"
    launch = ["accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0"]
    launch += ["--num_processes", str(bench.ranks)]
    common = [
        "--config",
        "examples/needle.json",
        "--data.roots",
        str(demonstrate(bench, arm.demonstrations)),
        *arm.flags,
    ]
    common += ["--seed", str(seed)]
    policies: list[Path] = []
    for stage, steps in zip(arm.stages, bench.plan.steps, strict=False):
        flags = ["--out", str(run / stage), "--stage.steps", str(steps)]
        rate = RATES["stage2" if policies else "stage1"]
        flags += [word for group in ("camera", "sensor", "expert") for word in (f"--stage.lr.{group}", rate)]
        flags += ["--stage.lr.lora", "1e-4", "--init-from", str(policies[-1].parent)] if policies else arm.further
        if not (run / stage / "policy").exists():
            shutil.rmtree(run / stage, ignore_errors=True)  # what an interrupted benchmark has left
        call(run / stage / "policy", *launch, f"training/{stage}.py", *common, *flags)
        policies.append(run / stage / "policy")
    return policies


def evaluate(bench: Bench, policy: Path, settings: Sequence[str] = (), name: str = "") -> Episodes:
    """Let a policy loose; `name` tells apart where."""
    folder = policy.with_name(f"policy-evaluation{f'-{name}' if name else ''}")
    words = ["--episodes", str(bench.plan.episodes), "--seed", str(EVALUATION_SEED), "--env", "needle"]
    words += ["--workers", str(bench.ranks), "--device", "cpu", "--out", str(folder)]
    words += ["--env-settings", *settings] if settings else []
    results = folder / "closed_loop.json"
    call(results, "vla", "evaluate", str(policy), *words)
    rollouts = json.loads(results.read_text())["rollouts"]
    return [rollout["failure"] or rollout["steps"] for rollout in rollouts]


def measure(bench: Bench, name: str, seed: int) -> tuple[Outcomes, float]:
    """Train a policy and let it loose; and the minutes from the demonstrations to its success rate."""
    arm = (ARMS | FURTHER)[name]
    policies = train(bench, name, seed)
    outcomes: Outcomes = {name: evaluate(bench, policies[-1], arm.settings)}
    parts = [demonstrate(bench, arm.demonstrations), *policies]
    parts.append(policies[-1].with_name("policy-evaluation") / "closed_loop.json")
    if name == "with_sensor":
        outcomes["stage1_only"] = evaluate(bench, policies[0])
        for where, settings in ELSEWHERE.items() if bench.elsewhere else ():
            outcomes[where] = evaluate(bench, policies[-1], settings, where)
    return outcomes, sum(float(clock_of(part).read_text()) for part in parts)


def script(bench: Bench, force: Literal["tip", "none", "random"]) -> Episodes:
    """The same of the expert."""
    needle = Needle(NeedleConfig(cameras=()))
    episodes: Episodes = []
    for episode in range(bench.plan.episodes):
        expert = Expert(needle, force=force, draw=derive(EVALUATION_SEED, "scripted", episode))
        needle.reset(seed=episode_seed(EVALUATION_SEED, episode))
        success = truncated = False
        while not success and not truncated:
            _, _, success, truncated, info = needle.step(expert.act()[0])
        episodes.append(needle.steps if success else info["failure"])
    return episodes


def measure_scripts(bench: Bench) -> tuple[Outcomes, float]:
    """Scripts that are no policies, and the minutes they took."""
    began = time.monotonic()
    outcomes = {
        "scripted_with_force": script(bench, "tip"),
        "scripted_without_force": script(bench, "none"),
        "random": script(bench, "random"),
    }
    return outcomes, (time.monotonic() - began) / 60


def rows_of(bench: Bench, name: str) -> tuple[str, ...]:
    """Where the policy of an arm is let loose."""
    if name != "with_sensor":
        return (name,)
    return (name, "stage1_only", *(ELSEWHERE if bench.elsewhere else ()))


def record(bench: Bench, name: str, rows: Sequence[str], make: Callable[[], tuple[Outcomes, float]]) -> None:
    """Write down what was measured, unless all these rows have been.

    Raises:
        ValueError: it was measured by another plan.
    """
    file, plan = bench.records / f"{name}.json", json.loads(json.dumps(asdict(bench.plan)))
    known: Outcomes = {}
    if file.exists():
        before = json.loads(file.read_text())
        if before["plan"] != plan:
            raise ValueError(f"{file} was measured by another plan; move it away, or give its numbers")
        known = before["episodes"]
        if known.keys() >= set(rows):
            return
    outcomes, minutes = make()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
    content = {"plan": plan, "machine": machine, "minutes": round(minutes, 1)}
    told = ",\n  ".join(f'"{row}": {json.dumps(episodes)}' for row, episodes in (known | outcomes).items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{json.dumps(content, indent=1)[:-2]},\n "episodes": {{\n  {told}\n }}\n}}\n')


def summary(records: Path, command: str) -> dict[str, Any]:
    """All records as one result: the benchmark's rows, what takes how long, and what else was measured."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(records.glob("*.json"))}
    rows: dict[str, list[Episodes]] = {}
    for content in found.values():
        for row, episodes in content["episodes"].items():
            rows.setdefault(row, []).append(episodes)
    others = [row for row in rows if row not in ROWS]
    timed = [content for name, content in found.items() if name.startswith("with_sensor-")]
    return {
        **{row: asdict(result(rows[row])) for row in ROWS if row in rows},
        "command": command,
        "machine": " / ".join(dict.fromkeys(content["machine"] for content in timed)),
        "minutes": max((content["minutes"] for content in timed), default=None),
        "further": {row: asdict(result(rows[row])) for row in others},
        "within_60": {row: asdict(result(seeds, 60)) for row, seeds in rows.items()},
        "within_100": {row: asdict(result(seeds, 100)) for row, seeds in rows.items()},
        "failures": {row: failures(seeds) for row, seeds in rows.items()},
    }


def failures(seeds: Sequence[Episodes]) -> dict[str, int]:
    """How many episodes failed in each way, of the training seeds whose kinds of failure were recorded."""
    kinds = [became for episodes in seeds if None not in episodes for became in episodes if isinstance(became, str)]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def result(seeds: Sequence[Episodes], within: int = WITHIN) -> Result:
    """A row of the results, over the episodes of some training seeds."""
    successes = [isinstance(became, int) and became <= within for episodes in seeds for became in episodes]
    low, high = wilson(sum(successes), len(successes))
    return Result(sum(successes) / len(successes), low, high, len(successes), len(seeds))


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "needle")
    parser.add_argument("--records", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "needle")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *FURTHER], default=list(ARMS))
    parser.add_argument("--demonstrations", type=int, default=Plan.demonstrations)
    parser.add_argument("--steps", type=int, nargs=2, default=list(Plan.steps))
    parser.add_argument("--episodes", type=int, default=Plan.episodes)
    parser.add_argument("--ranks", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--elsewhere", action=argparse.BooleanOptionalAction, default=True)
    return parser


def spell(given: argparse.Namespace) -> str:
    """The command that gives this result: what decides it and is not the benchmark's own."""
    words = ["python", "-m", "tests.benchmarks.needle"]
    for name in ("seeds", "demonstrations", "steps", "episodes", "elsewhere", "records", "arms"):
        value, usual = vars(given)[name], options().get_default(name)
        if name == "records":
            value, usual = (path.resolve() for path in (value, usual))
        if value == usual:
            continue
        match value:
            case bool():
                words.append(f"--no-{name}")
            case Path():
                shown = value.relative_to(REPOSITORY) if value.is_relative_to(REPOSITORY) else value
                words += [f"--{name}", str(shown)]
            case list():
                words += [f"--{name}", *map(str, value)]
            case _:
                words += [f"--{name}", str(value)]
    return shlex.join(words)


def main() -> None:
    """Train, measure, write."""
    given = options().parse_args()
    plan = Plan(given.demonstrations, tuple(given.steps), given.episodes)
    bench = Bench(plan, given.work.resolve(), given.records.resolve(), given.ranks, given.elsewhere)
    record(bench, "scripts", SCRIPTED, lambda: measure_scripts(bench))
    for seed in given.seeds:
        for name in given.arms:
            rows = rows_of(bench, name)
            record(bench, f"{name}-{seed}", rows, lambda name=name, seed=seed: measure(bench, name, seed))
    text = json.dumps(summary(bench.records, spell(given)), indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
