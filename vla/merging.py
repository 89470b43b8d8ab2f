"""A policy whose adapters are part of its weights: new files, the old ones stay."""

import dataclasses
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch

from vla import adapting
from vla.parts import lora
from vla.parts.backbone import resolve
from vla.parts.qwen import qwen_of
from vla.policy import Policy
from vla.policy_folder import (
    ADAPTERS,
    BLOCKS,
    MERGED,
    check_replaceable,
    load_policy,
    read_description,
    replace_folder,
    write_description,
    write_parts,
)


def merge_policy(
    source: Path | str, destination: Path | str, backbone_path: str | None = None, adapters: Sequence[str] = ()
) -> list[str]:
    """Write a policy whose adapters are merged: its LoRA into a backbone of its own, named ones into their layers.

    `adapters` are named ones, `FILE` or `FILE:0.7`. A backbone that nothing has changed is named, as it was. What was
    merged is returned, a line each.

    Raises:
        ValueError: as `load_policy` and `adapting.blend`; there is nothing to merge; the destination exists and is no
            policy, or has adapters, or is the source.
        CorruptData: a file is damaged.
    """
    source, destination = Path(source), Path(destination)
    description = read_description(source)
    opened = description.policy.lora is not None or (source / BLOCKS).exists()
    if not opened and not adapters:
        raise ValueError(
            f"policy {source} has no adapter, so there is nothing to merge: name one with --adapter, or use it as is"
        )
    check_replaceable(destination)
    check_keeps(source, destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    beside = destination.parent / f".{destination.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir()
    try:
        policy = load_policy(source, backbone_path)
        told = adapting.blend(policy, adapters, source)
        own = settle(policy) or opened
        if own:
            own_backbone(policy, beside / MERGED)
        learned = policy.learned()
        write_parts(policy, beside, learned)
        done = (*description.merged, *told)
        write_description(policy, beside, learned, description.held_out, description.origin, merged=done)
        replace_folder(destination, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return told


def check_keeps(source: Path, destination: Path) -> None:
    """Refuse to replace what could not be made again (ValueError)."""
    if destination.resolve() == source.resolve():
        raise ValueError(f"{destination} is the policy that is merged, which stays as it is: give another folder")
    if (destination / ADAPTERS).is_dir():
        raise ValueError(
            f"{destination / ADAPTERS} holds adapters of the policy that is there, which would not fit the merged one: "
            "give another folder, or move them away"
        )


def settle(policy: Policy) -> bool:
    """Make the folded blend of a policy its weights, and take the adapters off; whether the backbone has changed."""
    changed = False
    with torch.no_grad():
        for path, layer in policy.adapters.layers():
            if layer.folded is not None:
                layer.weight.copy_(layer.folded)
                changed = changed or path.startswith("backbone.")
    for name in policy.adapters.names:
        policy.adapters.remove(name)
    return changed


def own_backbone(policy: Policy, folder: Path) -> None:
    """Write the backbone with all that was trained of it, as one of the policy's own."""
    folder.mkdir(parents=True)
    for file in resolve(policy.config.backbone.path).iterdir():
        if file.is_file() and not file.name.endswith((".safetensors", ".safetensors.index.json", ".bin", ".pt")):
            shutil.copyfile(file, folder / file.name)
    backbone = qwen_of(policy.backbone)
    model = lora.merge(backbone) if policy.config.lora is not None else backbone.plain
    model.save_pretrained(folder)
    backbone.folder, backbone.model = folder, model
    policy.tuned = frozenset()
    merged = dataclasses.replace(policy.config.backbone, path=MERGED)
    policy.config = dataclasses.replace(policy.config, backbone=merged, lora=None)
