"""A policy on disk: what it is, what it was trained to expect, and its learned weights; the backbone is only named.

POLICY/config.json                    settings, data contract, backbone and its fingerprint, digests of the other files
POLICY/normalizer.safetensors         of actions, state and sensor streams
POLICY/sensor_encoder.safetensors     where the data has a sensor; of several sensor_encoder.NAME.safetensors each
POLICY/state_encoder.safetensors      where the data has a state; style_encoder.safetensors where it hears a style
POLICY/camera_encoder.safetensors     where the policy has one
POLICY/action_expert.safetensors
POLICY/adapter/                       LoRA, as plain peft loads it; where the policy has one
POLICY/backbone_blocks.safetensors    backbone parameters that were trained themselves; where there are any
POLICY/adapters/NAME/                 named adapters that go with it, which may be put there at any time
POLICY/README.md                      model card
"""

import dataclasses
import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla import documents, redaction
from vla.assembling import assemble, fold_backbone
from vla.contract import DataContract
from vla.errors import CorruptData
from vla.listing import visible
from vla.model_card import card
from vla.normalize import Normalizer
from vla.parts import EXPERT_FILE, file_of, lora
from vla.parts.backbone import fingerprint
from vla.parts.qwen import qwen_of
from vla.policy import Policy
from vla.policy_settings import PolicyConfig
from vla.provenance import Origin
from vla.run_folder import BackboneName

SCHEMA = 4
"""Raised whenever an earlier version would misread a policy."""
READERS = {1: "a3da51d", 2: "31ac386", 3: "afa2e5a"}
"""The last commit that reads policies of each older schema."""
ADAPTERS = "adapters"
BLOCKS = "backbone_blocks.safetensors"
MERGED = "./backbone"
"""The backbone path of a merged policy: it lies in the policy folder itself."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What finds the episodes again that training did not see."""

    seed: int = 0
    episodes: tuple[str, ...] = ()
    """What each of them is known by (vla/data/episode.py, mark_of)."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """config.json."""

    schema: int
    backbone: BackboneName
    contract: DataContract
    prompt: str
    units: str = "the data's own; normalizer.safetensors makes them unitless"
    held_out: HeldOut
    policy: PolicyConfig
    files: Mapping[str, str]
    """SHA-256 of every other file, by its place in the folder; not of the card, which may be edited, nor of a merged
    policy's backbone, which has its fingerprint."""
    origin: Origin | None = None
    """What it was made with and from; None where no training wrote it, or one from before this was recorded."""
    merged: tuple[str, ...] = ()
    """Adapters that are merged into its weights, in words."""


def save_policy(
    policy: Policy,
    folder: Path | str,
    tensors: Mapping[str, Tensor] | None = None,
    held_out: HeldOut | None = None,
    origin: Origin | None = None,
) -> None:
    """Write a policy folder, beside its place first, then renamed; an older policy there is replaced.

    `tensors` gives weights by parameter name (averaged ones, or those another process gathered); what it leaves out
    comes from the policy itself. `held_out` is what `vla evaluate` needs to measure on unseen episodes, `origin` what
    the card tells of the training.

    Raises:
        ValueError: the folder exists and is no policy.
    """
    folder, tensors = Path(folder), dict(tensors or {})
    learned = policy.learned()
    assert not (unknown := tensors.keys() - learned.keys()), f"{sorted(unknown)[:3]} are no learned parameters"
    learned |= {name: tensor.detach() for name, tensor in tensors.items()}
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    beside.mkdir()
    try:
        write_parts(policy, beside, learned)
        write_description(policy, beside, learned, held_out or HeldOut(), origin)
        if (folder / ADAPTERS).is_dir():
            shutil.copytree(folder / ADAPTERS, beside / ADAPTERS)
        replace_folder(folder, beside)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_parts(policy: Policy, folder: Path, learned: Mapping[str, Tensor]) -> None:
    """The weights."""
    save(policy.normalizer.state_dict(), folder / "normalizer.safetensors")
    for part in policy.fresh_parts():
        save(below(part, learned), folder / weights_file(part))
    backbone = below("backbone", learned)
    adapter = {name: tensor for name, tensor in backbone.items() if "lora_" in name}
    if policy.config.lora is not None:
        (folder / "adapter").mkdir()
        lora.save(qwen_of(policy.backbone), folder / "adapter", adapter)
    if blocks := {name: tensor for name, tensor in backbone.items() if name not in adapter}:
        save(blocks, folder / BLOCKS)


def write_description(
    policy: Policy,
    folder: Path,
    learned: Mapping[str, Tensor],
    held_out: HeldOut,
    origin: Origin | None,
    *,
    merged: tuple[str, ...] = (),
) -> None:
    """config.json and the model card; a file of embeddings is not named, whoever loads the policy does without it."""
    backbone = dataclasses.replace(policy.config.backbone, embeddings=None)
    description = Description(
        schema=SCHEMA,
        backbone=BackboneName(id=backbone.path, fingerprint=fingerprint(str(policy.backbone.folder), backbone.pooling)),
        contract=policy.contract,
        prompt=policy.backbone.prompt,
        held_out=held_out,
        policy=dataclasses.replace(policy.config, backbone=backbone, adapter=None),
        files={str(file.relative_to(folder)): digest(file) for file in parts_in(folder)},
        origin=origin,
        merged=merged,
    )
    text = json.dumps(redaction.hide_tree(documents.to_json(description)), indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    told = card(policy, learned, origin, merged=policy.config.backbone.path == MERGED)
    (folder / "README.md").write_text(redaction.hide(told), encoding="utf-8")


def load_policy(
    folder: Path | str,
    backbone_path: str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    fold: bool = False,
) -> Policy:
    """The policy of a folder, frozen and in eval mode. `backbone_path` says where the same backbone lies here.

    With `fold` it is one that only acts: faster, with the same answers but for rounding (`fold_backbone`).

    Raises:
        ValueError: not a policy folder, another backbone, or files or weights that are missing or do not belong there.
        CorruptData: a file cannot be read, or is not what it was.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_files(folder, description.files)
    contract, config, trained_on = description.contract, description.policy, description.backbone
    path = backbone_path or trained_on.id
    path = str(folder / path) if path == MERGED and (folder / path).is_dir() else path
    if (found := fingerprint(path, config.backbone.pooling)) != trained_on.fingerprint:
        raise ValueError(
            f"policy {folder} was trained on backbone {trained_on.id!r} "
            f"({trained_on.fingerprint[:12]}), but {path!r} is another one ({found[:12]}); "
            "give the folder of the same backbone"
        )
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, path=path))
    normalizers = {kind: Normalizer(width) for kind, width in contract.normalized.items()}
    policy = assemble(config, contract, normalizers, dtype, seed=0)
    fill(policy.normalizer, read(folder / "normalizer.safetensors"), folder / "normalizer.safetensors")
    for part, module in policy.fresh_parts().items():
        fill(module, read(folder / weights_file(part)), folder / weights_file(part))
    if config.lora is not None:
        lora.load(qwen_of(policy.backbone), folder / "adapter")
    if BLOCKS in description.files:
        blocks = read(folder / BLOCKS)
        own = {name: tensor for name, tensor in policy.backbone.state_dict().items() if name in blocks}
        compare({name: tensor.shape for name, tensor in own.items()}, blocks, folder / BLOCKS)
        policy.backbone.load_state_dict(blocks, strict=False)
        policy.tuned = frozenset(f"backbone.{name}" for name in blocks)
    policy.requires_grad_(requires_grad=False)
    policy.set_mode(training=False)
    if fold:
        fold_backbone(policy)
    return policy


def read_description(folder: Path) -> Description:
    """config.json.

    Raises:
        ValueError: the folder is no policy, or one of another schema.
        CorruptData: the file is damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no policy folder: it has no config.json; give one written by training (RUN/policy)"
        )
    if (folder / "policy" / "config.json").is_file():
        raise ValueError(f"{folder} is a run and no policy folder: give its policy, {folder / 'policy'}")
    text = file.read_bytes()
    schema = documents.schema_of(text)
    if schema in READERS:
        raise ValueError(
            f"{file} is of schema {schema}, this version reads schema {SCHEMA}: check out commit {READERS[schema]}, "
            "which reads it, or export the policy again"
        )
    if schema not in (SCHEMA, None):
        raise ValueError(f"{file} is of schema {schema}, this version reads schema {SCHEMA}; use the one that wrote it")
    return documents.from_json(Description, text, file, exact=True)


def parts_in(folder: Path) -> list[Path]:
    """The files of a policy folder beside its description, its card, a merged backbone and named adapters."""
    apart = {folder / "config.json", folder / "README.md"}
    others = {folder / MERGED, folder / ADAPTERS}
    files = [file for file in folder.rglob("*") if file.is_file() and others.isdisjoint(file.parents)]
    return visible(file for file in files if file not in apart)


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_files(folder: Path, listed: Mapping[str, str]) -> None:
    """Refuse a policy folder that holds other weights than its description lists.

    Raises:
        ValueError: a file is missing, or weights are there that are not listed.
        CorruptData: a file is not what it was, or cannot be read.
    """
    for name, expected in listed.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing from the policy folder; copy the whole folder, or export it again")
        try:
            found = digest(file)
        except OSError as error:
            raise CorruptData(f"{file} cannot be read ({error}); copy it again, or export the policy again") from error
        if found != expected:
            raise CorruptData(
                f"{file} is not the file that config.json lists; copy it again, or export the policy again"
            )
    for file in parts_in(folder):
        if file.suffix == ".safetensors" and str(file.relative_to(folder)) not in listed:
            raise ValueError(f"{file} is not listed in config.json, so it is of another policy; remove it")


def weights_file(part: str) -> str:
    """The file of the weights of a part that begins with fresh ones."""
    return EXPERT_FILE if part == "expert" else file_of(part)


def below(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part, by their names within it."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors, whatever device and layout they have."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing from the policy folder; copy the whole folder, or export it again"
        ) from error
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); copy it again, or export the policy again") from error


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Load tensors that fit exactly."""
    compare({name: tensor.shape for name, tensor in module.state_dict().items()}, tensors, file)
    module.load_state_dict(dict(tensors))


def compare(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse tensors whose names or shapes are not those expected."""
    differences = [
        *(f"{name} is missing" for name in expected if name not in tensors),
        *(f"{name} is unexpected" for name in tensors if name not in expected),
        *(
            f"{name} is {list(tensor.shape)} instead of {list(expected[name])}"
            for name, tensor in tensors.items()
            if name in expected and tensor.shape != expected[name]
        ),
    ]
    if differences:
        raise ValueError(
            f"{file} does not fit the policy's config.json in {len(differences)} tensors ({differences[0]}); "
            "do not mix files of several policies: export it again"
        )


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but a policy or an empty folder."""
    if folder.is_dir() and any(folder.iterdir()):
        try:
            read_description(folder)
        except ValueError as error:
            raise ValueError(f"{folder} exists and is no policy folder; give another folder to write to") from error
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to write the policy to")


def replace_folder(folder: Path, beside: Path) -> None:
    """Put a finished folder in its place; until then the old one stays whole."""
    old = beside.with_name(f"{beside.name}.old")
    if folder.exists():
        folder.replace(old)
    beside.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
