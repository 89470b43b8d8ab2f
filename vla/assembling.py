"""Policies of fresh weights around given statistics, and what makes one act faster."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from vla.contract import DataContract
from vla.normalize import Normalizer
from vla.parts import lora
from vla.parts.backbone import load_backbone
from vla.parts.demands import check_demands
from vla.parts.qwen import QwenVL, qwen_of
from vla.parts.sizes import suited
from vla.parts.vision import multiply_patches
from vla.policy import Policy
from vla.policy_settings import PolicyConfig


def assemble(
    config: PolicyConfig,
    contract: DataContract,
    normalizers: Mapping[str, Normalizer],
    dtype: torch.dtype,
    seed: int,
) -> Policy:
    """A policy whose trained parts are fresh and follow from the seed alone, around given normalisers.

    Sizes that the configuration leaves open become those that suit.

    `dtype` is that of the frozen backbone and of the arithmetic.

    Raises:
        ValueError: the backbone cannot be loaded or does not do for the data, or the adapter does not fit it.
        CorruptData: the file of the backbone's embeddings is damaged.
    """
    for kind, width in contract.normalized.items():
        actual = normalizers[kind].offset.shape[0]
        assert actual == width, f"the normaliser of {kind} is {actual} wide, the contract says {width}"
    check_demands(config.backbone, config.encoders, contract, () if config.lora is None else ("lora",))
    backbone = load_backbone(config.backbone, dtype)
    encoders, expert = suited(config.encoders, config.expert, contract, backbone.width)
    config = replace(config, encoders=encoders, expert=expert)
    if config.lora is not None:
        lora.add(qwen_of(backbone), config.lora, seed)
    policy = Policy(
        config=config, contract=contract, backbone=backbone, normalizers=normalizers, compute_dtype=dtype, seed=seed
    )
    if config.adapter is not None:
        policy.adapters.add(config.adapter, seed)
        policy.adapters.set({config.adapter.name: 1.0})
    return policy


def fold_backbone(policy: Policy) -> None:
    """Have a Qwen2.5-VL embed patches by a product, and put the policy's LoRA into its weights, where they are float32.

    Adapters know a policy by the blocks that were tuned: beside those LoRA stays as it is.
    """
    if isinstance(policy.backbone, QwenVL):
        multiply_patches(policy.backbone.plain)
        if not policy.tuned:
            lora.fold(policy.backbone)
