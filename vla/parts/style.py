"""The style encoder: some numbers, each known or not -> one token."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class StyleEncoder(nn.Module):
    """Styles of K numbers -> one token each; what is not known is masked, whatever stands in its place."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.embed = nn.Sequential(nn.Linear(2 * count, width), nn.SiLU())

    def forward(self, style: Float[Tensor, "B K 2"]) -> tuple[Float[Tensor, "B 1 D"], Bool[Tensor, "B 1"]]:
        """The token, which may always be looked at."""
        values, known = style.unbind(-1)
        told = self.embed(torch.cat([values * known, known], dim=-1))
        return told[:, None], torch.ones(len(style), 1, dtype=torch.bool, device=style.device)
