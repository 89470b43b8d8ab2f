r"""Curation: how fast it is beside plain reading, and what training on what it keeps is worth.

    python -m tests.benchmarks.curation [--steps 300] [--seeds 0] [--work FOLDER] [--json docs/benchmarks/curation.json]

Speed: CPU seconds of opening data that no cache knows and looking at every number, beside those of the whole curation,
which opens them too. Of the real clips that ship, and of a list of drawn ones.

Worth: the training clips that ship, each with a copy that is corrupted as tests/corruptions.py does it (frozen, looped,
jittered, four times as fast, sunk, teleported, in turn). The same steps, seed and sizes on all of them, on what
curation keeps of them by its own settings, and on what it keeps without caps. Judged by the clean clips of other
subjects that ship for tests: errors of the clean chunk that each policy says of the same noised windows, in SI units,
so that it does not matter by which numbers each was normalised.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.corruptions import CORRUPTIONS
from training import recipes
from training.flags import parse
from vla.batch import collate
from vla.curation import curating
from vla.curation_settings import CurationConfig
from vla.data.dataset import open_dataset
from vla.data.formats import open_folder
from vla.data.formats.motion.exporting import write_labels
from vla.data.formats.motion.files import KINDS, find_files, read_labels
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.motion.clip import Clip, Poses
from vla.motion_settings import MotionConfig
from vla.objectives import objective_of
from vla.policy_folder import load_policy
from vla.randomness import derive
from vla.report.curation import page
from vla.settings import DataConfig

REPOSITORY = Path(__file__).resolve().parents[2]
CLIPS = REPOSITORY / "examples" / "motion" / "cmu"
HORIZON, WINDOWS, BATCH = 32, 256, 32


def drawn(count: int, frames: int = 100) -> list[dict[str, Any]]:
    """Drawings whose ends swing."""
    times, made = torch.arange(frames)[:, None] / 25, []
    for number in range(count):
        phase = torch.linspace(0, 6, 48) + number
        motion = torch.linspace(-1, 1, 48) + 0.2 * torch.sin(2 * torch.pi * (0.5 + 0.01 * phase) * times + phase)
        made.append({"motion": motion, "description": f"figure {number % 20}", "camera": torch.zeros(frames, 3)})
    return made


def fresh_cache() -> None:
    """Nothing of earlier reading is known from now on."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="curation-benchmark-")


def read_s(root: Path) -> float:
    """CPU seconds of plain reading."""
    fresh_cache()
    began = time.process_time()
    for episode in open_folder(root).episodes:
        for array in (episode.actions.values, *episode.columns.values()):
            np.asarray(array).sum()
    return time.process_time() - began


def curated(root: Path, out: Path, config: CurationConfig) -> dict[str, Any]:
    """Curate in this process, as the command does; gives the statistics."""
    opened = curating.open_items(root, Selection(), config)
    found = curating.judge(opened, out, config, lambda _: None)
    stats = curating.stats_of(opened, found)
    curating.write(opened, found, out, page(out.name, opened, found, stats), lambda _: None)
    return stats


def speed(root: Path, work: Path, rounds: int = 3) -> dict[str, float]:
    """Clips a second of both, medians of rounds in turn."""
    reading, all_of_it, stats = [], [], {}
    for number in range(rounds):
        reading.append(read_s(root))
        fresh_cache()
        began = time.process_time()
        stats = curated(root, work / f"speed-{root.stem}-{number}", CurationConfig())
        all_of_it.append(time.process_time() - began)
        shutil.rmtree(work / f"speed-{root.stem}-{number}")
    count = stats["total_input"]
    first, second = sorted(reading)[rounds // 2], sorted(all_of_it)[rounds // 2]
    return {"clips": count, "read_per_s": count / first, "curated_per_s": count / second, "ratio": first / second}


def mixed(folder: Path) -> Path:
    """The training clips and a corrupted copy of each."""
    source = CLIPS / "train"
    labels, rows = read_labels(source), list[dict[str, str]]()
    for number, (file, kind) in enumerate(find_files(source).items()):
        place = file.relative_to(source)
        clip = next(iter(KINDS[kind].read(file, MotionConfig())))
        assert isinstance(clip, Clip) and isinstance(clip.body, Poses)
        name, corrupt = [*CORRUPTIONS.items()][number % len(CORRUPTIONS)]
        worse = place.with_name(f"{place.stem}_{name.replace(' ', '_')}.npz")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / place)
        write_npz(folder / worse, corrupt(clip.body, clip.rate_hz, derive(0, "curation", number)), clip.rate_hz)
        rows += [row | {"file": str(path)} for path in (place, worse) for row in labels[place.as_posix()]]
    write_labels(folder / "labels.csv", rows)
    return folder


def train(root: Path, out: Path, steps: int, seed: int) -> None:
    """A short pre-training."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command += ["--num_processes", "1", "training/pretrain.py", "--data.roots", str(root), "--out", str(out)]
    flags = {
        "data.horizon": HORIZON, "data.balance": "action", "data.workers": 1, "data.validation-share": 0.0,
        "expert.width": 96, "expert.depth": 3, "stage.steps": steps, "stage.lr.expert": 1e-3, "dropout": 0.0,
        "ema-decay": 0.99, "batch-size": BATCH, "micro-batch": BATCH, "validate-every": 1_000_000,
        "save-every": 1_000_000, "seed": seed,
    }  # fmt: skip
    command += [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=sys.stderr)


def judged(policy_folder: Path) -> dict[str, float]:
    """Errors on the held-out clips, by term."""
    policy = load_policy(policy_folder, None, torch.float32)
    objective = parse(recipes.pretrain(), ["--data.roots", str(CLIPS / "test")]).stages["pretrain"].objective
    policy.objective = objective_of(objective, policy.contract)
    policy.set_mode(training=False)
    horizon = policy.contract.horizon
    data = open_dataset(DataConfig(roots=(str(CLIPS / "test"),), horizon=horizon, validation_share=0.0), 0)
    samples, sums, weight = data.everything, dict[str, float](), 0.0
    indices = [round(place * len(samples) / WINDOWS) for place in range(WINDOWS)]
    with torch.no_grad():
        for start in range(0, WINDOWS, BATCH):
            batch = collate([samples[index] for index in indices[start : start + BATCH]], 0, "validation")
            weight += float(batch.weight.sum())
            for key, loss in policy(batch).items():
                sums[key] = sums.get(key, 0.0) + float((loss * batch.weight).sum())
    weights = vars(objective.motion)
    return {key: total / weight / weights.get(key, 1.0) for key, total in sums.items()}


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "curation-benchmark")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    torch.save(drawn(400), asked.work / "drawn.pt")
    found: dict[str, Any] = {
        "speed": {
            "real clips": speed(CLIPS / "train", asked.work),
            "drawn clips": speed(asked.work / "drawn.pt", asked.work),
        }
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    whole = mixed(asked.work / "whole") if not (asked.work / "whole").exists() else asked.work / "whole"
    sets, kept = {"whole": whole}, {}
    for name, config in (
        ("curated", CurationConfig(held_out=0.0)),
        ("curated without caps", CurationConfig(held_out=0.0, balance_max_fraction=1.0, source_max_fraction=1.0)),
    ):
        out = asked.work / name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        stats = curated(whole, out, config)
        sets[name] = out / "pretrain"
        kept[name] = {key: value for key, value in stats.items() if key.startswith(("total", "dropped")) and value}
        kept[name]["pretrain"] = stats["pretrain"]["num_samples"]
        names = [path.stem for path in (out / "pretrain").rglob("*.npz")]
        kept[name]["corrupted ones kept"] = sum(
            any(f"_{word.replace(' ', '_')}" in stem for word in CORRUPTIONS) for stem in names
        )
    found |= {"kept": kept, "steps": asked.steps, "seeds": asked.seeds, "held_out": {}}
    for name, root in sets.items():
        for seed in asked.seeds:
            run = asked.work / f"run-{name.replace(' ', '-')}-{seed}"
            if not (run / "policy").is_dir():
                train(root, run, asked.steps, seed)
            found["held_out"].setdefault(name, []).append(judged(run / "policy"))
    text = json.dumps(found, indent=1)
    if asked.json:
        asked.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
