"""The needle: its physics, its clock, its failures, and that it is what Gymnasium expects."""

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vla import rendering
from vla.benchmarks.needle.config import FPS, NeedleConfig
from vla.benchmarks.needle.environment import LOST_M, PICTURE_PIXELS, Needle
from vla.benchmarks.needle.expert import SEARCH, Expert, centre_of_pressure
from vla.benchmarks.needle.instructions import COLOURS, PHRASINGS
from vla.randomness import derive

BLIND = NeedleConfig(cameras=())


def drawable() -> bool:
    """Whether this machine can draw at all."""
    try:
        rendering.choose_backend()
    except ValueError:
        return False
    return True


needs_drawing = pytest.mark.skipif(not drawable(), reason="neither EGL nor OSMesa is here")


def run(needle: Needle, seed: int, actions: np.ndarray) -> list[dict[str, Any]]:
    """The observations of an episode."""
    observations = [needle.reset(seed=seed)[0]]
    return observations + [needle.step(action)[0] for action in actions]


def digest(seed: int) -> str:
    """Of all that an episode with random actions shows but its images."""
    actions = derive(seed, "test").uniform(-1, 1, (30, 3))
    content = hashlib.sha256()
    for observation in run(Needle(BLIND), seed, actions):
        content.update(observation["observation.state"].tobytes() + observation["observation.wrench"].tobytes())
        content.update(observation["task"].encode())
    return content.hexdigest()


@needs_drawing
def test_it_is_an_environment() -> None:
    check_env(Needle(NeedleConfig(pixels=16, cameras=("side",))), skip_render_check=True)


@needs_drawing
def test_people_see_it_from_the_front_whatever_a_policy_sees() -> None:
    pictures = []
    for cameras in (("front",), ("wrist",), ()):
        needle = Needle(NeedleConfig(cameras=cameras))
        needle.reset(seed=2)
        pictures.append(needle.render())
        needle.close()
    assert pictures[0].shape == (PICTURE_PIXELS, PICTURE_PIXELS, 3)
    assert pictures[0].std() > 10
    np.testing.assert_array_equal(pictures[1], pictures[0])
    np.testing.assert_array_equal(pictures[2], pictures[0])


def test_a_seed_gives_the_same_bytes_in_any_process() -> None:
    script = "from tests.vla.benchmarks.needle.test_environment import digest; print(digest(3))"
    other = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert digest(3) == other.stdout.strip()
    assert digest(3) != digest(4)


def test_an_episode_does_not_depend_on_those_before() -> None:
    needle, actions = Needle(BLIND), derive(1, "test").uniform(-1, 1, (8, 3))
    fresh = run(needle, 5, actions)
    run(needle, 6, actions)
    for before, after in zip(fresh, run(needle, 5, actions), strict=True):
        np.testing.assert_array_equal(before["observation.wrench"], after["observation.wrench"])
        np.testing.assert_array_equal(before["observation.state"], after["observation.state"])


@needs_drawing
def test_images_are_the_same_again_and_move_with_their_camera() -> None:
    actions = np.zeros((1, 3))
    still, same, moved = (
        run(Needle(NeedleConfig(camera_shift_mm=shift, cameras=("front", "wrist"))), 2, actions)[-1]
        for shift in (0.0, 0.0, 10.0)
    )
    for camera in ("observation.images.front", "observation.images.wrist"):
        assert still[camera].shape == (64, 64, 3) and still[camera].dtype == np.uint8
        assert still[camera].std() > 20
        np.testing.assert_array_equal(still[camera], same[camera])
        assert (still[camera] != moved[camera]).any()


def test_cameras_move_by_the_length_asked_for() -> None:
    needle = Needle(NeedleConfig(cameras=(), camera_shift_mm=10.0))
    still = needle.model.cam_pos.copy()
    needle.reset(seed=1)
    first = needle.model.cam_pos - still
    needle.reset(seed=2)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 0.01)
    np.testing.assert_allclose(np.linalg.norm(needle.model.cam_pos - still, axis=1), 0.01)
    assert not np.allclose(first, needle.model.cam_pos - still)


def test_free_space_is_noise_without_a_mean() -> None:
    needle = Needle(BLIND)
    observation, _ = needle.reset(seed=0)
    at_rest = observation["observation.wrench"]
    samples = [at_rest] + [needle.step(np.zeros(3))[0]["observation.wrench"] for _ in range(40)]
    wrench = np.concatenate(samples)
    noise = np.repeat([BLIND.force_noise_n, BLIND.torque_noise_nm], 3)
    assert wrench.shape == (41 * 50, 6)
    np.testing.assert_array_less(np.abs(wrench.mean(axis=0)), 4 * noise / np.sqrt(len(wrench)))
    np.testing.assert_allclose(wrench.std(axis=0), noise, rtol=0.1)


@pytest.mark.parametrize("distance_m", [0.0015, 0.002, 0.003, 0.004])
def test_the_centre_of_pressure_points_away_from_the_hole(distance_m: float) -> None:
    """Pressed onto the rim without sliding, as the study measured: a cosine of 0.85 to 0.91 at these distances."""
    needle, cosines = Needle(NeedleConfig(cameras=(), error_mm=0.0)), []
    for angle in np.linspace(0.1, 0.1 + 2 * np.pi, 7)[:-1]:
        needle.reset(seed=4)
        away = np.array([np.cos(angle), np.sin(angle)])
        hole = needle.hole(needle.colour, seen=False)
        over = np.append(hole[:2] + distance_m * away, hole[2] + 0.005) - needle.commanded_tip
        needle.commanded = needle.commanded + over
        needle.data.qpos[:3] = needle.commanded
        wrench = np.zeros(6)
        while wrench[2] > -1.5:
            needle.step(np.array([0, 0, -0.15]))
            wrench = needle.wrench[-25:].mean(axis=0)
            assert needle.steps < 60
        pressure = centre_of_pressure(wrench)
        offset = needle.tip[:2] - needle.hole(needle.colour, seen=False)[:2]
        cosines.append(pressure @ offset / np.linalg.norm(pressure) / np.linalg.norm(offset))
    assert np.mean(cosines) > 0.8


def test_the_hidden_error_has_the_standard_deviation_asked_for() -> None:
    for error_mm in (0.0, 1.0, 3.0):
        needle = Needle(NeedleConfig(cameras=(), error_mm=error_mm))
        errors = []
        for seed in range(150):
            needle.reset(seed=seed)
            errors.append(needle.hole("red", seen=False) - needle.hole("red", seen=True))
        spread = 1000 * np.std(errors, axis=0)
        np.testing.assert_allclose(spread, [error_mm, error_mm, 0], atol=0.15 * error_mm + 1e-9)


@pytest.mark.parametrize("rate_hz", [1000.0, 650.0, 333.0])
def test_samples_stand_on_the_sensors_own_clock(rate_hz: float) -> None:
    needle = Needle(NeedleConfig(cameras=(), sensor_rate_hz=rate_hz, force_noise_n=0.0, torque_noise_nm=0.0))
    needle.reset(seed=0)
    times, force = [needle.sensor.fresh_times], [needle.sensor.fresh[:, 2]]
    truth = [0.0]
    for step in range(40):
        observation, *_ = needle.step(np.array([0, 0, -0.8]))
        times.append(needle.sensor.fresh_times)
        force.append(needle.sensor.fresh[:, 2])
        truth += needle.wrench[:, 2].tolist()
        assert times[-1][-1] <= (step + 1) / FPS + 1e-9 < times[-1][-1] + 1 / rate_hz
        assert observation["observation.wrench"].shape == (round(0.05 * rate_hz), 6)
    stamps = np.concatenate(times)
    np.testing.assert_allclose(np.diff(stamps), 1 / rate_hz, rtol=1e-9)
    later = stamps > 0
    expected = np.interp(stamps[later], np.arange(len(truth)) / 1000, truth)
    np.testing.assert_allclose(np.concatenate(force)[later], expected, atol=1e-4)
    assert np.abs(expected).max() > 5


def test_position_has_noise_and_joints_have_none() -> None:
    at_rest = []
    for seed in range(100):
        needle = Needle(BLIND) if seed == 0 else needle
        observation, _ = needle.reset(seed=seed)
        at_rest.append(observation["observation.state"] - needle.tip)
    assert 0.8e-4 < np.std(at_rest) < 1.2e-4
    leaking = Needle(NeedleConfig(cameras=(), state="joints"))
    observation, _ = leaking.reset(seed=0)
    np.testing.assert_array_equal(observation["observation.state"][:6], leaking.data.qpos[:6].astype(np.float32))
    assert len(leaking.state_names) == len(observation["observation.state"]) == 12


def test_instructions_name_the_hole_and_held_out_ones_are_others() -> None:
    told: dict[str, set[str]] = {}
    for phrasings in ("training", "held-out"):
        needle = Needle(NeedleConfig(cameras=(), phrasings=phrasings))
        told[phrasings] = set()
        for seed in range(60):
            observation, _ = needle.reset(seed=seed)
            told[phrasings].add(observation["task"])
            assert [colour for colour in COLOURS if colour in observation["task"]] == [needle.colour]
        assert len(told[phrasings]) == len(COLOURS) * len(PHRASINGS[phrasings])
    assert not told["training"] & told["held-out"]


def test_a_shuffled_instruction_says_nothing_and_changes_nothing_else() -> None:
    named, shuffled = (Needle(NeedleConfig(cameras=(), instruction=mode)) for mode in ("named", "shuffled"))
    said: dict[str, int] = dict.fromkeys(COLOURS, 0)
    right = 0
    for seed in range(150):
        truth, lie = named.reset(seed=seed)[0], shuffled.reset(seed=seed)[0]
        assert named.colour == shuffled.colour
        assert np.array_equal(truth["observation.state"], lie["observation.state"])
        (word,) = (colour for colour in COLOURS if colour in lie["task"])
        assert lie["task"].replace(word, named.colour) == truth["task"]
        said[word] += 1
        right += word == named.colour
    assert min(said.values()) > 35
    assert 35 < right < 65, "a third of the sentences are right by chance"


def end(needle: Needle, colour: str, offset_m: float, depth_m: float) -> str:
    """How an episode fails whose last step ends near a hole."""
    hole = needle.hole(colour, seen=False)
    needle.commanded = hole + np.array([offset_m, 0, -depth_m]) - (needle.commanded_tip - needle.commanded)
    needle.data.qpos[:3], needle.data.qvel[:] = needle.commanded, 0
    while True:
        _, _, success, truncated, info = needle.step(np.zeros(3))
        assert not success and ("failure" in info) == truncated
        if truncated:
            return str(info["failure"])


def test_failures_are_told_apart() -> None:
    needle = Needle(NeedleConfig(cameras=(), error_mm=0.0, max_steps=6, sensor="none"))
    needle.reset(seed=1)
    other = next(colour for colour in COLOURS if colour != needle.colour)
    assert end(needle, needle.colour, 0.0, -0.03) == "no contact"
    needle.reset(seed=1)
    assert end(needle, other, 0.0, 0.021) in {"no contact", "wrong hole"}
    needle.reset(seed=1)
    assert end(needle, other, 0.002, 0.001) == "wrong hole"
    needle.reset(seed=1)
    assert end(needle, needle.colour, 0.003, 0.001) == "timed out"
    needle.reset(seed=1)
    assert end(needle, needle.colour, LOST_M + 0.002, 0.001) == "lost in search"


def test_the_table_is_not_the_block() -> None:
    needle = Needle(NeedleConfig(cameras=(), error_mm=0.0, max_steps=6, sensor="none"))
    needle.reset(seed=1)
    beside = np.array([0.08, 0.08, 0.0]) - needle.commanded_tip
    needle.commanded = needle.commanded + beside
    needle.data.qpos[:3] = needle.commanded
    truncated = False
    while not truncated:
        _, _, _, truncated, info = needle.step(np.array([0, 0, -1.0]))
    assert info["metrics"]["peak_force_n"] > 5, "it stands on the table"
    assert info["failure"] == "no contact"


def test_force_is_counted_and_success_ends() -> None:
    needle = Needle(NeedleConfig(cameras=(), force_limit_n=3.0))
    _, info = needle.reset(seed=0)
    assert info == {"success": False, "metrics": {"peak_force_n": 0.0, "force_violations": 0}}
    expert, above, peak, success = Expert(needle), 0, 0.0, False
    while not success:
        _, reward, success, truncated, info = needle.step(expert.act()[0])
        assert not truncated and reward == float(success) == float(info["success"])
        force = np.linalg.norm(needle.wrench[:, :3], axis=1).max()
        above, peak = above + int(force > 3), max(peak, force)
    assert info["metrics"] == {"peak_force_n": peak, "force_violations": above}
    assert above > 0 and "failure" not in info
    assert needle.hole(needle.colour, seen=False)[2] - needle.tip[2] > 0.02


def test_force_finds_the_hole_and_nothing_else_does() -> None:
    """The study: 96 % within 40 steps with force and torque, 13 % without a search."""
    needle = Needle(NeedleConfig(cameras=(), sensor="none", max_steps=60))
    found = {"tip": 0, "none": 0}
    for force in ("tip", "none"):
        for seed in range(12):
            needle.reset(seed=seed)
            expert, success, truncated, phases = Expert(needle, force), False, False, []
            while not success and not truncated:
                action, phase = expert.act()
                _, _, success, truncated, _ = needle.step(action)
                phases.append(phase)
            found[force] += success
            assert phases[0] == 0 and SEARCH in phases
    assert found["tip"] >= 11
    assert found["none"] <= 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"error_mm": -1.0}, "error_mm of the needle is -1"),
        ({"error_mm": float("nan")}, "error_mm of the needle is nan"),
        ({"sensor_rate_hz": 5000.0}, "give 20 to 1000"),
        ({"force_limit_n": 0.0}, "give a force above 0"),
        ({"cameras": ("front", "front")}, "name each once"),
        ({"max_steps": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeedleConfig(**settings)


def test_no_renderer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ValueError, match="libegl1 or libosmesa6"):
        rendering.choose_backend()
    monkeypatch.setattr(rendering.ctypes.util, "find_library", {"OSMesa": "libOSMesa.so"}.get)
    assert rendering.choose_backend() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "EGL")
    assert rendering.choose_backend() == "egl"
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(ValueError, match="MUJOCO_GL is disable"):
        rendering.choose_backend()


def test_no_simulator_is_one_sentence() -> None:
    script = (
        "import sys; sys.modules['mujoco'] = None\n"
        "from vla.__main__ import main; sys.exit(main(['needle', 'demos', '--out', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 78
    assert "pip install 'touchstone-vla[needle]'" in done.stderr and done.stderr.count("\n") == 1
