"""Goodput: the share of the time on rented machines that ends up in the trained policy.

    python tests/benchmarks/goodput.py [--json docs/benchmarks/goodput.json]

Machines fail at random, on average every so many hours, and without warning: what was trained since the snapshot of the
last complete checkpoint is lost, and the run is started again. Stall and write time of a save are read from
save_stall.json, which `save_stall.py` measured on a CPU; the time from launch to the first step is measured here, with
the tiny backbone. A real backbone takes longer to load: the table says what follows for 30 to 120 seconds. Time without
a machine is not counted, for nobody pays for it.

    |-- restart --|-- train --|stall|-- train --|stall|-- train -- X            each snapshot is complete `write` later
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
AIMS = {2.0: 0.96, 8.0: 0.985}
"""Goodput to reach, by hours between failures."""
INTERVALS_S = (15, 30, 60, 120, 300, 600, 1200)
DEFAULT_S = 300
"""What --save-seconds is unless given."""
RESTARTS_S = (30.0, 60.0, 90.0, 120.0)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All in seconds."""

    interval: float
    """Training between two saves."""
    stall: float
    """By which a save holds up the training."""
    write: float
    """From the end of the stall until the checkpoint is complete; at most the interval."""
    restart: float
    """From a failure to the first step."""
    between_failures: float
    """On average; exponentially distributed."""


def closed_form(setting: Setting) -> float:
    """Expected goodput (Daly 2006, with a write that goes on behind the training).

    A life trains for X, exponential with mean M; the k-th of its snapshots counts when k (T + d) + w <= X. So a life
    keeps T sum_k exp(-(k (T + d) + w) / M) and costs M exp(R / M), the restarts that fail themselves included.
    """
    assert setting.write <= setting.interval, "the next save would wait for this one"
    mean = setting.between_failures
    kept = setting.interval * math.exp(-setting.write / mean) / math.expm1((setting.interval + setting.stall) / mean)
    return kept / (mean * math.exp(setting.restart / mean))


def best_interval(stall: float, between_failures: float) -> float:
    """Young's interval, to first order the best one."""
    return math.sqrt(2 * stall * between_failures)


def simulate(setting: Setting, failures: int, seed: int) -> float:
    """Goodput of a run that fails so many times, event by event."""
    draw = random.Random(seed)
    kept = elapsed = 0.0
    for _ in range(failures):
        life = draw.expovariate(1 / setting.between_failures)
        elapsed += life
        kept += kept_by(setting, life)
    return kept / elapsed


def kept_by(setting: Setting, life: float) -> float:
    """Seconds of training that a life leaves in complete checkpoints; it begins with a restart."""
    clock, trained, kept = setting.restart, 0.0, 0.0
    while True:
        clock += setting.interval
        trained += setting.interval
        clock += setting.stall
        if clock + setting.write > life:
            return kept
        kept = trained


def measured_restart(seconds_limit: float = 300) -> float:
    """Seconds from launching a resumed run of the tiny policy on 2 ranks to its first recorded step."""
    from training.verify.launches import Launch, last_step

    flags = ["--data.roots", "examples/needle", "--data.workers", "0", "--backbone.path", "tiny", "--tracker", "jsonl"]
    flags += ["--batch-size", "4", "--micro-batch", "2", "--stage.steps", "12", "--expert.width", "64"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options: dict[str, Any] = {"topology": "zero2", "ranks": 2, "limit_s": seconds_limit}
        with Launch(
            "stage1", [*flags, "--out", str(out), "--stop-after", "2"], log=Path(folder) / "1", **options
        ) as leg:
            assert leg.wait() == 0, leg.last_words()
        began = time.monotonic()
        with Launch(
            "stage1", [*flags, "--out", str(out), "--resume-from", "auto"], log=Path(folder) / "2", **options
        ) as leg:
            assert leg.wait_until(lambda: last_step(out) > 2), leg.last_words()
            return time.monotonic() - began


def contenders(stalls: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Stall and write time of each way to save.

    Where the training runs on a GPU the writer has cores of its own, and a save costs the call alone. Where it trains
    on the two cores that the writer also wants, a save costs what the whole interval takes longer.
    """

    def held(name: str) -> float:
        return max(float(stalls[name][key]["median"]) for key in ("call_s", "stall_s"))

    write = float(stalls["behind"]["write_s"]["median"])
    competing = max(held("behind"), float(stalls["behind"]["extra_of_the_interval_s"]["median"]))
    return {
        "behind the training": {"stall": held("behind"), "write": write},
        "behind, same cores": {"stall": competing, "write": write},
        "waiting for the disk": {"stall": held("waiting"), "write": 0.0},
        "accelerator.save_state": {"stall": held("save_state"), "write": 0.0},
    }


def row(name: str, costs: dict[str, float], hours: float, restart: float, failures: int) -> dict[str, Any]:
    """One line of the result: goodput at the default interval and at the best of the sweep, with its standard error."""
    sweep = {}
    for interval in INTERVALS_S:
        if costs["write"] <= interval:
            setting = Setting(interval=interval, restart=restart, between_failures=3600 * hours, **costs)
            runs = [simulate(setting, failures // 10, seed) for seed in range(10)]
            error = statistics.stdev(runs) / math.sqrt(len(runs))
            numbers = {"goodput": statistics.mean(runs), "error": error, "closed_form": closed_form(setting)}
            sweep[interval] = {key: round(number, 5) for key, number in numbers.items()}
    best = max(sweep, key=lambda interval: sweep[interval]["closed_form"])
    return {
        "save": name,
        "hours_between_failures": hours,
        "restart_s": round(restart, 1),
        "at_default_interval": sweep.get(DEFAULT_S),
        "best_interval_s": best,
        "at_best_interval": sweep[best],
        "youngs_interval_s": round(best_interval(costs["stall"], 3600 * hours), 1),
        "aim": AIMS[hours],
        "aim_met_at_default_interval": sweep[DEFAULT_S]["closed_form"] >= AIMS[hours],
        "aim_met_at_best_interval": sweep[best]["closed_form"] >= AIMS[hours],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = REPOSITORY / "docs" / "benchmarks"
    parser.add_argument("--stall", type=Path, default=folder / "save_stall.json", help="what save_stall.py measured")
    parser.add_argument("--topology", default="zero2", help="which of its measurements")
    parser.add_argument("--restart", type=float, help="seconds to the first step; measured unless given")
    parser.add_argument("--failures", type=int, default=20_000, help="simulated for each line")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    sys.path[0] = str(REPOSITORY)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    measured = measured_restart() if arguments.restart is None else arguments.restart
    costs = contenders(json.loads(arguments.stall.read_text())[arguments.topology])
    rows = [
        row(name, cost, hours, restart, arguments.failures)
        for hours in AIMS
        for restart in (measured, *RESTARTS_S)
        for name, cost in costs.items()
    ]
    for line in rows:
        default, best = line["at_default_interval"], line["at_best_interval"]
        print(
            f"{line['save']:<23}{line['hours_between_failures']:>4.0f} h  restart {line['restart_s']:>5.1f} s"
            f"  every {DEFAULT_S} s {100 * default['goodput']:.2f} %"
            f"  every {line['best_interval_s']} s {100 * best['goodput']:.2f} %  (aim {100 * line['aim']:.1f} %)"
        )
    if arguments.json:
        result = {
            "measured_on_a_cpu": {"saves": costs, "restart_s_with_the_tiny_backbone": measured},
            "assumed": "failures without warning, exponentially distributed; restarts of 30 to 120 s; saves as on CPU"
            " ('behind the training': the writer has cores of its own; 'same cores': it takes them from the training)",
            "simulated_failures_a_line": arguments.failures,
            "lines": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
