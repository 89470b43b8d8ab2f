r"""The critic of a robot's actions, on demonstrations of the needle: false alarms, injected jumps and peaks of force.

    python -m tests.benchmarks.guard [--episodes 200] [--json docs/benchmarks/guard.json]

Limits are learned from demonstrations of one seed; those of another are judged, a chunk of 8 actions at every frame,
after the action before it and the last 50 ms of wrist forces: as they are; with a jump, where one dimension of the
actions is off from some step on; with a peak, where the force along the needle has a half sine of 5 ms more. How far
both go is drawn from the first number of --sizes to twice that, in the largest step and force of the demonstrations.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.benchmarks.needle.config import FPS, NeedleConfig
from vla.benchmarks.needle.demonstrations import write_demonstrations
from vla.critic.critic import Critic
from vla.critic.robot import Limits, learn
from vla.data.formats import open_folder
from vla.evaluation.intervals import wilson
from vla.randomness import derive

HORIZON, SAMPLES, PEAK = 8, 50, 5
AT_MOST_FLAGGED, AT_LEAST_FOUND, CLEAR = 0.02, 0.95, 2.5
"""What is to be held, of jumps and peaks from the last size on."""
Pair = tuple[np.ndarray, np.ndarray]


def demonstrations(episodes: int, seed: int, folder: Path) -> list[Pair]:
    """Actions and forces of the expert."""
    write_demonstrations(NeedleConfig(cameras=("front",), pixels=8), folder, episodes=episodes, seed=seed)
    pairs = []
    for episode in open_folder(folder).episodes:
        (felt,) = episode.streams.values()
        pairs.append((np.asarray(episode.actions.values, float), np.asarray(felt.values, float)))
    return pairs


def injected(actions: np.ndarray, felt: np.ndarray, limits: Limits, size: float, draw: np.random.Generator) -> Pair:
    """A chunk that jumps and a window with a peak, each by `size` to twice that of what demonstrations have at most."""
    place, at = int(draw.integers(actions.shape[1])), int(draw.integers(len(actions)))
    jumped = actions.copy()
    jumped[at:, place] += draw.choice([-1.0, 1.0]) * draw.uniform(size, 2 * size) * limits.step[place]
    peaked, start = felt.copy(), int(draw.integers(max(1, len(felt) - PEAK)))
    shape = np.sin(np.pi * (np.arange(PEAK) + 0.5) / PEAK)[: len(felt) - start]
    peaked[start : start + PEAK, 2] += shape * draw.uniform(size, 2 * size) * limits.force["sensor"][2]
    return jumped, peaked


def measure(pairs: Sequence[Pair], critic: Critic, sizes: Sequence[float]) -> dict[str, Any]:
    """The share of chunks that is flagged, and of demonstrations with such a chunk."""
    assert critic.limits is not None
    kinds = ["as they are", *(f"{what} of {size:g}" for size in sizes for what in ("jump", "peak"))]
    flags: dict[str, list[bool]] = {kind: [] for kind in kinds}
    alarmed = 0
    for number, (actions, forces) in enumerate(pairs):
        before = len(flags["as they are"])
        for frame in range(1, len(actions)):
            chunk, last = actions[frame : frame + HORIZON], actions[frame - 1]
            now = round(frame / FPS * 1000)
            felt = forces[max(0, now - SAMPLES) : now]
            draw = derive(number, "guard benchmark", frame)

            def flagged(moves: np.ndarray, sensed: np.ndarray, last: np.ndarray = last) -> bool:
                streams = {"sensor": (sensed, np.ones(len(sensed), bool))}
                return bool(critic.judge_actions(moves, last=last, streams=streams).issues)

            flags["as they are"].append(flagged(chunk, felt))
            for size in sizes:
                jumped, peaked = injected(chunk, felt, critic.limits, size, draw)
                flags[f"jump of {size:g}"].append(flagged(jumped, felt))
                flags[f"peak of {size:g}"].append(flagged(chunk, peaked))
        alarmed += any(flags["as they are"][before:])
    found: dict[str, Any] = {}
    for kind, said in flags.items():
        low, high = wilson(sum(said), len(said))
        found[kind] = {"flagged": sum(said), "of": len(said), "rate": float(np.mean(said)), "low": low, "high": high}
    low, high = wilson(alarmed, len(pairs))
    found["demonstrations with an alarm"] = {"flagged": alarmed, "of": len(pairs), "low": low, "high": high}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.5, CLEAR])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        sets = [demonstrations(asked.episodes, seed, Path(work) / str(seed)) for seed in (0, 1)]
    remarks: list[str] = []
    limits = learn(
        [actions for actions, _ in sets[0]], {"sensor": [felt for _, felt in sets[0]]}, fps=FPS, remark=remarks.append
    )
    found = measure(sets[1], Critic(limits=limits), asked.sizes)
    for kind, row in found.items():
        print(f"{kind:<32}{row['flagged']:>7} of {row['of']:<7}{row['low']:>8.2%} to {row['high']:.2%}")
    for remark in remarks:
        print(remark)
    held = found["as they are"]["high"] <= AT_MOST_FLAGGED
    held = held and all(found[f"{what} of {CLEAR:g}"]["low"] >= AT_LEAST_FOUND for what in ("jump", "peak"))
    print("held" if held else "missed")
    if asked.json is not None:
        content = {"episodes": asked.episodes, "limits": {"step": limits.step, "force": limits.force}, "found": found}
        asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
