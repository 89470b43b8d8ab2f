"""Motions out of a draft: how much of it stays, what it costs, and what cannot be one."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.test_policy import build
from tests.vla.test_sampling import BARE, HORIZON, policy_of
from vla import diffusion, refining
from vla.__main__ import main
from vla.data.formats import open_folder
from vla.data.formats.motion.bvh import write_bvh
from vla.data.formats.motion.writing import write_npz
from vla.data.selection import Selection
from vla.diffusion import Draft
from vla.motion.clip import Points, Poses
from vla.motion.moves import Moves
from vla.motion_settings import MotionConfig
from vla.policy import Policy
from vla.policy_folder import save_policy
from vla.settings import DiffusionConfig, PathName, Sampler

VARIANCE = 0.25
STRENGTHS = (0.2, 0.5, 0.9)


def gaussian(path: PathName) -> diffusion.Denoise:
    """The denoiser of data that are normal with this variance about 0: what is best said of clean chunks."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        c = diffusion.coefficients(path, t)
        alpha, sigma = diffusion.column(c.alpha), diffusion.column(c.sigma)
        return alpha * VARIANCE / (alpha.square() * VARIANCE + sigma.square()) * x_t

    return denoise


@pytest.mark.parametrize(
    ("path", "sampler"),
    [
        *(("cosine", "ddim"), ("linear", "ddim"), ("straight", "ddim"), ("cosine", "euler"), ("linear", "dpm++")),
        *(("cosine", "ab2"), ("linear", "ab2"), ("straight", "ab2")),
    ],
)
def test_a_draft_ends_where_the_flow_from_its_time_ends(path: PathName, sampler: Sampler) -> None:
    """Of normal data the flow only scales: to the end by the deviation there over that at its time."""
    config = DiffusionConfig(path=path, prediction="data", sampler=sampler, clip=math.inf)
    generator = torch.Generator().manual_seed(0)
    noise, draft = torch.randn(2, 4, 6, 3, generator=generator)
    apart = []
    for strength in STRENGTHS:
        begun = Draft(values=draft, strength=strength)
        made = diffusion.sample(gaussian(path), noise, config, steps=100, draft=begun)
        c = diffusion.coefficients(path, torch.tensor([strength]))
        there = c.alpha * draft + c.sigma * noise
        expected = there * (VARIANCE / (c.alpha.square() * VARIANCE + c.sigma.square())).sqrt()
        torch.testing.assert_close(made, expected, atol=0.1, rtol=0)
        apart.append(float((made - draft).square().mean()))
    assert apart == sorted(apart)


def test_calls_are_in_proportion_to_the_strength() -> None:
    calls = []

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(float(t[0]))
        return torch.zeros_like(x_t)

    noise = torch.zeros(1, 6, 3)
    for strength, expected in ((0.01, 1), (0.3, 3), (0.35, 4), (0.7, 7), (1.0, 10)):
        calls.clear()
        draft = Draft(values=noise + 2, strength=strength)
        diffusion.sample(denoise, noise, DiffusionConfig(prediction="data"), steps=10, draft=draft)
        assert len(calls) == diffusion.calls_of(strength, 10) == expected
        np.testing.assert_allclose(calls, np.linspace(strength, 0, expected + 1)[:-1], rtol=1e-5)
    with pytest.raises(ValueError, match="noised to 1.1; give a time above 0, at most 1"):
        Draft(values=noise, strength=1.1)


def draft_for(policy: Policy, frames: int) -> Moves:
    (made,) = policy.sample("walk", frames / policy.contract.fps, seed=9)
    return made


@pytest.mark.parametrize("body", ["rotations", "positions"])
@pytest.mark.parametrize("frames", [HORIZON - 3, 3 * HORIZON + 1])
def test_both_ends_of_the_strength_are_exact(body: str, frames: int) -> None:
    """0 returns the draft, 1 the sample of that seed, skeleton and length; shorter than a chunk, and of several."""
    policy = policy_of(body)
    draft = draft_for(policy, frames)
    if draft.offsets is not None:
        draft = dataclasses.replace(draft, offsets=draft.offsets * np.float32(1.1))
    draft.rows.setflags(write=False)  # as those of a file that is mapped
    kept = policy.refine(draft, 0.0, "run", n=2, seed=3)
    assert [one.rows.tobytes() for one in kept] == [draft.rows.tobytes()] * 2
    anew = policy.refine(draft, 1.0, "run", n=2, seed=3)
    fresh = policy.sample("run", frames / policy.contract.fps, n=2, seed=3, skeleton=draft.offsets)
    assert [one.rows.tobytes() for one in anew] == [one.rows.tobytes() for one in fresh]
    half = policy.refine(draft, 0.5, "run", n=2, seed=3)
    assert [(len(one.rows), one.text) for one in half] == [(frames, "run")] * 2
    assert np.abs(half[0].rows - half[1].rows).max() > 0.1
    if draft.offsets is not None:
        assert half[0].offsets is not None
        np.testing.assert_array_equal(half[0].offsets, draft.offsets)


class Recalling:
    """A policy that answers the draft it is given, and remembers all that it was asked."""

    def __init__(self, policy: Policy) -> None:
        self.contract, self.device, self.usual_state = policy.contract, policy.device, policy.usual_state
        self.nearest, self.given = policy.nearest, policy.given
        self.asked: list[tuple[diffusion.Known | None, Draft]] = []

    def act(self, observation, noise, steps=None, *, known=None, draft=None, valid=None):
        self.asked.append((known, draft))
        return draft.values + 100.0 * len(self.asked)


def test_every_chunk_begins_with_its_part_of_the_draft() -> None:
    """The frames that it shares with the chunk before are that one's, those past the end the last one, held."""
    policy = policy_of("positions")
    draft = draft_for(policy, 15)  # chunks of 8 share 2: frames 0 to 8, 6 to 14 and 12 to 20
    recalling = Recalling(policy)
    (made,) = refining.refine(recalling, draft=draft, strength=0.4, text="walk")
    firsts = [0, 6, 12]
    for number, ((known, begun), first) in enumerate(zip(recalling.asked, firsts, strict=True)):
        held = draft.rows[np.minimum(np.arange(first, first + 8), 14)].astype(np.float64)
        if number:
            assert known is not None
            before = recalling.asked[number - 1][1].values[0, -2:].numpy() + 100.0 * number
            held[:2] = before
            np.testing.assert_allclose(known.values[0, :2].numpy(), before)
        np.testing.assert_allclose(begun.values[0].numpy(), held, rtol=1e-6)
        assert begun.strength == 0.4
    assert len(made.rows) == 15
    expected = draft.rows + np.repeat([100.0, 200.0, 300.0], [8, 6, 1])[:, None]
    expected[8:14] = draft.rows[8:14] + 200.0
    np.testing.assert_allclose(made.rows, expected, rtol=1e-5)


def test_what_is_no_draft_is_refused() -> None:
    policy = policy_of("rotations")
    draft = draft_for(policy, HORIZON)
    other = draft_for(policy_of("positions"), HORIZON)
    cases = {
        "strength is 1.5; give 0, which returns the draft, or 0.001 to 1": (draft, 1.5),
        "strength is 1e-07": (draft, 1e-7),
        "strength is nan": (draft, math.nan),
        "the draft is positions of 3 joints, the policy moves rotations of 3 joints": (other, 0.5),
        "the draft has 30 frames a second, the policy 20": (dataclasses.replace(draft, rate_hz=30.0), 0.5),
        "1 of 8 frames of the draft are not finite, the first is 2": (
            dataclasses.replace(draft, rows=np.where(np.arange(8)[:, None] == 2, np.float32("nan"), draft.rows)),
            0.5,
        ),
        "hang together otherwise": (dataclasses.replace(draft, offsets=None), 0.5),
        "has no frame": (dataclasses.replace(draft, rows=draft.rows[:0]), 0.5),
    }
    for sentence, (given, strength) in cases.items():
        with pytest.raises(ValueError, match=sentence):
            policy.refine(given, strength, "walk")
    with pytest.raises(ValueError, match="empty instruction"):
        policy.refine(draft, 0.5, " ")
    with pytest.raises(ValueError, match="0 motions were asked for"):
        policy.refine(draft, 0.5, "walk", n=0)


def test_what_the_policy_cannot_answer_of_a_draft_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A height 100 deviations up: the policy's chunks end at 5."""
    policy = policy_of("rotations")
    draft = draft_for(policy, HORIZON)
    policy.refine(draft, 0.5, "walk")
    assert capsys.readouterr().err == ""
    high = draft.rows.copy()
    high[:3, 0] += 100 * float(policy.normalizer_of("actions").scale[0])
    (made,) = policy.refine(dataclasses.replace(draft, rows=high), 0.5, "walk")
    told = capsys.readouterr().err
    assert told.startswith("3 of 8 frames of the draft have numbers that the policy cannot answer (root.height): they")
    assert made.rows[:, 0].max() < high[:3, 0].min()


def test_a_clip_is_refined_and_a_clip_comes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = build(
        dataclasses.replace(BARE, diffusion=DiffusionConfig(sampling_steps=4)), policy_of("rotations").contract
    )
    policy.set_mode(training=False)
    save_policy(policy, tmp_path / "policy")
    draft = draft_for(policy, 12)
    clip = draft.clip()
    assert isinstance(clip, Poses)
    write_npz(tmp_path / "draft.npz", clip, 20.0, text="stumble")
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--refine", str(tmp_path / "draft.npz")]
    assert main([*words, "--strength", "0.25", "--n", "2", "--json", "--out", str(tmp_path / "made")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["motions"], told["frames"], told["strength"], told["calls"]) == (2, 12, 0.25, 1)
    asked = Selection(motion=MotionConfig(rate_hz=20.0, joints=("all",)))
    read = open_folder(tmp_path / "draft.npz", asked).episodes[0]
    draft = dataclasses.replace(draft, rows=np.array(read.actions.values))
    expected = policy.refine(draft, 0.25, "walk", n=2)[1].clip().positions()
    with np.load(tmp_path / "made" / "sample-0001.npz", allow_pickle=False) as made:
        assert made["text"] == "walk"
        np.testing.assert_allclose(made["root_translation"], expected[:, 0], atol=1e-3)
    assert main([*words, "--out", str(tmp_path / "half")]) == 0
    assert "draft.npz at strength 0.5 in 2 of 4 calls a chunk" in capsys.readouterr().out
    write_bvh(tmp_path / "draft.bvh", clip, 20.0)
    lost = Points(names=("pelvis", "left_hip", "right_hip"), values=np.random.default_rng(0).normal(size=(12, 3, 3)))
    write_npz(tmp_path / "places.npz", lost, 20.0)
    lost.values[3] = np.nan
    write_npz(tmp_path / "gap.npz", lost, 20.0)
    refused = {
        "strength 0.3 was given without a draft; name one with --refine": [*words[:4], "--strength", "0.3"],
        "--strength is 2; give 0": [*words, "--strength", "2"],
        "--seconds was given beside --refine": [*words, "--seconds", "3"],
        "--skeleton was given beside --refine": [*words, "--skeleton", str(tmp_path / "draft.npz")],
        "nothing.npz is no file; give one clip": [*words[:5], str(tmp_path / "nothing.npz")],
        "positions of 3 joints, the policy moves rotations of 3": [*words[:5], str(tmp_path / "places.npz")],
        "1 of 12 frames at 20 Hz were not measured, the first at 0.15 s; cut": [*words[:5], str(tmp_path / "gap.npz")],
        "`vla sample` takes no such flag: make it an npz file by `vla export`": [
            *words[:5],
            str(tmp_path / "draft.bvh"),
        ],
        "holds no clips, one is needed": [*words[:5], str(tmp_path / "policy" / "README.md")],
    }
    for sentence, given in refused.items():
        assert main([*given, "--out", str(tmp_path / "none")]) == 78
        told_of = capsys.readouterr().err
        assert sentence in told_of
        assert told_of.startswith("error: ") and told_of.count("\n") == 1
    assert not (tmp_path / "none").exists()
