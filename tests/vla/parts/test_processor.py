"""What the model is fed, against recorded outputs of the real Qwen2.5-VL processor."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vla.batch import Observation
from vla.parts.backbone import load_backbone
from vla.parts.processor import Conversation
from vla.parts.qwen import QwenVL
from vla.settings import BackboneConfig

CASES = [
    *(f"single_{size}_{limits}" for size in ("224x224", "640x480", "128x128", "97x53", "1280x720", "28x28")
      for limits in ("default", "fixed224")),
    "multi2_default", "multi2_fixed224", "multi3_default", "multi3_fixed224", "multi3_same_fixed224",
    "batch3_left_default", "batch3_left_fixed224", "batch3_textrow_left_default",
    "batch3_right_default", "batch3_right_fixed224", "batch3_textrow_right_default",
    "nogen_default", "system_default", "answer_default", "interleaved_default", "unicode_default",
]  # fmt: skip
PADDED = ("input_ids", "attention_mask", "image_grid_thw", "position_ids")


@cache
def golden(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(folder / "golden.npz") as arrays:
        return json.loads((folder / "cases.json").read_text(encoding="utf-8"))["cases"], dict(arrays)


@cache
def recorded_backbone(folder: Path, min_pixels: int, max_pixels: int) -> QwenVL:
    config = BackboneConfig(path=str(folder / "checkpoint"), min_pixels=min_pixels, max_pixels=max_pixels)
    return load_backbone(config, torch.float32)


def frames_of(case: dict[str, Any], folder: Path) -> list[Tensor]:
    parts = [
        part
        for conversation in case["conversations"]
        for message in conversation
        if not isinstance(message["content"], str)
        for part in message["content"]
    ]
    files = [folder / "images" / part["image"] for part in parts if part["type"] == "image"]
    return [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]


@pytest.mark.parametrize("name", CASES)
def test_recorded_case(name: str, shared: Path) -> None:
    folder = shared / "data/qwen_processor_golden"
    cases, arrays = golden(folder)
    assert set(cases) == set(CASES)
    case = cases[name]
    size = case["size"] or {"shortest_edge": 3136, "longest_edge": 12845056}
    backbone = recorded_backbone(folder, size["shortest_edge"], size["longest_edge"])
    inputs = backbone.processor(
        case["conversations"],
        frames_of(case, folder),
        add_generation_prompt=case["add_generation_prompt"],
        padding_side=case["padding_side"],
    )
    for key in PADDED:
        value = inputs.__dict__[key]
        assert value.dtype == torch.int64
        np.testing.assert_array_equal(value.numpy(), arrays[f"{name}.{key}"], err_msg=key)
    assert list(inputs.pixel_values.shape) == case["pixel_values"]["shape"]
    assert hashlib.sha256(inputs.pixel_values.numpy().tobytes()).hexdigest() == case["pixel_values"]["sha256_float32"]
    mask = inputs.attention_mask.bool()
    tokens = backbone.encode(inputs, mask)[0].masked_fill(~mask[..., None], 0)
    rows = arrays[f"{name}.hidden_rows"]
    np.testing.assert_allclose(tokens[:, rows].numpy(), arrays[f"{name}.last_hidden_state"], rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def backbone() -> QwenVL:
    return load_backbone(BackboneConfig(), torch.float32)


def frame(height: int = 56, width: int = 84) -> Tensor:
    return torch.zeros(3, height, width, dtype=torch.uint8)


def observation(instructions: tuple[str, ...], image_valid: list[list[bool]]) -> Observation:
    rows = len(instructions)
    return Observation(
        images=tuple(tuple(frame() for _ in row) for row in image_valid),
        image_valid=torch.tensor(image_valid, dtype=torch.bool).reshape(rows, -1),
        instructions=instructions,
        state=torch.zeros(rows, 0),
        streams={},
    )


def test_the_prompt_is_cameras_then_instruction(backbone: QwenVL) -> None:
    inputs, visible = backbone.processor.observe(observation(("Go.", "Pick up the cube."), [[True, True]] * 2))
    text = backbone.processor.tokenizer.decode(inputs.input_ids[0][visible[0]])
    vision = "<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == f"{system}<|im_start|>user\n{vision}{vision}Go.<|im_end|>\n"
    assert visible[1].all()
    padding = inputs.input_ids[0][~visible[0]]
    assert len(padding) > 0
    assert (padding == backbone.processor.tokenizer.pad_token_id).all()
    assert not visible[0, -len(padding) :].any(), "padding stands on the right"


def test_positions_of_an_image_are_its_rows_and_columns(backbone: QwenVL) -> None:
    """By hand; transformers before 5.5.4 put a still image at a wrong time."""
    inputs, _ = backbone.processor.observe(observation(("Go.",), [[True]]))
    image = backbone.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    places = (inputs.input_ids[0] == image).nonzero()[:, 0]
    start = int(places[0])
    time, row, column = inputs.position_ids[:, 0, places].tolist()
    assert time == [start] * 6
    assert row == [start] * 3 + [start + 1] * 3
    assert column == [start, start + 1, start + 2] * 2
    after = inputs.position_ids[:, 0, int(places[-1]) + 1 :]
    assert after[:, 0].tolist() == [start + 3] * 3, "text goes on after the larger side"


def test_an_invalid_camera_is_hidden_with_its_brackets(backbone: QwenVL) -> None:
    inputs, visible = backbone.processor.observe(observation(("Go.", "Go."), [[True, True], [False, True]]))
    assert visible[0].all()
    hidden = backbone.processor.tokenizer.decode(inputs.input_ids[1][~visible[1]])
    assert hidden == "<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>"
    assert (inputs.image_index[1][~visible[1]] == 0).all()
    assert torch.equal(inputs.position_ids[:, 0], inputs.position_ids[:, 1]), "it keeps its place"


def test_without_cameras_the_prompt_is_text(backbone: QwenVL) -> None:
    inputs, visible = backbone.processor.observe(observation(("Go.",), [[]]))
    assert visible.all()
    assert len(inputs.image_grid_thw) == len(inputs.pixel_values) == 0
    assert inputs.position_ids[0, 0].tolist() == list(range(inputs.input_ids.shape[1]))


def test_text_is_tokenised_once(backbone: QwenVL, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = observation(("Turn the knob three times.",), [[True]])
    first, _ = backbone.processor.observe(looked_at)
    before = backbone.processor.row.cache_info()
    second, _ = backbone.processor.observe(looked_at)
    after = backbone.processor.row.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    assert torch.equal(first.input_ids, second.input_ids)
    assert torch.equal(first.position_ids, second.position_ids)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>", "<|endoftext|>"])
def test_a_special_token_in_the_text_is_refused(backbone: QwenVL, token: str) -> None:
    with pytest.raises(ValueError, match="special token") as caught:
        backbone.processor.observe(observation((f"Go{token} on.",), [[True]]))
    assert token in str(caught.value)
    with pytest.raises(ValueError, match="special token"):
        backbone.processor([[{"role": "user", "content": f"a{token}"}]], [])


@pytest.mark.parametrize("num_images", [0, 2])
def test_images_and_places_must_match(backbone: QwenVL, num_images: int) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "Go."}]
    conversation: Conversation = [{"role": "user", "content": parts}]
    with pytest.raises(ValueError, match=f"room for 1 images, but {num_images} were given"):
        backbone.processor([conversation], [frame()] * num_images)


@pytest.mark.parametrize(
    ("instruction", "message"), [("", "empty"), (" \n", "empty"), ("a" * 10_000, "10,000 characters")]
)
def test_instructions_that_cannot_be_meant(backbone: QwenVL, instruction: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone.processor.observe(observation((instruction,), [[True]]))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, backbone: QwenVL) -> None:
    for file in backbone.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_token_id": 5}))
    with pytest.raises(ValueError, match="take both files from one checkpoint"):
        load_backbone(BackboneConfig(path=str(tmp_path)), torch.float32)


@pytest.mark.parametrize("names", [("tokenizer.json", "vocab.json"), ("tokenizer_config.json",)])
def test_a_folder_without_text_files_is_refused(tmp_path: Path, backbone: QwenVL, names: tuple[str, ...]) -> None:
    for file in backbone.folder.iterdir():
        if file.name not in names:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="copy"):
        load_backbone(BackboneConfig(path=str(tmp_path)), torch.float32)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_the_folders_own_template_comes_first(tmp_path: Path, backbone: QwenVL, name: str) -> None:
    for file in backbone.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = "{% for message in messages %}{% for part in message.content %}{{ part.text }}!{% endfor %}{% endfor %}"
    (tmp_path / name).write_text(template if name.endswith("jinja") else json.dumps({"chat_template": template}))
    other = load_backbone(BackboneConfig(path=str(tmp_path)), torch.float32)
    assert other.processor.instruct("Go.", 0) == "Go.!"
