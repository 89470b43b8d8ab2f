"""The state encoder: the robot's joint values and the like -> one token."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class StateEncoder(nn.Module):
    """Normalised states of P numbers -> one token each."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(nn.Linear(state_dim, width), nn.SiLU())

    def forward(self, state: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B 1 D"], Bool[Tensor, "B 1"]]:
        """The token, which may always be looked at."""
        return self.embed(state)[:, None], torch.ones(len(state), 1, dtype=torch.bool, device=state.device)
