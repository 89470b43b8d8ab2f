"""What a run says of the adapter that it trains, and what it refuses of it before anything is written."""

import math
from collections.abc import Mapping
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from training.checkpoints.beginning import tuned
from training.engine import stages
from training.engine.gradients import Summed
from training.engine.stages import Group
from training.opening import Run
from training.run.resuming import Row
from vla.adapters.host import UPDATES
from vla.assembling import assemble
from vla.batch import collate
from vla.data.samples import TrainSamples
from vla.policy import Policy
from vla.teaching import taught

LAYER = "{:<48}{:>7}{:>8}{:>12}"


def name_of(policy: Policy) -> str:
    """The adapter that is trained."""
    assert policy.config.adapter is not None, "what is adapted has an adapter"
    return policy.config.adapter.name


def policy_of(row: Row, run: Run, given: Mapping[str, Tensor], dtype: torch.dtype) -> Policy:
    """The policy of a stage, with fresh weights: those `given` are put into it next.

    Of an adapter's base they say whether it has LoRA, which stays as it is, and what of the backbone was trained.
    """
    config = run.config
    adapts = row.stage.lr.adapter is not None
    lora = adapts and any("lora_" in name for name in given)
    settings = config.policy(row.stage, lora=lora)
    policy = assemble(settings, run.data.contract, run.normalizers, dtype=dtype, seed=config.seed)
    policy.objective = taught(
        row.stage.objective, policy.contract, preserve=config.data.preserve > 0, anchor=config.forget.anchor
    )
    if adapts:
        policy.tuned = tuned(given)
    return policy


def enter(row: Row, policy: Policy) -> list[Group]:
    """Open what a stage trains, and freeze the rest; the groups of parameters. Errors as `stages.enter`."""
    tail = policy.backbone.last_layer_names(row.stage.blocks) if row.stage.lr.backbone is not None else set()
    return stages.enter(row.name, row.stage, policy, {f"backbone.{name}" for name in tail})


def num_frozen(policy: Policy) -> int:
    """Parameters that nothing trains, those beside its module too."""
    own = sum(parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad)
    return own + policy.backbone.num_apart


def table(policy: Policy) -> str:
    """The adapted layers, and how many parameters all of it has beside the policy's."""
    name = name_of(policy)
    rows, total = [LAYER.format("layer", "inputs", "outputs", "parameters")], 0
    for path, update in policy.adapters.updates(name).items():
        count = sum(parameter.numel() for parameter in update.parameters())
        rows.append(LAYER.format(path, update.down.in_features, update.up.out_features, f"{count:,}"))
        total += count
    base = sum(own.numel() for path, own in policy.named_parameters() if UPDATES not in path)
    base += policy.backbone.num_apart
    told = f"adapter {name}: {len(rows) - 1} layers, {total:,} parameters, {100 * total / base:.2g} % of {base:,}"
    return "\n  ".join([told, *rows])


def told_norms(norms: Mapping[str, float]) -> str:
    """The gradient of the first step by adapted layer, of norms by parameter."""
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        path = name.partition(UPDATES)[0]
        squares[path] = squares.get(path, 0.0) + norm**2
    rows = [f"{path:<48}{math.sqrt(square):>11.2e}" for path, square in squares.items()]
    still = sum(square == 0 for square in squares.values())
    told = f"; {still} of {len(rows)} layers have none: they learn nothing from these samples" if still else ""
    return "\n  ".join([f"gradient of the first step by layer{told}", *rows])


@torch.no_grad()
def check_called(policy: Policy, samples: TrainSamples, seed: int) -> None:
    """Refuse an adapter of layers that are never called, by an answer to the first sample.

    Raises:
        ValueError: names the first such layer.
        CorruptData: the sample cannot be read.
    """
    called: set[str] = set()
    updates = policy.adapters.updates(name_of(policy))
    hooks = [
        update.register_forward_hook(partial(lambda path, *_: called.add(path), path))
        for path, update in updates.items()
    ]
    batch = collate([samples.resized(policy.sizes)[0]], seed, "noise").to(policy.device)
    policy.set_mode(training=False)
    try:
        policy(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if idle := [path for path in updates if path not in called]:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        raise ValueError(
            f"--adapter.targets matches {idle[0]}{more}, which no answer of this policy on these data goes through: "
            "give expressions that leave it out"
        )


def begin(policy: Policy, samples: TrainSamples, seed: int, accelerator: Accelerator) -> Summed | None:
    """Refuse an adapter that cannot learn, say what it is, and watch its first gradients. Errors as `check_called`."""
    if policy.config.adapter is None:
        return None
    check_called(policy, samples, seed)
    accelerator.print(table(policy))
    return Summed(policy.adapters.parameters(name_of(policy)))


def tell(gradients: Summed, accelerator: Accelerator, step: int) -> None:
    """Say, after the backwards of the first step, which layers of the adapter they reached; collective."""
    if step == 0:
        accelerator.print(told_norms(gradients.norms(accelerator)))
    gradients.close()
