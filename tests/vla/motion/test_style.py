"""Style: what clips tell of it, what is withheld, and that what is not known is not -1, nor 0."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vla.data.motion.test_clip_list import sample as clip
from tests.vla.data.motion.test_clip_list import saved
from tests.vla.motion.test_losses import of_body
from tests.vla.test_policy import batch, build, redrawn
from tests.vla.test_sampling import BARE, PLACES
from vla.__main__ import main
from vla.batch import Batch, Sample
from vla.data.dataset import open_dataset
from vla.data.style import Untold
from vla.motion_settings import MotionConfig, StyleName
from vla.policy import Policy
from vla.policy_folder import load_policy, save_policy
from vla.policy_settings import PolicyConfig
from vla.settings import DataConfig, DiffusionConfig

NAMES: tuple[StyleName, ...] = ("tempo", "valence")
CONTRACT = dataclasses.replace(of_body(PLACES), horizon=4, cameras=(), streams={}, style=NAMES)
STEPS = 80
CONFIG: PolicyConfig = dataclasses.replace(
    BARE,
    expert=dataclasses.replace(BARE.expert, dropout=0.0),
    diffusion=DiffusionConfig(path="straight", prediction="data", sampling_steps=5),
)


def told(*pairs: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.float32)


def with_style(data: Batch, style: torch.Tensor) -> Batch:
    observation = dataclasses.replace(data.observation, style=style.expand(len(data), -1, -1).clone())
    return dataclasses.replace(data, observation=observation)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """As after some training: its gates are open."""
    made = build(CONFIG, CONTRACT)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in made.named_parameters():
        if "modulation.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    made.set_mode(training=False)
    return made


def test_the_style_of_a_clip_is_what_its_facts_tell(tmp_path: Path) -> None:
    """A valence of -1 is told, an emotion that is None is not."""
    sad = {"motion_style": {"tempo": 0.25, "energy_level": None}, "emotion": {"valence": -1.0, "arousal": 0.5}}
    some = [clip(seed=0), clip(seed=1, enhanced_meta=sad), clip(seed=2, enhanced_meta=None)]
    saved(tmp_path / "clips" / "list.pt", some)
    config = DataConfig(
        roots=(str(tmp_path / "clips"),), style=NAMES, style_dropout=0.0, validation_share=0.0, horizon=4,
        motion=MotionConfig(rate_hz=25.0),
    )  # fmt: skip
    data = open_dataset(config, seed=0)
    assert data.contract.style == NAMES
    assert "style is told, of 3 clips: tempo of 2, valence of 1; the others are heard without" in data.remarks
    heard = {data.everything.locate(index)[0][-1]: data.everything[index].style for index in range(150)}
    expected = {"0": [[0.25, 1], [0, 0]], "1": [[0.25, 1], [-1, 1]], "2": [[0, 0], [0, 0]]}
    assert {name: style.tolist() for name, style in heard.items()} == expected
    plain = open_dataset(dataclasses.replace(config, style=()), seed=0)
    assert plain.train[0].style.shape == (0, 2)
    assert plain.train.fingerprint() != data.train.fingerprint()
    withheld = open_dataset(dataclasses.replace(config, style_dropout=0.9), seed=0).train
    assert sum(withheld[place].style[0, 1] for place in range(60)) < sum(
        data.train[place].style[0, 1] for place in range(60)
    )


@pytest.mark.parametrize(
    ("emotion", "sentence"),
    [({"valence": -2}, "has a valence of -2, expected -1 to 1"), ({"valence": "sad"}, "the valence 'sad', expected")],
)
def test_a_style_that_cannot_be_is_refused(tmp_path: Path, emotion: dict[str, object], sentence: str) -> None:
    saved(tmp_path / "clips" / "list.pt", [clip(enhanced_meta={"emotion": emotion})])
    with pytest.raises(ValueError, match=sentence):
        open_dataset(DataConfig(roots=(str(tmp_path / "clips"),), style=("valence",)), seed=0)


def test_a_missing_tempo_is_not_minus_one(tmp_path: Path) -> None:
    saved(tmp_path / "clips" / "list.pt", [clip(enhanced_meta={"motion_style": {"tempo": -1}})])
    with pytest.raises(ValueError, match="a tempo of -1, expected 0 to 1: correct it, or leave it out where it is not"):
        open_dataset(DataConfig(roots=(str(tmp_path / "clips"),), style=("tempo",)), seed=0)


def test_each_number_is_withheld_by_itself_and_by_its_position() -> None:
    whole = np.array([[0.5, 1], [-1, 1]], np.float32)
    empty = np.zeros(0, np.float32)
    rest = {"images": (), "image_valid": np.zeros(0, np.bool_), "instruction": "walk", "state": empty, "streams": {}}
    rest |= {"actions": np.zeros((1, 1), np.float32), "action_valid": np.ones(1, np.bool_), "weight": 1.0}
    change = Untold(share=0.25, seed=0)
    left = np.stack([change(Sample(**rest, position=place, style=whole)).style for place in range(2000)])
    known = left[..., 1] == 1
    np.testing.assert_array_equal(left, np.where(known[..., None], whole, 0))
    np.testing.assert_allclose(known.mean(axis=0), 0.75, atol=0.03)
    assert np.mean(known[:, 0] & ~known[:, 1]) == pytest.approx(0.75 * 0.25, abs=0.03)
    again = change(Sample(**rest, position=7, style=whole)).style
    np.testing.assert_array_equal(again, left[7])


def test_what_is_not_known_is_masked_whatever_stands_there(policy: Policy) -> None:
    """And a valence of -1 is neither unknown nor 0."""
    data = batch(CONTRACT)

    def loss(*pairs: tuple[float, float]) -> torch.Tensor:
        return policy(with_style(data, told(*pairs)))["diffusion"].detach()

    unknown = loss((0, 0), (0, 0))
    assert torch.equal(loss((7, 0), (-1, 0)), unknown)
    assert torch.equal(policy(data)["diffusion"].detach(), unknown)
    sad, level = loss((0, 0), (-1, 1)), loss((0, 0), (0, 1))
    assert (sad - unknown).abs().min() > 1e-5
    assert (level - unknown).abs().min() > 1e-5
    assert (sad - level).abs().min() > 1e-5


def test_a_policy_that_was_trained_with_it_moves_as_it_is_told() -> None:
    """Chunks of which valence alone decides the sign: told it, they have it; not told, they lie in between."""
    learner = build(CONFIG, CONTRACT)
    learner.requires_grad_(requires_grad=False)
    for part in learner.fresh_parts().values():
        part.requires_grad_()
    learner.set_mode(training=True)
    fresh = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(fresh, lr=3e-3)
    data, generator = batch(CONTRACT, size=16), np.random.default_rng(0)
    normalizer = learner.normalizer_of("actions")
    valence = torch.tensor([-1.0, 1.0] * 8)
    known = torch.tensor([1.0] * 12 + [0.0] * 4)
    style = torch.zeros(16, 2, 2)
    style[:, 1] = torch.stack([valence * known, known], dim=-1)
    actions = ((0.8 * valence)[:, None, None] * normalizer.scale + normalizer.offset).float()
    observation = dataclasses.replace(data.observation, style=style, instructions=("walk",) * 16)
    data = dataclasses.replace(
        data,
        actions=actions.expand_as(data.actions).clone(),
        action_valid=torch.ones_like(data.action_valid),
        observation=observation,
    )
    for _ in range(STEPS):  # at pure noise, where nothing else tells the sign
        noise = torch.from_numpy(generator.standard_normal(data.actions.shape, dtype=np.float32))
        optimizer.zero_grad()
        learner(redrawn(data, time=torch.ones(16), noise=noise))["diffusion"].mean().backward()
        optimizer.step()
    learner.set_mode(training=False)

    def signs(**style: float) -> np.ndarray:
        made = np.stack([one.rows for one in learner.sample("walk", 0.2, n=8, steps=1, style=style)])
        return ((made - normalizer.offset.numpy()) / normalizer.scale.numpy()).mean(axis=(1, 2))

    np.testing.assert_allclose(signs(valence=-1.0), -0.8, atol=0.15)
    np.testing.assert_allclose(signs(valence=1.0), 0.8, atol=0.15)
    np.testing.assert_allclose(signs(), 0.0, atol=0.25)


def test_a_style_is_told_on_the_command_line(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_policy(policy, tmp_path / "policy")
    assert (tmp_path / "policy" / "style_encoder.safetensors").is_file()
    assert load_policy(tmp_path / "policy").contract.style == NAMES
    words = ["sample", str(tmp_path / "policy"), "--text", "walk", "--seconds", "0.2", "--out"]
    assert main([*words, str(tmp_path / "sad"), "--style", "valence=-1", "tempo=0.8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["style"] == {"valence": -1.0, "tempo": 0.8}
    with np.load(tmp_path / "sad" / "sample-0000.npz", allow_pickle=False) as made:
        positions = made["positions"]
    (expected,) = policy.sample("walk", 0.2, style={"tempo": 0.8, "valence": -1.0})
    np.testing.assert_allclose(positions, expected.clip().values, atol=1e-5)
    assert np.abs(positions - policy.sample("walk", 0.2)[0].clip().values).max() > 1e-3
    refused = {
        "hears nothing of arousal": ["arousal=0.5"],
        "--style has a valence of 2, expected -1 to 1": ["valence=2"],
        "--style has 'valence'; write a name and a number": ["valence"],
        "--style names tempo twice": ["tempo=0.1", "tempo=0.2"],
    }
    for sentence, given in refused.items():
        assert main([*words, str(tmp_path / "none"), "--style", *given]) == 78
        assert sentence in capsys.readouterr().err
    deaf = build(CONFIG, dataclasses.replace(CONTRACT, style=()))
    deaf.set_mode(training=False)
    with pytest.raises(ValueError, match="hears no style: leave tempo out, or train with --data.style tempo"):
        deaf.sample("walk", 0.2, style={"tempo": 0.5})
