"""Gait trials in npz files, SUBJECT/CONDITION/trial.npz: what a model of gait is given of a walk and its forces.

Turns of pelvis, hips and lumbar stand in such a file as the first two rows of rotations, here as the angles of the
coordinates that they were made of (about z, then x, then y), as tables of OpenSim have them. Forces are stored by the
kg of the body, and where they act by its height and their own size, from the heel on. Velocities follow from the rest.
"""

import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla.data.formats.motion.arrays_only import HEAD_BYTES, objects_in
from vla.data.formats.motion.skeleton_npz import entries
from vla.errors import CorruptData, ForeignLayout
from vla.motion.clip import Clip, Coordinates
from vla.motion_settings import MotionConfig

COLUMNS = "model_states_columns"
SCALARS = ("height_m", "weight_kg", "sampling_rate")
KEYS = ("model_states", COLUMNS, "probably_missing", *SCALARS, "pos_vec")
PLACE = ("pelvis_tx", "pelvis_ty", "pelvis_tz")
TURNS = {
    "pelvis": ("pelvis_tilt", "pelvis_list", "pelvis_rotation"),
    "hip_r": ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r"),
    "hip_l": ("hip_flexion_l", "hip_adduction_l", "hip_rotation_l"),
    "lumbar": ("lumbar_extension", "lumbar_bending", "lumbar_rotation"),
}
"""Joints whose turns are six numbers each, and the angles that they were made of."""
ARMS = {"arm_r": ("arm_flex_r", "arm_add_r", "arm_rot_r"), "arm_l": ("arm_flex_l", "arm_add_l", "arm_rot_l")}
ANGLES = tuple(f"{angle}_{side}" for side in "rl" for angle in ("knee_angle", "ankle_angle", "subtalar_angle"))
ARM_ANGLES = tuple(f"{angle}_{side}" for side in "rl" for angle in ("elbow_flex", "pro_sup"))
SIDES = {"right": "calcn_r", "left": "calcn_l"}
FORCE = ("vx", "vy", "vz")
POINT = ("px_heel", "py_heel", "pz_heel")
LEAST_N = 20.0
"""Below this, a force says nothing of where it acts: it was written as 0 there."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a file holds, as it stands there."""

    states: Float32[np.ndarray, "T C"]
    columns: tuple[str, ...]
    """One a column of the states."""
    probably_missing: Bool[np.ndarray, " T"]
    """Frames whose forces are not to be trusted."""
    height_m: float
    weight_kg: float
    sampling_rate: float
    """Hz."""
    pos_vec: Float32[np.ndarray, " 3"]
    """Where the pelvis stood at first, which is taken from the states, m."""


def is_gait_npz(file: Path) -> bool:
    """Whether a file is of this kind."""
    return file.suffix == ".npz" and {"model_states.npy", f"{COLUMNS}.npy"} <= set(entries(file))


def read_gait_npz(file: Path, _asked: MotionConfig) -> Iterator[Clip]:
    """The one clip of a file. CorruptData where it lacks a key, or a column is missing, unknown or there twice."""
    trial = read_trial(file)
    try:
        check_columns(trial)
    except ValueError as error:
        raise CorruptData(f"{file}: {error}") from error
    named = dict(zip(trial.columns, trial.states.T.astype(np.float64), strict=True))
    reliable = ~trial.probably_missing
    columns = {f"force.{side}": force_of(trial, named, heel) for side, heel in SIDES.items()}
    remarks = ["velocities are left out, as they follow from the rest"] if any(map(is_velocity, named)) else []
    if not reliable.any():
        remarks.append("no frame has forces that can be trusted (probably_missing marks all of them)")
    body = coordinates_of(trial, named)
    yield Clip(
        name=file.stem,
        rate_hz=trial.sampling_rate,
        body=body,
        valid=np.isfinite(body.values).all(axis=1),
        columns={**columns, "kinetics_valid": reliable[:, None]},
        column_names=dict.fromkeys(columns, FORCE + POINT),
        facts={
            "subject": file.parent.parent.name,
            "condition": file.parent.name,
            "height_m": trial.height_m,
            "weight_kg": trial.weight_kg,
        },
        remarks=tuple(remarks),
    )


def check_columns(trial: Trial) -> None:
    """Refuse columns that are there twice, missing or unknown (ValueError)."""
    names = trial.columns
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"column {twice[0]} is there twice; which of them is meant?")
    kinetic = [f"{heel}_force_{part}" for heel in SIDES.values() for part in (*FORCE, *points())]
    wanted = [*PLACE, *ANGLES, *kinetic, *(six for joint in TURNS for six in sixes(joint))]
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"there is no column {missing[0]} among {len(names)}; restore it")
    further = {*ARM_ANGLES, *(six for joint in ARMS for six in sixes(joint))}
    unknown = [name for name in names if name not in wanted and name not in further and not is_velocity(name)]
    if unknown:
        raise ValueError(f"column {unknown[0]} is none that is known of a gait trial; leave it out")


def points() -> tuple[str, ...]:
    """What files call where a force acts."""
    return tuple(f"normed_cop_{axis}" for axis in "xyz")


def sixes(joint: str) -> tuple[str, ...]:
    """The columns of a joint's turn."""
    return tuple(f"{joint}_{number}" for number in range(6))


def is_velocity(column: str) -> bool:
    """Whether a column is the change of others."""
    return column.endswith("_vel")


def coordinates_of(trial: Trial, named: dict[str, Float64[np.ndarray, " T"]]) -> Coordinates:
    """The coordinates of a trial, where it stood in the laboratory."""
    found = {name: named[name] + float(shift) for name, shift in zip(PLACE, trial.pos_vec, strict=True)}
    found |= {name: named[name] for name in (*ANGLES, *ARM_ANGLES) if name in named}
    for joint, angles in (TURNS | ARMS).items():
        if sixes(joint)[0] in named:
            turned = angles_of(np.stack([named[six] for six in sixes(joint)], axis=1))
            found |= dict(zip(angles, turned.T, strict=True))
    return Coordinates(names=tuple(found), values=np.stack(list(found.values()), axis=1))


def angles_of(six: Float64[np.ndarray, "T 6"]) -> Float64[np.ndarray, "T 3"]:
    """The angles about z, x and y, rad, of rotations by their first two rows: R = Rz Rx Ry."""
    first, second = six[:, :3], six[:, 3:]
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second - (first * second).sum(axis=1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    third = np.cross(first, second)
    return np.stack(
        [
            np.arctan2(-first[:, 1], second[:, 1]),
            np.arcsin(third[:, 1].clip(-1, 1)),
            np.arctan2(-third[:, 0], third[:, 2]),
        ],
        axis=1,
    )


def force_of(trial: Trial, named: dict[str, Float64[np.ndarray, " T"]], heel: str) -> Float64[np.ndarray, "T 6"]:
    """The force under a foot, N, and where it acts from the heel on, m; NaN where it is not to be trusted."""
    by_mass = np.stack([named[f"{heel}_force_{part}"] for part in FORCE], axis=1)
    acts = np.stack([named[f"{heel}_force_{part}"] for part in points()], axis=1)
    force = by_mass * trial.weight_kg
    stands = force[:, 1] >= LEAST_N
    point = np.full_like(acts, np.nan)
    point[stands] = acts[stands] / by_mass[stands, 1:2] * trial.height_m
    both = np.concatenate([force, point], axis=1)
    both[trial.probably_missing] = np.nan
    return both


def read_trial(file: Path) -> Trial:
    """The content of a file. CorruptData where it lacks a key, or a value is of another shape or not finite."""
    there = {name.removesuffix(".npy") for name in entries(file)}
    if missing := [key for key in KEYS if key not in there]:
        raise CorruptData(f"{file} has no {missing[0]}; a gait trial has {', '.join(KEYS)}")
    try:
        columns = names_in(file)
        with np.load(file, allow_pickle=False) as content:
            scalars = {key: float(content[key].item()) for key in SCALARS}
            states, marked = (
                np.asarray(content["model_states"], np.float32),
                content["probably_missing"].astype(np.bool_),
            )
            pos_vec = np.asarray(content["pos_vec"], np.float32)
    except (CorruptData, ForeignLayout):
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error
    if states.shape != (*marked.shape, len(columns)) or pos_vec.shape != (3,):
        raise CorruptData(
            f"{file} has states of shape {states.shape} for marks of shape {marked.shape} and {len(columns)} columns, "
            f"and pos_vec of shape {pos_vec.shape}: restore it"
        )
    if wrong := [key for key, value in scalars.items() if not 0 < value < np.inf]:
        raise CorruptData(f"{file} has {wrong[0]} {scalars[wrong[0]]:g}, a positive number is expected: correct it")
    return Trial(
        states=states,
        columns=columns,
        probably_missing=marked,
        height_m=scalars["height_m"],
        weight_kg=scalars["weight_kg"],
        sampling_rate=scalars["sampling_rate"],
        pos_vec=pos_vec,
    )


def names_in(file: Path) -> tuple[str, ...]:
    """The names of a file's columns, be they stored as objects.

    Raises:
        CorruptData: they are damaged, or no texts.
        ForeignLayout: they are objects that are no data.
    """
    with zipfile.ZipFile(file) as archive:
        stored = archive.read(f"{COLUMNS}.npy")
    if b"'descr': '|O'" not in stored[:HEAD_BYTES]:
        with np.load(file, allow_pickle=False) as content:
            return tuple(map(str, content[COLUMNS].tolist()))
    names = objects_in(stored, file)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptData(f"{file} has columns that are not called by texts: store {COLUMNS} as text")
    return tuple(names)


def write_gait_npz(file: Path, trial: Trial) -> None:
    """Write a trial, beside its place first."""
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        with beside.open("wb") as handle:
            np.savez(
                handle,
                allow_pickle=False,
                model_states=trial.states,
                model_states_columns=np.array(trial.columns, dtype=np.str_),
                probably_missing=trial.probably_missing,
                height_m=np.float64(trial.height_m),
                weight_kg=np.float64(trial.weight_kg),
                sampling_rate=np.float64(trial.sampling_rate),
                pos_vec=trial.pos_vec,
            )
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)  # it is gone where it has become the file
