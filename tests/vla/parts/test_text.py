"""Sentence encoders as backbones: the numbers are those of plain transformers, each text is read once and alone."""

import copy
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from tests.encoders import POSITIONS, WIDTH, look, write_encoder, write_modules
from vla.errors import CorruptData
from vla.parts.backbone import fingerprint, load_backbone, width_of
from vla.parts.sentence import FLAGS
from vla.parts.text import MODEL_TYPES, SHIFTED, TextBackbone
from vla.settings import BackboneConfig

TEXTS = ("Walk.", "A person kicks a ball, then turns.", "naïve café — 走る 人")
CPU = torch.device("cpu")
MEAN = {"pooling_mode": "mean"}


def load(folder: Path, **settings: Any) -> TextBackbone:
    found = load_backbone(BackboneConfig(path=str(folder), **settings), torch.bfloat16)
    assert isinstance(found, TextBackbone)
    return found


def states(folder: Path, texts: tuple[str, ...] = TEXTS) -> tuple[Tensor, Tensor]:
    """Of a padded batch, by plain transformers; and its mask."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(
        list(texts), padding=True, truncation=True, max_length=POSITIONS - 2, return_tensors="pt"
    )
    with torch.no_grad():
        found = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return found, inputs["attention_mask"][..., None].float()


def mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask).sum(1) / mask.sum(1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing in it says how it pools."""
    return write_encoder(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    place = tmp_path / "bert"
    place.mkdir()
    for file in bert.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_kind_that_is_taken_equals_a_padded_batch_of_plain_transformers(model_type: str, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", model_type, pooling=MEAN)
    backbone = load(folder)
    expected = mean(*states(folder))
    torch.testing.assert_close(backbone.embed(TEXTS, CPU), expected, rtol=0, atol=2e-6)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert backbone.width == width_of(str(folder)) == WIDTH
    # The longest text has a position for each of its tokens; one more would be out of the table.
    assert backbone.encoder.room == POSITIONS - (2 if model_type in SHIFTED else 0)  # type: ignore[attr-defined]
    assert backbone.embed(["x" * 2 * POSITIONS], CPU).isfinite().all()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("way", ["mean", "cls", "max"])
def test_tokens_are_pooled_as_the_folder_says(folder: Path, way: str, normalize: bool) -> None:
    write_modules(folder, {"pooling_mode": way}, normalize=normalize)
    tokens, mask = states(folder)
    expected = {
        "mean": mean(tokens, mask),
        "cls": tokens[:, 0],
        "max": tokens.masked_fill(mask == 0, -torch.inf).amax(1),
    }[way]
    if normalize:
        expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(load(folder).embed(TEXTS, CPU), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["mean", "cls"])
def test_a_folder_that_says_nothing_pools_as_it_is_told(bert: Path, way: Any) -> None:
    tokens, mask = states(bert)
    expected = mean(tokens, mask) if way == "mean" else tokens[:, 0]
    torch.testing.assert_close(load(bert, pooling=way).embed(TEXTS, CPU), expected, rtol=0, atol=1e-6)


def test_an_observation_becomes_a_token_a_text(bert: Path) -> None:
    backbone = load(bert, pooling="mean")
    tokens, mask = backbone(look(*TEXTS))
    assert (tokens.shape, tokens.dtype) == ((3, 1, WIDTH), torch.float32)
    assert mask.shape == (3, 1)
    assert mask.all()
    assert not tokens.requires_grad
    assert backbone.size is None
    for row, text in enumerate(TEXTS):  # bit for bit: a resumed run meets the texts in other batches
        assert torch.equal(load(bert, pooling="mean")(look(text))[0][0], tokens[row])


def test_arithmetic_is_float32_whatever_surrounds_it(bert: Path) -> None:
    plain = load(bert, pooling="mean")(look(*TEXTS))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(load(bert, pooling="mean")(look(*TEXTS))[0], plain)


def test_each_text_is_encoded_once(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, calls = load(bert, pooling="mean"), list[str]()
    encode = backbone.encoder
    monkeypatch.setattr(backbone, "encoder", lambda text, device: calls.append(text) or encode(text, device))
    first = backbone(look("walk", "run", "walk"))[0]
    second = backbone(look("run", "jump", "walk"))[0]
    assert calls == ["walk", "run", "jump"]
    assert torch.equal(first[0], second[2])


def test_nothing_of_it_is_trained_or_stored_and_another_process_knows_no_text(bert: Path) -> None:
    backbone = load(bert, pooling="mean")
    tokens = backbone(look(*TEXTS))[0]
    assert not list(backbone.parameters())
    assert not backbone.state_dict()
    assert backbone.num_apart > 10_000
    assert all(not weight.requires_grad for weight in backbone.encoder.model.parameters())  # type: ignore[attr-defined]
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert not other._known
        assert torch.equal(other(look(*TEXTS))[0], tokens)


def test_the_global_random_state_is_left_alone(folder: Path) -> None:
    """Also where weights lack a pooler, which transformers then draws."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    before = torch.random.get_rng_state()
    assert load(folder, pooling="mean").embed(TEXTS, CPU).isfinite().all()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_lack_what_is_needed_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    save_file({name: value for name, value in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"lack 1 tensors, among them {lost}"):
        load(folder, pooling="mean")


def test_a_text_that_is_too_long_is_cut_and_that_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_modules(folder, MEAN)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10, "do_lower_case": False}))
    backbone = load(folder)
    with caplog.at_level(logging.WARNING):
        backbone.embed(["x" * 8, "x" * 9, "x" * 9], CPU)
    assert caplog.messages == ["of the text 'xxxxxxxxx...' the encoder reads the first 10 tokens alone"]
    short, long = backbone.embed(["x" * 8, "x" * 9], CPU)
    assert torch.equal(short, long)


def test_a_text_is_read_in_lower_case_where_the_folder_says_so(folder: Path) -> None:
    write_modules(folder, MEAN)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None, "do_lower_case": True}))
    upper, lower = load(folder).embed(["WALK ÄLT", "walk ält"], CPU)
    assert torch.equal(upper, lower)


@pytest.mark.parametrize("way", sorted(set(FLAGS.values())))
def test_older_and_newer_words_for_pooling_are_one(folder: Path, way: str) -> None:
    """Each by the names that sentence-transformers 2 and 6 write; what is not taken is named."""
    old = {
        "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_lasttoken": "lasttoken",
        "pooling_mode_weightedmean_tokens": "weightedmean",
    }  # fmt: skip
    for config in ({flag: of == way for flag, of in old.items()}, {"pooling_mode": way}, {"pooling_mode": [way]}):
        write_modules(folder, config)
        if way in ("mean", "cls", "max"):
            assert load(folder).name.pooling == way
        else:
            with pytest.raises(ValueError, match=f"to pool by {way}; mean, cls or max"):
                load(folder)


REFUSED: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no word of pooling": (lambda folder: None, {}, "give --backbone.pooling mean or cls"),
    "another pooling than its own": (
        lambda folder: write_modules(folder, MEAN),
        {"pooling": "cls"},
        "the files of backbone .* say mean; leave it out",
    ),
    "two poolings": (
        lambda folder: write_modules(folder, {"pooling_mode": ["mean", "max"]}), {}, "to pool by mean and max",
    ),
    "no pooling": (lambda folder: write_modules(folder, {}), {}, "to pool by nothing"),
    "a layer behind the pooling": (
        lambda folder: write_modules(folder, MEAN, further=("Dense",)), {}, "is made of Transformer, Pooling, Dense",
    ),
    "a pooling that is not there": (
        lambda folder: (write_modules(folder, MEAN), (folder / "1_Pooling" / "config.json").unlink()),
        {},
        "1_Pooling/config.json is missing",
    ),
    "a prompt": (
        lambda folder: (
            write_modules(folder, MEAN),
            (folder / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}'),
        ),
        {},
        "puts the prompt 'query' before a text",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), {"pooling": "cls"}, "no tokenizer.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), {"pooling": "cls"}, "holds no weights"),
    "another model": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'),
        {},
        r"of type 't5'; give a Qwen2.5-VL checkpoint \('qwen2_5_vl'\) or a sentence encoder \(albert, bert, ",
    ),
    "a setting of another kind": (
        lambda folder: None,
        {"pooling": "cls", "min_pixels": 4000},
        "--backbone.min-pixels would have no effect: .* is a sentence encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused(folder: Path, what: str) -> None:
    spoil, settings, words = REFUSED[what]
    spoil(folder)
    with pytest.raises(ValueError, match=words) as refusal:
        load(folder, **settings)
    assert "\n" not in str(refusal.value)


def test_a_damaged_file_is_named(folder: Path) -> None:
    for name, content in (
        ("modules.json", "[{"),
        ("modules.json", '{"type": 1}'),
        ("1_Pooling/config.json", "[]"),
        ("sentence_bert_config.json", '{"max_seq_length": "ten"}'),
    ):
        write_modules(folder, MEAN)
        (folder / name).write_text(content)
        with pytest.raises(CorruptData, match=f"{name} is damaged"):
            load(folder)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc"])
def test_a_pooling_lies_in_the_folder(folder: Path, name: str) -> None:
    write_modules(folder, MEAN)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="which is no folder within it"):
        load(folder)


def test_settings_of_a_sentence_encoder_are_refused_with_another_backbone() -> None:
    for settings in ({"pooling": "cls"}, {"embeddings": "texts.safetensors"}):
        with pytest.raises(ValueError, match=f"--backbone.{next(iter(settings))} would have no effect: tiny is a Qwen"):
            load_backbone(BackboneConfig(path="tiny", **settings), torch.float32)
    with pytest.raises(ValueError, match="--backbone.pooling would have no effect: hash is a hashed bag of words"):
        load_backbone(BackboneConfig(path="hash", pooling="mean"), torch.float32)


def test_how_a_text_is_read_is_part_of_the_fingerprint(folder: Path) -> None:
    def written(pooling: str, *, normalize: bool = False, **settings: Any) -> str:
        write_modules(folder, {"pooling_mode": pooling}, normalize=normalize)
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
        assert load(folder).name.fingerprint == fingerprint(str(folder))
        return fingerprint(str(folder))

    told = {fingerprint(str(folder), "mean"), fingerprint(str(folder), "cls")}
    seen = [written("mean"), written("cls"), written("max"), written("mean", normalize=True)]
    seen += [written("mean", max_seq_length=9), written("mean", do_lower_case=True)]
    assert len(set(seen)) == len(seen)
    assert told == set(seen[:2]), "files and flag that say the same are the same"
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    assert fingerprint(str(folder)) not in seen


def test_an_instruction_that_cannot_be_meant_is_refused(bert: Path) -> None:
    for text, words in (("  ", "empty instruction"), ("x" * 2001, "2,001 characters")):
        with pytest.raises(ValueError, match=words):
            load(bert, pooling="cls")(look(text))


def test_no_blocks_of_it_are_trained(bert: Path) -> None:
    with pytest.raises(ValueError, match="is a sentence encoder, which stays as it is"):
        load(bert, pooling="cls").last_layer_names(1)


def test_code_that_a_folder_names_is_not_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass Model: pass\n")
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "evil.Model")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"auto_map": names}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert load(folder, pooling="cls").embed(TEXTS, CPU).isfinite().all()
    assert not (tmp_path / "mark").exists()
