"""The tiny checkpoint: its files, its determinism, and many processes that build it at once."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from vla.parts import tiny

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
VISION = "<|vision_start|><|image_pad|><|vision_end|>"


def render(conversation: Sequence[Mapping[str, object]], **keywords: object) -> str:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build())
    return str(tokenizer.apply_chat_template(conversation, tokenize=False, **keywords))


def test_every_weight_of_the_model_is_in_the_file_and_nothing_else() -> None:
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tiny.build(), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    assert model.config.text_config.hidden_size == 64
    assert model.config.vision_config.hidden_size == 32
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight


def test_template_writes_what_the_public_one_writes() -> None:
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Go."}]
    user = f"<|im_start|>user\n{VISION}{VISION}Go.<|im_end|>\n"
    assert render([{"role": "user", "content": parts}]) == SYSTEM + user
    assert (
        render([{"role": "user", "content": parts}], add_generation_prompt=True)
        == SYSTEM + user + "<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    assert render(own) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n"
    numbered = render([{"role": "user", "content": parts}], add_vision_id=True)
    assert numbered == SYSTEM + f"<|im_start|>user\nPicture 1: {VISION}Picture 2: {VISION}Go.<|im_end|>\n"


def test_template_on_the_recorded_conversations(shared: Path) -> None:
    document = json.loads((shared / "data/qwen_processor_golden/cases.json").read_text(encoding="utf-8"))
    for case in document["cases"].values():
        for conversation, prompt in zip(case["conversations"], case["prompts"], strict=True):
            assert render(conversation, add_generation_prompt=case["add_generation_prompt"]) == prompt


def test_special_tokens_are_one_id_each_in_the_public_order() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build())
    for offset, token in enumerate(tiny.SPECIAL_TOKENS + tiny.ADDED_TOKENS):
        assert tokenizer(token)["input_ids"] == [tiny.NUM_WORDPIECES + offset]
    assert set(tokenizer.all_special_tokens) == set(tiny.SPECIAL_TOKENS)


@pytest.mark.parametrize("text", ["Größe 12.5 mm → 拿起 🙂\n\n\tcafé  ", "", " a", "don't STOP 123"])
def test_tokenizer_keeps_any_text(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.build())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_two_builds_are_equal_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        folders.append(tiny.build())
    assert folders[0] != folders[1]
    for file in folders[0].iterdir():
        assert file.read_bytes() == (folders[1] / file.name).read_bytes()


def test_weights_are_large_enough_to_matter() -> None:
    stored = load_file(tiny.build() / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    assert abs(embedding.mean()) < 0.02
    assert abs(embedding.std() - 1) < 0.02
    assert stored["model.layers.0.self_attn.q_proj.weight"].std() == pytest.approx(2 / 64**0.5, rel=0.05)
    assert stored["model.layers.0.mlp.down_proj.weight"].std() == pytest.approx(1 / 128**0.5, rel=0.05)
    assert len({value.numpy().tobytes()[:32] for value in stored.values()}) == len(stored)


def test_processes_that_race_get_one_complete_folder(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", "from vla.parts import tiny; print(tiny.build())"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    racers = [
        subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = {racer.communicate()[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 2
    folder = tmp_path / "touchstone" / f"tiny-{tiny.digest()}"
    assert answers == {str(folder)}
    assert list((tmp_path / "touchstone").iterdir()) == [folder]
    assert len(load_file(folder / "model.safetensors")) == len(list(tiny.shapes()))


def test_who_loses_the_race_takes_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rename = Path.rename

    def second(beside: Path, target: Path) -> Path:
        target.mkdir()
        (target / "config.json").write_text("the winner's")
        return rename(beside, target)

    monkeypatch.setattr(Path, "rename", second)
    folder = tiny.build()
    assert (folder / "config.json").read_text() == "the winner's"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="XDG_CACHE_HOME"):
        tiny.build()
