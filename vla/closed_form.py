"""Unified concept editing (Gandikota et al., WACV 2024): another weight of one linear layer, without any training.

    W = (lambda W0 + sum_e v_e c_e^T + sum_p (W0 c_p) c_p^T) (lambda I + sum_e c_e c_e^T + sum_p c_p c_p^T)^-1

is the W for which keys c_e give values v_e and keys c_p what they gave, by least squares, lambda keeping W near W0.
Since W0 M = lambda W0 + sum_e W0 c_e c_e^T + sum_p W0 c_p c_p^T with the inverted matrix M, the change is

    W - W0 = sum_e (v_e - W0 c_e) c_e^T M^-1

of no more than as many dimensions as there are edited keys: a LoRA, with nothing lost.
"""

import torch
from jaxtyping import Float64
from torch import Tensor


def factors(
    weight: Float64[Tensor, "O I"],
    edited: Float64[Tensor, "E I"],
    values: Float64[Tensor, "E O"],
    kept: Float64[Tensor, "P I"],
    ridge: float,
) -> tuple[Float64[Tensor, "E I"], Float64[Tensor, "O E"]]:
    """A and B of the change B A of a weight: `edited` keys are to give `values`, `kept` ones what they give.

    `ridge` is the formula's lambda, above 0.
    """
    gram = ridge * torch.eye(weight.shape[1], dtype=torch.float64) + edited.T @ edited + kept.T @ kept
    down = torch.linalg.solve(gram, edited.T).T  # the matrix is symmetric
    return down, (values - edited @ weight.T).T
