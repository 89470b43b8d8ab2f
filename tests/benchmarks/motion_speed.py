"""Human motion: how fast samples are made, and what the terms of a motion add to a step of training.

    python tests/benchmarks/motion_speed.py [--json FILE]

Samples: 32 motions of 32 frames in 20 steps with guidance, by an expert of the demo's size, in floating-point
operations a second, beside a product of two 1,024 x 1,024 matrices in float32 on the same threads, and beside the
products of its own linear layers alone, the most that samples could reach. Terms: forward and backward of one
micro-batch of preset small on the clips that ship, with the recipe's terms and without, in turn. Medians of rounds;
seconds are those that the process had cores for.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from training import recipes
from training.config import RunConfig
from training.flags import parse
from vla.assembling import assemble
from vla.batch import Batch, collate
from vla.data.dataset import Dataset, open_dataset
from vla.normalize import Normalizer
from vla.objectives import Denoise, objective_of
from vla.policy import Policy

CLIPS = Path(__file__).resolve().parents[2] / "examples" / "motion" / "cmu" / "train"
MOTIONS, FRAMES, STEPS, SIZE = 32, 32, 20, 1024


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of what each call took."""
    taken = []
    for _ in range(rounds + 1):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken[1:])


def policy_of(config: RunConfig, data: Dataset) -> Policy:
    """A fresh policy of a recipe."""
    normalizers = {kind: Normalizer.of(data.statistics[kind], "z-score") for kind in data.contract.normalized}
    return assemble(config.policy(config.stages["pretrain"]), data.contract, normalizers, torch.float32, 0)


def recipe(*flags: str) -> tuple[RunConfig, Dataset]:
    """A recipe on the clips that ship."""
    config = parse(recipes.pretrain(), ["--data.roots", str(CLIPS), *flags])
    return config, open_dataset(config.data, config.seed)


def sampling(rounds: int) -> dict[str, float]:
    """Operations a second of samples, and of a product of matrices."""
    size = ["--expert.width", "96", "--expert.depth", "3", "--data.horizon", str(FRAMES)]
    config, data = recipe(*size, "--diffusion.guidance", "1.5")
    policy = policy_of(config, data)
    policy.set_mode(training=False)

    def made() -> object:
        return policy.sample("a person walks forward", FRAMES / data.contract.fps, n=MOTIONS, steps=STEPS)

    with FlopCounterMode(display=False) as counter:
        made()
    matrix = torch.randn(SIZE, SIZE)
    samples_s, product_s = seconds(made, rounds), seconds(lambda: matrix @ matrix, 10 * rounds)
    alone = products(policy, made, rounds)
    rates = counter.get_total_flops() / samples_s, 2 * SIZE**3 / product_s
    return {"samples_s": samples_s, "samples_gflops": rates[0] / 1e9, "product_gflops": rates[1] / 1e9,
            "ratio": rates[0] / rates[1], "own_products_gflops": alone / 1e9,
            "own_products_ratio": alone / rates[1]}  # fmt: skip


def products(policy: Policy, work: Callable[[], object], rounds: int) -> float:
    """Operations a second of the linear layers alone: of every product that `work` asks of them, by itself."""
    asked = Counter[tuple[torch.nn.Linear, torch.Size]]()
    layers = [module for module in policy.expert.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: asked.update([(layer, inputs[0].shape)]))
        for layer in layers
    ]
    work()
    for hook in hooks:
        hook.remove()
    given = {shape: torch.randn(shape) for _, shape in asked}
    operations = sum(2 * shape.numel() * layer.out_features * count for (layer, shape), count in asked.items())

    @torch.no_grad()
    def all_of_them() -> None:
        for (layer, shape), count in asked.items():
            for _ in range(count):
                torch.nn.functional.linear(given[shape], layer.weight, layer.bias)

    return operations / seconds(all_of_them, rounds)


def terms(rounds: int) -> dict[str, float]:
    """Seconds of a step with the terms of a motion and without, and their share."""
    config, data = recipe("--preset", "small")
    policy = policy_of(config, data)
    policy.requires_grad_(requires_grad=True)
    policy.set_mode(training=True)
    batch: Batch = collate([data.train[place] for place in range(config.micro_batch)], 0, "noise")
    objective = objective_of(config.stages["pretrain"].objective, data.contract)
    taken = []
    for chosen in (objective, Denoise()):
        policy.objective = chosen

        def step() -> None:
            policy.zero_grad()
            torch.stack([loss.mean() for loss in policy(batch).values()]).sum().backward()

        taken.append(seconds(step, rounds))
    return {"with_s": taken[0], "without_s": taken[1], "share": 1 - taken[1] / taken[0]}


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = {"threads": torch.get_num_threads(), "sampling": sampling(asked.rounds), "terms": terms(asked.rounds)}
    text = json.dumps(found, indent=2)
    if asked.json:
        asked.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
