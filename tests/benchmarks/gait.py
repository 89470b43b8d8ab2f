r"""Forces of gait trials from their motion alone, beside a ridge regression on the same frames.

    python -m tests.benchmarks.gait [--leave-out trial style] [--only walking1 walkingTS] [--steps 500] \
        [--json docs/benchmarks/gait.json]

It reads ../shared/data/nimble_gait/Subject4: twelve walks of one person on two plates, three each of normal walking,
toes in, toes out and trunk sway. Of each fold one trial, or the three of one style, are left out. Without a trial a
small policy is trained on the others but one, which says how wide the intervals are to be. Without a style it is
trained on all others, and how wide they are to be says how far other policies are off each of the three styles left,
who were trained on the two further ones. What is compared is the sum of the forces, at 100 Hz, on the frames that are
believed (vla/motion/kinetics.py) and lie 80 ms or more from the ends of their trial, where the ridge regression has
its five lags. Both learn from believed frames alone. What the policy models is the force less the vertical
m (a + g) of the pelvis, unless `--forces total` is asked for, and a regression of that stands beside the other. As a
reference the regression is fitted and judged as well on all frames of more than 20 N, among which are those of one foot
beside the plates.

Folds that stand in the file of --json already, made by the same settings, are not made again.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training import recipes, train
from vla.data.episode import Episode
from vla.data.formats.motion.reader import MotionReader, open_motion
from vla.data.selection import Selection
from vla.evaluation.motion import forces as figures
from vla.forces import sample_forces
from vla.motion import kinetics
from vla.motion.body import Body
from vla.motion.resampling import numbers
from vla.motion_settings import MotionConfig
from vla.policy_folder import load_policy

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "nimble_gait" / "Subject4"
RATE_HZ, LAGS, PENALTY, LEAST_N = 100.0, (-8, -4, 0, 4, 8), 100.0, 20.0
EDGE = max(LAGS)
TARGETS = {"trial": 25.0, "style": 40.0}
"""Vertical root mean square, N."""
RMSE = ("policy_rmse_n", "ridge_rmse_n", "ridge_of_residuals_rmse_n", "ridge_on_all_loaded_frames_rmse_n")
COVERED, WIDEST = (0.85, 0.95), 4.0


def style_of(trial: str) -> str:
    """`walkingTS` of `walkingTS2`."""
    return re.sub(r"\d+$", "", trial)


def trials_of(rate_hz: float, root: Path) -> tuple[Body, dict[str, Episode]]:
    """The walks at a rate, by name."""
    reader: MotionReader = open_motion(root, Selection(motion=MotionConfig(rate_hz=rate_hz, forces="total")))
    assert reader.layout.body is not None
    named = {episode.name.rpartition("/")[2].removesuffix("_ik"): episode for episode in reader.episodes}
    return reader.layout.body, {name: own for name, own in named.items() if name.startswith("walking")}


class Ridge:
    """Forces as a linear map of coordinates and their velocities at five times."""

    def __init__(self, body: Body) -> None:
        self.places = [place for place, name in enumerate(body.joints) if name not in ("pelvis_tx", "pelvis_tz")]

    def seen(self, episode: Episode) -> np.ndarray:
        """Of each frame but those at the ends."""
        angles = np.asarray(episode.actions.values, np.float64)[:, self.places]
        both = np.concatenate([angles, np.gradient(angles, 1 / RATE_HZ, axis=0)], axis=1)
        return np.concatenate([np.roll(both, lag, axis=0) for lag in LAGS], axis=1)[EDGE:-EDGE]

    def fit(self, trials: Sequence[tuple[Episode, np.ndarray, np.ndarray]]) -> None:
        """Trials with their forces and the frames to learn from."""
        seen = np.concatenate([self.seen(episode)[used[EDGE:-EDGE]] for episode, _, used in trials])
        true = np.concatenate([forces[EDGE:-EDGE][used[EDGE:-EDGE]] for _, forces, used in trials])
        self.mean, self.scale, self.middle = seen.mean(axis=0), seen.std(axis=0) + 1e-6, true.mean(axis=0)
        unit = (seen - self.mean) / self.scale
        self.map = np.linalg.solve(unit.T @ unit + PENALTY * np.eye(unit.shape[1]), unit.T @ (true - self.middle))

    def __call__(self, episode: Episode) -> np.ndarray:
        """Its forces, without the frames at the ends."""
        return ((self.seen(episode) - self.mean) / self.scale) @ self.map + self.middle


def total_of(episode: Episode) -> np.ndarray:
    """The sum over both plates, with what is not believed, N."""
    return np.concatenate([sum(episode.columns[f"force.plate{n}.v{axis}"] for n in (1, 2)) for axis in "xyz"], axis=1)


def carried_by(body: Body, episode: Episode) -> np.ndarray:
    """The vertical m (a + g) of the pelvis at each frame, N."""
    carried = kinetics.carrying(body, np.asarray(episode.actions.values), RATE_HZ, float(episode.facts["weight_n"]))
    return carried * [0.0, 1.0, 0.0]


def rmse(said: np.ndarray, true: np.ndarray) -> list[float]:
    """One an axis."""
    return np.sqrt(((said - true) ** 2).mean(axis=0)).tolist()


def fit_policy(root: Path, fitted: Sequence[str], work: Path, asked: argparse.Namespace) -> Any:
    """A policy trained on some of the trials of a folder."""
    names = sorted(file.stem.removesuffix("_ik") for file in root.glob("*_ik.mot"))
    motion = {"rate_hz": asked.rate, "forces": asked.forces}
    data = {
        "roots": [str(root)], "without": [place for place, name in enumerate(names) if name not in fitted],
        "horizon": asked.horizon, "withhold": ["instruction"], "validation_share": 0.0, "workers": 0, "retarget": 0.0,
        "motion": motion,
    }  # fmt: skip
    objective = {"motion": {"joints": 0.0, "velocity": 0.0, "feet": 0.0}}
    train(
        recipes.pretrain(
            data=data,
            expert={"width": asked.width, "depth": asked.depth, "heads": 4, "dropout": asked.dropout},
            diffusion={"unconditional": 0.0, "given": asked.given},
            batch_size=32,
            micro_batch=32,
            stage={"steps": asked.steps, "warmup_steps": 50, "lr": {"expert": asked.lr}, "objective": objective},
            seed=asked.seed,
            keep_best=False,
            validate_every=asked.steps,
            save_every=asked.steps,
            out=str(work / "run"),
        )
    )
    policy = load_policy(work / "run" / "policy", None, torch.float32)
    policy.set_mode(training=False)
    return policy


def judged(policy: Any, name: str, episode: Episode, body: Body, asked: argparse.Namespace) -> figures.Trial:
    """Sampled forces of a trial at the policy's rate."""
    rows, weight = np.asarray(episode.actions.values), float(episode.facts["weight_n"])
    assert episode.known is not None
    how: dict[str, Any] = {"n": asked.samples, "seed": asked.seed, "steps": asked.sampling_steps}
    return figures.Trial(
        name=name,
        body=body,
        rate_hz=asked.rate,
        motion=rows[:, :-3],
        samples=sample_forces(policy, rows[:, :-3], weight_n=weight, **how),
        measured=rows[:, -3:],
        known=episode.known[:, -1],
        weight_n=weight,
    )


def spared(fitted: Sequence[str], spare: Sequence[str], root: Path, asked: argparse.Namespace) -> list[figures.Trial]:
    """What a policy that is trained on some trials says of others."""
    body, trials = trials_of(asked.rate, root)
    work = Path(tempfile.mkdtemp(prefix="gait-benchmark-"))
    try:
        policy = fit_policy(root, fitted, work, asked)
        return [judged(policy, name, trials[name], body, asked) for name in spare]
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Pairs:
    """What policies that saw neither of two styles say of both; each pair is trained once."""

    def __init__(self, names: Sequence[str], root: Path, asked: argparse.Namespace) -> None:
        self.names, self.root, self.asked = names, root, asked
        self.found: dict[frozenset[str], list[figures.Trial]] = {}

    def of(self, style: str, other: str) -> list[figures.Trial]:
        """The trials of `other`, of a policy that saw neither."""
        both = frozenset((style, other))
        if both not in self.found:
            fitted = [name for name in self.names if style_of(name) not in both]
            spare = [name for name in self.names if style_of(name) in both]
            self.found[both] = spared(fitted, spare, self.root, self.asked)
        return [trial for trial in self.found[both] if style_of(trial.name) == other]


def fold(kind: str, left_out: Sequence[str], number: int, pairs: Pairs) -> dict[str, Any]:
    """Train without some trials, and say their forces."""
    began, root, asked = time.monotonic(), pairs.root, pairs.asked
    body, fine = trials_of(RATE_HZ, root)
    others = [name for name in fine if name not in left_out]
    if kind == "trial":
        aside = [others[5 * number % len(others)]]
        fitted = [name for name in others if name not in aside]
        made_of = {trial.name: trial for trial in spared(fitted, [*left_out, *aside], root, asked)}
        groups = [[made_of[name] for name in aside]]
    else:
        made_of = {trial.name: trial for trial in spared(others, left_out, root, asked)}
        groups = [pairs.of(style_of(left_out[0]), style) for style in dict.fromkeys(map(style_of, others))]
    far = [[figures.distances(trial) for trial in group] for group in groups]
    scale = figures.calibrate([trial for group in far for trial in group])
    widest = np.max([figures.calibrate(group) for group in far], axis=0)
    total = {name: total_of(episode) for name, episode in fine.items()}
    believed = {name: episode.known[:, -1] for name, episode in fine.items() if episode.known is not None}
    loaded = {name: forces[:, 1] > LEAST_N for name, forces in total.items()}
    ridges, carried = {}, {name: carried_by(body, episode) for name, episode in fine.items()}
    residuals = {name: forces - carried[name] for name, forces in total.items()}
    for word, used, aim in (
        ("believed", believed, total),
        ("loaded", loaded, total),
        ("residual", believed, residuals),
    ):
        ridges[word] = Ridge(body)
        ridges[word].fit([(fine[name], aim[name], used[name]) for name in others])
    rows = []
    for name in left_out:
        made = made_of[name]
        by_the_widest = figures.coverage(made, widest)
        assert by_the_widest is not None, "its forces were measured"
        said = numbers(made.mean, asked.rate, RATE_HZ) if asked.rate != RATE_HZ else made.mean
        inner = np.zeros(len(fine[name].timestamps), np.bool_)
        inner[EDGE : min(len(inner), len(said)) - EDGE] = True
        same, true = inner & believed[name], total[name]
        by_ridge = {word: np.pad(own(fine[name]), ((EDGE, EDGE), (0, 0))) for word, own in ridges.items()}
        by_ridge["residual"] += carried[name]
        rows.append(
            figures.told(made, scale)
            | {
                "style": style_of(name),
                "coverage_by_the_widest": asdict(by_the_widest),
                "compared_frames": int(same.sum()),
                "policy_rmse_n": rmse(said[: len(same)][same[: len(said)]], true[same]),
                "ridge_rmse_n": rmse(by_ridge["believed"][same], true[same]),
                "ridge_of_residuals_rmse_n": rmse(by_ridge["residual"][same], true[same]),
                "ridge_on_all_loaded_frames_rmse_n": rmse(
                    by_ridge["loaded"][inner & loaded[name]], true[inner & loaded[name]]
                ),
            }
        )
        del rows[-1]["distances"]
        rows[-1]["residual"]["samples_n"] = np.mean(rows[-1]["residual"]["samples_n"], axis=0).tolist()
    return {
        "kind": kind, "left_out": list(left_out), "calibrated_on": [trial.name for group in groups for trial in group],
        "spreads": scale.tolist(), "widest_spreads": widest.tolist(), "trials": rows,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def summary(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the trials of each kind of fold, and what is held of the targets."""
    found: dict[str, Any] = {}
    for kind, target in TARGETS.items():
        rows = [row for each in folds if each["kind"] == kind for row in each["trials"]]
        if not rows:
            continue
        means = {
            key: np.mean([row[key] for row in rows], axis=0).tolist() for key in RMSE if all(key in row for row in rows)
        }
        frames = np.array([row["coverage"]["frames"] for row in rows])
        share = float(np.average([row["coverage"]["share"][1] for row in rows], weights=frames))
        width = float(np.average([row["coverage"]["width_n"][1] for row in rows], weights=frames))
        of_all = [row.get("coverage_by_the_widest", row["coverage"]) for row in rows]
        weight = rows[0]["weight_n"]
        vertical = means["policy_rmse_n"][1]
        residual = np.mean([row["residual"]["samples_n"] for row in rows], axis=0)
        found[kind] = means | {
            "trials": len(rows),
            "vertical_percent_of_weight": 100 * vertical / weight,
            "peak_n": float(np.mean([abs(row["errors"]["peak_n"]) for row in rows])),
            "impulse_percent": float(np.mean([abs(row["errors"]["impulse_percent"]) for row in rows])),
            "covered": share,
            "width_n": width,
            "width_in_errors": width / vertical,
            "by_the_widest": {
                "covered": float(np.average([of["share"][1] for of in of_all], weights=frames)),
                "width_n": float(np.average([of["width_n"][1] for of in of_all], weights=frames)),
            },
            "residual_n": residual.tolist(),
            "residual_percent_of_weight": (100 * residual / weight).tolist(),
            "measured_residual_n": np.mean([row["residual"]["measured_n"] for row in rows], axis=0).tolist(),
            "held": {
                "error": vertical <= target,
                "better than the regression": vertical <= means["ridge_rmse_n"][1],
                "coverage": COVERED[0] <= share <= COVERED[1],
                "width": width <= WIDEST * vertical,
            },
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave-out", nargs="+", choices=("trial", "style"), default=["trial", "style"])
    parser.add_argument("--only", nargs="+", default=[], help="trials or styles to leave out; none: each in turn")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--forces", choices=("total", "residual"), default="residual", help="what the policy models")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--horizon", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--given", type=float, default=1.0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--sampling-steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(asked).items() if key not in ("leave_out", "only", "json")}
    folds: list[dict[str, Any]] = []
    if asked.json is not None and asked.json.exists():
        before = json.loads(asked.json.read_text(encoding="utf-8"))
        folds = before["folds"] if before["settings"] == settings else []
    with tempfile.TemporaryDirectory(prefix="gait-benchmark-") as folder:
        root = Path(folder) / "Subject4"
        root.mkdir()
        for file in (*FOLDER.glob("walking*.mot"), *FOLDER.glob("static1*.mot")):
            (root / file.name).symlink_to(file)
        names = list(trials_of(RATE_HZ, root)[1])
        styles, pairs = dict.fromkeys(map(style_of, names)), Pairs(names, root, asked)
        jobs = [("trial", [name], number) for number, name in enumerate(names)]
        jobs += [
            ("style", [name for name in names if style_of(name) == style], number)
            for number, style in enumerate(styles)
        ]
        for kind, left_out, number in jobs:
            known = any(each["kind"] == kind and each["left_out"] == left_out for each in folds)
            word = left_out[0] if kind == "trial" else style_of(left_out[0])
            if kind not in asked.leave_out or (asked.only and word not in asked.only) or known:
                continue
            folds.append(fold(kind, left_out, number, pairs))
            for row in folds[-1]["trials"]:
                three = (
                    row["policy_rmse_n"],
                    row["ridge_rmse_n"],
                    row["coverage"]["share"],
                    row["coverage"]["width_n"],
                )
                print(kind, row["trial"], *(np.round(value, 2).tolist() for value in three), flush=True)
            if asked.json is not None:
                content = {"settings": settings, "summary": summary(folds), "folds": folds}
                asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    found = summary(folds)
    print(json.dumps(found, indent=2))
    held = all(value for row in found.values() for value in row["held"].values())
    print("held" if held else "missed")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
