"""Denoising: what is watched is the path that the sampler walks, and watching changes nothing."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.vla.evaluation.test_open_loop import Recorded
from tests.vla.test_policy import BARE, CONFIG, build
from vla.batch import collate
from vla.diffusion import coefficients, jump
from vla.evaluation.denoising import watch_denoising
from vla.evaluation.figures import draw_denoising
from vla.evaluation.open_loop import predict, randomness

STEPS = 4


def test_the_path_is_the_samplers_own(tmp_path: Path) -> None:
    policy = build(dataclasses.replace(CONFIG, lora=None), BARE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in policy.expert.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    samples, indices = Recorded(), [2, 9]
    watched = watch_denoising(policy, samples, indices, seed=3, steps=STEPS)
    assert watched.noised.shape == watched.predicted.shape == (2, STEPS + 1, BARE.horizon, BARE.action_dim)
    normalizer = policy.normalizer_of("actions")
    noise, _ = randomness(3, indices, BARE)
    assert np.allclose(watched.noised[:, 0], normalizer.undo(noise).numpy(), atol=1e-5)
    # From what is seen of each step, the formula of DDIM leads to where the next one starts.
    grid = torch.linspace(1, 0, STEPS + 1)
    x_t, x0 = (normalizer.apply(torch.from_numpy(chunks)) for chunks in (watched.noised, watched.predicted))
    for step in range(STEPS):
        c_t, c_s = (coefficients("cosine", grid[at].expand(2)) for at in (step, step + 1))
        eps = (x_t[:, step] - c_t.alpha[:, None, None] * x0[:, step]) / c_t.sigma[:, None, None]
        assert torch.allclose(jump(c_t, c_s, x0[:, step], eps, eta=0.0, z=eps), x_t[:, step + 1], atol=1e-3)
    unwatched = policy.act(collate([samples[index] for index in indices], 0, "validation").observation, noise, STEPS)
    assert np.array_equal(watched.predicted[:, -1], unwatched.numpy())
    assert np.allclose(predict(policy, samples, indices, seed=3, steps=STEPS).predicted, unwatched, atol=1e-5)
    left = watched.remaining()
    assert (left[0], left[-1]) == (1.0, 0.0)
    far = np.abs(watched.predicted - watched.predicted[:, -1:]).mean(axis=(0, 2))
    assert np.allclose(left, (far / far[0]).mean(axis=1), rtol=1e-5)
    assert json.loads(json.dumps(watched.to_json()))["samples"] == [
        "root/episode_0, frame 2",
        "root/episode_1, frame 2",
    ]
    draw_denoising(watched, tmp_path / "denoising.png")
    with Image.open(tmp_path / "denoising.png") as picture:
        assert len(picture.convert("L").getcolors()) > 20
