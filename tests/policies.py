"""Fresh policies and what a checkpoint of one says, without a training."""

from collections.abc import Mapping
from typing import Any

import torch

from vla.assembling import assemble
from vla.contract import DataContract
from vla.normalize import Normalizer
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.run_folder import SCHEMA, BackboneName, GuardState, Manifest
from vla.statistics import Statistics


def build_policy(
    config: PolicyConfig, contract: DataContract, statistics: Mapping[str, Statistics], dtype: torch.dtype, seed: int
) -> Policy:
    """A policy with fresh weights, for data of these statistics."""
    normalizers = {kind: Normalizer.of(statistics[kind], config.normalization) for kind in contract.normalized}
    return assemble(config, contract, normalizers, dtype, seed)


def manifest(step: int = 1, **changes: Any) -> Manifest:
    """The manifest of a checkpoint that holds nothing."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "step": step,
        "stage": "stage1",
        "samples_seen": 4 * step,
        "seed": 0,
        "config": "",
        "backbone": BackboneName(id="tiny", fingerprint=""),
        "lora": None,
        "init_from": None,
        "groups": {},
        "ranks": 1,
        "zero_stage": 0,
        "adam_steps": {},
        "guard": GuardState(),
        "roll_backs": 0,
        "shapes": {},
    }
    return Manifest(**content | changes)
