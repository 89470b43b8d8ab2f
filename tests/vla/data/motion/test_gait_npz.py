"""Gait trials in npz files: against scipy's rotations, closed forms, and what bad files must say."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.data.formats.motion.gait_npz import Trial, read_trial, write_gait_npz
from vla.data.formats.motion.reader import open_motion
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion_settings import MotionConfig

JOINTS = {"pelvis": "tilt list rotation", "hip": "flexion adduction rotation", "lumbar": "extension bending rotation"}
"""Joints of three angles; the hips on both sides."""


def angles(frames: int, seed: int) -> dict[str, np.ndarray]:
    """Smooth angles of a walk, rad."""
    random = np.random.default_rng(seed)
    names = [f"pelvis_{word}" for word in JOINTS["pelvis"].split()]
    names += [f"hip_{word}_{side}" for side in "rl" for word in JOINTS["hip"].split()]
    names += [f"lumbar_{word}" for word in JOINTS["lumbar"].split()]
    names += [f"{joint}_angle_{side}" for side in "rl" for joint in ("knee", "ankle", "subtalar")]
    phases = np.arange(frames) / 100 * 2 * np.pi
    return {name: random.uniform(-0.5, 0.5) + 0.3 * np.sin(phases + random.uniform(0, 6)) for name in names}


def trial_of(frames: int = 120, seed: int = 0, **changes: Any) -> tuple[Trial, dict[str, np.ndarray]]:
    """A trial as a laboratory writes it, and the angles that it was made of."""
    turned = angles(frames, seed)
    columns: dict[str, np.ndarray] = {}
    for joint, suffix in (("pelvis", ""), ("hip", "_r"), ("hip", "_l"), ("lumbar", "")):
        three = np.stack([turned[f"{joint}_{word}{suffix}"] for word in JOINTS[joint].split()], axis=1)
        rotation = Rotation.from_euler("ZXY", three).as_matrix()
        columns |= {f"{joint}{suffix}_{number}": rotation.reshape(-1, 9)[:, number] for number in range(6)}
    columns |= {name: values for name, values in turned.items() if "angle" in name}
    times = np.arange(frames) / 100
    columns |= {"pelvis_tx": 1.2 * times, "pelvis_ty": 0.02 * np.sin(9 * times), "pelvis_tz": 0.1 * times}
    for foot, shift in (("calcn_r", 0.0), ("calcn_l", 0.5)):
        load = 9.81 * np.maximum(0, np.sin(2 * np.pi * (times + shift)))
        columns |= {f"{foot}_force_vx": 0.1 * load, f"{foot}_force_vy": load, f"{foot}_force_vz": -0.05 * load}
        columns |= {f"{foot}_force_normed_cop_{axis}": load * 0.05 for axis in "xyz"}
    columns["knee_angle_r_vel"] = np.gradient(turned["knee_angle_r"])
    trial = Trial(
        states=np.stack(list(columns.values()), axis=1).astype(np.float32),
        columns=tuple(columns),
        probably_missing=np.zeros(frames, np.bool_),
        height_m=1.75,
        weight_kg=70.0,
        sampling_rate=100.0,
        pos_vec=np.array([3.0, 0.95, -1.0], np.float32),
    )
    return replace(trial, **changes), turned


def stored(root: Path, trial: Trial, name: str = "S006/crouch/trial_01.npz") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_gait_npz(root / name, trial)
    return root / name


def opened(root: Path, **asked: Any) -> Any:
    return open_motion(root, Selection(motion=MotionConfig(**{"rate_hz": 100.0} | asked)))


def test_a_trial_comes_back_bit_by_bit(tmp_path: Path) -> None:
    missing = np.random.default_rng(0).random(120) < 0.3
    trial, _ = trial_of(probably_missing=missing, weight_kg=71.23456789, sampling_rate=100.0)
    file = stored(tmp_path, trial)
    again = read_trial(file)
    assert again.states.tobytes() == trial.states.tobytes() and again.states.dtype == np.float32
    assert again.probably_missing.tobytes() == trial.probably_missing.tobytes()
    assert again.pos_vec.tobytes() == trial.pos_vec.tobytes()
    assert (again.columns, again.height_m, again.weight_kg) == (trial.columns, trial.height_m, trial.weight_kg)
    copy = stored(tmp_path, again, "S006/crouch/copy.npz")
    for one, other in zip(*(dict(np.load(path)).items() for path in (file, copy)), strict=True):
        assert one[0] == other[0] and one[1].tobytes() == other[1].tobytes()
    assert sorted(path.name for path in file.parent.iterdir()) == ["copy.npz", "trial_01.npz"]


def test_rows_are_the_angles_that_a_trial_was_made_of(tmp_path: Path) -> None:
    """And where it stood: the height, and the speed of the pelvis."""
    trial, turned = trial_of()
    stored(tmp_path, trial)
    reader = opened(tmp_path)
    (episode,) = reader.episodes
    named = dict(zip(reader.layout.action_names, episode.actions.values.T, strict=True))
    assert set(named) == {*turned, "root.velocity.x", "root.velocity.z", "root.height"}
    for name, values in turned.items():
        np.testing.assert_allclose(named[name], values, rtol=0, atol=2e-6, err_msg=name)
    np.testing.assert_allclose(named["root.velocity.x"], 1.2, rtol=0, atol=1e-4)
    np.testing.assert_allclose(named["root.height"], 0.95 + 0.02 * np.sin(0.09 * np.arange(120)), rtol=0, atol=1e-6)
    assert any("velocities are left out" in remark for remark in reader.layout.remarks)


def test_forces_are_in_newtons_and_act_beside_the_heel(tmp_path: Path) -> None:
    trial, _ = trial_of()
    stored(tmp_path, trial)
    (episode,) = opened(tmp_path).episodes
    load = 9.81 * np.maximum(0, np.sin(2 * np.pi * np.arange(120) / 100)) * 70.0
    np.testing.assert_allclose(episode.columns["force.right.vy"][:, 0], load, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(episode.columns["force.right.vz"][:, 0], -0.05 * load, rtol=1e-5, atol=1e-3)
    point = episode.columns["force.right.px_heel"][:, 0]
    stands = load >= 20
    np.testing.assert_allclose(point[stands], 0.05 * 1.75, rtol=1e-4)  # normed = point x force by mass / height
    assert np.isnan(point[~stands]).all() and (~stands).any()


def permuted(trial: Trial, seed: int) -> Trial:
    order = np.random.default_rng(seed).permutation(len(trial.columns))
    return replace(trial, states=trial.states[:, order], columns=tuple(trial.columns[place] for place in order))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_columns_changes_no_bit(tmp_path: Path, seed: int) -> None:
    trial, _ = trial_of()
    stored(tmp_path / "one", trial)
    stored(tmp_path / "other", permuted(trial, seed))
    (one,), (other,) = (opened(tmp_path / name, rate_hz=60.0).episodes for name in ("one", "other"))
    assert one.actions.values.tobytes() == other.actions.values.tobytes()
    assert {key: values.tobytes() for key, values in one.columns.items()} == {
        key: values.tobytes() for key, values in other.columns.items()
    }


def test_marked_frames_give_no_forces_to_learn_from(tmp_path: Path) -> None:
    """Also at another rate, where a sample between a marked frame and another is marked; nothing of them leaks."""
    missing = np.zeros(120, np.bool_)
    missing[40:60] = True
    trial, _ = trial_of(probably_missing=missing)
    broken = trial.states.copy()
    broken[40:60, [place for place, name in enumerate(trial.columns) if "force" in name]] = 1e6
    rows = {}
    for name, states in (("sound", trial.states), ("broken", broken)):
        stored(tmp_path / name, replace(trial, states=states))
        for rate in (100.0, 30.0):
            (rows[name, rate],) = opened(tmp_path / name, rate_hz=rate).episodes
    for rate in (100.0, 30.0):
        own = rows["broken", rate]
        valid = own.columns["kinetics_valid"][:, 0]
        frames = own.timestamps * 100
        np.testing.assert_array_equal(valid == 0, (frames > 39.0001) & (frames < 59.9999))
        assert np.isnan(own.columns["force.left.vy"][valid == 0]).all()
        assert np.isfinite(own.columns["force.left.vy"][valid == 1]).all()
        assert np.abs(own.columns["force.left.vy"][valid == 1]).max() < 1000
        np.testing.assert_array_equal(own.actions.values, rows["sound", rate].actions.values)


def test_trials_without_a_frame_to_trust_are_listed(tmp_path: Path) -> None:
    whole, _ = trial_of()
    stored(tmp_path, whole)
    stored(tmp_path, trial_of(probably_missing=np.ones(120, np.bool_))[0], "S007/crouch/trial_03.npz")
    reader = opened(tmp_path)
    assert len(reader.episodes) == 2
    said = next(remark for remark in reader.layout.remarks if "probably_missing marks all" in remark)
    assert "1 clip: S007/crouch/trial_03" in said
    assert not reader.episodes[1].columns["kinetics_valid"].any()


def test_subject_and_condition_are_facts_of_a_clip(tmp_path: Path) -> None:
    from vla.data.formats.motion.files import KINDS

    file = stored(tmp_path, trial_of()[0])
    (clip,) = KINDS["gait npz"].read(file, MotionConfig())
    assert clip.facts == {"subject": "S006", "condition": "crouch", "height_m": 1.75, "weight_kg": 70.0}
    assert clip.rate_hz == 100.0


def without(trial: Trial, name: str) -> Trial:
    kept = [place for place, column in enumerate(trial.columns) if column != name]
    return replace(trial, states=trial.states[:, kept], columns=tuple(trial.columns[place] for place in kept))


def named(trial: Trial, old: str, new: str) -> Trial:
    return replace(trial, columns=tuple(new if column == old else column for column in trial.columns))


BAD = {
    "missing": (lambda trial: without(trial, "hip_l_3"), "there is no column hip_l_3 among 45"),
    "twice": (lambda trial: named(trial, "knee_angle_r", "knee_angle_l"), "column knee_angle_l is there twice"),
    "unknown": (lambda trial: named(trial, "knee_angle_r_vel", "tail"), "column tail is none that is known"),
    "weightless": (lambda trial: replace(trial, weight_kg=0.0), "weight_kg 0, a positive number is expected"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_trial_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    change, words = BAD[kind]
    file = stored(tmp_path, change(trial_of()[0]))
    with pytest.raises(CorruptData, match=words) as raised:
        opened(tmp_path)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_a_trial_without_one_of_its_keys_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path, trial_of()[0])
    content = dict(np.load(file))
    for key in ("pos_vec", "sampling_rate", "probably_missing"):
        np.savez(file, **{name: values for name, values in content.items() if name != key})
        with pytest.raises(CorruptData, match=f"has no {key}; a gait trial has model_states"):
            opened(tmp_path)


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("model_states", np.zeros((119, 46), np.float32), r"states of shape \(119, 46\) for marks of shape \(120,\)"),
        (
            "model_states",
            np.zeros((120, 45), np.float32),
            r"states of shape \(120, 45\) for marks of shape \(120,\) and",
        ),
        ("pos_vec", np.zeros(2), r"pos_vec of shape \(2,\): restore it"),
        ("height_m", np.zeros(2), "cannot be read"),
    ],
)
def test_values_of_another_shape_are_refused(tmp_path: Path, key: str, values: np.ndarray, words: str) -> None:
    file = stored(tmp_path, trial_of()[0])
    np.savez(file, **dict(np.load(file)) | {key: values})
    with pytest.raises(CorruptData, match=words):
        opened(tmp_path)


def test_names_stored_as_objects_are_read_and_nothing_of_them_is_run(tmp_path: Path) -> None:
    """Converters store the names of columns as an array of objects, which numpy would unpickle."""
    trial, _ = trial_of()
    file = stored(tmp_path, trial)
    content = dict(np.load(file))
    (plain,) = opened(tmp_path).episodes
    np.savez(file, **content | {"model_states_columns": np.array(trial.columns, dtype=object)})
    (episode,) = opened(tmp_path).episodes
    np.testing.assert_array_equal(episode.actions.values, plain.actions.values)

    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sung"),)

    names: list[Any] = [*trial.columns[:-1], Touch()]
    np.savez(file, **content | {"model_states_columns": np.array(names, dtype=object)})
    with pytest.raises(ValueError, match=r"mkdir, and only arrays, numbers, texts, .* it was not executed"):
        opened(tmp_path)
    assert not (tmp_path / "sung").exists()
    np.savez(file, **content | {"model_states_columns": np.array([*trial.columns[:-1], 5], dtype=object)})
    with pytest.raises(CorruptData, match="columns that are not called by texts: store model_states_columns as text"):
        opened(tmp_path)


def test_frames_that_are_not_finite_are_masked(tmp_path: Path) -> None:
    trial, _ = trial_of()
    states = trial.states.copy()
    states[5:7, trial.columns.index("hip_r_2")] = np.nan
    stored(tmp_path, replace(trial, states=states))
    (episode,) = opened(tmp_path).episodes
    assert len(episode.timestamps) == 118
