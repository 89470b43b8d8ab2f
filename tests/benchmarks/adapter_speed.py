"""Adapters: what a step of unlearning costs, what switching and folding cost, what a call costs then, and their size.

    python -m tests.benchmarks.adapter_speed [--json FILE]

Preset small on the clips that ship, adapters of rank 8 on attention. Steps: forward, backward and optimizer of one
micro-batch, half of which is preserved, in turn by a plain adapter's objective, with prior preservation, and by
unlearning. Calls: sampling steps of the base and of a folded blend of four, in turn. Seconds are those that the process
had cores for; ratios are of medians of one run.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tests.benchmarks.motion_speed import policy_of, recipe
from vla.adapter_settings import ATTENTION, AdapterConfig
from vla.batch import collate
from vla.objectives import Denoise, Objective
from vla.policy import Policy
from vla.teaching import Erase, Preserve

NAMES = ("one", "two", "three", "four")
TARGETS: Mapping[str, tuple[str, ...]] = {
    "attention": (ATTENTION,),
    "attention to the context": (r"expert\.blocks\.\d+\.context_attention\..*",),
    "feed-forward": (r"expert\.blocks\.\d+\.feed\.\d",),
    "modulation": (r"expert\.blocks\.\d+\.modulation",),
    "projections of the context": (r"expert\.context\.projections\..*",),
    "every linear layer of the expert": (r"expert\..*",),
}


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each, one after the other in every round."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            taken[name].append(time.process_time() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def adapted() -> Policy:
    """A frozen policy with four adapters, disturbed as training would."""
    config, data = recipe("--preset", "small", "--diffusion.unconditional", "0.1")
    policy = policy_of(config, data)
    policy.requires_grad_(requires_grad=False)
    for seed, name in enumerate(NAMES):
        policy.adapters.add(AdapterConfig(name=name, rank=8, alpha=8, dropout=0.0, targets=(ATTENTION,)), seed)
        for parameter in policy.adapters.parameters(name).values():
            parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return policy


def steps(policy: Policy, rounds: int) -> dict[str, float]:
    """Seconds of a step of each objective, and their ratios."""
    config, data = recipe("--preset", "small")
    samples = [data.train[place] for place in range(config.micro_batch)]
    half = [dataclasses.replace(sample, preserved=place % 2 == 1) for place, sample in enumerate(samples)]
    batch = collate(half, 0, "noise")
    policy.adapters.set({NAMES[0]: 1.0})
    trained = list(policy.adapters.parameters(NAMES[0]).values())
    for parameter in trained:
        parameter.requires_grad_()
    optimizer = torch.optim.AdamW(trained, lr=1e-9)
    policy.set_mode(training=True)

    def step(objective: Objective) -> Callable[[], None]:
        def taken() -> None:
            policy.objective = objective
            optimizer.zero_grad()
            torch.stack([loss.mean() for loss in policy(batch).values()]).sum().backward()
            optimizer.step()

        return taken

    found = in_turn(
        {"plain_s": step(Denoise()), "preserving_s": step(Preserve(learn=Denoise())), "erasing_s": step(Erase())},
        rounds,
    )
    policy.set_mode(training=False)
    ratios = {f"{name}_ratio": found[f"{name}_s"] / found["plain_s"] for name in ("preserving", "erasing")}
    return found | ratios


def calls(policy: Policy, rounds: int) -> dict[str, float]:
    """Seconds of switching, of folding, and of sampling with a folded blend, with one beside the weights, with none."""
    adapters = policy.adapters
    blend = dict(zip(NAMES, (0.7, 0.3, -0.4, 1.0), strict=True))

    def sampled(weights: Mapping[str, float], *, fold: bool) -> Callable[[], None]:
        def made() -> None:
            policy.sample("a person walks forward", 2.0, n=4, steps=5)

        def prepared() -> None:
            adapters.set(weights)
            if fold:
                adapters.fold()
            began = time.process_time()
            made()
            spent.append(time.process_time() - began)

        spent: list[float] = []
        kept[fold, bool(weights)] = spent
        return prepared

    kept: dict[tuple[bool, bool], list[float]] = {}
    in_turn(
        {
            "base": sampled({}, fold=False),
            "folded": sampled(blend, fold=True),
            "beside": sampled(blend, fold=False),
        },
        rounds,
    )
    base, folded, beside = (statistics.median(kept[key][1:]) for key in ((False, False), (True, True), (False, True)))
    adapters.set({})
    began = time.perf_counter()
    for _ in range(500):
        adapters.set({NAMES[0]: 1.0})
        adapters.set({NAMES[1]: 1.0})
    switching = (time.perf_counter() - began) / 1000

    def fold() -> None:
        adapters.set(blend)
        adapters.fold()

    folding = in_turn({"fold": fold}, rounds)["fold"]
    adapters.set({})
    return {
        "base_s": base,
        "folded_s": folded,
        "beside_s": beside,
        "folded_ratio": folded / base,
        "beside_ratio": beside / base,
        "switching_s": switching,
        "folding_s": folding,
    }


def sizes(policy: Policy) -> dict[str, float]:
    """The share of the policy's parameters that an adapter of rank 8 has, by what it adapts."""
    whole = sum(tensor.numel() for tensor in policy.learned().values())
    found = {}
    for what, targets in TARGETS.items():
        policy.adapters.add(AdapterConfig(name="sized", rank=8, alpha=8, targets=targets))
        found[what] = sum(own.numel() for own in policy.adapters.parameters("sized").values()) / whole
        policy.adapters.remove("sized")
    return found | {"parameters": whole}


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    policy = adapted()
    result = {
        "threads": torch.get_num_threads(),
        "sizes": sizes(policy),
        "steps": steps(policy, asked.rounds),
        "calls": calls(policy, asked.rounds),
    }
    print(json.dumps(result, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
