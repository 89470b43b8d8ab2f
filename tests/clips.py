"""Clips of human motion that nobody has recorded: a body of fifteen joints that swings arms and legs as it walks."""

from pathlib import Path

import numpy as np

JOINTS = {
    "pelvis": ("", (0.0, 0.0, 0.0)), "chest": ("pelvis", (0.0, 0.3, 0.0)), "neck": ("chest", (0.0, 0.25, 0.0)),
    "left_hip": ("pelvis", (0.1, 0.0, 0.0)), "left_knee": ("left_hip", (0.0, -0.4, 0.0)),
    "left_ankle": ("left_knee", (0.0, -0.4, 0.0)), "right_hip": ("pelvis", (-0.1, 0.0, 0.0)),
    "right_knee": ("right_hip", (0.0, -0.4, 0.0)), "right_ankle": ("right_knee", (0.0, -0.4, 0.0)),
    "left_shoulder": ("chest", (0.2, 0.2, 0.0)), "left_elbow": ("left_shoulder", (0.3, 0.0, 0.0)),
    "left_wrist": ("left_elbow", (0.25, 0.0, 0.0)), "right_shoulder": ("chest", (-0.2, 0.2, 0.0)),
    "right_elbow": ("right_shoulder", (-0.3, 0.0, 0.0)), "right_wrist": ("right_elbow", (-0.25, 0.0, 0.0)),
}  # fmt: skip
"""Of each joint its parent, and where it is from there at rest, in m."""


def write_clips(folder: Path, count: int = 3, *, frames: int = 40, rate_hz: float = 20.0) -> Path:
    """A folder of walks, each at its own pace, with labels that say so."""
    folder.mkdir(parents=True)
    rows = ["file,text"]
    for clip in range(count):
        name = f"walk_{clip}.npz"
        np.savez(folder / name, **poses(frames, rate_hz, pace_hz=0.8 + 0.2 * clip))  # type: ignore[arg-type]
        rows.append(f"{name},a person walks at pace {clip}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def poses(frames: int, rate_hz: float, pace_hz: float) -> dict[str, np.ndarray]:
    """The arrays of a skeleton npz."""
    names = [*JOINTS]
    phase = 2 * np.pi * pace_hz * np.arange(frames) / rate_hz
    turns = np.zeros((frames, len(names), 4), np.float32)
    turns[..., 3] = 1.0
    swings = {"left_hip": 0.5, "right_hip": -0.5, "left_shoulder": -0.4, "right_shoulder": 0.4, "chest": 0.05}
    for joint, reach in swings.items():
        turns[:, names.index(joint)] = about_x(reach * np.sin(phase))
    for side, ahead in (("left", 0.0), ("right", np.pi)):
        bent = 0.4 * (1 - np.cos(phase + ahead))
        turns[:, names.index(f"{side}_knee")] = about_x(bent)
    root = np.zeros((frames, 3), np.float32)
    root[:, 1], root[:, 2] = 0.8 + 0.02 * np.cos(2 * phase), 1.2 * pace_hz * np.arange(frames) / rate_hz
    return {
        "rotation_xyzw": turns,
        "root_translation": root,
        "local_translation": np.array([offset for _, offset in JOINTS.values()], np.float32),
        "parent_indices": np.array([names.index(parent) if parent else -1 for parent, _ in JOINTS.values()], np.int32),
        "node_names": np.array(names),
        "fps": np.array(rate_hz, np.float32),
    }


def about_x(angles: np.ndarray) -> np.ndarray:
    """Quaternions x y z w of turns about the axis from side to side."""
    nothing = np.zeros_like(angles)
    return np.stack([np.sin(angles / 2), nothing, nothing, np.cos(angles / 2)], axis=-1)


def flags(data: Path, **changes: object) -> list[str]:
    """The flags of a small training on such clips; `changes` replaces or adds some, `batch_size=8`."""
    values: dict[str, object] = {
        "data.roots": data, "data.workers": 0, "data.horizon": 8, "data.validation-share": 0.34,
        "backbone.path": "hash", "expert.width": 32, "expert.depth": 1, "expert.heads": 2,
        "diffusion.sampling-steps": 2, "batch-size": 4, "micro-batch": 2, "validation-samples": 2,
        "stage.steps": 6, "seed": 3, "tracker": "jsonl",
    }  # fmt: skip
    values |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]
