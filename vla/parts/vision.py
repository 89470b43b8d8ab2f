"""The vision tower's attention, with the windows of all images in a few calls instead of one call each.

Patches of all images follow each other, and a patch sees its window (or its image) alone. transformers' path for sdpa
cuts the sequence into windows and attends to each by itself: hundreds of small kernels a layer, and a wait for the
device in every layer to read the lengths. Here windows of equal length form a batch.

Where patches and windows lie follows from the images' sizes alone, which are the same from batch to batch: it is
computed on the host, and copied to the device once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from vla.parts.images import Grid

LAYOUTS = 64
"""Sets of image sizes that are kept."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the patches of some images lie: what the vision tower would compute of their grids."""

    position_ids: Int64[Tensor, "N 2"]
    """Row and column of each patch, for its rotary position."""
    window_index: Int64[Tensor, " _"]
    """Which merged patch stands where, window by window."""
    cu_seqlens: Int32[Tensor, " _"]
    """Where images begin and end, on the host."""
    cu_window_seqlens: Int32[Tensor, " _"]
    """Where windows begin and end, on the host."""


@lru_cache(maxsize=LAYOUTS)
def layout(grids: tuple[Grid, ...], merge_size: int, window_size: int, patch_size: int, device: torch.device) -> Layout:
    """That of images with these grids."""
    grid = torch.tensor(grids, dtype=torch.int64)
    index, ends = get_vision_window_index(grid, merge_size, window_size, patch_size)
    return Layout(
        position_ids=get_vision_position_ids(grid, merge_size).to(device),
        window_index=index.to(device),
        cu_seqlens=get_vision_cu_seqlens(grid),
        cu_window_seqlens=ends,
    )


class PackedAttention(nn.Module):
    """Stands where Qwen2_5_VLVisionAttention stood, with the same layers under the same names."""

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
        super().__init__()
        self.qkv = qkv
        self.proj = proj
        self.num_heads = num_heads

    def forward(
        self,
        hidden_states: Float[Tensor, "N D"],
        cu_seqlens: Int32[Tensor, " W"],
        position_embeddings: tuple[Float[Tensor, "N _"], Float[Tensor, "N _"]],
        **_: object,
    ) -> Float[Tensor, "N D"]:
        """Attention within the windows that begin and end at `cu_seqlens`, which lie on the host."""
        length, width = hidden_states.shape
        parts = self.qkv(hidden_states).reshape(length, 3, self.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(parts[0], parts[1], *position_embeddings)
        batches = windows(cu_seqlens, hidden_states.device)
        if len(batches) == 1:  # alike, they lie one behind the other as a batch does
            batch = [part.unflatten(0, batches[0].shape).transpose(1, 2) for part in (query, key, parts[2])]
            result = functional.scaled_dot_product_attention(*batch).transpose(1, 2)
        else:
            result = torch.empty_like(query)
            for rows in batches:
                batch = [part[rows].transpose(1, 2) for part in (query, key, parts[2])]
                result[rows] = functional.scaled_dot_product_attention(*batch).transpose(1, 2)
        output: Tensor = self.proj(result.reshape(length, width))
        return output


@lru_cache(maxsize=2 * LAYOUTS)
def windows(cu_seqlens: Int32[Tensor, " W"], device: torch.device) -> Sequence[Int64[Tensor, "_ _"]]:
    """The patches of each window, a tensor [windows, patches] for each length that occurs.

    The cache goes by the tensor's identity: the layers share the two of a layout.
    """
    bounds = cu_seqlens.tolist()
    starts: dict[int, list[int]] = {}
    for start, end in pairwise(bounds):
        starts.setdefault(end - start, []).append(start)
    return [
        (torch.tensor(begins)[:, None] + torch.arange(length)).to(device) for length, begins in starts.items() if length
    ]


def pack_attention(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Give every block of the vision tower packed attention; names and values of the parameters stay."""
    for block in model.model.visual.blocks:
        block.attn = PackedAttention(block.attn.qkv, block.attn.proj, block.attn.num_heads)


class PatchProduct(nn.Module):
    """Stands where Qwen2_5_VisionPatchEmbed stood, with the same layer under the same name.

    That layer's convolution reads each patch by itself and nothing else: it is a product of matrices, for which the
    kernels are several times as fast.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, patches: Float[Tensor, "N _"]) -> Float[Tensor, "N D"]:
        """One row a patch."""
        weight = self.proj.weight.flatten(1)
        return functional.linear(patches.to(weight.dtype), weight)


def multiply_patches(model: Qwen2_5_VLForConditionalGeneration) -> None:
    """Embed patches by a product, to act; equal but for rounding, names and values of the parameters stay.

    It reads a weight beside its layer, which a partitioned (ZeRO-3) one does not survive.
    """
    model.model.visual.patch_embed = PatchProduct(model.model.visual.patch_embed.proj)
