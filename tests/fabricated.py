"""A finished run with every kind of evaluation, made up: numbers of a formula, names that attack the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.policies import manifest
from vla import documents
from vla.contract import DataContract, StreamContract
from vla.evaluation.alteration import Kind
from vla.evaluation.findings import Ablation, Baseline, Change, Control, Effect, Finding, Rate, Verdict, Where
from vla.run_folder import BackboneName, GroupSize, Schedule, ScheduledStage, StoredFile

HOSTILE = "<script>console.error('attacked')</script>\"'&$x^{2}$\u202e\x07 穿針"
TOKEN = "hf_" + "aB3dE6gH9" * 4
CAMERAS = ("observation.images.front", "observation.images.wrist")
CONTRACT = DataContract(
    cameras=CAMERAS, state_dim=3, action_dim=3, horizon=8, fps=20.0, state_names=(), action_names=(),
    action_periods=(0.0, 0.0, 0.0), streams={"sensor": StreamContract(
        key="observation.ft", channels=6, samples=50, rate_hz=1000.0,
        names=("push_N", "pull_N", HOSTILE, "x_Nm", "y_Nm", "z_Nm"),
    )},
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "out": "runs/made",
    "data": {"roots": ["data/needle", HOSTILE], "horizon": 8},
    "backbone": {"path": "tiny", "api_key": "not-for-anyone-0815"},
    "camera": {"width": 0},
    "finetune_vl": "lora",
    "batch_size": 16,
    "seed": 3,
    "note": TOKEN,
    "stage1": {
        "name": "stage1", "steps": 120, "epochs": None,
        "lr": {"sensor": 1e-4, "camera": 1e-4, "expert": 1e-4, "lora": None},
    },
    "stage2": {
        "name": "stage2", "steps": 80, "epochs": None,
        "lr": {"sensor": 1e-4, "camera": 1e-4, "expert": 1e-4, "lora": 1e-5, "backbone": 1e-5},
    },
}  # fmt: skip

RATES = {"sensor": 1e-4, "expert": 1e-4}
SCHEDULE = Schedule(
    entry="two_stage",
    stages=(
        ScheduledStage(name="stage1", start=0, end=120, rates=RATES),
        ScheduledStage(name="stage2", start=120, end=200, rates=RATES | {"lora": 1e-5}),
    ),
    contract=CONTRACT,
    backbone=BackboneName(id="tiny", fingerprint="61e901c999934372263a9cb6ff5c6c8097330d99d1ae8c25a2ba6399fc798560"),
)


def metrics_line(step: int, stage: str, loss: float | None, rate: float = 120.0) -> dict[str, Any]:
    """A line as training writes it."""
    groups = ["expert", "sensor"] + (["lora"] if stage == "stage2" else [])
    norms = {group: 1.5 / (1 + place) * 0.99 ** (step / 20) for place, group in enumerate(groups)}
    return {
        "step": step,
        "stage": stage,
        "loss": loss,
        "losses": {"diffusion": loss},
        "lr": {group: 1e-5 if group == "lora" else 1e-4 for group in groups},
        "grad_norm": norms | {"all": sum(value**2 for value in norms.values()) ** 0.5},
        "skipped": loss is None,
        "samples_seen": step * 16,
        "positions": [step * 16 - 16, step * 16 - 1],
        "samples_per_s": rate,
        "data_wait": 0.02,
        "memory_mb": 812.5,
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder: Path, *, steps: int = 200) -> Path:
    """The training's part of a run folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "schedule.json").write_bytes(documents.to_bytes(SCHEDULE))
    random = np.random.default_rng(0)
    losses = 0.1 + 0.5 * np.exp(-np.arange(1, steps + 1) / 60) * random.uniform(0.7, 1.3, steps)
    lines = [
        metrics_line(step, "stage1" if step <= 120 else "stage2", None if step == 77 else float(loss))
        for step, loss in enumerate(losses, 1)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    validations = [
        {"step": step, "loss": 0.12 + 0.5 * 0.98**step, "losses": {}, "action_mae": [[0.02 + 0.5 * 0.98**step] * 3] * 8}
        for step in range(0, steps + 1, 20)
    ]
    write_lines(folder / "validation.jsonl", validations)
    write_lines(folder / "quarantine.jsonl", [{"episode": HOSTILE, "frame": 4, "step": 9, "reason": "cut off"}])
    for step in (100, 200):
        write_checkpoint(folder / "checkpoints" / f"step-{step:08d}", step)
    policy = folder / "policy"
    policy.mkdir()
    (policy / "config.json").write_text(json.dumps({"contract": documents.to_json(CONTRACT)}))
    return folder


def write_checkpoint(folder: Path, step: int) -> None:
    folder.mkdir(parents=True)
    described = manifest(
        step, stage="stage2" if step > 120 else "stage1", samples_seen=step * 16, seed=3,
        config="840b17796cb0977c35d82186468abda6e19ab859b15c8da782b43557d796feca", ranks=2, zero_stage=2,
        backbone=SCHEDULE.backbone,
        groups={"expert/decay": GroupSize(tensors=35, parameters=1158400, lr=1e-4, weight_decay=0.01)},
        files=(StoredFile(name="shard-00000-of-00001.safetensors", bytes=23574488, sha256="0"),),
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(documents.to_bytes(described))


def write_evaluation(run: Path) -> Path:
    """Open loop, closed loop, ablation, rollouts, an episode."""
    folder = run / "policy-evaluation"
    (folder / "rollouts").mkdir(parents=True)
    results = {
        "report.json": open_loop(), "closed_loop.json": closed_loop(), "ablation.json": ablation(),
        "denoising.json": denoising(),
    }  # fmt: skip
    for name, result in results.items():
        (folder / name).write_text(json.dumps(result))
    for episode in range(3):
        np.savez(folder / "rollouts" / f"episode-{episode:05d}.npz", **rollout(episode))  # type: ignore[arg-type]
    return folder


def open_loop() -> dict[str, Any]:
    dimensions = [
        {
            "name": name, "unit": "m" if axis == 2 else "", "factor": 0.005 if axis == 2 else 1.0,
            "mae": 0.01 * axis, "rmse": 0.02 * axis, "first_mae": 0.008 * axis,
            "constant_mae": 0.02 * axis, "correlation": 0.9,
            "mae_by_step": [0.01 * axis * (1 + step / 8) for step in range(8)],
        }
        for axis, name in enumerate(["gripper", HOSTILE, "y", "z"])
    ]  # fmt: skip
    verdict = "The policy is better than the mean action (0.31)."
    numbers = {"samples": 200, "episodes": 2, "loss": 0.21, "mae": 0.012}
    return {**numbers, "dimensions": dimensions, "verdict": verdict}


def denoising() -> dict[str, Any]:
    random = np.random.default_rng(2)
    predicted = random.normal(size=(3, 1, 8, 4)) * np.linspace(0, 1, 11)[:, None, None]
    return {
        "samples": [f"made/episode_{row:06d}, frame {row}" for row in range(3)], "predicted": predicted.tolist(),
        "recorded": predicted[:, -1].tolist(), "remaining": np.linspace(1, 0, 11).tolist(),
    }  # fmt: skip


def closed_loop() -> dict[str, Any]:
    random = np.random.default_rng(1)
    rollouts = [
        {
            "episode": episode, "seed": 1000 + episode, "instruction": f"insert the needle {HOSTILE}",
            "success": episode % 14 != 1, "steps": int(random.integers(20, 60)),
            "failure": ["wrong hole", HOSTILE][episode % 2] if episode % 14 == 1 else None,
            "metrics": {"peak_force_n": float(random.gamma(4, 2)), "insertion_depth_mm": float(random.normal(9, 1))},
        }
        for episode in range(100)
    ]  # fmt: skip
    success = [
        {"steps": steps, "successes": rate, "episodes": 100, "rate": rate / 100,
         "low": rate / 100 - 0.07, "high": rate / 100 + 0.03}
        for steps, rate in ((40, 88), (60, 92), (100, 92))
    ]  # fmt: skip
    return {
        "environment": "needle", "settings": {"error-mm": "2", "api_key": "not-for-anyone-0815"},
        "policy": "runs/made/policy",
        "seed": 7, "executed": 1, "max_steps": 100, "episodes": 100, "success": success,
        "metrics": {"peak_force_n": {"median": 7.9, "p90": 12.4, "max": 21.0}},
        "failures": {"wrong hole": 2, "lost in search": 4, HOSTILE: 2}, "rollouts": rollouts,
        "latency": {"calls": 1600, "rows": 10.0, "milliseconds": {"vision": 2.5, "expert": 30.25, "all": 41.0}},
    }  # fmt: skip


def ablation() -> dict[str, Any]:
    phases = {"approach": (0.5, 0.2), "search": (0.35, 2.0), "insert": (0.1, 0.4)}

    def rate(successes: float) -> Rate:
        return Rate.of([episode < round(successes) for episode in range(100)])

    def part(value: float) -> Change:
        return Change(change=value, low=value - 0.03, high=value + 0.03)

    def finding(name: str, verdict: Verdict, change: float) -> Finding:
        ways: tuple[tuple[Kind, float], ...] = (("zeroed", 1.2), ("shuffled", 1), ("delayed", 0.4), ("frozen", 0.6))
        kinds = [
            Effect(
                kind=way,
                error=0.4 + change * weight,
                **vars(part(change * weight)),
                moved=2 * change,
                by_phase={phase: part(change * weight * factor) for phase, (_, factor) in phases.items()},
                success=rate(93 - 90 * change * weight),
            )
            for way, weight in ways
        ]
        sentence = f"The error changes by {change:+.3f}."
        return Finding(input=name, label=name, verdict=verdict, sentence=sentence, kinds=kinds)

    control = Control(
        input="sensor",
        label="sensor",
        policy="runs/made/control/policy",
        verdict="needed",
        sentence="sensor is needed: trained without it, success falls from 93% to 13%",
        error=0.62,
        **vars(part(0.22)),
        by_phase={phase: part(0.22 * factor) for phase, (_, factor) in phases.items()},
        success=rate(13),
    )
    return Ablation(
        policy="runs/made/policy",
        samples=1000,
        episodes=50,
        margin=0.05,
        fall=0.1,
        delay_s=0.25,
        phases=[*phases],
        baseline=Baseline(error=0.4, by_phase={phase: error for phase, (error, _) in phases.items()}, success=rate(93)),
        inputs=[
            finding("sensor", "used", 0.2),
            finding("observation.images.front", "used", 0.3),
            finding(HOSTILE, "not used", 0.001),
            finding("state", "not shown", 0.04),
        ],
        control=[control],
        verdict="The policy is no better than repeating the last action (1.02).",
        where=Where(environment="needle", settings={"error-mm": "2"}, within=40, seed=7, executed=1),
    ).to_json()


def rollout(episode: int, channels: int = 6) -> dict[str, np.ndarray]:
    """Forces that rise at a touch, and frames that brighten."""
    times = np.arange(0, 1.5, 0.001)
    touch = np.clip(times - 0.7, 0, None)[:, None] * np.arange(1, channels + 1) * (3 - episode)
    noise = np.random.default_rng(episode).normal(0, 0.05, (len(times), channels))
    frame_times = np.arange(0, 1.5, 0.05)
    height, width = 48, 64
    shade = (
        np.linspace(40, 220, len(frame_times))[:, None, None, None] + np.arange(width)[None, None, :, None] / 3
    ).repeat(height, 1)
    frames = np.concatenate([shade, shade * 0.8, 255 - shade], axis=-1).clip(0, 255).astype(np.uint8)
    return {
        "times_s": frame_times, "actions": np.zeros((len(frame_times), 3)), "state": np.zeros((len(frame_times), 3)),
        "sensor_times_s": times, "sensor": (touch + noise).astype(np.float32), "frame_times_s": frame_times,
        f"frames.{CAMERAS[0]}": frames, f"frames.{CAMERAS[1]}": frames[:, ::-1],
    }  # fmt: skip
