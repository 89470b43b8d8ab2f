"""Model FLOPs of a sample, forward and backward, by part of the policy.

A product of matrices counts 2 a multiplication and addition. Backward costs as much again for its input, where that
needs a gradient, and as much again for its weight, where that learns: so 2N where all is frozen, 4N through LoRA, 6N
where all learns (Kaplan et al. 2020, section 2.1; Megatron-Bridge counts LoRA so too). Attention is counted whole, as
PaLM does (Chowdhery et al. 2022, appendix B), though causal kernels leave half of it out. What gradient checkpointing
computes again is no model FLOP; `Flops.again` has it apart.

The language-model head is never computed (vla/parts/qwen.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vla.parts.camera import CHANNELS, POINTS, QUERIES, VALUES, CameraEncoder
from vla.parts.qwen import QwenVL
from vla.parts.sensor import SensorEncoder
from vla.parts.state import StateEncoder
from vla.parts.style import StyleEncoder
from vla.planning.workload import Number, Workload, pairs_of, tokens_of
from vla.policy import Policy

OPENED = re.compile(r"language_model\.layers\.(\d+)\.")


class Cost(NamedTuple):
    """FLOPs."""

    forward: Number = 0.0
    backward: Number = 0.0

    def plus(self, *others: "Cost") -> "Cost":
        """The sum."""
        return Cost(*map(sum, zip(self, *others, strict=True)))

    def times(self, count: Number) -> "Cost":
        """As often."""
        return Cost(self.forward * count, self.backward * count)


class Told(NamedTuple):
    """Tokens of a part that the expert looks at."""

    width: int
    tokens: Number
    inward: bool
    """Whether they need a gradient."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Of a sample."""

    parts: Mapping[str, Cost]
    """vision, language, expert, and the other encoders by name."""
    again: Number
    """What gradient checkpointing computes a second time."""

    @property
    def forward(self) -> Number:
        """Of all parts."""
        return sum(cost.forward for cost in self.parts.values())

    @property
    def backward(self) -> Number:
        """Of all parts."""
        return sum(cost.backward for cost in self.parts.values())

    @property
    def model(self) -> Number:
        """What MFU counts."""
        return self.forward + self.backward


def flops_of(policy: Policy, work: Workload) -> Flops:
    """Those of a sample; a parameter that requires a gradient learns, and the rest is frozen.

    The policy may lie on the meta device. Named adapters and the passes of a teacher are not counted.
    """
    parts: dict[str, Cost] = {}
    backbone, again = policy.backbone, 0.0
    if isinstance(backbone, QwenVL):
        parts["vision"] = vision(backbone, work)
        parts["language"] = language(policy, backbone, work.tokens, first=work.first)
        if backbone.config.gradient_checkpointing and learns(backbone):
            again = language(policy, backbone, work.tokens, first=max(work.first, first_recomputed(backbone))).forward
    context = context_of(policy, work)
    for name in policy.encoders:
        parts[name] = encoder(policy.get_submodule(name), backbone.width, context[0].tokens)
    parts["expert"] = expert(policy, context, work.draws)
    return Flops(parts=parts, again=again)


def context_of(policy: Policy, work: Workload) -> list[Told]:
    """What the expert is told of a sample: by the backbone, then by each encoder."""
    backbone = policy.backbone
    whole = isinstance(backbone, QwenVL) and backbone.config.output == "tokens"
    # The backbone's tokens pass a norm that learns, so a gradient is asked for behind it in any case.
    found = [Told(width=backbone.width, tokens=work.tokens if whole else 1.0, inward=True)]
    for name in policy.encoders:
        module: Any = policy.get_submodule(name)
        found.append(Told(width=module.width, tokens=num_tokens(module), inward=learns(module)))
    return found


def num_tokens(module: Any) -> Number:
    """Tokens that an encoder gives."""
    match module:
        case SensorEncoder():
            return float(module.num_tokens)
        case CameraEncoder():
            return float(len(module.views) * module.config.tokens)
    return 1.0


def learns(module: Any) -> bool:
    """Whether some parameter does."""
    return any(parameter.requires_grad for parameter in module.parameters())


def matrix(rows: Number, inside: int, outside: int, *, inward: bool = True, learned: bool = True) -> Cost:
    """A linear layer; `inward`: its input needs a gradient."""
    once = 2.0 * rows * inside * outside
    return Cost(once, once * (inward + learned))


def attention(pairs: Number, width: int, *, inward: bool = True) -> Cost:
    """Scores and mixture of so many pairs of a query and a key, heads of together this width."""
    return Cost(4.0 * pairs * width, 8.0 * pairs * width * inward)


def vision(backbone: QwenVL, work: Workload) -> Cost:
    """The vision tower, which is frozen in every stage."""
    config = backbone.plain.config.vision_config
    width, inner, merged = (
        config.hidden_size,
        config.intermediate_size,
        config.hidden_size * config.spatial_merge_size**2,
    )
    patches = sum(rows * columns for rows, columns in work.images)
    window = config.window_size // config.patch_size
    full = len(config.fullatt_block_indexes)
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pairs = sum(
        full * (image[0] * image[1]) ** 2 + (config.depth - full) * pairs_of(image, window) for image in work.images
    )
    linear = config.depth * (4 * width**2 + 3 * width * inner) + width * values
    tokens = tokens_of(work.images, config.spatial_merge_size)
    merger = tokens * (merged**2 + merged * config.out_hidden_size)
    return Cost(2.0 * (patches * linear + merger) + 4.0 * pairs * width, 0.0)


def language(policy: Policy, backbone: QwenVL, tokens: Number, *, first: int) -> Cost:
    """The language model's blocks from one on, with the adapters of LoRA and the blocks that are opened."""
    config = backbone.plain.config.get_text_config()
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * (width // config.num_attention_heads)
    keys = config.num_key_value_heads * (width // config.num_attention_heads)
    rank = 0 if policy.config.lora is None else policy.config.lora.rank
    adapted, learning, opened = adapted_layers(backbone), lora_learns(backbone), opened_layers(backbone)
    total, inward = Cost(), False
    for layer in range(first, config.num_hidden_layers):
        own, has = layer in opened, layer in adapted
        learned = learning and has
        inside = inward or own or learned
        for outside in (queries, keys, keys):
            total = total.plus(matrix(tokens, width, outside, inward=inward or own, learned=own))
            if has:
                total = total.plus(low_rank(tokens, width, outside, rank, inward=inward, learned=learned))
        total = total.plus(
            attention(tokens**2, queries, inward=inside),
            matrix(tokens, queries, width, inward=inside, learned=own),
            *(matrix(tokens, width, inner, inward=inside, learned=own) for _ in range(2)),
            matrix(tokens, inner, width, inward=inside, learned=own),
        )
        if has:
            total = total.plus(low_rank(tokens, queries, width, rank, inward=inside, learned=learned))
        inward = inside
    return total


def lora_learns(backbone: QwenVL) -> bool:
    """Whether the backbone has adapters of LoRA that learn."""
    return any(parameter.requires_grad for name, parameter in backbone.named_parameters() if "lora_" in name)


def opened_layers(backbone: QwenVL) -> set[int]:
    """The blocks of the language model that learn themselves, counted from 0."""
    trained = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    return {int(found[1]) for name in trained if "lora_" not in name and (found := OPENED.search(name))}


def adapted_layers(backbone: QwenVL) -> set[int]:
    """The blocks of the language model that have adapters of LoRA, counted from 0."""
    named = [name for name, _ in backbone.named_parameters() if "lora_" in name]
    return {int(found[1]) for name in named if (found := OPENED.search(name))}


def first_learning(backbone: QwenVL) -> int:
    """The first block of the language model that backward passes; where none learns, as many as there are."""
    adapted = adapted_layers(backbone) if lora_learns(backbone) else set()
    return min(adapted | opened_layers(backbone), default=backbone.num_layers)


def first_recomputed(backbone: QwenVL) -> int:
    """The first block that gradient checkpointing computes again, where it is on."""
    count = backbone.config.recomputed_layers
    return max(first_learning(backbone), backbone.num_layers - (backbone.num_layers if count is None else count))


def low_rank(rows: Number, inside: int, outside: int, rank: int, *, inward: bool, learned: bool) -> Cost:
    """An update of LoRA beside a linear layer."""
    return matrix(rows, inside, rank, inward=inward, learned=learned).plus(
        matrix(rows, rank, outside, inward=inward or learned, learned=learned)
    )


def expert(policy: Policy, context: list[Told], draws: int) -> Cost:
    """The action expert, told this of each sample."""
    sizes, contract = policy.config.expert.sizes, policy.contract
    width, seen = sizes.width, sum(told.tokens for told in context)
    steps = draws * contract.horizon
    parts = [matrix(told.tokens, told.width, width, inward=told.inward) for told in context]
    parts += [
        matrix(draws, width, width, inward=False),
        matrix(draws, width, width),
        matrix(steps, contract.action_dim, width, inward=False),
        matrix(steps, width, contract.action_dim),
        *(matrix(steps, width, outside) for outside in contract.labels.values()),
    ]
    block = matrix(seen, width, 2 * width).plus(
        matrix(draws, width, 6 * width),
        matrix(steps, width, (4 + 2 + 8) * width),  # itself; query and out to the context; feed-forward
        attention(draws * contract.horizon**2, width),
        attention(steps * seen, width),
    )
    return Cost().plus(*parts, block.times(sizes.depth))


def encoder(module: Any, backbone_width: int, read: Number) -> Cost:
    """An encoder beside the backbone, of which it may read so many tokens."""
    match module:
        case SensorEncoder():
            cost = sensor(module)
        case StateEncoder():
            first: Any = module.embed[0]
            cost = matrix(1, first.in_features, module.width, inward=False)
        case StyleEncoder():
            cost = matrix(1, 2 * module.count, module.width, inward=False)
        case CameraEncoder():
            cost = camera(module, backbone_width, read)
        case _:
            cost = used_once(module)
    return cost if learns(module) else Cost(cost.forward, 0.0)


def used_once(module: Any) -> Cost:
    """A part of which nothing is known here: as if a sample used each of its parameters once."""
    count = sum(parameter.numel() for parameter in module.parameters())
    return Cost(2.0 * count, 4.0 * count)


def sensor(module: SensorEncoder) -> Cost:
    """A window of samples to tokens."""
    width, rows = module.width, module.samples
    total = matrix(rows, module.channels + 1, width, inward=False)
    for _ in module.halve:
        rows = -(-rows // 2)
        total = total.plus(matrix(rows, 3 * width, width))
    block = matrix(rows, width, 12 * width).plus(attention(rows**2, width))
    return total.plus(block.times(len(module.blocks)))


def camera(module: CameraEncoder, backbone_width: int, read: Number) -> Cost:
    """Frames of all cameras to tokens, and what is read of the backbone once."""
    first, second, third, fourth = CHANNELS
    half, quarter, cells = ((module.config.pixels // stride) ** 2 for stride in (2, 4, 8))
    told = QUERIES * VALUES
    view = matrix(half, 5 * 25, first, inward=False).plus(
        matrix(quarter, first * 9, second),
        matrix(cells, second * 9, third),
        matrix(cells, third * 9, fourth),
        matrix(cells, fourth, POINTS),
        matrix(1, told, 2 * third),
        matrix(1, told, 3 * POINTS),
        matrix(POINTS, cells, 2, learned=False),
        matrix(1, 3 * POINTS, module.config.tokens * module.width),
    )
    reading = matrix(read, backbone_width, QUERIES + VALUES).plus(matrix(read, QUERIES, VALUES))
    return view.times(len(module.views)).plus(reading)
