"""Qwen2.5-VL as an encoder: the cameras' frames and an instruction become context tokens.

Positions are given to the model explicitly, the language-model head is never computed, and nothing here reads a
parameter outside the module that owns it, so that ZeRO-3 can partition the weights.
"""

import math
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from peft import PeftModel
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vla.adapters.layer import Blend
from vla.batch import Observation, Prefixes
from vla.frames import Area, Frame
from vla.moving import moved
from vla.packed import Packing
from vla.parts.images import Grid, read_image_processor
from vla.parts.kind import Backbone, Kind, Read
from vla.parts.memory import Memory, decisive_of
from vla.parts.pretrained import check_weights, keep_weights, read_model
from vla.parts.processor import Inputs, Processor
from vla.parts.vision import layout, pack_attention
from vla.prefix_settings import Door, Precision
from vla.settings import BackboneConfig

MODEL_TYPE = "qwen2_5_vl"
LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.")
FULL, SLIDING = "full_attention", "sliding_attention"
"""How far the layers of a language model look back, as its configuration calls it."""


class QwenVL(Backbone):
    """Qwen2.5-VL's language-model states over cameras and instruction."""

    model: Qwen2_5_VLForConditionalGeneration | PeftModel
    prompt = "one user message: the cameras' images in order, then the instruction; the backbone's chat template"

    def __init__(
        self,
        model: Qwen2_5_VLForConditionalGeneration,
        processor: Processor | None,
        config: BackboneConfig,
        folder: Path,
    ) -> None:
        """Without a processor it reads nothing: its shapes alone are asked for."""
        super().__init__(config, folder, int(model.config.get_text_config().hidden_size))
        self.model = model
        self._processor = processor

    @property
    def processor(self) -> Processor:
        """What makes inputs of observations."""
        assert self._processor is not None, "an outline reads nothing"
        return self._processor

    @property
    def size(self) -> Area:
        """In what size frames are looked at."""
        return self.processor.images.size

    def forward(
        self, observation: Observation, memory: Memory | None = None, /
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Context tokens and which of them may be looked at; the others are zero.

        Raises:
            ValueError: an instruction is empty, too long, or contains a special token.
        """
        if (prefix := observation.prefix) is None:
            inputs, visible = self.processor.observe(observation)
            self.tell(inputs.attention_mask, inputs.grids if inputs.features is None else ())
            tokens, visible = self.encode(inputs, visible, memory)
        else:
            self.tell(prefix.visible, (), self.num_layers if prefix.layer is None else prefix.layer)
            tokens, visible = self.go_on(prefix, observation.state.device)
            if prefix.layer is None:
                return tokens, visible
        tokens = tokens.masked_fill(~visible[..., None], 0)
        if self.config.output == "tokens":
            return tokens, visible
        count = visible.sum(1, dtype=torch.float32)
        mean = tokens.sum(1, dtype=torch.float32) / count[:, None]
        return mean.to(tokens.dtype)[:, None], visible.any(1, keepdim=True)

    def encode(
        self, inputs: Inputs, visible: Bool[Tensor, "B L"], memory: Memory | None = None
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """Last hidden states, and which tokens are visible, both on the inputs' device; the others are hidden.

        `visible` is on the host, as the inputs are.
        """
        embeddings, positions, shown = self.embed(inputs, visible, memory)
        return self.think(embeddings, positions, visible, shown), shown

    def tell(self, read: Tensor, grids: tuple[Grid, ...], first: int = 0) -> None:
        """Say what is read of a batch: which tokens, of which images, from which layer on."""
        if self.on_read is not None:
            lengths = tuple(map(int, read.sum(1).tolist()))
            self.on_read(Read(tokens=lengths, length=read.shape[1], grids=grids, first=first))

    def go_on(self, prefix: Prefixes, device: torch.device) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
        """As `encode`, from what is known of a batch."""
        shown = prefix.visible.to(device, non_blocking=True)
        rows = prefix.packing.unpack(prefix.rows, self.dtype)
        if prefix.layer is None:
            return rows, shown
        positions = prefix.positions.permute(2, 0, 1).long()
        return self.think(rows, positions, prefix.visible, shown, first=prefix.layer), shown

    @torch.no_grad()
    def prefix(self, observation: Observation, layer: int | None, precision: Precision) -> Prefixes:
        """What the model makes of observations before a layer, or all of it, to be kept."""
        packing = Packing(precision=precision, width=self.width)
        if layer is None:
            tokens, shown = self(observation)
            visible, positions = shown.cpu(), torch.zeros(*shown.shape, 3, dtype=torch.int32)
        else:
            inputs, visible = self.processor.observe(observation)
            embeddings, _, shown = self.embed(inputs, visible)
            places = inputs.position_ids.to(embeddings.device)
            tokens = self.think(embeddings, places, visible, shown, last=layer)
            positions = inputs.position_ids.permute(1, 2, 0).to(torch.int32)
        return Prefixes(rows=packing.pack(tokens), visible=visible, positions=positions, packing=packing, layer=layer)

    @torch.no_grad()
    def features(self, frames: Sequence[Frame]) -> Float[Tensor, "N T D"]:
        """What the vision tower says of frames of one size, which are in the size it looks at."""
        images = self.processor.images
        grids = tuple(images.grid(*frame.shape[1:]) for frame in frames)
        found = self.show(images(frames), grids, frames[0].device)
        return found.view(len(frames), -1, found.shape[-1])

    def embed(
        self, inputs: Inputs, visible: Bool[Tensor, "B L"], memory: Memory | None = None
    ) -> tuple[Float[Tensor, "B L D"], Int64[Tensor, "3 B L"], Bool[Tensor, "B L"]]:
        """What the first layer reads, its rotary positions, and what is visible, all on the inputs' device.

        transformers' own way from ids and grids to embeddings would read a dozen numbers from the device.
        """
        model = self.plain.model
        places = (inputs.input_ids == model.config.image_token_id).flatten().nonzero()[:, 0]
        ids, positions, places, shown = moved((inputs.input_ids, inputs.position_ids, places, visible), inputs.device)
        embeddings: Tensor = model.get_input_embeddings()(ids)
        if len(places):
            features = self.see(inputs, memory).to(embeddings.dtype)
            assert len(places) == len(features), f"{len(places)} places for {len(features)} features"
            embeddings = embeddings.flatten(0, 1).index_copy(0, places, features).view_as(embeddings)
        return embeddings, positions, shown

    def think(
        self,
        hidden: Float[Tensor, "B L D"],
        positions: Int64[Tensor, "3 B L"],
        visible: Bool[Tensor, "B L"],
        shown: Bool[Tensor, "B L"],
        *,
        first: int = 0,
        last: int | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The states after the layers from `first` up to `last`; None: all of them, and the norm behind them.

        `visible` on the host decides whether a mask is needed, `shown` is the same on the device.
        """
        model = self.plain.model.language_model
        # Nothing that is read looks at what is hidden behind it, so padding on the right needs no mask: kernels for
        # plain causal attention are faster.
        plain = bool((visible[:, :-1] | ~visible[:, 1:]).all())
        kinds = model.config.layer_types[first:last]
        masks = {FULL: None if plain else causal(shown), SLIDING: None}
        if SLIDING in kinds:
            masks[SLIDING] = causal(shown, model.config.sliding_window)
        rotary = model.rotary_emb(hidden, positions)
        for layer, kind in zip(model.layers[first:last], kinds, strict=True):
            hidden = layer(
                hidden, attention_mask=masks[kind], position_embeddings=rotary, position_ids=None, use_cache=False
            )
        if last is not None:
            return hidden
        tokens: Tensor = model.norm(hidden)
        assert tokens.shape[-1] == self.width, f"config says width {self.width}, the model gives {tokens.shape[-1]}"
        return tokens

    def see(self, inputs: Inputs, memory: Memory | None = None) -> Float[Tensor, "_ D"]:
        """What the vision tower says of the images, or what is known of them, a row a merged patch."""
        tower, grids = self.plain.model.visual, inputs.grids
        if inputs.features is not None:
            assert inputs.packing is not None, "features are packed"
            return inputs.packing.unpack(inputs.features, self.dtype)
        pixels = inputs.pixel_values
        assert pixels is not None, "an image is pixels or features"
        if memory is None:
            return self.show(pixels, grids, inputs.device)
        patches = pixels.split([math.prod(grid) for grid in grids])

        def seen(places: Sequence[int]) -> Sequence[Tensor]:
            shown = tuple(grids[place] for place in places)
            every = len(places) == len(grids)
            values = pixels if every else torch.cat([patches[place] for place in places])
            tokens = [self.processor.images.tokens(grid) for grid in shown]
            each: Sequence[Tensor] = self.show(values, shown, inputs.device).split(tokens)
            return each

        return torch.cat(memory.recall(inputs.frames, decisive_of(tower, self.blend, inputs.device), seen))

    def show(
        self, patches: Float[Tensor, "_ _"], grids: tuple[Grid, ...], device: torch.device
    ) -> Float[Tensor, "_ D"]:
        """What the vision tower says of images with these patches."""
        tower = self.plain.model.visual
        place = layout(grids, tower.spatial_merge_size, tower.window_size, tower.patch_size, device)
        found: Tensor = tower(
            patches.type(tower.dtype),
            grid_thw=torch.tensor(grids),
            position_ids=place.position_ids,
            window_index=place.window_index,
            cu_seqlens=place.cu_seqlens,
            cu_window_seqlens=place.cu_window_seqlens,
        ).pooler_output
        return found

    @property
    def num_layers(self) -> int:
        """Of the language model."""
        return int(self.plain.config.get_text_config().num_hidden_layers)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        found: torch.dtype = self.plain.dtype
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

    def deepest(self, learning: Collection[str]) -> Door:
        """The last door before all of some parameters of it, by name."""
        if not learning:
            return Door(name="context")
        if any(".visual." in name for name in learning):
            return Door(name="frames")
        layers = [int(found[1]) if (found := LAYER.search(name)) else 0 for name in learning]
        return Door(name="layer", layer=min(layers)) if min(layers) else Door(name="vision")


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
        count = backbone.num_layers if config.recomputed_layers is None else config.recomputed_layers
        checkpoint_activations(model, backbone.blend, count)
    elif config.recomputed_layers is not None:
        raise ValueError("--backbone.recomputed-layers goes with --backbone.gradient-checkpointing: give both")
    return backbone


def outline(description: Qwen2_5_VLConfig, config: BackboneConfig, folder: Path, dtype: torch.dtype) -> QwenVL:
    """One of these on the meta device, by its config.json alone: names and shapes without weights, frozen."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(description).to(dtype).requires_grad_(requires_grad=False)
    pack_attention(model)
    return QwenVL(model, None, config, folder)


def checkpoint_activations(model: Qwen2_5_VLForConditionalGeneration, blend: Blend, count: int) -> None:
    """Keep only the inputs of the upper blocks that are in training mode, and recompute the rest in backward.

    Without re-entrance a block's parameters get their gradients even where its input needs none, so that the frozen
    embeddings need no detour through the gradient tape. Adapters count in backward as they did in forward, whatever
    counts by then.

    Raises:
        ValueError: there are fewer blocks.
    """
    layers = model.model.language_model.layers
    if not 1 <= count <= len(layers):
        raise ValueError(f"--backbone.recomputed-layers is {count}: give 1 to {len(layers)}, the layers that there are")
    with warnings.catch_warnings():
        # The new name of transformers 5.2x does not exist in the older releases we allow.
        warnings.simplefilter("ignore", FutureWarning)
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": blend.bound})
    # transformers takes that detour all the same: a stage without LoRA would keep, and go back through, all blocks.
    model.model.language_model.disable_input_require_grads()
    for layer in layers[: len(layers) - count]:
        layer.gradient_checkpointing = False


def width_of(folder: Path) -> int:
    """Width of a checkpoint's language model, by its configuration alone."""
    return int(Qwen2_5_VLConfig.from_pretrained(folder).get_text_config().hidden_size)


QWEN = Kind(
    words="a Qwen2.5-VL",
    sees=True,
    settings=frozenset({"min_pixels", "max_pixels", "output", "gradient_checkpointing", "recomputed_layers"}),
    check=check_weights,
    width=width_of,
    load=load,
)
