"""The backbones, by kind: found by folder or hub id, checked, fingerprinted and loaded."""

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from vla.parts import tiny
from vla.parts.kind import Backbone, Kind
from vla.parts.pretrained import TEXT_FILES, fingerprint_of, read_config
from vla.parts.qwen import MODEL_TYPE, QWEN
from vla.provenance import Source, source
from vla.settings import BackboneConfig

KINDS: Mapping[str, Kind] = {MODEL_TYPE: QWEN}
"""By the model_type of config.json."""


def load_backbone(config: BackboneConfig, dtype: torch.dtype) -> Backbone:
    """Load a backbone, frozen and in eval mode.

    Raises:
        ValueError: the folder is not a complete checkpoint of a kind that is taken.
    """
    folder = resolve(config.path)
    return check_checkpoint(folder).load(config, folder, dtype)


def resolve(path: str) -> Path:
    """The folder of a backbone: `tiny` is built, a hub id is downloaded or found in the local cache.

    Raises:
        ValueError: there is no such folder, and no such repository within reach.
    """
    if path == "tiny":
        return tiny.build()
    if (folder := folder_of(path)) is not None:
        return folder
    try:
        return Path(snapshot_download(path, allow_patterns=[*TEXT_FILES, "*.safetensors", "*.safetensors.index.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"backbone {path!r} is neither a folder nor a model that can be had from the hub now ({reason}); "
            "check the name and the network, or download it elsewhere and give the folder"
        ) from error


def folder_of(path: str) -> Path | None:
    """The folder that a path names; None where it is a hub id.

    Raises:
        ValueError: it can be neither.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2 or folder.parts[0] in (".", ".."):
        siblings = [str(entry) for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(str(folder), ["tiny", *siblings], n=1)
        hint = f"did you mean {near[0]}" if near else "give a folder, a hub id (owner/name), or tiny"
        raise ValueError(f"backbone {path!r} is not a folder; {hint}")
    return None


def base_of(path: str) -> Source:
    """The backbone of a path as what a policy is made from."""
    if path == "tiny":
        return Source(name="tiny", hub=False, license=None, content="random weights, built by Touchstone")
    return source(path, resolve(path))


def width_of(path: str) -> int:
    """Width of a backbone's tokens, by its configuration alone.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`.
    """
    folder = resolve(path)
    return check_checkpoint(folder).width(folder)


def fingerprint(path: str, *, verify: bool = False) -> str:
    """SHA-256 of everything that decides what the backbone computes: configuration, tokenizer, template, weights.

    The files are read once, and again when they have changed since, or to `verify` them.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`.
    """
    folder = resolve(path)
    check_checkpoint(folder)
    return fingerprint_of(folder, verify=verify)


def check_checkpoint(folder: Path) -> Kind:
    """The kind of a complete checkpoint; anything else is refused before it is loaded.

    Raises:
        ValueError: config.json is missing or of another model, or weights are missing, truncated or pickled.
    """
    kind = kind_of(folder)
    kind.check(folder)
    return kind


def kind_of(folder: Path) -> Kind:
    """The kind of backbone that the config.json of a folder describes (ValueError where it describes none)."""
    model_type = read_config(folder).get("model_type")
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise ValueError(f"backbone {folder} is of type {model_type!r}; give a Qwen2.5-VL checkpoint ({MODEL_TYPE!r})")
    return KINDS[model_type]
