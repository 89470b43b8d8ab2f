"""What the host waits for in a step: counted on a device of Python (tests/far.py), since no GPU is needed to wait."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--data.workers", "0", "--batch-size", "4", "--micro-batch", "2", "--stage.steps", "3"]
SMALL += ["--validate-every", "100", "--tracker", "jsonl"]
NEEDLE = ["--data.roots", "examples/needle"]
RUNS = {
    "stage2": [*NEEDLE, "--stage.begins", "anew"],
    "stage1": [*NEEDLE, "--cache.door", "context"],
    "pretrain": ["--config", "examples/motion.json", "--data.roots", "examples/motion/amp"],
    "unlearn": [*NEEDLE, "--concept", "red", "--anchor", "insert the needle into the blue hole"],
}
"""With LoRA, cameras and padded prompts; from behind a door; of motion, with all its terms; with a teacher."""
COPIES = {"stage2": 2, "stage1": 2, "pretrain": 2}
"""To the device, of a micro-batch: its samples, its prompts or what is visible of them."""
SPARED = ("adapted.py", "vision.py")
"""An adapter's first gradients are told; how many rows its base teaches differs, and where the images of as many lie is
computed once."""
DEEP = ["stage1", "pretrain", "unlearn"]


@pytest.mark.parametrize("recipe", ["stage2", *(pytest.param(name, marks=pytest.mark.deep) for name in DEEP)])
def test_a_step_waits_for_nothing(recipe: str, tmp_path: Path) -> None:
    """Two micro-batches a step; the first step, which fills caches, is left out."""
    words = [*RUNS[recipe], *SMALL, "--out", str(tmp_path / "run")]
    if recipe == "unlearn":
        run(["training/stage1.py", *RUNS["stage1"], *SMALL, "--out", str(tmp_path / "base")])
        words += ["--init-from", str(tmp_path / "base")]
    if "--cache.door" in words:
        words += ["--cache.path", str(tmp_path / "cache")]
    told = run(["-m", "tests.training.waits_worker", recipe, *words])
    found = json.loads(told.splitlines()[-1])
    assert found["known"] == {name: int("nothing" not in name) for name in found["known"]}
    assert len(found["steps"]) == 2
    for step in found["steps"]:
        spared = SPARED if recipe == "unlearn" else ()
        assert not [wait for wait in step["waits"] if not any(file in wait for file in spared)]
        assert spared or step["copies"] == COPIES[recipe] * 2, "of each of two micro-batches"


def run(words: list[str]) -> str:
    """What a process says."""
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
