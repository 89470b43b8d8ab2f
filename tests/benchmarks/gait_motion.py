r"""Joint angles that policies make of gait trials, in degrees, and adapters by condition, beside what is simpler.

    python -m tests.benchmarks.gait_motion [--parts motion adapters] [--json docs/benchmarks/gait_motion.json]

The trials are those of tests/benchmarks/gait.py. `motion`: a policy that learned to make motions too
(`--diffusion.given 0.5`) without one trial makes that trial's motion of its measured forces, and the second half of
each window of 0.64 s of the first. Beside it stand a ridge regression of the angles on forces at five times, the mean
pose of the trials it was trained on, and the last pose before the half that is made, held.

`adapters`: a base is trained on the three normal walks; for each of toes in, toes out and trunk sway an adapter learns
two of the three trials (`--data.where condition=...`, read from labels.csv) and preserves the base on the normal ones.
The third trial is said by the base and by the base with the adapter: its forces, and its motion in both ways. There is
no crouch gait among the trials. What stands in the file of --json already, made by the same settings, stays.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.gait import EDGE, FOLDER, LAGS, PENALTY, RATE_HZ, Ridge, fit_policy, judged, style_of, trials_of
from training import recipes, train
from vla import adapting
from vla.data.episode import Episode
from vla.evaluation.motion import angles
from vla.evaluation.motion import forces as figures
from vla.forces import continue_motion, sample_motion
from vla.motion.body import Body
from vla.policy_folder import load_policy

CONDITIONS = {"walking": "normal", "walkingTI": "toe-in", "walkingTO": "toe-out", "walkingTS": "trunk-sway"}
LEFT_OUT = ("walking1", "walkingTI1", "walkingTO1", "walkingTS1")
"""Of `motion`, the trials that are made."""
Trials = dict[str, Episode]


class Poses:
    """Coordinates as a linear map of forces at five times, at 100 Hz; both with what lies in between."""

    def seen(self, episode: Episode) -> np.ndarray:
        """Of each frame but those at the ends."""
        forces = np.asarray(episode.actions.values, np.float64)[:, -3:]
        both = np.concatenate([forces, np.gradient(forces, 1 / RATE_HZ, axis=0)], axis=1)
        return np.concatenate([np.roll(both, lag, axis=0) for lag in LAGS], axis=1)[EDGE:-EDGE]

    def fit(self, trials: Sequence[Episode]) -> None:
        """Trials, of which the frames are learned from whose forces are known at all five times."""
        used = [whole(episode)[EDGE:-EDGE] for episode in trials]
        seen = np.concatenate([self.seen(episode)[own] for episode, own in zip(trials, used, strict=True)])
        true = np.concatenate(
            [
                np.asarray(episode.actions.values)[EDGE:-EDGE, :-3][own]
                for episode, own in zip(trials, used, strict=True)
            ]
        )
        self.mean, self.scale, self.middle = seen.mean(axis=0), seen.std(axis=0) + 1e-6, true.mean(axis=0)
        unit = (seen - self.mean) / self.scale
        self.map = np.linalg.solve(unit.T @ unit + PENALTY * np.eye(unit.shape[1]), unit.T @ (true - self.middle))

    def __call__(self, episode: Episode) -> np.ndarray:
        """Its coordinates; of the frames at the ends the mean."""
        said = ((self.seen(episode) - self.mean) / self.scale) @ self.map + self.middle
        ends = np.broadcast_to(self.middle, (EDGE, said.shape[1]))
        return np.concatenate([ends, said, ends])


def whole(episode: Episode) -> np.ndarray:
    """Frames of a trial at 100 Hz whose forces are known at all five times."""
    assert episode.known is not None
    known = episode.known[:, -1]
    inner = np.zeros_like(known)
    inner[EDGE:-EDGE] = np.all([np.roll(known, lag)[EDGE:-EDGE] for lag in LAGS], axis=0)
    return inner


def made(policy: Any, fine: Episode, coarse: Episode, asked: argparse.Namespace) -> dict[str, Any]:
    """What a policy makes of a trial: rows of forces where those are known, and continued windows."""
    body, rows, known = policy.contract.body, np.asarray(coarse.actions.values), coarse.known
    assert known is not None
    run, given = angles.longest(known[:, -1]), len(body.joints)
    how: dict[str, Any] = {"n": asked.samples, "seed": asked.seed, "steps": asked.made_steps}
    said = np.full((len(rows), given), np.nan)
    said[run] = sample_motion(policy, rows[run, given:], **how).mean(axis=0)
    inner = (whole(fine)[:: round(RATE_HZ / asked.rate)][: len(rows)]) & np.isfinite(said[:, 0])
    begins, halves = continue_motion(policy, rows, **how)
    half = halves.shape[2]
    true = np.concatenate([rows[begin : begin + half, :given] for begin in begins])
    held = np.concatenate([rows[[begin - 1] * half, :given] for begin in begins])
    continued = angles.apart(body, halves.mean(axis=0).reshape(-1, given), true)
    return {
        "inner": inner,
        "from_forces": angles.apart(body, said[inner], rows[inner, :given]),
        "continued": continued,
        "held": angles.apart(body, held, true),
    }


def regressed(fitted: Sequence[Episode], trial: Episode, body: Body, inner: np.ndarray, step: int) -> list[float]:
    """Degrees by which a regression on forces, and the mean pose, are off a trial; both of other trials."""
    poses = Poses()
    poses.fit(fitted)
    said = poses(trial)[::step][: len(inner)][inner]
    true = np.asarray(trial.actions.values)[::step][: len(inner)][inner, :-3]
    mean = np.broadcast_to(poses.middle, true.shape)
    return [angles.apart(body, own, true).rmse_deg for own in (said, mean)]


def ridge_n(trials: Trials, fitted: Sequence[str], name: str, body: Body) -> float:
    """Vertical root mean square of the regression of forces on the motion, N."""
    ridge, known = Ridge(body), {own: trials[own].known for own in (*fitted, name)}
    forces = {own: np.asarray(trials[own].actions.values, np.float64)[:, -3:] for own in known}
    used = {own: mask[:, -1] for own, mask in known.items() if mask is not None}
    ridge.fit([(trials[own], forces[own], used[own]) for own in fitted])
    off = (ridge(trials[name]) - forces[name][EDGE:-EDGE])[used[name][EDGE:-EDGE]]
    return float(np.sqrt((off[:, 1] ** 2).mean()))


def motion(name: str, root: Path, work: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Errors of a trial of a policy that was trained on all others."""
    body, fine = trials_of(RATE_HZ, root)
    _, coarse = trials_of(asked.rate, root)
    others = [other for other in fine if other != name]
    policy = fit_policy(root, others, work, asked)
    found = made(policy, fine[name], coarse[name], asked)
    fitted, step = [fine[other] for other in others], round(RATE_HZ / asked.rate)
    by_ridge, by_mean = regressed(fitted, fine[name], body, found["inner"], step)
    errors = figures.errors(judged(policy, name, coarse[name], body, asked))
    assert errors is not None, "its forces were measured"
    return {
        "trial": name,
        "from_forces_deg": found["from_forces"].rmse_deg,
        "regression_deg": by_ridge,
        "mean_pose_deg": by_mean,
        "continued_deg": found["continued"].rmse_deg,
        "held_deg": found["held"].rmse_deg,
        "vertical_n": errors.rmse_n[1],
        "vertical_percent": errors.rmse_percent[1],
        "joints_from_forces_deg": found["from_forces"].joints,
        "joints_continued_deg": found["continued"].joints,
    }


def adapter(name: str, root: Path, base: Path, work: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Errors of a trial of a condition, of the base and with an adapter that learned the two others."""
    condition = CONDITIONS[style_of(name)]
    body, fine = trials_of(RATE_HZ, root)
    _, coarse = trials_of(asked.rate, root)
    files = sorted(file.stem.removesuffix("_ik") for file in root.glob("*_ik.mot"))
    normal = [other for other in fine if CONDITIONS[style_of(other)] == "normal"]
    own = [other for other in fine if style_of(other) == style_of(name) and other != name]
    read = {"roots": [str(root)], "without": [place for place, file in enumerate(files) if file not in normal + own]}
    data = read | {"where": [f"condition={condition}"], "validation_share": 0.0, "workers": 0}
    train(
        recipes.adapter(
            init_from=str(base),
            data=data,
            micro_batch=32,
            stage={"steps": asked.adapter_steps},
            adapter={"name": condition, "rank": 16},
            seed=asked.seed,
            keep_best=False,
            validate_every=asked.adapter_steps,
            save_every=asked.adapter_steps,
            out=str(work),
        )
    )
    found: dict[str, Any] = {"condition": condition, "trial": name, "learned": own}
    policy = load_policy(base / "policy", None, torch.float32)
    for word in ("base", "adapter"):
        if word == "adapter":
            adapting.blend(policy, [str(work / "adapter")], base / "policy")
        policy.set_mode(training=False)
        errors = figures.errors(judged(policy, name, coarse[name], body, asked))
        assert errors is not None, "its forces were measured"
        both = made(policy, fine[name], coarse[name], asked)
        found[word] = {
            "vertical_n": errors.rmse_n[1],
            "vertical_percent": errors.rmse_percent[1],
            "rmse_n": list(errors.rmse_n),
            "from_forces_deg": both["from_forces"].rmse_deg,
            "continued_deg": both["continued"].rmse_deg,
            "joints_from_forces_deg": both["from_forces"].joints,
            "held_deg": both["held"].rmse_deg,
        }
    found["regression_n"] = {
        "normal": ridge_n(fine, normal, name, body),
        "normal and the two": ridge_n(fine, [*normal, *own], name, body),
    }
    return found


def label(root: Path) -> None:
    """What each trial shows, beside the trials."""
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "condition"))
        for trial in sorted(root.glob("walking*_ik.mot")):
            rows.writerow((trial.name, CONDITIONS[style_of(trial.stem.removesuffix("_ik"))]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("motion", "adapters"), default=["motion", "adapters"])
    parser.add_argument("--only", nargs="+", default=LEFT_OUT, help="trials to leave out")
    for flag, value in (("steps", 500), ("adapter-steps", 300), ("horizon", 32), ("width", 64), ("depth", 2)):
        parser.add_argument(f"--{flag}", type=int, default=value)
    for flag, rate in (("rate", 50.0), ("dropout", 0.0), ("lr", 1e-3), ("given", 0.5)):
        parser.add_argument(f"--{flag}", type=float, default=rate)
    for flag, value in (("samples", 16), ("sampling-steps", 4), ("made-steps", 10), ("seed", 0)):
        parser.add_argument(f"--{flag}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(forces="total")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(asked).items() if key not in ("parts", "only", "json")}
    found: dict[str, Any] = {"settings": settings, "motion": [], "adapters": []}
    if asked.json is not None and asked.json.exists():
        before = json.loads(asked.json.read_text(encoding="utf-8"))
        found = before if before["settings"] == settings else found
    with tempfile.TemporaryDirectory(prefix="gait-motion-") as folder:
        root, base = Path(folder) / "Subject4", Path(folder) / "base"
        root.mkdir()
        for file in (*FOLDER.glob("walking*.mot"), *FOLDER.glob("static1*.mot")):
            (root / file.name).symlink_to(file)
        label(root)
        jobs = [(part, name) for part in asked.parts for name in asked.only]
        jobs = [job for job in jobs if job[0] == "motion" or CONDITIONS[style_of(job[1])] != "normal"]
        for part, name in jobs:
            if any(row["trial"] == name for row in found[part]):
                continue
            if part == "adapters" and not base.exists():
                normal = [own for own in trials_of(RATE_HZ, root)[1] if CONDITIONS[style_of(own)] == "normal"]
                fit_policy(root, normal, base, asked)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                if part == "motion":
                    found[part].append(motion(name, root, Path(work), asked))
                else:
                    found[part].append(adapter(name, root, base / "run", Path(work) / "run", asked))
            print(json.dumps(found[part][-1]), flush=True)
            if asked.json is not None:
                asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
