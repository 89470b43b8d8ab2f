"""An adapter on disk: a folder that plain peft loads, whose weights say what they are and what they fit.

ADAPTER/adapter_model.safetensors     weights, float32, under peft's names; the header holds the description
ADAPTER/adapter_config.json           peft's own configuration
"""

import dataclasses
import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vla import documents
from vla.adapter_settings import AdapterConfig
from vla.adapters.curves import Curve
from vla.adapters.host import Adapters
from vla.adapters.layer import Update
from vla.errors import CorruptData
from vla.headers import write_tensors
from vla.provenance import Origin

SCHEMA = 1
"""Raised whenever an earlier version would misread an adapter."""
KEY = "touchstone"
"""Of the description, in the header of the weights."""
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."
"""What peft writes before the name of a layer."""
FACTORS = {"lora_A": "down", "lora_B": "up"}
"""Peft's names of the two factors, and ours."""
BEGUN = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""Ways in which peft begins a LoRA without touching the weights beside it; others take away what it begins with."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What an adapter was trained on, and fits alone."""

    weights: str
    """SHA-256 of the policy's weights, by name."""
    normalizer: str
    """SHA-256 of the scales of its actions and inputs."""
    body: str
    """What its actions are, in words: a kind of body and its joints, or the dimensions of a robot."""
    backbone: str
    """Id of the backbone: of motion the text encoder."""
    fingerprint: str
    """Of the backbone."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an adapter is; in the header of its weights."""

    schema: int = SCHEMA
    adapter: AdapterConfig
    """Name, rank, alpha, dropout and targets."""
    base: Base
    weights: str
    """SHA-256 of its own weights, by name."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How: recipe, steps, what was learned or erased."""
    origin: Origin | None = None
    """What it was made with and from; None where no training wrote it."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Of quantities that were calibrated, by name: what each is at some weights."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An adapter as it was read."""

    place: Path
    config: AdapterConfig
    description: Description | None
    """None: a file of plain peft, which does not say what it fits."""
    tensors: Mapping[str, tuple[Tensor, Tensor]]
    """Of each layer by its name, the factors A (R I) and B (O R)."""


def write(
    adapters: Adapters,
    name: str,
    folder: Path,
    *,
    base: Base,
    made: Mapping[str, Any],
    origin: Origin | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Description:
    """Write a loaded adapter into a folder, which must exist.

    `tensors` gives weights by parameter name instead of the module's: averaged ones, or those that were gathered.
    """
    values = {key: value.detach() for key, value in adapters.parameters(name).items()}
    values |= {key: value for key, value in (tensors or {}).items() if key in values}
    stored = {peft_key(key, name): value.detach().cpu().float().contiguous() for key, value in values.items()}
    config = adapters.blend.loaded[name]
    description = Description(adapter=config, base=base, weights=digest_of(stored), made=made, origin=origin)
    header = {"format": "pt", KEY: json.dumps(documents.to_json(description))}
    write_tensors({key: value.clone() for key, value in stored.items()}, folder / WEIGHTS_FILE, header)
    written = json.dumps(peft_config(config, list(adapters.updates(name))), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(written + "\n", encoding="utf-8")
    return description


def describe_anew(stored: Stored, description: Description, to: Path) -> None:
    """Write the weights of an adapter under another description; a file that is there is replaced as a whole.

    Tensors and what else the header says stay bit by bit.
    """
    source = weights_of(stored.place)
    with safe_open(source, framework="pt") as opened:
        names = opened.keys()
        header = dict(opened.metadata() or {}) | {KEY: json.dumps(documents.to_json(description))}
        tensors = {name: opened.get_tensor(name) for name in names}
    beside = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    try:
        write_tensors(tensors, beside, header)
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)


def weights_of(place: Path) -> Path:
    """The file of the weights of an adapter that is a folder, or that file."""
    return place / WEIGHTS_FILE if place.is_dir() else place


def peft_key(key: str, name: str) -> str:
    """The name of a parameter in a file, as peft writes it."""
    path, _, factor = key.partition(f".updates.{name}.")
    ours = {own: theirs for theirs, own in FACTORS.items()}
    return f"{PREFIX}{path}.{ours[factor.removesuffix('.weight')]}.weight"


def peft_config(config: AdapterConfig, layers: Sequence[str]) -> dict[str, Any]:
    """The configuration in peft's words; it has the names of the layers, since its expressions may match no others."""
    from peft import LoraConfig as PeftLoraConfig  # it loads what nothing else here needs

    made = PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(layers),
        bias="none",
        inference_mode=True,
    )
    plain: dict[str, Any] = json.loads(json.dumps(made.to_dict(), default=sorted))
    return plain


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read(place: Path) -> Stored:
    """An adapter of a folder, or of the file of its weights.

    Raises:
        ValueError: there is none, or it is no LoRA of linear layers; says which.
        CorruptData: a file is damaged.
    """
    file = weights_of(place)
    if not file.is_file():
        raise ValueError(f"{place} holds no adapter: {WEIGHTS_FILE} is missing; give a folder that training wrote")
    try:
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            header, tensors = opened.metadata() or {}, {name: opened.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{file} cannot be read ({error}); restore it from a copy") from error
    description = None
    if KEY in header:
        description = documents.from_json(Description, header[KEY], file)
        if description.schema != SCHEMA:
            raise ValueError(
                f"{file} is of schema {description.schema}, this version reads schema {SCHEMA}; use the one that "
                "wrote it"
            )
        if digest_of(tensors) != description.weights:
            raise CorruptData(f"{file} holds other weights than its header says; restore it from a copy")
    config = description.adapter if description else foreign(file)
    return Stored(place=place, config=config, description=description, tensors=factors(tensors, config, file))


def foreign(file: Path) -> AdapterConfig:
    """What the configuration beside a file of plain peft says.

    Raises:
        ValueError: there is none, or it is of another kind than LoRA of linear layers as ours.
        CorruptData: it is damaged.
    """
    beside = file.with_name(CONFIG_FILE)
    if not beside.is_file():
        raise ValueError(f"{file} does not say what adapter it is, and {beside} is missing: copy the whole folder")
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        rank, alpha, dropout = (said[key] for key in ("r", "lora_alpha", "lora_dropout"))
        targets, kind = said["target_modules"], said["peft_type"]
        whole = isinstance(rank, int) and math.isfinite(alpha) and math.isfinite(dropout)
        names = [targets] if isinstance(targets, str) else [f"(?:.*\\.)?{re.escape(target)}" for target in targets]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CorruptData(f"{beside} is damaged ({error!r}); restore it from a copy") from error
    if not whole:
        raise CorruptData(
            f"{beside} is damaged (r is {rank!r}, lora_alpha {alpha!r}, lora_dropout {dropout!r}); restore it from a "
            "copy"
        )
    if kind != "LORA":
        raise ValueError(f"{beside} is an adapter of type {kind}; only LORA can be loaded")
    try:
        config = AdapterConfig(name=called(file.parent), rank=rank, alpha=alpha, dropout=dropout, targets=tuple(names))
    except ValueError as error:
        raise ValueError(f"{beside} cannot be loaded: {error}") from error
    check_plain(said, config, beside)
    return config


def check_plain(said: Mapping[str, Any], config: AdapterConfig, beside: Path) -> None:
    """Refuse a configuration of peft's with which an adapter is more than its factors (ValueError)."""
    ours = peft_config(config, ())
    apart = {"lora_dropout", "target_modules", "inference_mode", "base_model_name_or_path", "peft_version"}
    apart |= {"auto_mapping", "revision", "task_type", "r", "lora_alpha", "init_lora_weights"}
    for key in sorted(said.keys() - apart):
        usual = ours.get(key)
        # What this version of peft does not know counts where it is switched on.
        if said[key] != usual if key in ours else said[key]:
            raise ValueError(
                f"{beside} has {key} = {said[key]!r}, which changes what the adapter computes; only plain LoRA, with "
                f"{key} = {usual!r}, can be loaded"
            )
    if (begun := said.get("init_lora_weights", True)) not in BEGUN:
        raise ValueError(
            f"{beside} has init_lora_weights = {begun!r}, with which peft changes the weights beside the adapter, too: "
            "write it anew by peft's save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes a "
            "plain LoRA of it"
        )


def called(folder: Path) -> str:
    """What an adapter is called by its folder: a name that it can have, whatever signs that of the folder has."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_") or "adapter"
    return f"adapter-{name}" if name in dir(nn.ModuleDict) else name


def factors(tensors: Mapping[str, Tensor], config: AdapterConfig, file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The two factors of each layer.

    Raises:
        ValueError: a tensor is no factor, one is missing, or its rank is another than the configuration says.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        path, _, factor = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if "in_proj" in key or path.endswith("base_layer.out_proj"):
            raise ValueError(
                f"{file} adapts an nn.MultiheadAttention ({key}), whose output peft counts twice and which no policy "
                "here has; train it on separate linear layers"
            )
        if factor not in FACTORS or not key.endswith(".weight"):
            raise ValueError(
                f"{file} holds {key}, which is no factor of a LoRA of linear layers; only these are loaded"
            )
        if not value.is_floating_point() or not value.float().isfinite().all():
            raise ValueError(
                f"{file} holds {key} with numbers that are no weights ({value.dtype}, not finite or no fractions): "
                "train the adapter again, or restore it from a copy"
            )
        found.setdefault(path, {})[factor] = value
    pairs = {}
    for path, own in found.items():
        if missing := FACTORS.keys() - own.keys():
            raise ValueError(f"{file} lacks {min(missing)} of {path}; restore it from a copy")
        a, b = own["lora_A"], own["lora_B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != config.rank or b.shape[1] != config.rank:
            raise ValueError(
                f"{file} has factors of {tuple(a.shape)} and {tuple(b.shape)} for {path}, which are not of rank "
                f"{config.rank} as it says; restore it from a copy"
            )
        pairs[path] = (a, b)
    if not pairs:
        raise ValueError(f"{file} holds no weights; train the adapter again")
    return pairs


def fill(adapters: Adapters, stored: Stored, name: str) -> None:
    """Put a stored adapter on a module under a name.

    Raises:
        ValueError: its layers are not those that its targets match there, or of another size.
    """
    adapters.add(dataclasses.replace(stored.config, name=name))
    updates = adapters.updates(name)
    try:
        check_layers(updates, stored)
    except ValueError:
        adapters.remove(name)
        raise
    for path, (a, b) in stored.tensors.items():
        updates[path].down.weight.data.copy_(a)
        updates[path].up.weight.data.copy_(b)


def check_layers(updates: Mapping[str, Update], stored: Stored) -> None:
    """Refuse an adapter of other layers than a module has (ValueError)."""
    parts = []
    for names, word in (
        (updates.keys() - stored.tensors.keys(), "lacks"),
        (stored.tensors.keys() - updates.keys(), "has"),
    ):
        if names:
            parts.append(f"{word} {len(names)} layers, such as {min(names)}")
    if parts:
        raise ValueError(f"adapter {stored.place} does not fit: beside the policy's it {' and '.join(parts)}")
    for path, (a, b) in stored.tensors.items():
        wide = (a.shape[1], b.shape[0])
        if wide != (ours := (updates[path].down.in_features, updates[path].up.out_features)):
            raise ValueError(
                f"adapter {stored.place} does not fit: {path} has {wide[0]} inputs and {wide[1]} outputs there, "
                f"{ours[0]} and {ours[1]} in the policy; load the policy that it was trained on"
            )
