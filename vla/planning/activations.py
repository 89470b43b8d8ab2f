"""Bytes that autograd keeps of a sample from forward to backward: a formula of the architecture, by part.

Read off the modules of transformers and of ours, op by op, and held within 25 % by tests/vla/planning: widths below are
those of one token, `e` is the size of a number that is computed with (2 in bfloat16, 4 in float32). A frozen linear
layer keeps nothing; one that learns keeps its input; norms are computed in float32 whatever surrounds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vla.parts.camera import CHANNELS, POINTS, CameraEncoder
from vla.parts.qwen import QwenVL
from vla.parts.sensor import SensorEncoder
from vla.planning.flops import (
    Told,
    adapted_layers,
    context_of,
    first_learning,
    first_recomputed,
    learns,
    lora_learns,
    opened_layers,
)
from vla.planning.workload import Number, Workload
from vla.policy import Policy

FULL = 4
"""Bytes of a float32."""
LOOKED: Mapping[int, float] = {2: 34.0, 4: 43.0}
"""Bytes a channel and patch in the largest moment of the vision tower, by those of a number: measured at widths of 320
and 640, whose queries and keys are turned in float32."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a device computes, as far as that decides what is kept."""

    e: int
    """Bytes of a number."""
    device: str = "cuda"

    @property
    def casts(self) -> bool:
        """Whether autocast copies a float32 input for each layer that reads it."""
        return self.e < FULL

    def mask(self, element: int) -> int:
        """Bytes of a dropout mask a number of such a size: a GPU's kernel keeps bools, a CPU's numbers."""
        return 1 if self.device == "cuda" else element

    def read(self, width: int, readers: int = 1) -> int:
        """A float32 input of so many learned layers: autocast copies it for each, else they share it."""
        return (readers if self.casts else 1) * self.e * width


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes."""

    parts: Mapping[str, Number]
    """A sample, by part: norms, attention, mlp, lora and opened blocks of the language model, or with gradient
    checkpointing its blocks' inputs; then expert and encoders."""
    once: Number
    """Whatever the number of samples: weights that are cast for the arithmetic."""
    again: Number = 0
    """A sample's of the block that gradient checkpointing computes again, beside what is kept."""
    seeing: Number = 0
    """A sample's in the largest moment of the vision tower, which comes before anything is kept."""

    @property
    def sample(self) -> Number:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def peak(self) -> Number:
        """A sample's in the largest moment of a step: most is kept where backward begins."""
        return max(self.sample + self.again, self.seeing)


def kept_of(policy: Policy, work: Workload, device: str = "cuda") -> Kept:
    """What a sample keeps; a parameter that requires a gradient learns. The policy may lie on the meta device."""
    own = Arithmetic(e=2 if policy.compute_dtype == torch.bfloat16 else FULL, device=device)
    parts: dict[str, Number] = {}
    once: Number = 0
    again: Number = 0
    seeing: Number = 0
    backbone = policy.backbone
    if isinstance(backbone, QwenVL):
        whole = language(policy, backbone, own)
        passed = backbone.num_layers - first_learning(backbone)
        block = sum(whole.values()) / max(1, passed)
        if backbone.config.gradient_checkpointing and passed:
            twice = backbone.num_layers - first_recomputed(backbone)
            whole = {name: size * (passed - twice) / passed for name, size in whole.items()}
            whole |= {"inputs": float(twice * own.e * backbone.width)}
            whole["norms"] += FULL * backbone.width * twice / passed
            again = block * work.tokens
        parts |= {name: size * work.tokens for name, size in whole.items()}
        once += cast_weights(backbone, own)
        seeing = looking(backbone, work, own)
    context = context_of(policy, work)
    for name in policy.encoders:
        module = policy.get_submodule(name)
        parts[name] = encoder(module, own) if learns(module) else 0.0
    parts["expert"] = expert(policy, context, work.draws, own)
    once += own.e * sum(p.numel() for p in policy.expert.parameters()) * own.casts
    return Kept(parts=parts, once=once, again=again, seeing=seeing)


def language(policy: Policy, backbone: QwenVL, own: Arithmetic) -> dict[str, Number]:
    """All blocks of the language model, a token."""
    config = backbone.plain.config.get_text_config()
    width, inner = config.hidden_size, config.intermediate_size
    head = width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    opened, adapted = opened_layers(backbone), policy.config.lora if lora_learns(backbone) else None
    having = adapted_layers(backbone)
    parts = dict.fromkeys(("norms", "attention", "mlp", "lora", "blocks"), 0.0)
    first = first_learning(backbone)
    for layer in range(first, config.num_hidden_layers):
        inward = layer > first
        parts["norms"] += FULL * width * (1 + inward)
        parts["attention"] += own.e * (2 * queries + 2 * keys) + FULL * config.num_attention_heads
        parts["mlp"] += 3 * own.e * inner
        if adapted and layer in having:
            parts["lora"] += lora_inputs(width, queries, adapted.rank, adapted.dropout, own)
        if layer in opened:
            parts["blocks"] += own.read(width, 3) + own.read(width, 2) + own.e * (2 * width + inner)
    if first < config.num_hidden_layers:
        parts["norms"] += FULL * width
    return parts


def lora_inputs(width: int, queries: int, rank: int, dropout: float, own: Arithmetic) -> Number:
    """What LoRA keeps of a token in a block: the input of query, key and value, masks, and the reduced inputs.

    The input of the output projection is attention's output, which attention keeps.
    """
    masks = width + queries if dropout else 0
    return width * own.e + masks + 4 * rank * own.e


def cast_weights(backbone: QwenVL, own: Arithmetic) -> Number:
    """Copies of learned weights in the type that is computed with; LoRA joins its factors whatever that is."""
    learned = [(name, p.numel()) for name, p in backbone.named_parameters() if p.requires_grad]
    return own.e * sum(count for name, count in learned if own.casts or "lora_" in name)


def looking(backbone: QwenVL, work: Workload, own: Arithmetic) -> Number:
    """The largest moment of the vision tower, of which nothing is kept: a block's attention, beside what comes in."""
    config = backbone.plain.config.vision_config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    turns = 2 * FULL * (config.hidden_size // config.num_heads)
    patch: Number = values * (FULL + own.casts * own.e) + turns + LOOKED[own.e] * config.hidden_size
    return patch * sum(rows * columns for rows, columns in work.images)


def expert(policy: Policy, context: list[Told], draws: int, own: Arithmetic) -> Number:
    """The action expert, with what it makes of its context."""
    sizes = policy.config.expert.sizes
    width, steps = sizes.width, draws * policy.contract.horizon
    seen = sum(told.tokens for told in context)
    backbone, *others = context
    told = backbone.tokens * (FULL * backbone.width + own.read(backbone.width))
    told += sum(other.tokens * own.e * other.width for other in others)
    told += seen * (FULL * width + own.read(width, sizes.depth) + sizes.depth * 2 * own.e * width)
    dropped = own.mask(own.e) if policy.config.expert.dropout else 0
    e = own.e
    itself = 2 * FULL * width + own.read(width, 2) * own.casts + 4 * e * width + (dropped + e) * width
    asks = FULL * width + own.read(width) + 2 * e * width + dropped * width
    feed = 2 * FULL * width + own.read(width) + 8 * e * width + (dropped + e) * width
    chunk = draws * sizes.depth * 8 * e * width
    ends = steps * (FULL * width + own.read(width))
    return told + steps * sizes.depth * (itself + asks + feed) + chunk + ends


def encoder(module: Any, own: Arithmetic) -> Number:
    """An encoder beside the backbone; of those of a single token next to nothing."""
    match module:
        case SensorEncoder():
            return sensor(module, own)
        case CameraEncoder():
            return camera(module, own)
    return 0.0


def sensor(module: SensorEncoder, own: Arithmetic) -> Number:
    """A window of samples."""
    width, rows, e = module.width, module.samples, own.e
    total = rows * (e * (module.channels + 1) + FULL * width)
    halves: list[Any] = [*module.halve]
    for halve in halves:
        total += rows * own.read(width)
        rows = -(-rows // 2)
        total += rows * (2 * FULL + (own.mask(FULL) if halve.dropout.p else 0)) * width
    token = 2 * FULL + 4 * e + own.read(1, 2) + own.read(1) + 8 * e + 2 * own.mask(e)
    return total + rows * width * (len(module.blocks) * token + FULL)


def camera(module: CameraEncoder, own: Arithmetic) -> Number:
    """Frames of all cameras: inputs and outputs of the convolutions, before and behind their norms."""
    half, quarter, cells = ((module.config.pixels // stride) ** 2 for stride in (2, 4, 8))
    first, second, third, fourth = CHANNELS
    frame = own.e * 5 * module.config.pixels**2
    maps = half * first + quarter * second + cells * third
    return len(module.views) * (
        frame + maps * (FULL + 2 * own.e) + cells * (2 * own.e * third + 2 * own.e * fourth + 3 * FULL * POINTS)
    )
