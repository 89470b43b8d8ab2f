"""Qwen2.5-VL as an encoder: the cameras' frames and an instruction become context tokens.

Positions are given to the model explicitly, the language-model head is never computed, and nothing here reads a
parameter outside the module that owns it, so that ZeRO-3 can partition the weights.
"""

import difflib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Bool, Float
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from vla import cache
from vla.batch import Observation
from vla.frames import Area
from vla.listing import visible
from vla.parts import tiny
from vla.parts.images import read_image_processor
from vla.parts.processor import Inputs, Processor
from vla.parts.vision import pack_attention
from vla.provenance import Source, source
from vla.settings import BackboneConfig

MODEL_TYPE = "qwen2_5_vl"
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
)
"""Files that decide what the backbone computes, beside the weights."""
ELSEWHERE = {"transformers_weights", "quantization_config"}
"""Entries of config.json that name other files than those fingerprinted, or need packages that read them otherwise."""
CHUNK = 1 << 26
"""Bytes a thread hashes at once."""


class Backbone(nn.Module):
    """Qwen2.5-VL's language-model states over cameras and instruction."""

    model: Qwen2_5_VLForConditionalGeneration | PeftModel

    def __init__(
        self, model: Qwen2_5_VLForConditionalGeneration, processor: Processor, config: BackboneConfig, folder: Path
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.config = config
        self.folder = folder
        self.width = int(model.config.get_text_config().hidden_size)

    @property
    def size(self) -> Area:
        """In what size frames are looked at."""
        return self.processor.images.size

    def forward(self, observation: Observation) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Context tokens and which of them may be looked at; the others are zero.

        Raises:
            ValueError: an instruction is empty, too long, or contains a special token.
        """
        inputs, visible = self.processor.observe(observation)
        tokens = self.encode(inputs, visible).masked_fill(~visible[..., None], 0)
        if self.config.output == "tokens":
            return tokens, visible
        count = visible.sum(1, dtype=torch.float32)
        mean = tokens.sum(1, dtype=torch.float32) / count[:, None]
        return mean.to(tokens.dtype)[:, None], visible.any(1, keepdim=True)

    def encode(self, inputs: Inputs, visible: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Last hidden states; tokens that are not visible are hidden from attention."""
        has_images = len(inputs.image_grid_thw) > 0
        output = self.plain.model(
            input_ids=inputs.input_ids,
            attention_mask=visible.long(),
            position_ids=inputs.position_ids,
            pixel_values=inputs.pixel_values if has_images else None,
            image_grid_thw=inputs.image_grid_thw if has_images else None,
            use_cache=False,
        )
        tokens: Tensor = output.last_hidden_state
        assert tokens.shape[-1] == self.width, f"config says width {self.width}, the model gives {tokens.shape[-1]}"
        return tokens

    @property
    def plain(self) -> Qwen2_5_VLForConditionalGeneration:
        """The model without the adapter's wrapping; adapter layers inside stay active."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def last_layer_names(self, count: int) -> set[str]:
        """Names of the parameters of the last language-model blocks, adapters left out.

        Raises:
            ValueError: the language model has fewer blocks, or `count` is below 1.
        """
        layers = self.plain.model.language_model.layers
        if not 1 <= count <= len(layers):
            raise ValueError(
                f"cannot train the last {count} blocks: the language model of {self.config.path} has {len(layers)}; "
                f"give a number from 1 to {len(layers)}"
            )
        chosen = {id(parameter) for layer in layers[-count:] for parameter in layer.parameters()}
        return {name for name, parameter in self.named_parameters() if id(parameter) in chosen and "lora_" not in name}


def load_backbone(config: BackboneConfig, dtype: torch.dtype) -> Backbone:
    """Load a checkpoint, frozen and in eval mode.

    Raises:
        ValueError: the folder is not a complete Qwen2.5-VL checkpoint.
    """
    folder = resolve(config.path)
    check_checkpoint(folder)
    with without_progress_bar():
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"the weights of backbone {folder} do not fit its config.json: {name} is {tuple(stored)} instead of "
            f"{tuple(expected)}; take both from one checkpoint"
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights of backbone {folder} lack {len(missing)} tensors, among them {missing[0]}; "
            "use the weights that belong to its config.json"
        )
    model.requires_grad_(requires_grad=False)
    if not torch.cuda.is_available():
        keep_weights(model)
    pack_attention(model)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    images = read_image_processor(folder, config.min_pixels, config.max_pixels)
    processor = Processor(folder, images, model.config, model.model.get_rope_index)
    return Backbone(model, processor, config, folder).eval()


def keep_weights(model: nn.Module) -> None:
    """Take the weights out of the files that they are mapped from, as moving them to a GPU does.

    Whatever is written over such a file would be the weights of a policy under way, under the fingerprint of the old.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def checkpoint_activations(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Keep only the inputs of each language-model block that is in training mode, and recompute the rest in backward.

    Without re-entrance a block's parameters get their gradients even where its input needs none, so that the frozen
    embeddings need no detour through the gradient tape.
    """
    with warnings.catch_warnings():
        # The new name of transformers 5.2x does not exist in the older releases we allow.
        warnings.simplefilter("ignore", FutureWarning)
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})


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


def width_of(path: str) -> int:
    """Width of a backbone's language model, by its configuration alone.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`.
    """
    folder = resolve(path)
    check_checkpoint(folder)
    return int(Qwen2_5_VLConfig.from_pretrained(folder).get_text_config().hidden_size)


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


def check_checkpoint(folder: Path) -> None:
    """Refuse what is not a complete Qwen2.5-VL checkpoint before anything is loaded.

    What would make transformers read weights elsewhere than in the files that are fingerprinted is refused too.

    Raises:
        ValueError: config.json is missing or of another model, or weights are missing, truncated or pickled.
    """
    check_kind(folder)
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


def check_kind(folder: Path) -> None:
    """Refuse a folder whose config.json is not there or describes another model (ValueError)."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"backbone {folder} has no config.json; give the folder of a Qwen2.5-VL checkpoint")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = config.get("model_type")
    if model_type != MODEL_TYPE:
        raise ValueError(f"backbone {folder} is of type {model_type!r}; give a Qwen2.5-VL checkpoint ({MODEL_TYPE!r})")
    if elsewhere := sorted(ELSEWHERE & config.keys()):
        raise ValueError(
            f"the config.json of backbone {folder} has {elsewhere[0]!r}, so its weights are not plain tensors of this "
            "folder; give an original Qwen2.5-VL checkpoint"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files with weights, in the order of their names."""
    return visible(folder.glob("*.safetensors"))


def fingerprint(path: str, *, verify: bool = False) -> str:
    """SHA-256 of everything that decides what the backbone computes: configuration, tokenizer, template, weights.

    Depends on names and contents alone, not on where the files lie. They are read once, by all cores, and again when
    they have changed since, or to `verify` them.

    Raises:
        ValueError: as `resolve` and `check_checkpoint`.
    """
    folder = resolve(path)
    check_checkpoint(folder)
    files = [folder / name for name in TEXT_FILES if (folder / name).is_file()] + weight_files(folder)
    entry = cache.Entry(purpose=f"fingerprint by {CHUNK}", stamps={folder: cache.stamp(files)})
    known = None if verify else entry.recall()
    if known is None:
        known = digest_of([(file, file.stat().st_size) for file in files])
        entry.keep(known)
    return str(known)


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
