r"""What the prefix cache saves: CPU seconds of a training step behind each door, beside an earlier build in its folder.

    python -m tests.benchmarks.prefix [--before FOLDER] [--rounds 3] [--json docs/benchmarks/prefix.json]

Real trainings, `training/stage1.py` and `training/stage2.py`, of a random Qwen2.5-VL of 77 M parameters (12 layers of
512, a vision tower of 12 x 320, which has the share of a step that it has in the 3B) on demonstrations of the needle
with three cameras of 224 x 224 pixels, in micro-batches of 2. A step's seconds are those of the process between two
steps of the optimizer, reading included; records are made by a run of their own. Contenders take turns; the median of
the rounds counts.

`--before` is a checkout of another commit (such as a3da51d), which is trained by the same words without a door.
"""

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vla.benchmarks.needle.config import NeedleConfig
from vla.benchmarks.needle.demonstrations import write_demonstrations
from vla.parts import tiny

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS, BATCH = 10, 2
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2752,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [8, 12, 12]},
}
VISION = {
    "depth": 12,
    "hidden_size": 320,
    "intermediate_size": 855,
    "num_heads": 4,
    "out_hidden_size": 512,
    "fullatt_block_indexes": [2, 5, 8, 11],
}
CONTENDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stage 1": ("stage1", ()),
    "stage 1, context": ("stage1", ("--cache.door", "context")),
    "stage 2": ("stage2", ()),
    "stage 2, vision": ("stage2", ("--cache.door", "vision")),
    "upper half": ("stage2", ("--lora.layers", "top:6")),
    "upper half, layer": ("stage2", ("--lora.layers", "top:6", "--cache.door", "layer")),
    "upper quarter, layer": ("stage2", ("--lora.layers", "top:3", "--cache.door", "layer")),
}
AGAINST = {
    "stage 1, context": ("stage 1", 20.0),
    "stage 2, vision": ("stage 2", 1.35),
    "upper half, layer": ("stage 2", 2.5),
    "upper quarter, layer": ("stage 2", 4.5),
}
"""What each is compared with, and how many times as fast it is to be."""


@contextlib.contextmanager
def sized() -> Iterator[None]:
    """Within it what the tiny backbone's builder writes is of the middle size."""
    before = copy.deepcopy(tiny.CONFIG)
    tiny.CONFIG["text_config"] |= TEXT
    tiny.CONFIG["vision_config"] |= VISION
    try:
        yield
    finally:
        tiny.CONFIG.clear()
        tiny.CONFIG.update(before)


def make(work: Path) -> None:
    """Backbone and data."""
    with sized():
        (work / "backbone").mkdir()
        tiny.write(work / "backbone")
    config = NeedleConfig(cameras=("front", "wrist", "side"), pixels=224)
    write_demonstrations(config, work / "needle", episodes=6, seed=0)


RUNNER = """
import runpy, sys, time
import torch

file, sys.argv = sys.argv[1], sys.argv[2:]
step = torch.optim.AdamW.step

def stepped(self, *given, **named):
    with open(file, "a") as ticks:
        ticks.write(f"{time.process_time()}\\n")
    return step(self, *given, **named)

torch.optim.AdamW.step = stepped
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Notes the CPU time at every step of the optimizer, which every build has."""


def trained(checkout: Path, entry: str, words: Sequence[str], work: Path, steps: int) -> float:
    """CPU seconds of a step, the median of those behind the first; the first training is where others begin."""
    begun = work / "begun"
    place = begun if entry == "stage1" and not begun.exists() else Path(tempfile.mkdtemp(dir=work))
    flags = ["--data.roots", str(work / "needle"), "--backbone.path", str(work / "backbone")]
    flags += ["--data.workers", "0", "--tracker", "jsonl", "--batch-size", str(BATCH), "--micro-batch", str(BATCH)]
    flags += ["--stage.steps", str(steps), "--data.validation-share", "0", "--save-every", "1000"]
    flags += ["--expert.width", "256", "--expert.depth", "6", "--sensor.width", "64", "--out", str(place / "run")]
    if entry == "stage2":  # an earlier build goes on from a stage 1
        flags += ["--stage.begins", "anew"] if checkout == REPOSITORY else ["--init-from", str(begun / "run")]
    python = str(REPOSITORY / ".venv" / "bin" / "python")
    done = subprocess.run(
        [python, "-c", RUNNER, str(place / "ticks"), f"training/{entry}.py", *flags, *words],
        cwd=checkout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{entry} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-1500:]}")
    ticks = [float(line) for line in (place / "ticks").read_text().splitlines()]
    spent = [after - before for before, after in pairwise(ticks)]
    return statistics.median(spent[1:]) if len(spent) > 1 else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make(work)
        where: dict[str, tuple[Path, str, tuple[str, ...]]] = {
            name: (REPOSITORY, entry, (*words, "--cache.path", str(work / "cache")))
            for name, (entry, words) in CONTENDERS.items()
        }
        if asked.before is not None:
            where |= {f"{name} before": (asked.before, *CONTENDERS[name]) for name in ("stage 1", "stage 2")}
            trained(asked.before, "stage1", (), work, 1)
        for checkout, entry, words in where.values():
            trained(checkout, entry, words, work, 1)  # makes the records
        for _ in range(asked.rounds):
            for name, (checkout, entry, words) in where.items():
                seconds.setdefault(name, []).append(trained(checkout, entry, words, work, STEPS))
                print(f"{name:<24}{seconds[name][-1]:>8.3f} s a step", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    found: dict[str, Any] = {"step_s": medians, "rounds": seconds, "ratios": {}}
    held = True
    for name, (other, aimed) in AGAINST.items():
        for against in (other, f"{other} before"):
            if against in medians:
                ratio = medians[against] / medians[name]
                found["ratios"][f"{name} / {against}"] = ratio
                held = held and ratio >= aimed
                print(f"{name} against {against}: {ratio:.2f} times as fast, aimed at {aimed:g}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
