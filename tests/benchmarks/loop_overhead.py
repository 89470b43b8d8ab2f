"""The training loop against a bare PyTorch loop over the same policy and the same batches, on one process and one core.

    python tests/benchmarks/loop_overhead.py [DATA] [--recipe stage1] [--json]
    python tests/benchmarks/loop_overhead.py examples/motion/cmu/train --recipe pretrain

The bare loop is what one would write in a notebook: next batch, loss, backward, clip, AdamW, zero. Ours adds the
averaged weights, the gradient norm of every group, the schedule, the metrics and the seeded dropout. Both read the same
positions of the same stream in the training process, without validation and checkpoints in the measured steps. Rounds
alternate, each in a process of its own; seconds are those the process had the core for; medians over steps count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
WARM_UP = 5


class Clock:
    """CPU seconds between its ticks, the first few left out."""

    def __init__(self) -> None:
        self.ticks = [time.process_time()]

    def tick(self) -> None:
        """The end of a step."""
        self.ticks.append(time.process_time())

    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(b - a for a, b in zip(self.ticks[WARM_UP:], self.ticks[WARM_UP + 1 :], strict=False))


POLICIES = {"stage1": ("--backbone.path", "tiny"), "pretrain": ("--preset", "small")}
"""What is trained, by recipe: a robot's policy on the tiny backbone, human motion of preset small."""


def session(asked: argparse.Namespace, out: str) -> Any:
    """A run, not yet begun."""
    from training import recipes
    from training.flags import parse
    from training.session import Session

    flags = ["--data.roots", asked.root, "--data.workers", "0", "--out", out, "--tracker", "jsonl"]
    flags += ["--stage.steps", str(asked.steps), "--batch-size", str(asked.batch), "--micro-batch", str(asked.batch)]
    flags += [*POLICIES[asked.recipe], "--data.validation-share", "0"]
    return Session(parse(recipes.RECIPES[asked.recipe](), flags))


def ours(asked: argparse.Namespace, out: str) -> float:
    """Seconds of a step of `training.loop`."""
    from training import loop

    with session(asked, out) as run:
        (row,) = run.run.rows
        engine = run.enter(row)
        clock = Clock()
        add_step = run.folder.records.add_step

        def add(line: dict[str, Any]) -> None:
            add_step(line)
            clock.tick()

        run.folder.records.add_step = add
        loop.train_stage(run, engine, row)
    return clock.median()


def bare(asked: argparse.Namespace, out: str) -> float:
    """Seconds of a step of the bare loop."""
    import torch

    with session(asked, out) as run:
        (row,) = run.run.rows
        run.enter(row)
        policy = run.policy
        policy.set_mode(training=True)
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95))
        batches = run.batches(row)
        clock = Clock()
        for _ in range(asked.steps):
            (batch,) = next(batches)
            loss = (
                torch.stack([(part * batch.weight).sum() for part in policy(batch).values()]).sum() / batch.weight.sum()
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            clock.tick()
    return clock.median()


CONTENDERS = {"ours": ours, "bare": bare}


def run_one(name: str, arguments: argparse.Namespace) -> float:
    """One contender in a process of its own, on one core."""
    core = min(os.sched_getaffinity(0))
    flags = [arguments.root, "--contender", name, "--steps", str(arguments.steps), "--batch", str(arguments.batch)]
    flags += ["--recipe", arguments.recipe]
    result = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    if result.returncode:
        sys.exit(f"{name} failed:\n{result.stderr[-2000:]}")
    return float(result.stdout.splitlines()[-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", default=str(REPOSITORY / "examples" / "needle"), help="a data set")
    parser.add_argument("--recipe", choices=POLICIES, default="stage1", help="what is trained")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps a round")
    parser.add_argument("--batch", type=int, default=16, help="samples a step")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; the median counts")
    parser.add_argument("--json", action="store_true", help="print machine-readable results")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        sys.path[0] = str(REPOSITORY)
        with tempfile.TemporaryDirectory() as folder:
            print(CONTENDERS[arguments.contender](arguments, f"{folder}/run"))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name in CONTENDERS:
            seconds[name].append(run_one(name, arguments))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    overhead = medians["ours"] / medians["bare"] - 1
    if arguments.json:
        print(json.dumps({"step_s": medians, "rounds": seconds, "overhead": overhead}, indent=1))
        return
    for name, values in seconds.items():
        print(
            f"{name:<6}{1000 * medians[name]:>8.1f} ms a step   {'  '.join(f'{1000 * value:.1f}' for value in values)}"
        )
    print(f"overhead of the loop: {100 * overhead:+.1f} %")


if __name__ == "__main__":
    main()
