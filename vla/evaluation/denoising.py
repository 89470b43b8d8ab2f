"""Denoising: how a chunk comes out of noise, step by step of the sampler."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla.batch import collate
from vla.contract import DataContract
from vla.evaluation.open_loop import Samples, dimension_names, randomness
from vla.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Of some samples: the chunks at the start of every sampling step and at the end, in the data's units."""

    contract: DataContract
    places: list[str]
    """Episode and frame of each sample."""
    noised: Float[np.ndarray, "N T H A"]
    """x_t, from noise to the answer: one more than there are sampling steps."""
    predicted: Float[np.ndarray, "N T H A"]
    """The clean chunk that each step expects; last, the answer itself."""
    recorded: Float[np.ndarray, "N H A"]

    def remaining(self) -> Float[np.ndarray, " T"]:
        """How far the expected chunk still is from the answer: the mean over all of |difference|, of 1 at first.

        Each dimension counts as a share of its distance at the first step; one that never moves is left out.
        """
        distance = np.abs(self.predicted - self.predicted[:, -1:]).astype(np.float64).mean(axis=(0, 2))
        moving = distance[0] > 0
        if not moving.any():
            return np.zeros(len(distance))
        share: Float[np.ndarray, " T"] = (distance[:, moving] / distance[0, moving]).mean(axis=1)
        return share

    def to_json(self) -> dict[str, object]:
        """Plain values for json.dump."""
        return {
            "samples": self.places,
            "dimensions": dimension_names(self.contract),
            "remaining": self.remaining().tolist(),
            "predicted": self.predicted.tolist(),
            "recorded": self.recorded.tolist(),
        }


def watch_denoising(
    policy: Policy,
    samples: Samples,
    indices: Sequence[int],
    *,
    seed: int = 0,
    device: torch.device | None = None,
    steps: int | None = None,
) -> Denoising:
    """The path from noise to the chunks of some samples; the noise is that of `predict`."""
    device = torch.device("cpu") if device is None else device
    noised: list[Tensor] = []
    predicted: list[Tensor] = []

    def watch(x_t: Tensor, x0: Tensor) -> None:
        noised.append(x_t.cpu())
        predicted.append(x0.cpu())

    policy.to(device).set_mode(training=False)
    batch = collate([samples[index] for index in indices], seed, "validation")
    noise, generator = randomness(seed, indices, policy.contract)
    answer = policy.act(batch.observation.to(device), noise.to(device), steps, generator, watch).cpu()
    return Denoising(
        contract=policy.contract,
        places=[f"{name}, frame {frame}" for name, frame in map(samples.locate, indices)],
        noised=torch.stack([*noised, answer], dim=1).numpy(),
        predicted=torch.stack([*predicted, answer], dim=1).numpy(),
        recorded=batch.actions.numpy(),
    )
