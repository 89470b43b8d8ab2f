"""`vla forces`: tables that are read again, figures beside them, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.policies import build_policy
from tests.vla.data.motion.test_kinetic import stand
from vla.__main__ import main
from vla.data.dataset import open_dataset
from vla.data.formats.motion.reader import open_motion
from vla.data.formats.motion.storage import write_mot
from vla.data.selection import Selection
from vla.forces import sample_forces
from vla.motion.clip import Coordinates
from vla.motion_settings import Forces, MotionConfig
from vla.policy_folder import load_policy, save_policy
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig, DataConfig, DiffusionConfig, ExpertConfig


def untrained(trials: Path, folder: Path, forces: Forces, given: float = 1.0) -> None:
    """A policy of what these trials offer."""
    motion = MotionConfig(rate_hz=50.0, forces=forces)
    settings = DataConfig(
        roots=(str(trials),), horizon=16, normalization="z-score", clamp=False, validation_share=0.0,
        withhold=("instruction",), motion=motion,
    )  # fmt: skip
    data = open_dataset(settings, 0)
    config = PolicyConfig(
        backbone=BackboneConfig(path="hash"),
        expert=ExpertConfig(width=32, depth=1, heads=2),
        diffusion=DiffusionConfig(prediction="data", given=given, sampling_steps=2),
    )
    save_policy(build_policy(config, data.contract, data.statistics, torch.float32, 0), folder)


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Two trials of bodies that stand."""
    folder = tmp_path / "trials"
    folder.mkdir()
    stand(folder, "one", 700.0)
    stand(folder, "two", 690.0)
    return folder


def test_forces_are_written_read_and_measured(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, out = tmp_path / "policy", tmp_path / "out"
    untrained(trials, policy, "total")
    words = ["forces", str(policy), str(trials), "--n", "3", "--calibrate", str(trials)]
    assert main([*words, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "forces.json").read_text())
    assert [trial["trial"] for trial in found["trials"]] == ["trials/one_ik", "trials/two_ik"]
    assert sorted(path.name for path in out.iterdir()) == [
        "forces.json",
        *("one.png", "one_grf.mot", "two.png", "two_grf.mot"),
    ]
    for name in ("one", "two"):
        shutil.copy(trials / f"{name}_ik.mot", out)
    config = Selection(motion=MotionConfig(rate_hz=50.0))
    read, given = open_motion(out, config).episodes[0], open_motion(trials, config).episodes[0]
    loaded = load_policy(policy, None, torch.float32)
    loaded.set_mode(training=False)
    made = sample_forces(loaded, np.asarray(given.actions.values), n=3).mean(axis=0)
    again = np.concatenate([read.columns[f"force.plate1.v{axis}"] for axis in "xyz"], axis=1)
    np.testing.assert_allclose(again, made, atol=0.2)  # on the clock of the coordinates, at 100 Hz, in between
    rms = float(np.sqrt(((made[:, 1] - 700.0) ** 2).mean()))
    assert found["trials"][0]["errors"]["rmse_n"][1] == pytest.approx(rms, rel=0.01, abs=0.05)
    assert main([*words, "--out", str(tmp_path / "shown")]) == 0
    shown = capsys.readouterr().out
    assert "its 90 % intervals hold" in shown and "measured forces leave a residual of 0%" in shown
    assert all(len(line) <= 80 for line in shown.splitlines()[:-1])


def test_intervals_are_calibrated_by_what_other_policies_wrote(
    trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quantile is numpy's of what their forces.json tell, pooled; a folder that tells nothing is refused."""
    untrained(trials, tmp_path / "policy", "total")
    words = ["forces", str(tmp_path / "policy"), str(trials / "one_ik.mot"), "--n", "2"]
    for name, seed in (("a", "1"), ("b", "2")):
        assert main([*words, "--seed", seed, "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    kept = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main([*words, "--calibrate", *kept, "--out", str(tmp_path / "c"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = [json.loads((Path(folder) / "forces.json").read_text())["trials"][0]["distances"] for folder in kept]
    pooled = np.sort(np.concatenate(told), axis=0)
    assert len(pooled) == 80 and found["spreads"] == pytest.approx(pooled[int(np.ceil(81 * 0.9)) - 1].tolist())
    assert found["calibrated_on"] == [f"{folder}: one_ik/one_ik" for folder in kept]
    with Image.open(tmp_path / "c/one.png") as picture:
        blue = (np.asarray(picture.convert("RGB")).astype(int) @ [-1, 0, 1] > 20).sum()
    with Image.open(tmp_path / "a/one.png") as picture:  # without an interval there is less of it
        assert (np.asarray(picture.convert("RGB")).astype(int) @ [-1, 0, 1] > 20).sum() < blue
    (tmp_path / "a/forces.json").write_text('{"trials": [{"trial": "one"}]}')
    assert main([*words, "--calibrate", kept[0], "--out", str(tmp_path / "d")]) == 65
    assert "does not say how far each trial is off (KeyError('distances')): write it anew" in capsys.readouterr().err


def test_a_motion_is_made_of_forces_and_told_in_degrees(
    trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(trials, tmp_path / "policy", "total", given=0.5)
    words = ["forces", str(tmp_path / "policy"), str(trials), "--n", "2", "--make-motion"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out/forces.json").read_text())["trials"][0]["angles"]
    assert list(told["from_forces"]["joints"]) == ["knee_angle_r"] and told["continued_s"] == pytest.approx(0.16)
    both = f"{told['from_forces']['rmse_deg']:.1f} deg of its forces and {told['continued']['rmse_deg']:.1f} deg"
    assert both in capsys.readouterr().out
    untrained(trials, tmp_path / "shown", "total")
    assert main(["forces", str(tmp_path / "shown"), *words[2:], "--out", str(tmp_path / "none")]) == 78
    assert "makes no motion, as training always showed it" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_policy_of_residuals_is_measured_by_whole_forces(
    trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(trials, tmp_path / "policy", "residual", given=0.5)
    words = ["forces", str(tmp_path / "policy"), str(trials), "--n", "2", "--json", "--make-motion"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    (trial, _) = json.loads(capsys.readouterr().out)["trials"]
    assert trial["angles"]["from_forces"] is None and trial["angles"]["continued"] is not None
    table = np.loadtxt(tmp_path / "out/one_grf.mot", skiprows=7)
    head = (tmp_path / "out/one_grf.mot").read_text().splitlines()[6]
    assert head.split() == ["time", "ground_force_vx", "ground_force_vy", "ground_force_vz"]
    rms = float(np.sqrt(((table[:, 2] - 700.0) ** 2).mean()))
    assert trial["errors"]["rmse_n"][1] == pytest.approx(rms, rel=1e-3, abs=1e-3)
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--seconds", "0.4", "--out", str(tmp_path / "made")]
    assert main(words) == 0
    assert "forces are not written: this policy models what they are beyond m (a + g)" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["sample-0000.mot"]


def test_a_trial_without_forces_is_told_them(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untrained(trials, tmp_path / "policy", "total")
    body = Coordinates(names=("pelvis_ty", "knee_angle_r"), values=np.tile([0.9, 0.1], (40, 1)))
    write_mot(tmp_path / "bare.mot", body, 100.0)
    words = ["forces", str(tmp_path / "policy"), str(tmp_path / "bare.mot"), "--n", "2", "--json"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    (trial,) = json.loads(said.out)["trials"]
    assert (trial["frames"], trial["errors"], trial["weight_n"]) == (20, None, None)
    assert "holds no measured force: there is nothing to compare with" in said.err
    assert (tmp_path / "out/bare_grf.mot").is_file()


def test_a_motion_is_sampled_with_its_forces(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untrained(trials, tmp_path / "policy", "total")
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--seconds", "0.4", "--json"]
    assert main([*words, "--out", str(tmp_path / "made")]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["sample-0000.mot", "sample-0000_grf.mot"]
    (episode,) = open_motion(tmp_path / "made", Selection(motion=MotionConfig(rate_hz=50.0))).episodes
    assert episode.columns["force.plate1.vy"].shape == (20, 1)


def test_what_cannot_be_said_is_refused(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: list[str], sentence: str) -> None:
        assert main(words) == 78
        assert sentence in capsys.readouterr().err

    untrained(trials, tmp_path / "policy", "total")
    untrained(trials, tmp_path / "plain", "none")
    out = ["--out", str(tmp_path / "out")]
    refused(["forces", str(tmp_path / "plain"), str(trials), *out], "models no forces: train a policy on trials with")
    refused(["forces", str(tmp_path / "policy"), str(trials), "--out", str(trials)], "give a folder that does not")
    words = ["evaluate", str(tmp_path / "policy"), "--data.roots", str(trials), *out]
    refused(words, "this policy models forces, which `vla forces POLICY TRIALS --out DIR` measures")
    other = Coordinates(names=("pelvis_ty", "hip_flexion_r"), values=np.zeros((40, 2)))
    write_mot(tmp_path / "other.mot", other, 100.0)
    refused(["forces", str(tmp_path / "policy"), str(tmp_path / "other.mot"), *out], "lacks knee_angle_r: give trials")
    assert not (tmp_path / "out").exists()


def test_trials_of_one_name_are_each_written(trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Subjects in folders of their own call their trials alike: what is read back is what was said of each."""
    untrained(trials, tmp_path / "policy", "total")
    for folder, force in (("a", 700.0), ("b", 350.0)):
        (tmp_path / "both" / folder).mkdir(parents=True)
        stand(tmp_path / "both" / folder, "one", force)
    body = Coordinates(names=("pelvis_ty", "knee_angle_r"), values=np.tile([0.8, 0.4], (60, 1)))
    write_mot(tmp_path / "both/b/one_ik.mot", body, 100.0)
    words = ["forces", str(tmp_path / "policy"), "--n", "2", "--out"]
    assert main([*words, str(tmp_path / "out"), str(tmp_path / "both")]) == 0
    for folder in ("a", "b"):
        assert main([*words, str(tmp_path / folder), str(tmp_path / "both" / folder)]) == 0
        apart, beside = (
            (place / "one_grf.mot").read_text() for place in (tmp_path / folder, tmp_path / "out" / folder)
        )
        assert apart == beside and (tmp_path / "out" / folder / "one.png").is_file()
    said = capsys.readouterr()
    assert (tmp_path / "a/one_grf.mot").read_text() != (tmp_path / "b/one_grf.mot").read_text()
    assert "labels.csv has no weight_kg of 2 of 2 trials, which are taken to weigh 350 to 700 N" in said.err
    shutil.copy(tmp_path / "both/a/one_ik.mot", tmp_path / "both/a/ONE.mot")
    assert main([*words, str(tmp_path / "none"), str(tmp_path / "both")]) == 78
    assert "are both called a/one, and so would their tables: rename one" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_folders_of_one_name_are_all_calibrated_on(
    trials: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The quantile is numpy's over the frames of both; trials that are told, too, are said."""
    untrained(trials, tmp_path / "policy", "total")
    for person, force in (("x", 700.0), ("y", 1400.0)):
        (tmp_path / person / "walks").mkdir(parents=True)
        stand(tmp_path / person / "walks", "one", force)
    words = ["forces", str(tmp_path / "policy"), "--n", "2", "--json", "--out"]
    both = [str(tmp_path / person / "walks") for person in ("x", "y")]
    far = []
    for folder in both:
        assert main([*words, str(tmp_path / f"of_{Path(folder).parent.name}"), folder]) == 0
        far += json.loads(capsys.readouterr().out)["trials"][0]["distances"]
    assert main([*words, str(tmp_path / "out"), str(trials), "--calibrate", *both]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    pooled = np.sort(np.array(far), axis=0)
    assert len(pooled) == 80 and found["spreads"] == pytest.approx(pooled[int(np.ceil(81 * 0.9)) - 1], abs=1e-4)
    assert found["calibrated_on"] == ["walks/one_ik", f"{both[1]}: walks/one_ik"]
    assert "1 of 2 trials are calibrated on, such as trials/one_ik: that their intervals hold" in said.err
    assert main([*words, str(tmp_path / "none"), str(trials), "--calibrate", both[0], f"{both[0]}/"]) == 78
    assert "names" in (refused := capsys.readouterr().err) and "twice: give each folder once" in refused
    assert main([*words, str(tmp_path / "none"), str(trials), "--text", "a person walks"]) == 78
    assert "was trained to read no text: leave --text out" in capsys.readouterr().err
