r"""Human motion, end to end: bases of several training seeds, motions of every action, judged against thresholds.

    python -m tests.benchmarks.motion [--seeds 0 1 2] [--motions 100] [--work runs/motion-benchmark] \
        [--json docs/benchmarks/motion.json]

Every base is trained by examples/motion.json as `make demo-motion` trains it, on the clips that ship and on the CPU;
what the work folder holds is not trained again. Motions are judged by `vla evaluate`, whose judge has another seed for
each base. A threshold is held by the worse end of the interval: of shares Wilson's over all seeds, of figures beside
real ones the worst of the seeds' own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.evaluation.intervals import wilson

REPOSITORY = Path(__file__).resolve().parents[2]
CLIPS = REPOSITORY / "examples" / "motion"
TRAINED = [str(CLIPS / "cmu" / "train"), str(CLIPS / "amp")]
HELD_OUT = str(CLIPS / "cmu" / "test")
STEPPING = ("walking", "running")

Rows = Mapping[str, Mapping[str, Any]]
"""Of one seed, by name."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One threshold, and what was found."""

    what: str
    low: float
    high: float
    """The ends of the interval of what was found."""
    value: float
    at_least: float = float("-inf")
    at_most: float = float("inf")

    @property
    def held(self) -> bool:
        """Whether the worse end of the interval keeps to the threshold."""
        return self.low >= self.at_least and self.high <= self.at_most

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the threshold that it does not have."""
        finite = {key: value for key, value in vars(self).items() if value not in (float("inf"), float("-inf"))}
        return finite | {"held": self.held}

    def __str__(self) -> str:
        bounds = [f">= {self.at_least:g}"] * (self.at_least > float("-inf"))
        bounds += [f"<= {self.at_most:g}"] * (self.at_most < float("inf"))
        told = f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"
        return f"{self.what:<44}{told:<32}{' and '.join(bounds):<20}{'held' if self.held else 'missed'}"


def run(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """A command, whose output is shown."""
    subprocess.run(words, check=True, cwd=REPOSITORY, env=os.environ | environment)


def train(seed: int, folder: Path, ranks: int) -> float:
    """A base; seconds that it took, of all processes on the wall."""
    began = time.monotonic()
    launch = ["--config_file", "accelerate_configs/cpu.yaml", "--main_process_port", "0", "--num_processes", str(ranks)]
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", *launch, "training/pretrain.py"]
    asked = ["--config", "examples/motion.json", "--data.roots", *TRAINED, "--seed", str(seed), "--out", str(folder)]
    run([*command, *asked], {"OMP_NUM_THREADS": "1"})
    return time.monotonic() - began


def evaluate(seed: int, folder: Path, motions: int) -> Rows:
    """What was measured of a base's motions."""
    out = folder / "judged"
    command = [str(Path(sys.executable).parent / "vla"), "evaluate", str(folder / "policy"), "--data.roots", HELD_OUT]
    run(
        [*command, "--training", *TRAINED, "--motions", str(motions), "--seed", str(seed), "--out", str(out)],
        {"OMP_NUM_THREADS": "1"},
    )
    rows = json.loads((out / "motions.json").read_text())["rows"]
    return {row["name"]: row for row in rows}


def pooled(seeds: Sequence[Rows], name: str) -> tuple[float, float, float]:
    """A share of the samples of all seeds, each one drawn by itself: value and Wilson's interval."""
    return _wilson([(row["value"], row["n"]) for rows in seeds for row in [rows[name]["samples"]]])


def _wilson(shares: Sequence[tuple[float, int]]) -> tuple[float, float, float]:
    hits, total = sum(round(value * n) for value, n in shares), sum(n for _, n in shares)
    low, high = wilson(hits, total)
    return hits / total, low, high


def beside(seeds: Sequence[Rows], name: str) -> tuple[float, float, float]:
    """A figure of samples as a share of the real ones': the mean, and the worst ends, of the seeds."""
    found = [(rows[name]["samples"], float(rows[name]["real"]["value"])) for rows in seeds]
    values = [samples["value"] / real for samples, real in found]
    ends = [[samples[end] / real for samples, real in found] for end in ("low", "high")]
    return sum(values) / len(values), min(ends[0]), max(ends[1])


def worst(seeds: Sequence[Rows], name: str, column: str = "samples") -> tuple[float, float, float]:
    """A figure: the mean, and the worst ends, of the seeds."""
    found = [rows[name][column] for rows in seeds]
    ends = min(row["low"] for row in found), max(row["high"] for row in found)
    return sum(row["value"] for row in found) / len(found), *ends


def judge(seeds: Sequence[Rows]) -> list[Line]:
    """All thresholds."""
    actions = [name.removeprefix("recall, ") for name in seeds[0] if name.startswith("recall, ")]

    def line(what: str, found: tuple[float, float, float], **bounds: float) -> Line:
        return Line(what=what, value=found[0], low=found[1], high=found[2], **bounds)

    every = [
        (row["value"], row["n"]) for rows in seeds for name in actions for row in [rows[f"recall, {name}"]["samples"]]
    ]
    lines = [line("recall, mean of all actions", _wilson(every), at_least=0.9)]
    lines += [line(f"recall, {name}", pooled(seeds, f"recall, {name}"), at_least=0.7) for name in actions]
    for name in STEPPING:
        lines += [
            line(
                f"gait amplitude / real, {name}", beside(seeds, f"gait amplitude, {name}"), at_least=0.8, at_most=1.25
            ),
            line(f"steps, {name}", pooled(seeds, f"steps, {name}"), at_least=0.95),
        ]
    return [
        *lines,
        line("airborne share / real, jumping", beside(seeds, "airborne share, jumping"), at_least=0.7, at_most=1.3),
        line("airborne share, walking", worst(seeds, "airborne share, walking"), at_most=0.01),
        line("counter-examples rejected", worst(seeds, "counter-examples rejected", "real"), at_least=0.95),
        line(
            "Frechet distance / that of real halves",
            beside(seeds, "Frechet distance"),
            at_most=3.0,
        ),
        line("bone length variation, %", worst(seeds, "bone length variation"), at_most=0.1),
        line("foot speed below 12 cm / real", beside(seeds, "foot speed below 12 cm"), at_least=0.7, at_most=1.3),
        line("acceleration / real", beside(seeds, "acceleration"), at_least=0.7, at_most=1.3),
        line("nearer than real ones, walking", pooled(seeds, "nearer than real ones, walking"), at_most=0.1),
    ]


def main() -> None:
    """Train what is missing, judge all, print the lines and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--motions", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "motion-benchmark")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found, seconds = [], []
    for seed in asked.seeds:
        folder = asked.work / f"seed-{seed}"
        if not (folder / "policy" / "config.json").is_file():
            seconds.append(train(seed, folder, asked.ranks))
        found.append(evaluate(seed, folder, asked.motions))
    lines = judge(found)
    print("\n".join(map(str, lines)))
    if asked.json:
        content = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {asked.ranks} ranks",
            "seeds": asked.seeds,
            "motions an action": asked.motions,
            "training_s": [round(value) for value in seconds],
            "thresholds": [line.to_json() for line in lines],
            "rows": [list(rows.values()) for rows in found],
        }
        asked.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
