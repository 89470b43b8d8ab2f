"""A folder of pretrained weights: complete, plain tensors of its own, and known by what it holds."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging

from vla import cache
from vla.listing import visible

TEXT_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files that decide what a model computes, beside the weights."""
ELSEWHERE = {"transformers_weights", "quantization_config"}
"""Entries of config.json that name other files than those fingerprinted, or need packages that read them otherwise."""
CHUNK = 1 << 26
"""Bytes a thread hashes at once."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        ValueError: there is none, or it sends elsewhere for the weights.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"backbone {folder} has no config.json; give the folder of a Qwen2.5-VL checkpoint or of a sentence encoder"
        )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if elsewhere := sorted(ELSEWHERE & config.keys()):
        raise ValueError(
            f"the config.json of backbone {folder} has {elsewhere[0]!r}, so its weights are not plain tensors of this "
            "folder; give an original checkpoint"
        )
    return config


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are not complete before anything is loaded.

    What would make transformers read weights elsewhere than in the files that are fingerprinted is refused too.

    Raises:
        ValueError: weights are missing, truncated or pickled.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"backbone {folder} is an adapter (it has an adapter_config.json); give the checkpoint it was trained on, "
            "or merge it first"
        )
    weights = weight_files(folder)
    if not {"model.safetensors", "model.safetensors.index.json"} & {path.name for path in folder.iterdir()}:
        raise ValueError(
            f"backbone {folder} holds no weights (model.safetensors); complete the download, or convert pickled ones "
            "with save_pretrained(safe_serialization=True)"
        )
    index = folder / "model.safetensors.index.json"
    named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    if absent := sorted(named - {path.name for path in weights}):
        raise ValueError(f"backbone {folder} lacks {absent[0]}, which its index names; complete the download")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"the weights {path} are damaged ({error}); download them again") from error


def weight_files(folder: Path) -> list[Path]:
    """The files with weights, in the order of their names."""
    return visible(folder.glob("*.safetensors"))


def read_model(architecture: Any, folder: Path, unused: str | None = None, **settings: Any) -> Any:
    """The model of a complete folder, frozen and in eval mode; `settings` are those of its `from_pretrained`.

    Weights may lack the child called `unused`, which is not asked for anything.

    Raises:
        ValueError: the weights do not fit the config.json.
    """
    with without_progress_bar():
        model, report = architecture.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
            **settings,
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"the weights of backbone {folder} do not fit its config.json: {name} is {tuple(stored)} instead of "
            f"{tuple(expected)}; take both from one checkpoint"
        )
    missing = sorted(name for name in report["missing_keys"] if name.partition(".")[0] != unused)
    if missing:
        raise ValueError(
            f"the weights of backbone {folder} lack {len(missing)} tensors, among them {missing[0]}; "
            "use the weights that belong to its config.json"
        )
    return model.requires_grad_(requires_grad=False).eval()


def keep_weights(model: nn.Module) -> None:
    """Take the weights out of the files that they are mapped from, as moving them to a GPU does.

    Whatever is written over such a file would be the weights of a policy under way, under the fingerprint of the old.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Silence the bar that transformers draws while it reads weights: every rank would draw one."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def fingerprint_of(folder: Path, how: str = "", *, verify: bool = False) -> str:
    """SHA-256 of everything in a complete folder that decides what a model computes, and of `how` it is asked.

    Depends on names and contents alone, not on where the files lie. They are read once, by all cores, and again when
    they have changed since, or to `verify` them.
    """
    files = [folder / name for name in TEXT_FILES if (folder / name).is_file()] + weight_files(folder)
    entry = cache.Entry(purpose=f"fingerprint by {CHUNK}", stamps={folder: cache.stamp(files)})
    known = None if verify else entry.recall()
    if known is None:
        known = digest_of([(file, file.stat().st_size) for file in files])
        entry.keep(known)
    return hashlib.sha256(f"{known} {how}".encode()).hexdigest() if how else str(known)


def digest_of(files: Sequence[tuple[Path, int]]) -> str:
    """SHA-256 over the names and the digests of the chunks of the files (path, bytes)."""
    chunks = [(path, start) for path, size in files for start in range(0, size, CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(digest_of_chunk, chunks))
    whole = hashlib.sha256()
    for path, size in files:
        whole.update(f"{path.name}:{size}:".encode())
        for chunk in (digest for (owner, _), digest in zip(chunks, digests, strict=True) if owner == path):
            whole.update(chunk)
    return whole.hexdigest()


def digest_of_chunk(chunk: tuple[Path, int]) -> bytes:
    """SHA-256 of one chunk of a file."""
    path, start = chunk
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(CHUNK)).digest()
