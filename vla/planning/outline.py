"""Policies without weights: their real modules on the meta device, where a parameter has a name and a shape alone.

Of a Qwen2.5-VL config.json is all that is read. Of the published sizes not even that: their numbers stand here.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import Qwen2_5_VLConfig

from vla.contract import DataContract
from vla.normalize import Normalizer
from vla.parts import lora
from vla.parts.backbone import NAMED, folder_of, kind_of, load_backbone
from vla.parts.demands import check_kind
from vla.parts.qwen import QWEN, QwenVL, outline, qwen_of
from vla.parts.sizes import suited
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.settings import BackboneConfig

VISION: Mapping[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
ROTARY: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "tie_word_embeddings": True,
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": ROTARY,
        },
        "vision_config": {**VISION, "out_hidden_size": 2048},
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "tie_word_embeddings": False,
        "text_config": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": ROTARY,
        },
        "vision_config": {**VISION, "out_hidden_size": 3584},
    },
}
"""The config.json of the public repositories, as far as it decides shapes."""
SHORT = {"3B": "Qwen/Qwen2.5-VL-3B-Instruct", "7B": "Qwen/Qwen2.5-VL-7B-Instruct"}


def outlined(config: PolicyConfig, contract: DataContract, dtype: torch.dtype, trained: Collection[str] = ()) -> Policy:
    """The policy that such a training has, on the meta device; sizes that are open become those that suit.

    `trained` are the groups of parameters that learn.

    A sentence encoder is loaded: it is small.

    Raises:
        ValueError: the backbone's config.json cannot be had or is of no kind that is taken, or the backbone cannot do
            what is asked of it.
    """
    known = config.backbone.path in PUBLISHED
    folder = Path(config.backbone.path) if known else folder_with_config(config.backbone.path)
    kind = QWEN if known else kind_of(folder)
    check_kind(kind, config.backbone, config.encoders, contract, trained)
    backbone = backbone_of(config.backbone, folder, dtype) if kind.sees else load_backbone(config.backbone, dtype)
    encoders, expert = suited(config.encoders, config.expert, contract, backbone.width)
    config = replace(config, encoders=encoders, expert=expert)
    with torch.device("meta"):
        if config.lora is not None:
            lora.wrap(qwen_of(backbone), config.lora)
        policy = Policy(
            config=config,
            contract=contract,
            backbone=backbone,
            normalizers={kind: Normalizer(width) for kind, width in contract.normalized.items()},
            compute_dtype=dtype,
            seed=0,
        )
    assert all(parameter.is_meta for parameter in policy.parameters()), "an outline has no memory"
    return policy


def backbone_of(config: BackboneConfig, folder: Path, dtype: torch.dtype) -> QwenVL:
    """A Qwen2.5-VL on the meta device."""
    if config.path in PUBLISHED:
        return outline(Qwen2_5_VLConfig(**PUBLISHED[config.path]), config, folder, dtype)
    return outline(Qwen2_5_VLConfig.from_pretrained(folder), config, folder, dtype)


def folder_with_config(path: str) -> Path:
    """A folder with the config.json of a backbone; of a hub id that file alone is downloaded.

    Raises:
        ValueError: there is none within reach.
    """
    if path in NAMED:
        return NAMED[path].find()
    if (folder := folder_of(path)) is not None:
        return folder
    try:
        return Path(hf_hub_download(path, "config.json")).parent
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"the config.json of {path!r} cannot be had from the hub now; give a folder, tiny, or one of "
            f"{', '.join(PUBLISHED)}, whose numbers are known here"
        ) from error
