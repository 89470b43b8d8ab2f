"""LoRA on the backbone's language model, through peft: add, save, load, fold, merge.

The adapter sits on the query, key, value and output projections of the language model and nowhere in the vision tower.
Its weights are float32 whatever the backbone is in; names and files are peft's own, the layers are those of
`vla.parts.projection`.
"""

import copy
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from vla.adapter_settings import LoraConfig
from vla.adapters.layer import uniform
from vla.parts.projection import ADAPTER, Projection, Reduction
from vla.parts.qwen import QwenVL

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
SOME = r".*language_model\.layers\.({})\..*\.(q_proj|k_proj|v_proj|o_proj)"
"""The same of some layers, with their numbers between bars."""
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("o_proj",))
"""The projections of an attention, in the order of their calls, by the input that they read."""
PROJECTIONS = sum(map(len, TOGETHER))
REDUCTIONS = "lora"
"""What they have in common, in an attention."""
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
INCIDENTAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "revision",
}
"""Fields of peft's configuration in which an adapter may differ from ours and still compute the same."""


def add(backbone: QwenVL, config: LoraConfig, seed: int) -> None:
    """Put a new adapter on the backbone: A uniform as peft draws it but from `seed` and the name alone, B zero.

    Raises:
        ValueError: the backbone has an adapter already.
    """
    wrap(backbone, config)
    with torch.no_grad():
        for name, parameter in adapter_parameters(backbone).items():
            if "lora_A" in name:
                parameter.copy_(uniform(f"{seed}/{file_key(name)}", parameter.shape))
            else:
                parameter.zero_()


def wrap(backbone: QwenVL, config: LoraConfig) -> None:
    """Insert the adapter's layers, with values that are to be overwritten; the global random state stays as it is."""
    if isinstance(backbone.model, PeftModel):
        raise ValueError(f"the backbone {backbone.config.path} has an adapter already; merge it or load without it")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # peft draws its values on the CPU
        # peft 0.21 asks transformers 5.23 by a name that version 6 will drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        settings = peft_config(config, backbone.num_layers)
        settings._register_custom_module({nn.Linear: Projection})
        backbone.model = get_peft_model(backbone.model, settings)
    # Of a model that computes activations again peft asks for a gradient of both towers' inputs: the vision tower would
    # keep all it computes, and backward would go through it to nowhere.
    backbone.plain.disable_input_require_grads()
    chosen = config.chosen(backbone.num_layers)
    for number in chosen:
        join(backbone.plain.model.language_model.layers[number].self_attn)
    parameters = adapter_parameters(backbone)
    assert all(".language_model.layers." in name and ".visual." not in name for name in parameters), "LoRA went astray"
    assert len(parameters) == len(chosen) * PROJECTIONS * 2, f"{len(parameters)} LoRA tensors in {len(chosen)} layers"
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values()), "LoRA trains in float32"


def join(attention: nn.Module) -> None:
    """Give the projections of an attention what they have in common.

    It comes after them, so that the names of parameters stay those that they have in the projections.
    """
    reductions = nn.ModuleList()
    for names in TOGETHER:
        projections = [attention.get_submodule(name) for name in names]
        reductions.append(Reduction(*(own for own in projections if isinstance(own, Projection))))
    attention.register_module(REDUCTIONS, reductions)


def peft_config(config: LoraConfig, num_layers: int) -> PeftLoraConfig:
    """The configuration in peft's words, of a language model of so many layers."""
    some = SOME.format("|".join(map(str, config.chosen(num_layers))))
    return PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=TARGETS if config.layers == "all" else some,
        bias="none",
        task_type="CAUSAL_LM",
    )


def config_of(backbone: QwenVL) -> LoraConfig | None:
    """The adapter's configuration, or None where there is none."""
    if not isinstance(backbone.model, PeftModel):
        return None
    settings = backbone.model.peft_config[ADAPTER]
    assert isinstance(settings, PeftLoraConfig)
    layers = layers_of(settings.target_modules)
    return LoraConfig(rank=settings.r, alpha=settings.lora_alpha, dropout=settings.lora_dropout, layers=layers)


def layers_of(targets: object) -> str:
    """Which layers an adapter of ours is of, by its expression; `all` where that is none of ours."""
    ours = re.escape(SOME).replace(re.escape("{}"), r"([\d|]+)")
    numbers = re.fullmatch(ours, targets) if isinstance(targets, str) else None
    return "all" if numbers is None else f"top:{len(numbers[1].split('|'))}"


def adapter_parameters(backbone: QwenVL) -> dict[str, Tensor]:
    """The adapter's parameters by their name in the backbone."""
    return {name: parameter for name, parameter in backbone.named_parameters() if "lora_" in name}


def file_key(name: str) -> str:
    """Key of a parameter in peft's file: the name within the PeftModel, without the adapter's name."""
    return name.removeprefix("model.").replace(f".{ADAPTER}.", ".")


def save(backbone: QwenVL, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter so that plain `PeftModel.from_pretrained(model, folder)` loads it.

    Args:
        backbone: with an adapter.
        folder: must exist.
        tensors: values to write instead of the module's, by the parameter's name in the backbone: averaged weights,
            or weights gathered from a partitioned module.
    """
    assert isinstance(backbone.model, PeftModel), "there is no adapter to save"
    parameters = adapter_parameters(backbone)
    assert tensors.keys() <= parameters.keys(), f"not LoRA parameters: {sorted(tensors.keys() - parameters.keys())[:3]}"
    values = {name: tensors.get(name, parameter).detach().cpu().float() for name, parameter in parameters.items()}
    assert all(value.ndim == 2 for value in values.values()), "a partitioned parameter must be given in `tensors`"
    # One memory may hold several of them, which safetensors refuses.
    save_file(
        {file_key(name): value.clone() for name, value in values.items()}, folder / WEIGHTS_FILE, {"format": "pt"}
    )
    settings = copy.copy(backbone.model.peft_config[ADAPTER])
    settings.inference_mode = True
    hub = not Path(backbone.config.path).expanduser().is_dir() and backbone.config.path != "tiny"
    settings.base_model_name_or_path = backbone.config.path if hub else str(backbone.folder.absolute())
    settings.save_pretrained(str(folder))


def load(backbone: QwenVL, folder: Path) -> None:
    """Put the adapter of a folder on the backbone, or into the adapter it has.

    Raises:
        ValueError: the folder holds no adapter, or one that does not fit; the message names the difference.
    """
    config = read_config(folder, backbone.num_layers)
    present = config_of(backbone)
    if present is None:
        wrap(backbone, config)
    elif (present.rank, present.alpha) != (config.rank, config.alpha):
        raise ValueError(
            f"adapter {folder} has rank {config.rank} and alpha {config.alpha}, the run has rank {present.rank} and "
            f"alpha {present.alpha}; give --lora.rank {config.rank} --lora.alpha {config.alpha}"
        )
    elif present.layers != config.layers:
        raise ValueError(
            f"adapter {folder} is of the layers {config.layers}, the run's of {present.layers}; give --lora.layers "
            f"{config.layers}"
        )
    try:
        stored = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"adapter {folder}: {WEIGHTS_FILE} cannot be read ({error}); export it again") from error
    parameters = {file_key(name): parameter for name, parameter in adapter_parameters(backbone).items()}
    if difference := describe_difference(stored, parameters):
        raise ValueError(
            f"adapter {folder} does not fit backbone {backbone.config.path}: {difference}; "
            "load the backbone it was trained on"
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(stored[key])


def read_config(folder: Path, num_layers: int) -> LoraConfig:
    """The configuration of an adapter folder, for a language model of so many layers.

    Raises:
        ValueError: there is none, or it is not a LoRA on the language model's projections alone.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} holds no adapter ({CONFIG_FILE} is missing); give the adapter folder of a policy")
    stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if stored.get("peft_type") != "LORA":
        raise ValueError(f"adapter {folder} is of type {stored.get('peft_type')}; only LORA can be loaded")
    config = LoraConfig(
        rank=stored["r"],
        alpha=stored["lora_alpha"],
        dropout=stored["lora_dropout"],
        layers=layers_of(stored.get("target_modules")),
    )
    ours = json.loads(json.dumps(peft_config(config, num_layers).to_dict(), default=list))
    different = [name for name in sorted(ours.keys() & stored.keys() - INCIDENTAL) if ours[name] != stored[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"adapter {folder} has {name} = {stored[name]!r}, ours have {ours[name]!r}; "
            "only LoRA on the language model's q, k, v and o projections can be loaded"
        )
    return config


def describe_difference(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What does not fit, in words; empty when all does."""
    parts = []
    for names, words in ((expected.keys() - stored.keys(), "missing"), (stored.keys() - expected.keys(), "unexpected")):
        if names:
            parts.append(f"{len(names)} tensors {words}, such as {min(names)}")
    shapes = [
        f"{name} is {tuple(stored[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(stored.keys() & expected.keys())
        if stored[name].shape != expected[name].shape
    ]
    return "; ".join(parts + shapes[:1])


def fold(backbone: QwenVL) -> None:
    """Put the updates of the adapter, where there is one, into the weights, to act: a call then costs a bare one's.

    Its parameters stay where they are and add nothing any more, so that such a backbone is neither trained nor saved.
    In bfloat16 weights small updates would be lost: there they are added beside them, as before.
    """
    if isinstance(backbone.model, PeftModel) and backbone.plain.dtype == torch.float32:
        backbone.model.base_model.merge_adapter()


def merge(backbone: QwenVL) -> Qwen2_5_VLForConditionalGeneration:
    """Add the adapter's updates to the weights and take the adapter off; the backbone goes on with the result.

    Load the backbone in float32 for it: a small update is lost in bfloat16 weights.
    """
    assert isinstance(backbone.model, PeftModel), "there is no adapter to merge"
    merged = backbone.model.merge_and_unload(safe_merge=True)
    assert isinstance(merged, Qwen2_5_VLForConditionalGeneration)
    for layer in merged.model.language_model.layers:
        if REDUCTIONS in dict(layer.self_attn.named_children()):
            delattr(layer.self_attn, REDUCTIONS)
    backbone.model = merged
    return merged
