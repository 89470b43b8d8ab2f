"""What goes from a loader process to the trainer for each sample, and how fast stage 1 trains beside another checkout.

    python tests/benchmarks/feeding.py DATA [--before CHECKOUT] [--json]

Bytes are those of the one buffer of a micro-batch of three 640 x 480 cameras, with whole frames and with frames in the
sizes that the parts of a policy look at: the backbone alone, and a camera encoder beside it.

Rates are of stage 1 on DATA with the tiny backbone, without validation and checkpoints in the measured steps. Both
checkouts train at the same time, each in a process of its own with the same environment, so that other work on the
machine, and what the one takes from the other, slows both alike: samples a second are counted from when the later one
has warmed up to when the earlier one has ended. Beside them stand the samples of a CPU second, those of the loader
processes included. The medians of the rounds' ratios count.
"""

import argparse
import bisect
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CAMERAS, HEIGHT, WIDTH = 3, 480, 640
MICRO_BATCH = 4
FLAGS = ["--backbone.path", "tiny", "--tracker", "jsonl", "--data.validation-share", "0", "--save-every", "1000000"]
WARM_UP = 4
"""Steps before the measured ones."""


def bytes_of_samples() -> dict[str, float]:
    """Bytes of a sample in the buffer of a micro-batch, by what is sent of its frames."""
    sys.path.insert(0, str(REPOSITORY))
    import numpy as np
    import torch

    from training.feeding.packing import pack
    from vla.batch import Sample, collate
    from vla.frames import Square
    from vla.parts.backbone import load_backbone
    from vla.settings import BackboneConfig, CameraConfig

    sample = Sample(
        images=tuple(np.zeros((3, HEIGHT, WIDTH), np.uint8) for _ in range(CAMERAS)),
        image_valid=np.ones(CAMERAS, np.bool_),
        instruction="pick up the bottle",
        state=np.zeros(26, np.float32),
        streams={},
        actions=np.zeros((8, 26), np.float32),
        action_valid=np.ones(8, np.bool_),
        weight=1.0,
        position=0,
    )
    backbone = load_backbone(BackboneConfig(), torch.float32).size
    square = Square(side=CameraConfig().pixels)
    sent = {
        "whole frames": sample,
        "for the backbone": sample.resized([backbone]),
        "for the backbone and a camera encoder": sample.resized([backbone, square]),
    }
    buffers = {
        what: pack(collate([one] * MICRO_BATCH, 0, "noise"), lambda size: torch.empty(size, dtype=torch.uint8))[1]
        for what, one in sent.items()
    }
    return {what: buffer.nbytes / MICRO_BATCH for what, buffer in buffers.items()}


def cpu_seconds() -> float:
    """CPU seconds of this process and of those it has started."""
    seconds = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == os.getpid():
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def train(checkout: str, workers: int, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """One run of stage 1 by a checkout, in this process: clock and CPU seconds at the end of each measured step."""
    sys.path.insert(0, checkout)
    from training import loop, recipes
    from training.session import Session

    # Not by an ImportError: an installation in development mode would find the other checkout's.
    owner = "flags" if Path(checkout, "training", "flags.py").exists() else "config"
    parse = importlib.import_module(f"training.{owner}").parse
    clock: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as out:
        flags = ["--data.roots", arguments.root, "--data.workers", str(workers), "--out", out, *FLAGS]
        flags += ["--stage.steps", str(WARM_UP + arguments.steps + 1), "--batch-size", str(arguments.batch)]
        with Session(parse(recipes.stage1(), [*flags, "--micro-batch", str(MICRO_BATCH)])) as run:
            row = run.next_row()
            engine = run.enter(row)
            batches = run.batches

            def watched(row: Any) -> Iterator[Any]:
                for step in batches(row):
                    yield step
                    clock.append((time.monotonic(), cpu_seconds()))  # the step is over: the next one is asked for

            run.batches = watched
            loop.train_stage(run, engine, row)
    return clock[WARM_UP - 1 :]


def begin(checkout: str, workers: int, arguments: argparse.Namespace) -> "subprocess.Popen[str]":
    """`train` in a process of its own."""
    words = [arguments.root, "--checkout", checkout, "--workers", str(workers)]
    words += ["--steps", str(arguments.steps), "--batch", str(arguments.batch)]
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=checkout,
    )


def together(workers: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Rates of both checkouts that train at the same time."""
    running = {
        "before": begin(arguments.before, workers, arguments),
        "after": begin(str(REPOSITORY), workers, arguments),
    }
    clocks: dict[str, list[tuple[float, float]]] = {}
    for which, process in running.items():
        output, problems = process.communicate()
        if process.returncode:
            sys.exit(f"{which} failed:\n{problems[-2000:]}")
        clocks[which] = json.loads(output.splitlines()[-1])
    began, ended = max(clock[0][0] for clock in clocks.values()), min(clock[-1][0] for clock in clocks.values())
    if began >= ended:
        sys.exit("one had ended before the other had warmed up: give more --steps")
    return {which: rates(clock, began, ended, arguments.batch) for which, clock in clocks.items()}


def rates(clock: list[tuple[float, float]], began: float, ended: float, batch: int) -> dict[str, float]:
    """Samples a second and a CPU second between two times; `clock` has the time and the CPU seconds of each step."""
    times, cpu = zip(*clock, strict=True)
    steps, seconds = (
        interpolate(ended, times, values) - interpolate(began, times, values) for values in (range(len(times)), cpu)
    )
    return {"samples_per_s": steps * batch / (ended - began), "samples_per_cpu_s": steps * batch / seconds}


def interpolate(at: float, times: Sequence[float], values: Sequence[float]) -> float:
    """The value at a time within `times`."""
    after = min(max(bisect.bisect_right(times, at), 1), len(times) - 1)
    share = (at - times[after - 1]) / (times[after] - times[after - 1])
    return values[after - 1] + share * (values[after] - values[after - 1])


def compare(workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates of both checkouts, and the medians of the rounds' ratios."""
    rounds = [together(workers, arguments) for _ in range(arguments.rounds)]
    found: dict[str, Any] = {}
    for rate in ("samples_per_s", "samples_per_cpu_s"):
        before, after = ([round(one[which][rate], 2) for one in rounds] for which in ("before", "after"))
        ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
        found[rate] = {"before": before, "after": after, "times": round(ratio, 3)}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="a data set with cameras")
    parser.add_argument("--before", help="another checkout, to train beside")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a run, after it has warmed up")
    parser.add_argument("--batch", type=int, default=32, help="samples a step")
    parser.add_argument("--rounds", type=int, default=5, help="runs of both")
    parser.add_argument("--json", action="store_true", help="print machine-readable results")
    parser.add_argument("--checkout", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 0], help="loader processes")
    arguments = parser.parse_args()
    if arguments.checkout:
        print(json.dumps(train(arguments.checkout, arguments.workers[0], arguments)))
        return
    report: dict[str, Any] = {"bytes_of_a_sample": bytes_of_samples()}
    if arguments.before:
        report["workers"] = {workers: compare(workers, arguments) for workers in arguments.workers}
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    whole = report["bytes_of_a_sample"]["whole frames"]
    for what, count in report["bytes_of_a_sample"].items():
        print(f"{what:<40}{count:>12,.0f} bytes a sample   1/{whole / count:.2f}")
    for workers, found in report.get("workers", {}).items():
        for rate in ("samples_per_s", "samples_per_cpu_s"):
            each = "  ".join(
                f"{b:.1f}/{a:.1f}" for a, b in zip(found[rate]["before"], found[rate]["after"], strict=True)
            )
            print(f"{workers} loader processes, {rate}: {found[rate]['times']:.2f} times   {each}")


if __name__ == "__main__":
    main()
