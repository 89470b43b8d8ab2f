"""Forces beside the coordinates of a trial: which are read, which are masked, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vla.data.motion.test_gait_npz import stored, trial_of
from tests.vla.data.motion.test_opensim import independent
from vla.data.dataset import open_dataset
from vla.data.formats.motion.reader import MotionReader, open_motion
from vla.data.formats.motion.storage import write_forces, write_mot
from vla.data.selection import Selection
from vla.motion.clip import Coordinates
from vla.motion_settings import MotionConfig
from vla.settings import DataConfig

WALKS = "nimble_gait/Subject4/walking*"


def opened(root: Path, **asked: Any) -> MotionReader:
    return open_motion(root, Selection(motion=MotionConfig(**{"rate_hz": 100.0, "forces": "total"} | asked)))


def stand(root: Path, name: str, force: float, names: tuple[str, ...] = ("force.vx", "force.vy", "force.vz")) -> None:
    """A trial of a body that stands while the plates say a force."""
    body = Coordinates(names=("pelvis_ty", "knee_angle_r"), values=np.tile([0.9, 0.1], (80, 1)))
    write_mot(root / f"{name}_ik.mot", body, 100.0)
    write_forces(root / f"{name}_grf.mot", names, np.tile([0.0, force, 0.0], (80, len(names) // 3)), 100.0)


@pytest.fixture
def walks(shared: Path, tmp_path: Path) -> Path:
    """The real walks and the trial that weighs who walks."""
    for file in (*(shared / "data").glob(WALKS), *(shared / "data").glob("nimble_gait/Subject4/static1*")):
        shutil.copy(file, tmp_path)
    return tmp_path


def test_the_sum_over_plates_stands_behind_the_coordinates(walks: Path) -> None:
    """Of the real walks, whose first foot steps beside the plates: there, and only there, nothing is believed."""
    reader, plain = opened(walks), opened(walks, forces="none")
    body = reader.layout.body
    assert body is not None
    assert (body.names[-3:], body.units[-3:]) == (("force.vx", "force.vy", "force.vz"), ("N", "N", "N"))
    assert any("589 N, as a trial that stands still weighs" in remark for remark in reader.layout.remarks)
    for episode, bare in zip(reader.episodes, plain.episodes, strict=True):
        values, known = np.asarray(episode.actions.values), episode.known
        assert known is not None and bare.known is None
        assert values[:, :-3].tobytes() == np.asarray(bare.actions.values).tobytes() and known[:, :-3].all()
        name = episode.name.rpartition("/")[2].replace("_ik", "_grf.mot")
        labels, rows = independent(walks / name)
        places = np.array([[labels.index(f"ground_force_{plate}_v{axis}") + 1 for axis in "xyz"] for plate in (1, 2)])
        total = rows[:, places].sum(axis=1)
        believed = known[:, -1]
        np.testing.assert_array_equal(known[:, -3:], believed[:, None].repeat(3, axis=1))
        np.testing.assert_allclose(values[believed, -3:], total[believed], atol=1e-3)
        mean = total[believed].mean(axis=0)
        np.testing.assert_allclose(values[~believed, -3:], np.broadcast_to(mean, (sum(~believed), 3)), rtol=1e-4)
        first = int(np.argmax(believed))
        assert believed[first:].all() and bool(first) == ("walking" in name)
        assert not first or 8 < first < 17


def test_a_residual_is_what_the_weight_leaves_of_bodies_that_stand(tmp_path: Path) -> None:
    stand(tmp_path, "one", 700.0)
    stand(tmp_path, "two", 690.0)
    reader = opened(tmp_path, forces="residual")
    assert reader.layout.body is not None and reader.layout.body.names[-2:] == (
        "force.residual.vy",
        "force.vz",
    )
    for episode, left in zip(reader.episodes, (0.0, -10.0), strict=True):
        assert episode.known is not None and episode.known.all()
        np.testing.assert_allclose(np.asarray(episode.actions.values)[:, 2:], [[0.0, left, 0.0]] * 80, atol=1e-3)


def test_samples_say_which_numbers_are_known(walks: Path) -> None:
    settings = DataConfig(
        roots=(str(walks),), horizon=20, normalization="z-score", validation_share=0.0, withhold=("instruction",),
        motion=MotionConfig(rate_hz=100.0, forces="total"),
    )  # fmt: skip
    data = open_dataset(settings, 0)
    for index in (600, 620, 700):
        sample, (name, frame) = data.everything[index], data.everything.locate(index)
        episode = next(episode for episode in data.everything.episodes()[0] if episode.name == name)
        assert sample.action_known is not None and episode.known is not None
        steps = np.minimum(frame + np.arange(20), len(episode.known) - 1)
        np.testing.assert_array_equal(sample.action_known, episode.known[steps])
    plain = open_dataset(replace(settings, motion=MotionConfig(rate_hz=100.0)), 0)
    assert plain.everything[600].action_known is None


def test_marks_of_a_file_decide_in_the_place_of_the_pelvis(tmp_path: Path) -> None:
    missing = np.arange(120) < 40
    trial, _ = trial_of(probably_missing=missing)
    stored(tmp_path, trial)
    (episode,) = opened(tmp_path, forces="feet").episodes
    assert episode.known is not None
    np.testing.assert_array_equal(episode.known[:, -6:], ~missing[:, None].repeat(6, axis=1))
    assert episode.facts["weight_n"] == pytest.approx(70 * 9.80665)
    (summed,) = opened(tmp_path).episodes
    feet = np.asarray(episode.actions.values)[~missing, -6:]
    np.testing.assert_allclose(np.asarray(summed.actions.values)[~missing, -3:], feet[:, :3] + feet[:, 3:], rtol=1e-5)


def test_a_trial_without_a_force_to_trust_is_named_and_its_motion_learned(tmp_path: Path) -> None:
    stand(tmp_path, "good", 700.0)
    stand(tmp_path, "empty", 0.0)
    reader = opened(tmp_path)
    said = "empty_ik has no frame whose force can be trusted: its motion alone is learned"
    assert said in reader.layout.remarks
    bad, good = reader.episodes
    assert bad.known is not None and good.known is not None
    assert good.known.all() and not bad.known[:, -3:].any() and bad.known[:, :-3].all()
    assert np.isfinite(bad.actions.values).all()


def test_what_cannot_be_is_refused(tmp_path: Path, repository: Path) -> None:
    stand(tmp_path, "empty", 0.0)
    with pytest.raises(ValueError, match="a force that can be trusted, so --data.motion.forces total has nothing"):
        opened(tmp_path)
    stand(tmp_path, "good", 700.0)
    with pytest.raises(ValueError, match="forces of plates in empty_ik, which are not feet: give --data.motion.forces"):
        opened(tmp_path, forces="feet")
    with pytest.raises(ValueError, match="does not hold which forces were measured"):
        open_motion(tmp_path, Selection(carry=True, motion=MotionConfig(forces="total")))
    with pytest.raises(ValueError, match="holds rotations, and --data.motion.forces total is of trials"):
        opened(repository / "examples/motion/amp")
    (tmp_path / "labels.csv").write_text("file,weight_kg\ngood_ik.mot,heavy\n")
    with pytest.raises(ValueError, match="is told weight_kg heavy of good_ik: give kilograms above 0"):
        opened(tmp_path)
    (tmp_path / "labels.csv").write_text("file,weight_kg\ngood_ik.mot,72\n")
    assert opened(tmp_path).episodes[1].facts["weight_n"] == pytest.approx(72 * 9.80665)


def test_forces_of_feet_come_back_as_they_were_written(tmp_path: Path) -> None:
    feet = tuple(f"force.{side}.{part}" for side in ("left", "right") for part in ("vx", "vy", "vz"))
    stand(tmp_path, "both", 350.0, feet)
    (episode,) = opened(tmp_path, forces="feet").episodes
    np.testing.assert_array_equal(episode.actions.values[:, -6:], np.tile([0, 350, 0], (80, 2)))
