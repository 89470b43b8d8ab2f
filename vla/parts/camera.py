"""The camera encoder: small frames and the instruction -> a few tokens that say where things are.

A network of its own for each camera, small enough to learn from a few thousand frames beside a frozen backbone, which
need not see as finely. The instruction scales and shifts its maps (FiLM, Perez et al. 2018), and each map ends as the
point it looks at (spatial softmax, Levine et al. 2016, section 5).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional

from vla.frames import LUMINANCE, Image, Square, in_size
from vla.settings import CameraConfig

CHANNELS = (24, 32, 48, 64)
"""Of the three convolutions that halve the frame, and of the one behind the instruction."""
POINTS = 48
"""Maps of a camera; each gives a point and its mean."""
QUERIES = 8
"""Places of the instruction that are read at once."""
VALUES = 32
"""Numbers read at each of them."""
CONTRAST = 2.0
"""Deviation of a map before its softmax, at first: sharp enough that a point moves with what its map sees."""


class Instruction(nn.Module):
    """Tokens of the backbone -> one vector, by a few learned queries.

    The backbone is causal and reads the instruction after the images, so no token is set apart: the queries find the
    words that decide.
    """

    def __init__(self, backbone_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(backbone_width)
        self.score = nn.Linear(backbone_width, QUERIES, bias=False)
        self.value = nn.Linear(backbone_width, VALUES)
        # Each query looks at few tokens from the start: the mean of a whole prompt hardly depends on one word of it.
        nn.init.normal_(self.score.weight, std=2 * backbone_width**-0.5)

    def forward(self, tokens: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B I"]:
        """What the queries read, side by side."""
        normed = self.norm(tokens.float())
        scores = self.score(normed).float().masked_fill(~mask[..., None], -torch.inf)
        read: Tensor = scores.softmax(dim=1).transpose(1, 2) @ self.value(normed).float()
        return read.flatten(1)


class Convolution(nn.Sequential):
    """A convolution whose maps are normalised one by one over the frame: a small thing stands out of a flat ground.

    Nothing is shared between samples, and the size of the weights is that of He et al. (2015) for the ReLU behind it.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int) -> None:
        convolution = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        super().__init__(convolution, nn.GroupNorm(outside, outside))


class View(nn.Module):
    """One camera: frames and the instruction -> tokens that say where its maps look."""

    def __init__(self, config: CameraConfig) -> None:
        super().__init__()
        self.shape = config.tokens, config.width
        first, second, third, fourth = CHANNELS
        self.see = nn.Sequential(
            Convolution(5, first, 5, 2),
            nn.ReLU(),
            Convolution(first, second, 3, 2),
            nn.ReLU(),
            Convolution(second, third, 3, 2),
            nn.ReLU(),
        )
        self.film = nn.Linear(QUERIES * VALUES, 2 * third)
        self.look = nn.Sequential(nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU())
        self.maps = nn.Linear(fourth, POINTS)
        self.contrast = nn.GroupNorm(POINTS, POINTS, bias=False)  # a bias would cancel in the softmax behind it
        nn.init.constant_(self.contrast.weight, CONTRAST)
        self.choose = nn.Linear(QUERIES * VALUES, 3 * POINTS)
        self.out = nn.Linear(3 * POINTS, config.tokens * config.width)

    def forward(self, frames: UInt8[Tensor, "B 3 _ _"], instruction: Float[Tensor, "B I"]) -> Float32[Tensor, "B N W"]:
        """The tokens of the camera."""
        x = frames.float() / (LUMINANCE / 2) - 1
        x = torch.cat([x, coordinates(x.shape[-2], x.shape[-1], x.device).expand(len(x), -1, -1, -1)], dim=1)
        x = self.see(x.contiguous(memory_format=torch.channels_last))
        scale, shift = self.film(instruction)[..., None, None].chunk(2, dim=1)
        # A convolution of 1 x 1, as a matrix over the channels: these lie side by side in memory.
        maps = self.maps(self.look(x * (1 + scale) + shift).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float()
        choice = self.choose(instruction)
        # bfloat16 would round a point to a tenth of a pixel.
        with torch.autocast(x.device.type, enabled=False):
            features = torch.cat([points(self.contrast(maps)).flatten(1), maps.mean(dim=(2, 3))], dim=1)
            out: Tensor = self.out(features * (1 + choice.float())).unflatten(1, self.shape)
        return out


class CameraEncoder(nn.Module):
    """Frames of V cameras -> `tokens` tokens a camera, cameras in order.

    What a camera that is not valid holds reaches nothing, and its tokens are zero and masked. Every parameter takes
    part in every forward, so that no rank waits for a gradient.
    """

    def __init__(self, num_cameras: int, backbone_width: int, config: CameraConfig) -> None:
        super().__init__()
        assert min(num_cameras, config.width) > 0, f"an encoder of width {config.width} for {num_cameras} cameras"
        self.config, self.width = config, config.width
        self.instruction = Instruction(backbone_width)
        self.views = nn.ModuleList(View(config) for _ in range(num_cameras))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self,
        images: Sequence[Sequence[Image]],
        valid: Bool[Tensor, "B V"],
        backbone: tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]],
    ) -> tuple[Float[Tensor, "B N W"], Bool[Tensor, "B N"]]:
        """Tokens, and which of them are of a valid camera."""
        size = size_of(self.config)
        frames = torch.stack([torch.stack([in_size(image, size) for image in row]) for row in images])
        assert frames.shape[:2] == valid.shape, f"{tuple(frames.shape[:2])} frames, {tuple(valid.shape)} marks"
        assert valid.shape[1] == len(self.views), f"the encoder is built for {len(self.views)} cameras"
        instruction = self.instruction(*backbone)
        seen = [view(frames[:, place], instruction) for place, view in enumerate(self.views)]
        tokens = self.norm(torch.cat(seen, dim=1))
        mask = valid.to(tokens.device, non_blocking=True)[..., None].expand(-1, -1, self.config.tokens).flatten(1)
        return tokens.masked_fill(~mask[..., None], 0), mask


def size_of(config: CameraConfig) -> Square:
    """In what size an encoder looks at frames."""
    return Square(side=config.pixels)


def coordinates(rows: int, columns: int, device: torch.device) -> Float32[Tensor, "2 rows columns"]:
    """x to the right and y down of the centres of the cells of a frame that reaches from -1 to 1."""
    x, y = ((2 * torch.arange(count, device=device) + 1) / count - 1 for count in (columns, rows))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def points(maps: Float32[Tensor, "B K rows columns"]) -> Float32[Tensor, "B K 2"]:
    """x and y each map looks at: the mean place under its softmax."""
    weights = maps.flatten(2).softmax(dim=-1)
    return functional.linear(weights, coordinates(maps.shape[-2], maps.shape[-1], maps.device).flatten(1))
