"""Samples of motion on other skeletons of the data: what stays, what grows, and that it follows from the position."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.data.motion.clips import body_of_sticks, some_motion
from vla.batch import Sample
from vla.data.dataset import Dataset, open_dataset, retargeted
from vla.data.formats.motion.writing import write_npz
from vla.data.retargeting import leg_m
from vla.motion.body import Body
from vla.motion.representation import decode
from vla.motion.skeleton import Skeleton
from vla.motion_settings import MotionConfig
from vla.settings import DataConfig

SIZES = (1.0, 1.25, 0.8)


def scaled(skeleton: Skeleton, by: float) -> Skeleton:
    return replace(skeleton, offsets=by * skeleton.offsets)


@pytest.fixture
def bodies(tmp_path: Path) -> Path:
    """Of three bodies of one shape, a motion each."""
    folder = tmp_path / "bodies"
    folder.mkdir()
    for place, size in enumerate(SIZES):
        moving = some_motion(scaled(body_of_sticks(), size), frames=30, seed=place)
        write_npz(folder / f"{place}.npz", moving, 20.0, text=f"motion {place}")
    return folder


def opened(root: Path, **changed: object) -> Dataset:
    settings: dict[str, object] = {"horizon": 8, "validation_share": 0.0} | changed
    return open_dataset(DataConfig(roots=(str(root),), **settings), 0)


def places(body: Body, sample: Sample) -> np.ndarray:
    offsets = np.concatenate([np.zeros((1, 3)), sample.state.reshape(-1, 3)])
    rows = torch.from_numpy(sample.actions.astype(np.float64))
    return decode(body, rows, torch.from_numpy(offsets), 20.0).positions.numpy()


def test_a_body_of_another_size_moves_as_the_first_one_seen_larger(bodies: Path) -> None:
    """Of one shape in several sizes a motion retargeted is the motion itself, scaled: all joints, at all times."""
    plain, other = opened(bodies), opened(bodies, retarget=1.0)
    body = plain.contract.body
    assert body is not None
    seen = set()
    for position in range(60):
        before, after = plain.train[position], other.train[position]
        scale = leg_m(body, after.state) / leg_m(body, before.state)
        np.testing.assert_allclose(after.state, scale * before.state, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(places(body, after), scale * places(body, before), rtol=1e-4, atol=1e-5)
        assert after.instruction == before.instruction and after.actions.dtype == before.actions.dtype
        seen.add((before.instruction, round(float(scale), 3)))
    assert {scale for text, scale in seen if text == "motion 0"} == {1.0, 1.25, 0.8}


def test_legs_are_what_reaches_from_the_root_to_the_feet(bodies: Path) -> None:
    body = opened(bodies).contract.body
    assert body is not None
    skeleton = body_of_sticks()
    by_name = dict(zip(skeleton.names, np.linalg.norm(skeleton.offsets, axis=1), strict=True))
    legs = [sum(by_name[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle")) for side in ("left", "right")]
    state = opened(bodies).train[next(p for p in range(99) if opened(bodies).train[p].instruction == "motion 0")].state
    assert leg_m(body, state) == pytest.approx(np.mean(legs), rel=1e-5)
    footless = replace(body, feet=())
    assert leg_m(footless, state) == pytest.approx(np.linalg.norm(state.reshape(-1, 3), axis=1).sum(), rel=1e-5)


def test_the_share_is_of_positions_and_follows_from_them(bodies: Path) -> None:
    plain, first, again = opened(bodies), opened(bodies, retarget=0.5), opened(bodies, retarget=0.5)
    changed = 0
    for position in range(400):
        sample = first.train[position]
        assert sample.state.tobytes() == again.train[position].state.tobytes()
        assert sample.actions.tobytes() == again.train[position].actions.tobytes()
        changed += sample.state.tobytes() != plain.train[position].state.tobytes()
    assert abs(changed / 400 - 0.5 * 2 / 3) < 0.08, "a third of those that may change stays on its own"
    for index in range(0, len(plain.everything), 7):
        assert first.everything[index].state.tobytes() == plain.everything[index].state.tobytes()
    np.testing.assert_array_equal(first.statistics["actions"].mean, plain.statistics["actions"].mean)


def test_what_it_does_is_said(bodies: Path) -> None:
    assert any(
        "50.0 % of the samples are shown on one of the 3 skel" in line for line in opened(bodies, retarget=0.5).remarks
    )
    for place in (1, 2):
        (bodies / f"{place}.npz").unlink()
    for changed in ({}, {"motion": MotionConfig(representation="positions")}):
        alone = opened(bodies, retarget=0.5, **changed)
        assert any("changes nothing: there are no two skeletons" in line for line in alone.remarks)
        assert alone.train[3].actions.tobytes() == opened(bodies, **changed).train[3].actions.tobytes()


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(bodies: Path, share: float) -> None:
    with pytest.raises(ValueError, match=r"--data.retarget is .*, expected a share from 0 to 1"):
        opened(bodies, retarget=share)


def test_what_was_measured_of_a_body_is_not_told_of_another(bodies: Path) -> None:
    dataset = opened(bodies)
    episodes = [episode for root in dataset.everything.episodes() for episode in root]
    config = DataConfig(roots=(str(bodies),), retarget=0.5, labels=("physics",))
    with pytest.raises(
        ValueError, match="--data.labels physics is measured of the body that moved, and --data.retarget"
    ):
        retargeted(config, dataset.contract, episodes, 0)


def test_samples_whose_pictures_show_another_body_are_refused(bodies: Path) -> None:
    plain = opened(bodies)
    episodes = [episode for root in plain.everything.episodes() for episode in root]
    contract = replace(plain.contract, cameras=("observation.images.front",))
    with pytest.raises(ValueError, match=r"^pictures show the body that was recorded.*: give --data\.retarget 0, or"):
        retargeted(DataConfig(retarget=0.5), contract, episodes, 0)
    assert retargeted(DataConfig(), contract, episodes, 0) is None
    assert retargeted(DataConfig(retarget=0.5), contract, episodes[:1], 0) is None, "no other body to be shown on"
