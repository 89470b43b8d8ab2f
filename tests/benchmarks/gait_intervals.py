r"""Intervals for a style of walking that nobody showed: how they are to be calibrated, by a regression alone.

    python -m tests.benchmarks.gait_intervals [--json docs/benchmarks/gait_intervals.json]

The trials, frames and ridge regressions are those of tests/benchmarks/gait.py: of the forces, and of what they are
beyond m (a + g) of the pelvis. Of each of the four styles left out in turn, an interval is what is said and so many
newtons to both sides as hold 90 % of the frames (1) of one trial of the other styles that the regression was not fitted
to, each of the nine in turn; (2) of the three other styles, each said by a regression that was fitted to the two
further ones, pooled; (3) of the worst of those three. A regression takes seconds, so all of it is made each time.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.gait import EDGE, FOLDER, RATE_HZ, Ridge, carried_by, style_of, total_of, trials_of
from vla.evaluation.motion import forces as figures


class Regressions:
    """Errors of regressions on believed frames, N, by what they are fitted to."""

    def __init__(self, root: Path, kind: str) -> None:
        self.body, self.trials = trials_of(RATE_HZ, root)
        self.beside = {name: carried_by(self.body, own) * (kind == "residual") for name, own in self.trials.items()}
        self.known = {name: own.known[:, -1] for name, own in self.trials.items() if own.known is not None}

    def errors(self, fitted: Sequence[str], asked: Sequence[str]) -> list[np.ndarray]:
        """Of some trials, by a regression of others; as far as 80 ms from their ends."""
        ridge = Ridge(self.body)
        ridge.fit(
            [(self.trials[name], total_of(self.trials[name]) - self.beside[name], self.known[name]) for name in fitted]
        )
        inner = slice(EDGE, -EDGE)
        found = []
        for name in asked:
            true = (total_of(self.trials[name]) - self.beside[name])[inner]
            found.append(np.abs(ridge(self.trials[name]) - true)[self.known[name][inner]])
        return found


def held(far: Sequence[np.ndarray], scale: np.ndarray) -> dict[str, float]:
    """What intervals of the vertical force hold, and how wide they are, N."""
    return {"covered": float((np.concatenate(far) <= scale)[:, 1].mean()), "width_n": float(2 * scale[1])}


def measure(root: Path, kind: str) -> list[dict[str, Any]]:
    """Each style left out."""
    made, rows = Regressions(root, kind), []
    names = list(made.trials)
    for style in dict.fromkeys(map(style_of, names)):
        out = [name for name in names if style_of(name) == style]
        others = [name for name in names if name not in out]
        far = made.errors(others, out)
        rmse = float(np.sqrt((np.concatenate(far)[:, 1] ** 2).mean()))
        by_trial = []
        for aside in others:
            fitted = [name for name in others if name != aside]
            by_trial.append(held(made.errors(fitted, out), figures.calibrate(made.errors(fitted, [aside]))))
        groups = []
        for other in dict.fromkeys(map(style_of, others)):
            fitted = [name for name in others if style_of(name) != other]
            groups.append(made.errors(fitted, [name for name in others if style_of(name) == other]))
        pooled = figures.calibrate([trial for group in groups for trial in group])
        widest = np.max([figures.calibrate(group) for group in groups], axis=0)
        rows.append(
            {
                "style": style,
                "vertical_rmse_n": rmse,
                "a_trial_aside": {key: float(np.mean([row[key] for row in by_trial])) for key in by_trial[0]},
                "styles_left_out_pooled": held(far, pooled),
                "worst_style_left_out": held(far, widest),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gait-intervals-") as folder:
        root = Path(folder) / "Subject4"
        root.mkdir()
        for file in (*FOLDER.glob("walking*.mot"), *FOLDER.glob("static1*.mot")):
            (root / file.name).symlink_to(file)
        for kind in ("total", "residual"):
            rows = measure(root, kind)
            ways = ("a_trial_aside", "styles_left_out_pooled", "worst_style_left_out")
            means: dict[str, Any] = {
                way: {key: float(np.mean([row[way][key] for row in rows])) for key in rows[0][way]} for way in ways
            }
            means["vertical_rmse_n"] = float(np.mean([row["vertical_rmse_n"] for row in rows]))
            found[kind] = {"means": means, "styles": rows}
            print(kind, json.dumps(means), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
