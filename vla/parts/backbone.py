"""The backbones, by kind: found by name, folder or hub id, checked, fingerprinted and loaded."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from vla.parts import hashed, minilm, text, tiny
from vla.parts.embeddings import read_embeddings
from vla.parts.kind import Backbone, Kind
from vla.parts.pretrained import TEXT_FILES, fingerprint_of, read_config
from vla.parts.qwen import MODEL_TYPE, QWEN
from vla.provenance import Source, source
from vla.settings import BackboneConfig, PoolingName

KINDS: Mapping[str, Kind] = {
    MODEL_TYPE: QWEN,
    hashed.MODEL_TYPE: text.HASHED_WORDS,
    **dict.fromkeys(text.MODEL_TYPES, text.SENTENCE_ENCODER),
}
"""By the model_type of config.json."""
NEEDED = (
    *TEXT_FILES,
    *("*.safetensors", "*.safetensors.index.json"),
    *("config_sentence_transformers.json", "modules.json", "sentence_*_config.json", "*_Pooling/config.json"),
)
"""What is downloaded of a hub id."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A backbone that has a name instead of a folder."""

    find: Callable[[], Path]
    """Its folder (ValueError where it cannot be had)."""
    source: Source


def made_here(name: str, content: str) -> Source:
    """What is made here."""
    return Source(name=name, hub=False, license=None, content=f"{content}, built by Touchstone")


NAMED: Mapping[str, Named] = {
    "tiny": Named(find=tiny.build, source=made_here("tiny", "random weights")),
    "hash": Named(find=hashed.build, source=made_here("hash", "hashed words, no weights")),
    "minilm": Named(find=minilm.find, source=minilm.SOURCE),
}


def load_backbone(config: BackboneConfig, dtype: torch.dtype) -> Backbone:
    """Load a backbone, frozen and in eval mode; one that sees has weights of this type.

    Raises:
        ValueError: the folder is not a complete checkpoint of a kind that is taken, or the settings are not for it.
        CorruptData: the file of its embeddings is damaged.
    """
    folder = resolve(config.path)
    kind = check_checkpoint(folder)
    check_settings(config, kind)
    backbone = kind.load(config, folder, dtype)
    remember_texts(backbone, config.embeddings)
    return backbone


def remember_texts(backbone: Backbone, file: str | None) -> None:
    """Let a sentence encoder take the embeddings of a file of `vla embed`, where one is given.

    Raises:
        ValueError: they are of another encoder or pooling, or the backbone is no sentence encoder.
        CorruptData: the file is damaged.
    """
    if file is None:
        return
    if not isinstance(backbone, text.TextBackbone):
        raise ValueError(f"{file} would have no effect: {backbone.config.path} is no sentence encoder; leave it out")
    backbone.remember(read_embeddings(Path(file)), file)


def resolve(path: str) -> Path:
    """The folder of a backbone: a named one is built or found, a hub id is downloaded or found in the local cache.

    Raises:
        ValueError: there is no such folder, and no such repository within reach.
    """
    if path in NAMED:
        return NAMED[path].find()
    if (folder := folder_of(path)) is not None:
        return folder
    try:
        return Path(snapshot_download(path, allow_patterns=list(NEEDED)))
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
        near = difflib.get_close_matches(str(folder), [*NAMED, *siblings], n=1)
        hint = f"did you mean {near[0]}" if near else f"give a folder, a hub id (owner/name), or {', '.join(NAMED)}"
        raise ValueError(f"backbone {path!r} is not a folder; {hint}")
    return None


def base_of(path: str) -> Source:
    """The backbone of a path as what a policy is made from."""
    return NAMED[path].source if path in NAMED else source(path, resolve(path))


def width_of(path: str) -> int:
    """Width of a backbone's tokens, by its configuration alone.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`.
    """
    folder = resolve(path)
    return check_checkpoint(folder).width(folder)


def fingerprint(path: str, pooling: PoolingName = "auto", *, verify: bool = False) -> str:
    """SHA-256 of everything that decides what the backbone computes: configuration, tokenizer, weights, pooling.

    The files are read once, and again when they have changed since, or to `verify` them.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`; or nothing says how a sentence encoder pools.
    """
    folder = resolve(path)
    return fingerprint_of(folder, check_checkpoint(folder).reading(folder, pooling), verify=verify)


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
        raise ValueError(
            f"backbone {folder} is of type {model_type!r}; give a Qwen2.5-VL checkpoint ({MODEL_TYPE!r}) or a sentence "
            f"encoder ({', '.join(text.MODEL_TYPES)})"
        )
    return KINDS[model_type]


def check_settings(config: BackboneConfig, kind: Kind) -> None:
    """Refuse settings that this kind of backbone would pass over (ValueError)."""
    for entry in fields(config):
        given = entry.default is not MISSING and getattr(config, entry.name) != entry.default
        if given and entry.name != "path" and entry.name not in kind.settings:
            flag = f"--backbone.{entry.name.replace('_', '-')}"
            raise ValueError(f"{flag} would have no effect: {config.path} is {kind.words}; leave it out")
