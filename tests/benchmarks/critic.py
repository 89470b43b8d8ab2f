r"""The critic on real clips and on seeded corruptions of them: false alarms, what is found, and its curve.

    python -m tests.benchmarks.critic [--seeds 3] [--json docs/benchmarks/critic.json] \
        [--picture docs/images/critic.png]

It reads ../shared/data. The thresholds were chosen on cmu_walks, cmu_actions and deepmimic_motions; amp_cmu_motions
stood aside. A clip is flagged where any check has an issue, whatever its severity. The curve moves all limits together:
each check counts by how many times its limit a clip has, and a clip by the most of them.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tests.corruptions import CORRUPTIONS
from tests.real_clips import FOLDERS, clips, motion_of
from vla.critic.critic import Critic, Judgement
from vla.evaluation.intervals import wilson

SHARED = Path(__file__).resolve().parents[3] / "shared"
CHOSEN_ON = ("cmu_walks", "cmu_actions", "deepmimic_motions")
AT_MOST_FLAGGED, AT_LEAST_FOUND, FRAMES_PER_S = 0.02, 0.95, 2000.0


def beyond(judgement: Judgement, critic: Critic) -> float:
    """How many times the limit of a check a clip has, at most."""
    measures, config = judgement.measures, critic.config
    asked = {
        "frozen": measures.still / config.frozen_share,
        "repetitive": config.repetitive / max(measures.repetition, 1e-9),
        "jitter": measures.jitter / config.jitter_share,
        "speed": measures.speed_mps / config.speed_mps,
        "acceleration": measures.acceleration_mps2 / config.acceleration_mps2,
        "ground": measures.lowest_m / config.ground_m,
        "quality": config.quality / max(judgement.quality.combined, 1e-9),
    }
    return max(asked.values())


def share(flagged: Sequence[bool]) -> dict[str, Any]:
    """How many of some, with Wilson's interval."""
    low, high = wilson(sum(flagged), len(flagged))
    return {"flagged": sum(flagged), "of": len(flagged), "rate": sum(flagged) / len(flagged), "low": low, "high": high}


def measure(seeds: int) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What is found of each kind, and how far beyond its limits each clip is."""
    critic, found, curves = Critic(), dict[str, Any](), dict[str, list[float]]()
    frames, seconds = 0, 0.0
    for kind, corrupt in (("real", None), *CORRUPTIONS.items()):
        by_folder: dict[str, list[Judgement]] = {folder: [] for folder in FOLDERS}
        names, short = list[str](), 0
        for folder in FOLDERS:
            for clip in clips(SHARED, folder):
                for seed in range(seeds if corrupt is not None else 1):
                    motion = motion_of(clip, folder, corrupt, seed)
                    began = time.process_time()
                    try:
                        judged = critic.examine(motion)
                    except ValueError:
                        short += 1
                        continue
                    frames, seconds = frames + len(motion.rows), seconds + time.process_time() - began
                    by_folder[folder].append(judged)
                    names += [clip.name] if judged.verdict.issues and corrupt is None else []
        chosen = [judged for folder in CHOSEN_ON for judged in by_folder[folder]]
        issues = Counter(issue.check for judged in chosen for issue in judged.verdict.issues)
        found[kind] = {
            **share([bool(judged.verdict.issues) for judged in chosen]),
            "unsafe": sum(not judged.verdict.is_safe for judged in chosen),
            "checks": dict(issues),
            "too_short": short,
            "amp_cmu_motions": share([bool(judged.verdict.issues) for judged in by_folder["amp_cmu_motions"]]),
        }
        if corrupt is None:
            found[kind]["names"] = names
            walks = by_folder["cmu_walks"]
            found["walks called repetitive"] = share(
                [any(issue.check == "repetitive" for issue in judged.verdict.issues) for judged in walks]
            )
        curves[kind] = [beyond(judged, critic) for judged in chosen]
    return found | {"frames_per_s_and_core": frames / seconds}, curves


def area(real: Sequence[float], corrupted: Sequence[float]) -> float:
    """Chance that a corrupted clip is further beyond its limits than a real one."""
    more = np.array(corrupted)[:, None] - np.array(real)[None]
    return float((more > 0).mean() + 0.5 * (more == 0).mean())


def draw(curves: dict[str, list[float]], file: Path) -> None:
    """The curve of each corruption, and where the limits stand."""
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    real = np.array(curves["real"])
    for kind, values in curves.items():
        if kind == "real":
            continue
        corrupted = np.array(values)
        limits = np.unique(np.concatenate([real, corrupted, [1.0]]))[::-1]
        alarms = [100 * (real > limit).mean() for limit in limits]
        hits = [100 * (corrupted > limit).mean() for limit in limits]
        (line,) = axes.step(alarms, hits, where="post", label=f"{kind} ({area(real.tolist(), values):.3f})")
        axes.plot(100 * (real > 1).mean(), 100 * (corrupted > 1).mean(), "o", color=line.get_color())
    axes.axvline(100 * AT_MOST_FLAGGED, color="0.6", linestyle=":")
    axes.axhline(100 * AT_LEAST_FOUND, color="0.6", linestyle=":")
    axes.set(xlim=(-0.3, 20), ylim=(60, 101), xlabel="real clips flagged, %", ylabel="corrupted clips found, %")
    axes.legend(title="corruption (area under its curve)", loc="lower right", frameon=False)
    axes.set_title("All limits moved together; dots: as they stand", fontsize=10)
    figure.savefig(file, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    found, curves = measure(asked.seeds)
    for kind, values in curves.items():
        if kind != "real":
            found[kind]["area"] = area(curves["real"], values)
    for kind, row in found.items():
        print(kind, row if isinstance(row, float) else json.dumps(row))
    held = found["real"]["rate"] <= AT_MOST_FLAGGED and found["frames_per_s_and_core"] >= FRAMES_PER_S
    held = held and all(found[kind]["rate"] >= AT_LEAST_FOUND for kind in CORRUPTIONS)
    print("held" if held else "missed")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if asked.picture is not None:
        draw(curves, asked.picture)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
