"""Training on a sentence encoder in place of a vision-language model: what is told in words and looks at nothing."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open
from safetensors.torch import load_file

from tests.encoders import write_encoder
from tests.forkserver import ForkServer
from tests.vla.data.recordings import TASKS, write_v2
from training import loop, recipes
from training.config import RunConfig
from training.flags import parse
from vla.__main__ import main
from vla.batch import Batch, collate
from vla.commands.recordings import open_policy
from vla.data.dataset import open_dataset
from vla.parts.backbone import fingerprint, load_backbone
from vla.parts.text import TextBackbone
from vla.policy_folder import load_policy, read_description
from vla.policy_settings import Sampling
from vla.settings import BackboneConfig, DataConfig

FLAGS = ["--batch-size", "4", "--micro-batch", "2", "--stage.steps", "2", "--validation-samples", "2", "--seed", "3"]
FLAGS += ["--tracker", "jsonl", "--data.workers", "0", "--data.horizon", "3", "--data.validation-share", "0.3"]
FLAGS += ["--expert.width", "32", "--expert.depth", "1", "--stage.lr.sensor", "None", "--data.sensor", "none"]


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes without a camera, of two tasks."""
    return write_v2(tmp_path_factory.mktemp("data") / "walks", (12, 14, 13), camera="none")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoders") / "bert")


def config(data: Path, out: Path, *flags: object, recipe: Any = recipes.stage1) -> RunConfig:
    return parse(recipe(), ["--data.roots", str(data), "--out", str(out), *FLAGS, *map(str, flags)])


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def look(data: Path, *frames: int) -> Batch:
    """Some frames of the data, as a policy without a camera looks at them."""
    samples = open_dataset(DataConfig(roots=(str(data),), horizon=3, sensor=("none",)), 0).everything
    return collate([samples[frame].resized(()) for frame in frames], 0, "validation")


class Counted:
    """An encoder that knows what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[list[str]] = []
        build = TextBackbone.__init__

        def built(backbone: TextBackbone, encoder: Any, *others: Any) -> None:
            build(backbone, encoder, *others)
            asked = list[str]()
            self.texts.append(asked)
            backbone.encoder = lambda text, device: asked.append(text) or encoder(text, device)

        monkeypatch.setattr(TextBackbone, "__init__", built)


@pytest.mark.parametrize("kind", ["hash", "bert"])
def test_two_steps_train_and_the_policy_comes_back(
    walks: Path, bert: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--backbone.path", bert, "--backbone.pooling", "mean"] if kind == "bert" else ["--backbone.path", "hash"]
    counted = Counted(monkeypatch)
    loop.train(config(walks, tmp_path / "run", *flags))
    (asked,) = counted.texts
    assert sorted(asked) == sorted(TASKS), "each text once, however many samples have it"
    assert len(losses(tmp_path / "run")) == 2
    policy = load_policy(tmp_path / "run" / "policy")
    assert read_description(tmp_path / "run" / "policy").backbone.fingerprint == fingerprint(*map(str, flags[1::2]))
    assert policy.sizes == ()
    with safe_open(next((tmp_path / "run").glob("checkpoints/*/shard*")), framework="pt") as shard:
        assert not [name for name in shard.keys() if "backbone" in name]  # noqa: SIM118
    batch = look(walks, 0, 20)
    actions = policy.act(batch.observation, batch.draws.noise)
    again = load_policy(tmp_path / "run" / "policy").act(batch.observation, batch.draws.noise)
    assert torch.equal(actions, again)
    assert actions.isfinite().all()


def test_what_reads_is_told_by_table_folder_and_card(
    walks: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train(config(walks, tmp_path / "run", "--backbone.path", bert, "--backbone.pooling", "mean"))
    weights = sum(tensor.numel() for tensor in load_file(bert / "model.safetensors").values())
    assert f"{'frozen':<16}{'':>8}{weights:>14,}" in capsys.readouterr().out
    assert read_description(tmp_path / "run" / "policy").prompt == "the instruction alone, as one embedding"
    card = (tmp_path / "run" / "policy" / "README.md").read_text()
    assert "- sentence-encoder\n" in card
    assert "# A language-action policy\n\nLooks at an instruction, a state of 2 numbers, and gives" in card
    assert "| Backbone | `bert`, not contained; its fingerprint is in" in card


def test_the_words_decide(walks: Path, tmp_path: Path) -> None:
    loop.train(config(walks, tmp_path / "run", "--backbone.path", "hash"))
    observation = replace(look(walks, 0, 0).observation, instructions=("walk", "run"))
    policy = load_policy(tmp_path / "run" / "policy")
    one, other = policy.join(*policy.look(observation), None)[0]
    assert (one - other).abs().max() > 1e-3


def test_a_run_with_a_file_of_embeddings_asks_no_encoder(
    walks: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--backbone.path", bert, "--backbone.pooling", "cls"]
    backbone = load_backbone(BackboneConfig(path=str(bert), pooling="cls"), torch.float32)
    assert isinstance(backbone, TextBackbone)
    backbone.embed(TASKS, torch.device("cpu"))
    backbone.save(tmp_path / "texts.safetensors")
    loop.train(config(walks, tmp_path / "plain", *flags))
    counted = Counted(monkeypatch)
    loop.train(config(walks, tmp_path / "run", *flags, "--backbone.embeddings", tmp_path / "texts.safetensors"))
    assert counted.texts == [[]]
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    (tmp_path / "texts.safetensors").unlink()  # the policy does without it
    assert load_policy(tmp_path / "run" / "policy").config.backbone.embeddings is None


def test_a_stopped_run_ends_bitwise_equal(walks: Path, bert: Path, tmp_path: Path) -> None:
    """Though it meets the texts in another order."""
    flags = ["--backbone.path", bert, "--backbone.pooling", "mean", "--stage.steps", "4", "--save-every", "1"]
    loop.train(config(walks, tmp_path / "straight", *flags))
    loop.train(config(walks, tmp_path / "run", *flags, "--stop-after", "2"))
    loop.train(config(walks, tmp_path / "run", *flags, "--resume-from", "auto"))
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


class TestWeightsOfAnotherEncoder:
    """Or of the same one with another pooling; refused by the policy folder, and as a run's beginning."""

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, walks: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run on each of two encoders, on the same data."""
        folder = tmp_path_factory.mktemp("runs")
        for name, flags in (("bert", cls.on(bert, "mean")), ("hash", ["--backbone.path", "hash"])):
            loop.train(config(walks, folder / name, *flags))
        return folder

    @staticmethod
    def on(path: Path, pooling: str) -> list[object]:
        return ["--backbone.path", path, "--backbone.pooling", pooling]

    def test_a_policy_is_not_loaded_on_it(self, runs: Path, tmp_path: Path) -> None:
        other = write_encoder(tmp_path / "other", seed=1, pooling={"pooling_mode": "mean"})
        cls = write_encoder(tmp_path / "cls", pooling={"pooling_mode": "cls"})
        mean = write_encoder(tmp_path / "mean", pooling={"pooling_mode": "mean"})
        for name, paths in (("hash", ("tiny", other)), ("bert", ("hash", other))):
            for path in paths:
                with pytest.raises(ValueError, match=f"{path}' is another one"):
                    load_policy(runs / name / "policy", backbone_path=str(path))
        with pytest.raises(ValueError, match="the files of backbone .* say cls"):
            load_policy(runs / "bert" / "policy", backbone_path=str(cls))
        assert load_policy(runs / "bert" / "policy", backbone_path=str(mean))

    @pytest.mark.parametrize("place", ["bert", "bert/policy"])
    def test_a_run_does_not_begin_with_them(
        self, walks: Path, bert: Path, runs: Path, tmp_path: Path, place: str
    ) -> None:
        begin = ["--init-from", runs / place]
        for flags in (self.on(bert, "cls"), ["--backbone.path", "hash"]):
            with pytest.raises(ValueError, match=r"another backbone than --backbone\.path|'hash' is another one"):
                loop.train(config(walks, tmp_path / "next", *flags, *begin))
        loop.train(config(walks, tmp_path / "next", *self.on(bert, "mean"), *begin))

    def test_a_run_is_not_resumed_on_it(self, walks: Path, bert: Path, runs: Path) -> None:
        with pytest.raises(ValueError, match="the backbone's files have another fingerprint"):
            loop.train(config(walks, runs / "bert", *self.on(bert, "cls"), "--resume-from", "auto"))


REFUSED: dict[str, tuple[list[str], str]] = {
    "LoRA": (["--finetune-vl", "lora"], "hash is a hashed bag of words, which stays as it is, so it takes no LoRA"),
    "its last blocks": (["--finetune-vl", "full"], "which stays as it is, so none of its blocks can be trained"),
    "a setting of a Qwen2.5-VL": (["--backbone.max-pixels", "3136"], "--backbone.max-pixels would have no effect"),
}


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_a_vision_language_model_is_refused_before_it_is_loaded(
    walks: Path, tmp_path: Path, what: str, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, words = REFUSED[what]
    monkeypatch.setattr("vla.assembling.load_backbone", lambda *_: pytest.fail("it is loaded"))
    recipe = recipes.stage2 if "--finetune-vl" in flags else recipes.stage1
    flags = ["--backbone.path", "hash", *flags, *(["--dry-run"] if dry else [])]
    with pytest.raises(ValueError, match=words) as refusal:
        loop.train(config(walks, tmp_path / "run", *flags, "--stage.begins", "anew", recipe=recipe))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_cameras_that_nothing_looks_at_are_refused(needle: Path, tmp_path: Path) -> None:
    words = ["--backbone.path", "hash", "--data.horizon", "8", "--data.sensor", "auto", "--stage.lr.sensor", "1e-4"]
    with pytest.raises(ValueError, match=r"sees nothing of observation\.images\.front, .*--camera\.width 64"):
        loop.train(config(needle, tmp_path / "run", *words))
    loop.train(config(needle, tmp_path / "run", *words, "--camera.width", "16", "--camera.pixels", "32"))
    policy = load_policy(tmp_path / "run" / "policy")
    assert [type(size).__name__ for size in policy.sizes] == ["Square"]
    assert "# A vision-language-action policy" in (tmp_path / "run" / "policy" / "README.md").read_text()


def test_a_dry_run_says_what_reads(walks: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in (
        (["hash"], "backbone: hash, a hashed bag of words (hashed words, no weights, built by Touchstone)"),
        ([bert, "--backbone.pooling", "cls"], f"backbone: {bert}, a sentence encoder"),
    ):
        loop.train(config(walks, tmp_path / "run", "--backbone.path", *flags, "--dry-run"))
        assert said in capsys.readouterr().out.splitlines()
    with pytest.raises(ValueError, match="give --backbone.pooling mean or cls"):
        loop.train(config(walks, tmp_path / "run", "--backbone.path", bert, "--dry-run"))


@pytest.mark.deep
@pytest.mark.parametrize("topology", ["ddp", "zero3"])
def test_ranks_that_know_other_texts_do_not_wait_for_each_other(
    server: ForkServer, walks: Path, bert: Path, tmp_path: Path, topology: str
) -> None:
    flags = [*FLAGS, "--backbone.path", bert, "--backbone.pooling", "mean", "--dropout", "0", "--data.roots", walks]
    loop.train(parse(recipes.stage1(), [*map(str, flags), "--out", str(tmp_path / "one")]))
    assert server.run([*flags, "--out", tmp_path / "two"], ranks=2, topology=topology) == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_an_evaluation_reads_a_file_of_embeddings(
    walks: Path, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(config(walks, tmp_path / "run", "--backbone.path", "hash"))
    for path, flags in (("hash", []), (bert, ["--backbone.pooling", "cls"])):
        out = str(tmp_path / f"{Path(path).name}.safetensors")
        assert main(["embed", str(walks), "--backbone.path", str(path), *flags, "--out", out]) == 0
    batch, policy = look(walks, 0, 20), tmp_path / "run" / "policy"
    counted = Counted(monkeypatch)
    plain, told = (
        open_policy(policy, None, "cpu", Sampling(), embeddings).act(batch.observation, batch.draws.noise)
        for embeddings in (None, str(tmp_path / "hash.safetensors"))
    )
    assert torch.equal(plain, told)
    assert [len(asked) for asked in counted.texts] == [2, 0]
    with pytest.raises(ValueError, match=r"holds embeddings of bert \(cls, 32 wide,"):
        open_policy(policy, None, "cpu", Sampling(), str(tmp_path / "bert.safetensors"))
