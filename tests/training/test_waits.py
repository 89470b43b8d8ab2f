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
RUNS = {
    "stage2": ["--data.roots", "examples/needle", "--stage.begins", "anew"],
    "pretrain": ["--config", "examples/motion.json", "--data.roots", "examples/motion/amp"],
}
"""With LoRA, cameras and padded prompts; of motion, with all its terms."""


@pytest.mark.parametrize("recipe", ["stage2", pytest.param("pretrain", marks=pytest.mark.deep)])
def test_a_step_waits_for_nothing(recipe: str, tmp_path: Path) -> None:
    """Two micro-batches a step; the first step, which fills caches, is left out."""
    words = [sys.executable, "-m", "tests.training.waits_worker", recipe, *RUNS[recipe], *SMALL, "--out", str(tmp_path)]
    done = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["known"] == {name: int("nothing" not in name) for name in found["known"]}
    assert len(found["steps"]) == 2
    for step in found["steps"]:
        assert not step["waits"]
        assert step["copies"] == 4, "of each micro-batch its samples and its prompts"
