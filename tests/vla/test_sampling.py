"""Motions out of a policy: what they depend on, how they are put together, and how they leave."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.motion.test_losses import COORDINATES, RATE, ROTATIONS, of_body
from tests.vla.test_policy import CONFIG, CONTRACT, build
from vla import diffusion
from vla.__main__ import main
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.diffusion import Known
from vla.motion.body import Body
from vla.motion.clip import Poses
from vla.motion.moves import Moves
from vla.motion_settings import MotionConfig
from vla.policy import Policy
from vla.policy_folder import save_policy
from vla.policy_settings import Sampling
from vla.settings import DiffusionConfig, Sampler

HORIZON = 8
PLACES = Body(kind="positions", joints=("pelvis", "left_hip", "right_hip"), parents=(-1, 0, 0))
BARE = CONFIG.__class__(backbone=CONFIG.backbone, expert=CONFIG.expert)


def policy_of(body: str) -> Policy:
    contract = of_body({"rotations": ROTATIONS, "positions": PLACES, "coordinates": COORDINATES}[body])
    contract = dataclasses.replace(contract, horizon=HORIZON, cameras=(), streams={})
    policy = build(BARE, contract)
    policy.set_mode(training=False)
    return policy


@pytest.mark.parametrize("body", ["rotations", "positions"])
def test_a_motion_follows_from_its_number_alone(body: str) -> None:
    policy = policy_of(body)
    many = policy.sample("walk", 1.0, n=3, seed=4)
    few = policy.sample("walk", 1.0, n=2, seed=4)
    assert all(len(one.rows) == 20 for one in many)
    for one, other in zip(many, few, strict=False):
        np.testing.assert_allclose(one.rows, other.rows, atol=1e-4)
    assert np.abs(many[0].rows - many[1].rows).max() > 0.1
    assert np.abs(policy.sample("walk", 1.0, seed=5)[0].rows - many[0].rows).max() > 0.1


def test_an_answer_that_is_no_number_is_said_as_such() -> None:
    """Not as a fault of somebody's clip."""
    policy = policy_of("rotations")
    policy.expert.out.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="makes are no finite numbers: give its adapters smaller weights"):
        policy.sample("walk", 1.0)


def test_a_longer_motion_goes_on_where_its_chunk_ends() -> None:
    """What the chunks share is the same in both: the first frames of a longer motion are those of a shorter one."""
    policy = policy_of("rotations")
    short = policy.sample("walk", HORIZON / RATE, seed=1)[0].rows
    long = policy.sample("walk", 3 * HORIZON / RATE, seed=1)[0].rows
    assert len(long) == 3 * HORIZON
    np.testing.assert_allclose(long[:HORIZON], short, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++", "ab2"])
def test_what_is_known_stays_and_the_rest_is_made_to_fit(sampler: Sampler) -> None:
    """Of a law by which every step equals the first, knowing the first gives the others."""
    config = DiffusionConfig(sampler=sampler, prediction="data")
    seen: list[torch.Tensor] = []

    def denoise(x_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        seen.append(x_t)
        return x_t[:, :1].expand_as(x_t)

    noise = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    given = torch.tensor([[[0.5, -1.0, 2.0]]]).expand(2, 6, 3)
    where = torch.tensor([True, *[False] * 5])
    found = diffusion.sample(denoise, noise, config, steps=40, known=Known(values=given, where=where))
    torch.testing.assert_close(found[:, 0], given[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1:], given[:, 1:], atol=0.1, rtol=0)
    torch.testing.assert_close(seen[0], noise)


def test_a_skeleton_that_was_never_seen_keeps_its_bones() -> None:
    policy = policy_of("rotations")
    skeleton = np.array([[0.0, 0.0, 0.0], [0.1, -0.44, 0.02], [0.0, -0.51, 0.0]])
    (made,) = policy.sample("walk", 1.0, skeleton=skeleton)
    clip = made.clip()
    assert isinstance(clip, Poses)
    lengths = np.linalg.norm(np.diff(clip.positions(), axis=1), axis=-1)
    np.testing.assert_allclose(lengths, np.broadcast_to(np.linalg.norm(skeleton[1:], axis=1), (20, 2)), atol=1e-6)


def test_what_no_policy_can_do_is_refused() -> None:
    moving, answering = policy_of("rotations"), build(CONFIG, CONTRACT)
    answering.set_mode(training=False)
    with pytest.raises(ValueError, match="moves no body"):
        answering.sample("walk", 1.0)
    with pytest.raises(ValueError, match="empty instruction"):
        moving.sample(" ", 1.0)
    with pytest.raises(ValueError, match=r"0 motions of 1 s"):
        moving.sample("walk", 1.0, n=0)
    with pytest.raises(ValueError, match="has 2 joints, the policy's body 3"):
        moving.sample("walk", 1.0, skeleton=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="no skeleton"):
        policy_of("positions").sample("walk", 1.0, skeleton=np.zeros((3, 3)))


@pytest.mark.parametrize("body", ["rotations", "positions"])
def test_samples_are_clips_like_any_other(body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `vla sample` writes is read again as what it was, and drawn."""
    policy = policy_of(body)
    save_policy(policy, tmp_path / "policy")
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--n", "2", "--seconds", "0.4", "--json"]
    assert main([*words, "--out", str(tmp_path / "made")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["motions"], told["frames"], told["files"][-2:]) == (2, 8, ["samples.png", "verdicts.json"])
    reader = open_folder(tmp_path / "made", Selection(motion=MotionConfig(rate_hz=RATE, joints=("all",))))
    assert [episode.instructions[0] for episode in reader.episodes] == ["walk", "walk"]
    made = policy.sample("walk", 0.4, n=2)[1]
    read, episode = reader.layout.body, reader.episodes[1]
    assert read is not None
    assert read.joints == made.body.joints
    state = np.zeros(0) if episode.state is None else episode.state.values[0]
    offsets = np.concatenate([np.zeros((1, 3)), state.reshape(-1, 3)]).astype(np.float32)
    again = Moves(rows=np.array(episode.actions.values), body=read, offsets=offsets, rate_hz=RATE).motion()
    apart = [np.linalg.norm(np.diff(motion.positions, axis=1), axis=-1) for motion in (again, made.motion())]
    np.testing.assert_allclose(*apart, atol=1e-3, rtol=1e-4)
    assert (
        main(["view", str(tmp_path / "made"), "--data.motion.joints", "all", "--out", str(tmp_path / "made.png")]) == 0
    )
    assert (tmp_path / "made.png").stat().st_size > 1000
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "made")]) == 78
    assert "exists; give a folder that does not" in capsys.readouterr().err


def test_motions_are_made_with_guidance_and_another_sampler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a policy that was trained for it; of another it is refused."""
    plain, contract = policy_of("positions"), policy_of("positions").contract
    guided = build(dataclasses.replace(BARE, diffusion=DiffusionConfig(unconditional=0.1)), contract)
    for policy, name in ((plain, "plain"), (guided, "guided")):
        policy.set_mode(training=False)
        save_policy(policy, tmp_path / name)
    told = ["--text", "walk", "--seconds", "0.4", "--guidance", "2", "--sampler", "dpm++"]
    assert main(["sample", str(tmp_path / "plain"), *told, "--out", str(tmp_path / "made")]) == 78
    assert "guidance is 2.0, but training shows every sample its instruction" in capsys.readouterr().err
    assert main(["sample", str(tmp_path / "guided"), *told, "--out", str(tmp_path / "made")]) == 0
    without = guided.sample("walk", 0.4)[0]
    guided.sample_by(Sampling(sampler="dpm++", guidance=2.0))
    expected = guided.sample("walk", 0.4)[0]
    with np.load(tmp_path / "made" / "sample-0000.npz", allow_pickle=False) as made:
        positions = made["positions"]
    np.testing.assert_allclose(positions, expected.clip().values, atol=1e-5)
    assert np.abs(positions - without.clip().values).max() > 1e-3


def test_samples_of_coordinates_are_tables_for_their_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read again as what they were: the speed of the pelvis, the angle; no picture is drawn of them."""
    policy = policy_of("coordinates")
    save_policy(policy, tmp_path / "policy")
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--n", "2", "--seconds", "0.4", "--json"]
    assert main([*words, "--out", str(tmp_path / "made")]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["sample-0000.mot", "sample-0001.mot"]
    episode = open_folder(tmp_path / "made", Selection(motion=MotionConfig(rate_hz=RATE))).episodes[1]
    made = policy.sample("walk", 0.4, n=2)[1].rows
    np.testing.assert_allclose(episode.actions.values[:-1, 0], made[:-1, 0], rtol=0, atol=1e-4)
    apart = (episode.actions.values[:, 1] - made[:, 1]) / (2 * np.pi)
    np.testing.assert_allclose(apart - np.rint(apart), 0, atol=1e-4)
    with pytest.raises(ValueError, match="coordinates do not say where joints are"):
        policy.sample("walk", 0.4)[0].figure()
