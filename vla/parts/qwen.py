"""Qwen2.5-VL as an encoder: the cameras' frames and an instruction become context tokens.

Positions are given to the model explicitly, the language-model head is never computed, and nothing here reads a
parameter outside the module that owns it, so that ZeRO-3 can partition the weights.
"""

import warnings
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from peft import PeftModel
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vla.adapters.layer import Blend
from vla.batch import Observation
from vla.frames import Area
from vla.moving import moved
from vla.parts.images import read_image_processor
from vla.parts.kind import Backbone, Kind
from vla.parts.pretrained import check_weights, keep_weights, read_model
from vla.parts.processor import Inputs, Processor
from vla.parts.vision import layout, pack_attention
from vla.settings import BackboneConfig

MODEL_TYPE = "qwen2_5_vl"
FULL, SLIDING = "full_attention", "sliding_attention"
"""How far the layers of a language model look back, as its configuration calls it."""


class QwenVL(Backbone):
    """Qwen2.5-VL's language-model states over cameras and instruction."""

    model: Qwen2_5_VLForConditionalGeneration | PeftModel
    prompt = "one user message: the cameras' images in order, then the instruction; the backbone's chat template"

    def __init__(
        self, model: Qwen2_5_VLForConditionalGeneration, processor: Processor, config: BackboneConfig, folder: Path
    ) -> None:
        super().__init__(config, folder, int(model.config.get_text_config().hidden_size))
        self.model = model
        self.processor = processor

    @property
    def size(self) -> Area:
        """In what size frames are looked at."""
        return self.processor.images.size

    def forward(self, observation: Observation) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Context tokens and which of them may be looked at; the others are zero.

        Raises:
            ValueError: an instruction is empty, too long, or contains a special token.
        """
        tokens, visible = self.encode(*self.processor.observe(observation))
        tokens = tokens.masked_fill(~visible[..., None], 0)
        if self.config.output == "tokens":
            return tokens, visible
        count = visible.sum(1, dtype=torch.float32)
        mean = tokens.sum(1, dtype=torch.float32) / count[:, None]
        return mean.to(tokens.dtype)[:, None], visible.any(1, keepdim=True)

    def encode(
        self, inputs: Inputs, visible: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Last hidden states, and which tokens are visible, both on the inputs' device; the others are hidden.

        `visible` is on the host, as the inputs are. transformers' own way from ids and grids to embeddings and mask
        would read a dozen numbers from the device.
        """
        model = self.plain.model
        places = (inputs.input_ids == model.config.image_token_id).flatten().nonzero()[:, 0]
        ids, positions, places, shown = moved((inputs.input_ids, inputs.position_ids, places, visible), inputs.device)
        embeddings: Tensor = model.get_input_embeddings()(ids)
        if len(places):
            features = self.see(inputs).to(embeddings.dtype)
            assert len(places) == len(features), f"{len(places)} places for {len(features)} features"
            embeddings = embeddings.flatten(0, 1).index_copy(0, places, features).view_as(embeddings)
        # Nothing that is read looks at what is hidden behind it, so padding on the right needs no mask: kernels for
        # plain causal attention are faster.
        plain = bool((visible[:, :-1] | ~visible[:, 1:]).all())
        config = model.language_model.config
        masks = {FULL: None if plain else causal(shown), SLIDING: None}
        if SLIDING in config.layer_types:
            masks[SLIDING] = causal(shown, config.sliding_window)
        output = model.language_model(
            inputs_embeds=embeddings,
            attention_mask=masks,
            position_ids=positions,
            use_cache=False,
        )
        tokens: Tensor = output.last_hidden_state
        assert tokens.shape[-1] == self.width, f"config says width {self.width}, the model gives {tokens.shape[-1]}"
        return tokens, shown

    def see(self, inputs: Inputs) -> Float[Tensor, "_ D"]:
        """What the vision tower says of the images, a row a merged patch."""
        tower = self.plain.model.visual
        place = layout(inputs.grids, tower.spatial_merge_size, tower.window_size, tower.patch_size, inputs.device)
        found: Tensor = tower(
            inputs.pixel_values.type(tower.dtype),
            grid_thw=inputs.image_grid_thw,
            position_ids=place.position_ids,
            window_index=place.window_index,
            cu_seqlens=place.cu_seqlens,
            cu_window_seqlens=place.cu_window_seqlens,
        ).pooler_output
        return found

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


def causal(visible: Bool[Tensor, "B L"], reach: int | None = None) -> Bool[Tensor, "B 1 L L"]:
    """Which token may look at which: at those up to itself that are visible, the last `reach` of them."""
    length = visible.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    if reach is not None:
        before = before.triu(1 - reach)
    return before & visible[:, None, None, :]


def qwen_of(backbone: Backbone) -> QwenVL:
    """A backbone that is one of these: adapters and opened blocks are of no other kind."""
    assert isinstance(backbone, QwenVL), f"a {type(backbone).__name__} has no language model to train"
    return backbone


def load(config: BackboneConfig, folder: Path, dtype: torch.dtype) -> QwenVL:
    """The backbone of a complete checkpoint, frozen and in eval mode.

    Raises:
        ValueError: weights, tokenizer or image processor do not fit its config.json.
    """
    model = read_model(Qwen2_5_VLForConditionalGeneration, folder, dtype=dtype, attn_implementation="sdpa")
    if not torch.cuda.is_available():
        keep_weights(model)
    pack_attention(model)
    images = read_image_processor(folder, config.min_pixels, config.max_pixels)
    processor = Processor(folder, images, model.config, model.model.get_rope_index)
    backbone = QwenVL(model, processor, config, folder).eval()
    if config.gradient_checkpointing:
        checkpoint_activations(model, backbone.blend)
    return backbone


def checkpoint_activations(model: Qwen2_5_VLForConditionalGeneration, blend: Blend) -> None:
    """Keep only the inputs of each language-model block that is in training mode, and recompute the rest in backward.

    Without re-entrance a block's parameters get their gradients even where its input needs none, so that the frozen
    embeddings need no detour through the gradient tape. Adapters count in backward as they did in forward, whatever
    counts by then.
    """
    with warnings.catch_warnings():
        # The new name of transformers 5.2x does not exist in the older releases we allow.
        warnings.simplefilter("ignore", FutureWarning)
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": blend.bound})


def width_of(folder: Path) -> int:
    """Width of a checkpoint's language model, by its configuration alone."""
    return int(Qwen2_5_VLConfig.from_pretrained(folder).get_text_config().hidden_size)


QWEN = Kind(
    words="a Qwen2.5-VL",
    sees=True,
    settings=frozenset({"min_pixels", "max_pixels", "output", "gradient_checkpointing"}),
    check=check_weights,
    width=width_of,
    load=load,
)
