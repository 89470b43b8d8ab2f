"""A tiny random Qwen2.5-VL in the file layout of the public checkpoints, for tests, demos and machines without a GPU.

Everything follows from the constants of this file: architecture, weights, vocabulary and chat template. Nothing is
downloaded, and the folder is loaded with `from_pretrained` like any other checkpoint.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Regex as SplitPattern

from vla import cache

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""In the public order; their ids follow the trained vocabulary."""

ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Added by the public tokenizer without being special."""

CHAT_TEMPLATE = """\
{%- set count = namespace(image=0, video=0) -%}
{%- if messages and messages[0].role != 'system' -%}
  {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content -%}
      {%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
        {%- set count.image = count.image + 1 -%}
        {%- if add_vision_id -%}{{- 'Picture ' ~ count.image ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part.type == 'video' or 'video' in part -%}
        {%- set count.video = count.video + 1 -%}
        {%- if add_vision_id -%}{{- 'Video ' ~ count.video ~ ': ' -}}{%- endif -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in part -%}
        {{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

TEXT = (
    "Pick up the red cube and place it in the blue bowl.",
    "Insert the needle into the target and stop when the force rises.",
    "Insert the peg into the hole. Insert the plug into the socket.",
    "Open the drawer, take out the bottle and close the drawer again.",
    "Move the gripper to the left, then to the right, then up and down.",
    "Grasp the handle of the cup with the right hand and hand it over.",
    "Put the green block on top of the yellow block.",
    "Push the button on the panel, then wait for the light.",
    "Turn the knob by 90 degrees. Turn the valve clockwise.",
    "Pour the water from the bottle into the cup without spilling.",
    "Fold the towel in half and put it on the table.",
    "Wipe the table with the sponge. Sort the blocks by colour.",
    "Press the part against the surface with 5 N and slide along the edge.",
    "Place the bottle on the shelf next to the box.",
    "Lift the lid of the pot, then stir the soup slowly.",
    "Screw the cap onto the bottle. Unscrew the bolt with the wrench.",
    "Camera front, camera wrist, camera left, camera right.",
    "The robot arm moves along a straight path and keeps its distance.",
    "Walk forward, stop, turn around and walk back.",
    "Approach the object from above, close the gripper, lift by 10 cm.",
    "You are a helpful assistant. system user assistant",
    "Perform the insertion task: align, approach, insert, release, retract.",
)
"""What the byte-pair merges are learned from."""

NUM_WORDPIECES = 512
"""256 bytes and 256 merges."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits text into words before the merges."""


def token_id(token: str) -> int:
    """Id of a special or added token."""
    return NUM_WORDPIECES + (SPECIAL_TOKENS + ADDED_TOKENS).index(token)


CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "dtype": "float32",
    "tie_word_embeddings": True,
    "image_token_id": token_id("<|image_pad|>"),
    "video_token_id": token_id("<|video_pad|>"),
    "vision_start_token_id": token_id("<|vision_start|>"),
    "vision_end_token_id": token_id("<|vision_end|>"),
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": 544,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": token_id("<|endoftext|>"),
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": None,
    },
    "vision_config": {
        "model_type": "qwen2_5_vl_vision",
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    },
}

PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

SEED = 0


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight, in the public naming; the language-model head is tied to the embedding."""
    text, vision = CONFIG["text_config"], CONFIG["vision_config"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    keys = width // text["num_attention_heads"] * text["num_key_value_heads"]
    yield "model.embed_tokens.weight", (text["vocab_size"], width)
    yield "model.norm.weight", (width,)
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (width,)
        yield f"{prefix}.post_attention_layernorm.weight", (width,)
        for name, rows in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
            yield f"{prefix}.self_attn.{name}.weight", (rows, width)
            yield f"{prefix}.self_attn.{name}.bias", (rows,)
        yield f"{prefix}.self_attn.o_proj.weight", (width, width)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, width)
        yield f"{prefix}.mlp.up_proj.weight", (inner, width)
        yield f"{prefix}.mlp.down_proj.weight", (width, inner)
    patch, width, inner = vision["patch_size"], vision["hidden_size"], vision["intermediate_size"]
    yield "visual.patch_embed.proj.weight", (width, 3, vision["temporal_patch_size"], patch, patch)
    for layer in range(vision["depth"]):
        prefix = f"visual.blocks.{layer}"
        yield f"{prefix}.norm1.weight", (width,)
        yield f"{prefix}.norm2.weight", (width,)
        linears = (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        )
        for name, rows, columns in linears:
            yield f"{prefix}.{name}.weight", (rows, columns)
            yield f"{prefix}.{name}.bias", (rows,)
    merged = width * vision["spatial_merge_size"] ** 2
    yield "visual.merger.ln_q.weight", (width,)
    for name, rows in (("mlp.0", merged), ("mlp.2", vision["out_hidden_size"])):
        yield f"visual.merger.{name}.weight", (rows, merged)
        yield f"visual.merger.{name}.bias", (rows,)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random values of one weight, from its name alone; large enough that pixels and positions matter."""
    key = int.from_bytes(hashlib.sha256(f"{SEED}/{name}".encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape)
    if name.endswith(".bias"):
        values *= 0.1
    elif len(shape) == 1:
        values = 1 + 0.2 * values
    elif not name.endswith("embed_tokens.weight"):
        sharp = name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight"))
        values *= (2.0 if sharp else 1.0) / math.sqrt(math.prod(shape[1:]))
    return values.astype(np.float32)


def tokenizer() -> Tokenizer:
    """Byte-level BPE as Qwen2's, learned from TEXT."""
    result = Tokenizer(models.BPE())
    result.normalizer = normalizers.NFC()
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SplitPattern(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    result.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_WORDPIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    result.train_from_iterator(TEXT, trainer)
    assert result.get_vocab_size() == NUM_WORDPIECES, "TEXT holds too few words for the merges"
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    result.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED_TOKENS])
    return result


def write(folder: Path) -> None:
    """Write the checkpoint's files into an existing folder."""
    import torch
    from safetensors.torch import save_file

    trained = tokenizer()
    trained.save(str(folder / "tokenizer.json"))
    trained.model.save(str(folder))
    added = {
        str(token_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token in SPECIAL_TOKENS + ADDED_TOKENS
    }
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": SPECIAL_TOKENS[1:],
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "model_max_length": 131072,
        "chat_template": CHAT_TEMPLATE,
    }
    documents = {"tokenizer_config.json": settings, "config.json": CONFIG, "preprocessor_config.json": PREPROCESSOR}
    for name, content in documents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def digest() -> str:
    """Twelve hexadecimal digits of the recipe, which is this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def build() -> Path:
    """The folder of the tiny checkpoint, written at the first call. ValueError where the cache cannot be written."""
    return cache.built(f"tiny-{digest()}", write)
