"""A body of 15 joints, motions of it that are formulas, and real ones of the folder `shared`."""

import csv
import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.motion.clips import Clip
from vla.evaluation.motion.landmarks import Landmarks

NAMES = (
    "pelvis", "chest", "head", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
)  # fmt: skip
PARENTS = (-1, 0, 1, 1, 3, 4, 1, 6, 7, 0, 9, 10, 0, 12, 13)
PAIRS = {
    "shoulders": ("left shoulder", "right shoulder"),
    "hips": ("left hip", "right hip"),
    "knees": ("left knee", "right knee"),
    "ankles": ("left ankle", "right ankle"),
}
BODY = Landmarks.named(NAMES, PARENTS, pelvis="pelvis", **PAIRS)
TOED = Landmarks.named(
    (*NAMES, "right toe", "left toe"), (*PARENTS, 11, 14), pelvis="pelvis", toes=("left toe", "right toe"), **PAIRS
)
UPRIGHT = np.array(
    [
        (0, 0.9, 0), (0, 1.3, 0), (0, 1.5, 0), (-0.2, 1.3, 0), (-0.25, 1.0, 0), (-0.25, 0.75, 0.05), (0.2, 1.3, 0),
        (0.25, 1.0, 0), (0.25, 0.75, 0.05), (-0.1, 0.85, 0), (-0.1, 0.45, 0.02), (-0.1, 0.05, 0), (0.1, 0.85, 0),
        (0.1, 0.45, 0.02), (0.1, 0.05, 0),
    ]
)  # fmt: skip
"""Stands, facing z: its left is at x."""

ACTION_NODES = (0, 15, 17, 30, 31, 32, 21, 22, 23, 8, 9, 10, 2, 3, 4, 11, 5)
"""Of cmu_actions, in the order of the names above, toes last."""
WALK_NODES = (
    "root", "thorax", "head", "rhumerus", "rradius", "rwrist", "lhumerus", "lradius", "lwrist", "rfemur", "rtibia",
    "rfoot", "lfemur", "ltibia", "lfoot", "rtoes", "ltoes",
)  # fmt: skip
HELD_OUT_SUBJECTS = ("08", "16")
LEG_M = 0.85
"""To which all real bodies are scaled."""
GLITCHED = "train_directing_traffic_1"
"""Joints of this recording jump at 60 m/s."""


def standing(seconds: float, rate_hz: float) -> Float64[np.ndarray, "T J 3"]:
    return np.tile(UPRIGHT, (round(seconds * rate_hz) + 1, 1, 1))


def walker(
    seconds: float,
    rate_hz: float,
    *,
    speed_mps: float = 1.2,
    amplitude_m: float = 0.3,
    cadence_hz: float = 0.9,
    phase: float = 0.0,
) -> Float64[np.ndarray, "T J 3"]:
    """Legs and arms that swing as sines while the pelvis moves along z; the swinging foot is lifted by up to 15 cm."""
    positions = standing(seconds, rate_hz)
    time = np.arange(len(positions)) / rate_hz
    for side, names in ((0.0, ("left", "right")), (np.pi, ("right", "left"))):
        swing = np.sin(2 * np.pi * cadence_hz * time + phase + side)
        lift = np.cos(2 * np.pi * cadence_hz * time + phase + side)
        leg, arm = names
        for joint, share in ((f"{leg} ankle", 1.0), (f"{leg} knee", 0.5), (f"{arm} wrist", 0.6), (f"{arm} elbow", 0.3)):
            place = NAMES.index(joint)
            positions[:, place, 2] += share * amplitude_m * swing
            if leg in joint and not joint.endswith(("wrist", "elbow")):
                positions[:, place, 1] += 0.075 * share * (1 + lift)
    positions[..., 2] += speed_mps * time[:, None]
    return positions


def clip(positions: Float[np.ndarray, "T J 3"], rate_hz: float, source: str = "made", label: str = "walking") -> Clip:
    return Clip(positions=positions, rate_hz=rate_hz, source=source, label=label)


@functools.cache
def recordings(shared: Path, *, toes: bool = False) -> dict[str, list[Clip]]:
    """The real clips of cmu_actions and cmu_walks by split, `train` and `test`; of the walks two subjects are test."""
    found: dict[str, list[Clip]] = {"train": [], "test": []}
    joints = len(NAMES) + 2 * toes
    for file in sorted((shared / "data/cmu_actions").glob("*.npz")):
        with np.load(file) as content:
            positions = kinematics(content)[:, list(ACTION_NODES[:joints])]
            split, label, rate = str(content["split"]), str(content["action"]), float(content["fps"])
        if file.stem != GLITCHED:
            found[split].append(clip(scaled(positions), rate, file.stem, label))
    with (shared / "data/cmu_walks/labels.csv").open() as table:
        rows = list(csv.DictReader(table))
    for row in rows:
        with np.load(shared / "data/cmu_walks" / row["file"]) as content:
            nodes = [str(name) for name in content["node_names"]]
            positions = kinematics(content)[:, [nodes.index(name) for name in WALK_NODES[:joints]]]
            rate = float(content["fps"])
        split = "test" if row["subject"] in HELD_OUT_SUBJECTS else "train"
        found[split].append(clip(scaled(positions), rate, row["file"], row["action"]))
    return found


def kinematics(content: np.lib.npyio.NpzFile) -> Float64[np.ndarray, "T J 3"]:
    """Forward kinematics of local quaternions (x, y, z, w)."""
    x, y, z, w = np.moveaxis(content["rotation_xyzw"].astype(np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    turned = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    positions = np.zeros(turned.shape[:3])
    for joint, parent in enumerate(content["parent_indices"]):
        if parent < 0:
            positions[:, joint] = content["root_translation"]
        else:
            offset = content["local_translation"][joint].astype(np.float64)
            positions[:, joint] = positions[:, parent] + turned[:, parent] @ offset
            turned[:, joint] = turned[:, parent] @ turned[:, joint]
    return positions


def scaled(positions: Float64[np.ndarray, "T J 3"]) -> Float64[np.ndarray, "T J 3"]:
    """With a right leg of 85 cm."""
    hip, knee, ankle = (positions[:, NAMES.index(f"right {joint}")] for joint in ("hip", "knee", "ankle"))
    leg = np.linalg.norm(hip - knee, axis=-1) + np.linalg.norm(knee - ankle, axis=-1)
    return positions * (LEG_M / leg.mean())
