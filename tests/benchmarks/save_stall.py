"""How long a step waits for its checkpoint: saving behind the training, saving and waiting, `accelerator.save_state`.

    python tests/benchmarks/save_stall.py [--json docs/benchmarks/save_stall.json]

A real run of stage 1 with an expert of about 80 million trained parameters on 2 ranks. Every few steps one of the
contenders saves, in turn, within the same run. The call is what the training thread spends on saving; the stall is the
time of the step that saves less the median of those of the same round that do not. Whatever is written behind it
competes with the training for the cores, so the extra time of the whole interval, from one save to the next, is told
as well. Ours writes through to the disk, reads back what it has written and keeps the averaged weights and both
moments in fp32; save_state writes the same numbers, and the frozen weights, into the page cache.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RANKS = 2
CONTENDERS = ("none", "behind", "waiting", "save_state")
"""Nothing; ours, going on at once; ours, waiting until the checkpoint stands; accelerate's own."""


class Contest:
    """The contenders on one rank, within one run."""

    def __init__(self, session: Any, engine: Any, row: Any, folder: Path) -> None:
        self.session, self.engine, self.row, self.folder = session, engine, row, folder
        self.saves: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        self.held: dict[str, list[float]] = {name: [] for name in CONTENDERS}

    def none(self) -> None:
        """No save."""

    def behind(self) -> None:
        """As the training does it."""
        self.session._save(self.engine, self.row)

    def waiting(self) -> None:
        """The same, but the step waits until the checkpoint stands."""
        self.session._save(self.engine, self.row)
        self.note("waiting")

    def save_state(self) -> None:
        """accelerate's."""
        began = time.perf_counter()
        self.session.accelerator.save_state(str(self.folder / "state"))
        self.session.accelerator.wait_for_everyone()
        size = sum(path.stat().st_size for path in (self.folder / "state").rglob("*") if path.is_file())
        self.saves["save_state"].append({"bytes": size, "seconds": time.perf_counter() - began})

    def note(self, name: str) -> None:
        """Wait for the save in flight, and note how it went."""
        outcome = self.session.folder.saver.finish()
        assert outcome is not None and outcome.error is None, outcome
        self.saves[name].append({"bytes": outcome.num_bytes, "seconds": outcome.seconds})

    def clear(self) -> None:
        """Between intervals: nothing is in flight and nothing old fills the disk."""
        accelerator = self.session.accelerator
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(self.folder / "state", ignore_errors=True)
        accelerator.wait_for_everyone()


def steps(session: Any, engine: Any, row: Any) -> Iterator[None]:
    """Training steps, as the loop does them."""

    from training import distributed
    from training.engine import ema
    from training.loop import sum_of, weigh

    for micro_batches in session.batches(row):
        session.watchdog.beat("forward")
        [weight] = distributed.total(session.accelerator, sum(float(b.weight.sum()) for b in micro_batches))
        for index, batch in enumerate(micro_batches):
            with engine.micro_batch(last=index == len(micro_batches) - 1):
                losses = weigh(engine(batch), batch.weight, weight)
                engine.backward(sum_of(losses) * RANKS)
        norms = engine.gradient_norms()
        skip, _ = session.guard.judge(sum_of(losses), norms["all"])
        engine.step(1.0, ema.decay_at(session.step + 1, 0.999), norms["all"], skip)
        session.step += 1
        yield


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """One rank: seconds of every step, by contender and by place in the interval."""
    sys.path[0] = str(REPOSITORY)
    from training import recipes
    from training.flags import parse
    from training.session import Session

    folder = Path(arguments.worker)
    flags = ["--data.roots", str(REPOSITORY / "examples" / "needle"), "--data.workers", "0", "--backbone.path", "tiny"]
    flags += ["--out", str(folder / "run"), "--tracker", "jsonl", "--stage.steps", "1000000", "--keep", "1"]
    flags += ["--batch-size", str(RANKS * arguments.micro_batch), "--micro-batch", str(arguments.micro_batch)]
    flags += ["--expert.width", str(arguments.width), "--expert.depth", str(arguments.depth), "--expert.heads", "16"]
    with Session(parse(recipes.stage1(), flags)) as session:
        row = session.next_row()
        assert row is not None
        engine = session.enter(row)
        session.policy.set_mode(training=True)
        contest = Contest(session, engine, row, folder)
        stream = steps(session, engine, row)
        seconds: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
        for rounds in range(arguments.rounds + 1):
            for name in CONTENDERS:
                act: Callable[[], None] = getattr(contest, name)
                interval = []
                for place in range(arguments.every):
                    began = time.perf_counter()
                    next(stream)
                    if place == 0:
                        called = time.perf_counter()
                        act()
                        held = time.perf_counter() - called
                    if place == arguments.every - 1 and name == "behind":
                        contest.note(name)  # what is still being written when the next save is due is waited for
                    interval.append(time.perf_counter() - began)
                contest.clear()
                if rounds:  # the first warms up
                    seconds[name].append(interval)
                    contest.held[name].append(held)
        trained = sum(shape.numel() for shape in engine.shapes.values())
        return {
            "seconds": seconds,
            "held": contest.held,
            "saves": contest.saves,
            "trained_parameters": trained,
        }


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What is told of one topology; every round is compared with its own calm interval, for machines have moods."""
    calm = found["seconds"]["none"]
    steps_s = [statistics.median(interval) for interval in calm]
    result: dict[str, Any] = {"trained_parameters": found["trained_parameters"], "step_s": quartiles(steps_s)}
    for name in CONTENDERS[1:]:
        saves, intervals = found["saves"][name][1:], found["seconds"][name]
        stalls = [interval[0] - step for interval, step in zip(intervals, steps_s, strict=True)]
        extras = [sum(interval) - sum(other) for interval, other in zip(intervals, calm, strict=True)]
        result[name] = {
            "call_s": quartiles(found["held"][name]),
            "stall_s": quartiles(stalls),
            "extra_of_the_interval_s": quartiles(extras),
            "write_s": quartiles([save["seconds"] for save in saves]),
            "rate_mb_s": quartiles([save["bytes"] / save["seconds"] / 1e6 for save in saves]),
            "bytes": round(statistics.median(save["bytes"] for save in saves)),
        }
    return result


def quartiles(values: list[float]) -> dict[str, float]:
    """Median, and the quartiles around it."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "quartiles": [round(low, 4), round(high, 4)]}


def machine() -> dict[str, Any]:
    """What was measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def measure(topology: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All contenders under one topology, on 2 ranks."""
    sys.path[0] = str(REPOSITORY)

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    if topology.startswith("zero"):
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = f"ds_configs/{topology}.json"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
        command += ["--standalone", __file__, "--worker", folder, "--rounds", str(arguments.rounds)]
        for name in ("width", "depth", "every", "micro_batch"):
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=3600)
        return summary(json.loads((Path(folder) / "found.json").read_text()))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", nargs="+", default=["zero2", "ddp"])
    parser.add_argument("--width", type=int, default=1088, help="of the expert")
    parser.add_argument("--depth", type=int, default=3, help="of the expert")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--every", type=int, default=12, help="steps between saves")
    parser.add_argument("--rounds", type=int, default=7, help="saves of each contender")
    parser.add_argument("--folder", help="where to save; default: the folder of temporary files")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        found = work(arguments)
        if os.environ["RANK"] == "0":
            (Path(arguments.worker) / "found.json").write_text(json.dumps(found))
        return
    result: dict[str, Any] = {
        "machine": machine(),
        "command": " ".join(["python", "tests/benchmarks/save_stall.py", *sys.argv[1:]]),
    }
    result |= {topology: measure(topology, arguments) for topology in arguments.topologies}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
