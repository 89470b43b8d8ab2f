"""Numbers as floats that hold them."""

import numpy as np
from jaxtyping import Float, Shaped


def floats(values: Shaped[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """float32 where that holds every number of the array's type (small integers, float16), else float64.

    A map's coordinates, or the ticks of an encoder, need all their digits until they are centred. What is of that type
    already is not copied.
    """
    exact = np.can_cast(values.dtype, np.float32)
    return np.asarray(values, dtype=np.float32 if exact else np.float64)
