"""Averaged weights against their formula in float64."""

import numpy as np
import pytest
import torch

from training.engine import ema


@pytest.mark.parametrize("skipped", [False, True])
def test_averages_follow_the_weights_or_stay_as_they_are(skipped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    averages, weights = ([torch.randn(size, generator=generator) for size in ((3, 4), (5,), ())] for _ in range(2))
    before = [average.clone() for average in averages]
    ema.update(averages, weights, 0.9, torch.tensor(float(skipped)))
    for average, old, weight in zip(averages, before, weights, strict=True):
        if skipped:
            assert torch.equal(average, old)
        else:
            expected = 0.9 * old.double().numpy() + 0.1 * weight.double().numpy()
            np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7)
