"""Stages and training of a pod as they are, from recordings to a policy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pods import ENTRYPOINT


@pytest.mark.deep
def test_real_clips_from_recordings_to_a_policy(tmp_path: Path) -> None:
    """Every stage and the training as on a pod, on clips that ship; a second start does nothing."""
    root, volume = ENTRYPOINT.parents[1], tmp_path / "my volume"
    shutil.copytree(root / "examples" / "motion" / "amp", volume / "data" / "raw" / "amp")
    limits = {f"CURATION_{name}_MAX_FRACTION": "1" for name in ("BALANCE", "SOURCE")}
    limits |= {f"CURATION_MIN_{name}_{split}": "0" for name in ("QUALITY", "REALISM") for split in ("PRETRAIN", "SFT")}
    environment = {
        **os.environ,
        **limits,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "STAGE": "prep curate embed pretrain",
        "DATA_ROOT": str(volume),
        "PREP_IMPORT": "clips",
        "CURATION_HELD_OUT": "0",
        "CHECKPOINT_DIR": "run",
        "ACCELERATE_CONFIG": "cpu",
        "NUM_PROCESSES": "1",
        "STEPS": "2",
        "BATCH_SIZE": "2",
        "MICRO_BATCH": "2",
        "TRACKER": "jsonl",
        "EXTRA_ARGS": "--expert.width 32 --expert.depth 1 --expert.heads 2 --data.workers 0 --validation-samples 1",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def start() -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ENTRYPOINT)]
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=900)

    result = start()
    assert result.returncode == 0, result.stderr
    run = json.loads((volume / "run" / "config.json").read_text())
    assert run["data"]["roots"] == [str(volume / "data" / "curated" / "pretrain")]
    assert run["backbone"]["embeddings"] == str(volume / "data" / "embeddings.safetensors")
    stats = json.loads((volume / "data" / "curated" / "curation_stats.json").read_text())
    kept = stats["pretrain"]["num_samples"]
    assert (stats["total_input"], stats["pretrain"]["source_distribution"]) == (6, {"amp": kept})
    before = {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()}
    again = start()
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is done, of the same data, settings and code") == 3
    assert "pretrain is finished" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in volume.rglob("*") if path.is_file()} == before
