"""What the host waits for in a step: counted on a device of Python (tests/far.py), since no GPU is needed to wait."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_step_waits_for_nothing(needle: Path, tmp_path: Path) -> None:
    """Stage 2 with LoRA, two micro-batches a step, padded prompts; the first step, which fills caches, is left out."""
    flags = ["--stage.begins", "anew", "--data.workers", "0", "--batch-size", "4", "--micro-batch", "2"]
    flags += ["--stage.steps", "4", "--validate-every", "100", "--tracker", "jsonl", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.waits_worker", "stage2", "--data.roots", needle, *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["known"] == {name: int("nothing" not in name) for name in found["known"]}
    assert len(found["steps"]) == 3
    for step in found["steps"]:
        assert not step["waits"]
        assert step["copies"] == 4, "of each micro-batch its samples and its prompts"
