"""Acting: which sampler with how many calls of the expert succeeds as often, and what `act` costs beside older code.

    python -m tests.benchmarks.acting POLICY --work FOLDER [--json docs/benchmarks/acting.json]

Success: a policy of the needle (that of `make demo`) is let loose in the same episodes by each contender, some of them
in the first ones alone. The change of the rate from the policy's own sampler and calls to the contender's has
Newcombe's interval of paired outcomes. What became of each episode is kept in the work folder and not run again.

Latency: one observation at a time, in the seconds that the process had cores for, on one thread. Versions are processes
of their own (acting_worker.py), which act in turn within each round; ratios are of medians. `needle` is that policy, on
a frame it has not seen, beside the commit before acting was made faster; `large` a random one over a backbone of 77
million parameters and three cameras of 224 pixels, beside commit a3da51d, with frames that differ at every call, and
with cameras that show the same again.
"""

import argparse
import copy
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vla.evaluation.closed_loop import RolloutConfig, roll_out
from vla.evaluation.environments import open_environment
from vla.evaluation.intervals import rate_change, wilson
from vla.parts import tiny
from vla.policy_folder import load_policy
from vla.policy_settings import Sampling
from vla.settings import Sampler

REPOSITORY = Path(__file__).resolve().parents[2]
WITHIN, GROUP, SEED = (40, 60, 100), 10, 4321
BEFORE, LONG_BEFORE = "7006449", "a3da51d"
LARGE = {
    "text_config": {
        "hidden_size": 512,
        "intermediate_size": 2752,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
    },
    "vision_config": {
        "depth": 12,
        "hidden_size": 320,
        "intermediate_size": 856,
        "num_heads": 5,
        "out_hidden_size": 512,
        "fullatt_block_indexes": [3, 7, 11],
    },
}
"""Of a Qwen2.5-VL whose vision tower has the share of the work that it has in the one of 3B."""
SECTIONS = [16, 8, 8]
"""Of its rotary positions: time, row and column of 64 channels a head."""


@dataclass(frozen=True)
class Contender:
    """A way to sample."""

    sampler: Sampler
    calls: int
    screened: bool = False
    """In the first episodes alone."""

    @property
    def name(self) -> str:
        """As the result has it."""
        return f"{self.sampler} {self.calls}"


BASE = Contender("ddim", 10)
CONTENDERS = (
    *(BASE, Contender("ab2", 5), Contender("ab2", 4)),
    *(Contender("ddim", 5, screened=True), Contender("ab2", 3, screened=True)),
    *(Contender("ab2", 2, screened=True), Contender("ddim", 2, screened=True)),
)
Episodes = dict[str, list[int | None]]
"""By contender: the steps that each episode took to succeed; None where it failed."""


def let_loose(folder: Path, episodes: int, screened: int, kept: Path) -> Episodes:
    """What became of the episodes; groups of them, all contenders in each."""
    found: Episodes = {way.name: [] for way in CONTENDERS}
    if kept.is_file():
        found |= json.loads(kept.read_text())
    policy = load_policy(folder, fold=True)
    config = RolloutConfig(episodes=episodes, seed=SEED, max_steps=max(WITHIN), group=GROUP)
    environments = [open_environment("needle", policy.contract, (), max(WITHIN)) for _ in range(GROUP)]
    try:
        for start, way in itertools.product(range(0, episodes, GROUP), CONTENDERS):
            numbers = range(start, min(start + GROUP, screened if way.screened else episodes))
            if len(found[way.name]) > start or not numbers:
                continue
            policy.sample_by(Sampling(sampler=way.sampler))
            own = replace(config, sampling_steps=way.calls)
            rollouts = roll_out(policy, environments[: len(numbers)], numbers, own)
            found[way.name] += [rollout.steps if rollout.success else None for rollout in rollouts]
            kept.write_text(json.dumps(found))
    finally:
        for environment in environments:
            environment.close()
    return found


def compared(found: Episodes) -> dict[str, Any]:
    """Success of each contender, and its change beside the base on the same episodes."""
    table: dict[str, Any] = {}
    for way in CONTENDERS:
        own = found[way.name]
        rows: dict[str, Any] = {"episodes": len(own)}
        for steps in WITHIN:
            after, before = (
                [took is not None and took <= steps for took in told[: len(own)]] for told in (own, found[BASE.name])
            )
            low, high = wilson(sum(after), len(after))
            entry = {"rate": sum(after) / len(after), "low": low, "high": high}
            if way != BASE:
                low, high = rate_change(before, after)
                change = entry["rate"] - sum(before) / len(before)
                entry |= {"change": change, "change_low": low, "change_high": high}
            rows[f"within {steps}"] = entry
        table[way.name] = rows
    return table


class Worker:
    """A process of some version of the code, which acts when it is told to."""

    def __init__(self, tree: Path, kind: str, place: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tests" / "benchmarks" / "acting_worker.py"), kind, str(place)],
            env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, line: str) -> float:
        """What it takes to act once."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """Have it end."""
        self.process.communicate()


def in_turn(works: Mapping[str, tuple[Worker, str]], rounds: int) -> dict[str, float]:
    """The median seconds of each; two rounds before are not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 2):
        for name, (worker, line) in works.items():
            taken[name].append(worker.seconds(line))
    for worker in {worker for worker, _ in works.values()}:
        worker.end()
    return {name: statistics.median(seconds[2:]) for name, seconds in taken.items()}


def tree_of(commit: str, work: Path) -> Path:
    """The code of a commit."""
    folder = work / commit
    if not folder.is_dir():
        archive = subprocess.run(["git", "archive", commit, "vla"], cwd=REPOSITORY, capture_output=True, check=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
    return folder


def large_backbone(work: Path) -> Path:
    """The folder of the random backbone."""
    folder = work / "large"
    if not folder.is_dir():
        config = copy.deepcopy(tiny.CONFIG)
        for part, sizes in LARGE.items():
            config[part] |= sizes
        config["text_config"]["rope_parameters"] |= {"mrope_section": SECTIONS}
        folder.mkdir()
        own, tiny.CONFIG = tiny.CONFIG, config
        try:
            tiny.write(folder)
        finally:
            tiny.CONFIG = own
    return folder


def of_needle(policy: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the needle's policy, and how much faster than before each way is."""
    before, now = Worker(tree_of(BEFORE, work), "needle", policy), Worker(REPOSITORY, "needle", policy)
    ways: Sequence[tuple[str, tuple[Worker, str]]] = [(way.name, (now, way.name)) for way in CONTENDERS]
    taken = in_turn({"before": (before, BASE.name), **dict(ways)}, rounds)
    return {"seconds": taken, "times as fast": {name: taken["before"] / taken[name] for name, _ in ways}}


def of_large(work: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the large policy, and how much faster than before it is."""
    backbone = large_backbone(work)
    before = Worker(tree_of(LONG_BEFORE, work), "large_before", backbone)
    now = Worker(REPOSITORY, "large", backbone)
    taken = in_turn({"before": (before, "changing"), "changing": (now, "changing"), "still": (now, "still")}, rounds)
    return {
        "seconds": taken,
        "times as fast": {name: taken["before"] / taken[name] for name in ("changing", "still")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=1500)
    parser.add_argument("--screened", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--large-rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    content = {
        "success": compared(let_loose(asked.policy, asked.episodes, asked.screened, asked.work / "episodes.json")),
        "needle": of_needle(asked.policy.resolve(), asked.work.resolve(), asked.rounds),
        "large": of_large(asked.work.resolve(), asked.large_rounds),
    }
    text = json.dumps(content, indent=2)
    if asked.json is not None:
        asked.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
