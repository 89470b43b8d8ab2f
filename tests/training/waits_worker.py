"""A few steps of a training on the device that counts waits, and what is known to wait or not, as JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState

from tests.far import FAR, Counts, Far, far
from training import distributed, loop, recipes
from training.engine.sharding import Engine
from training.feeding.packing import tensors_of
from training.flags import parse
from training.session import Session
from vla.moving import pinned

KNOWN: dict[str, Callable[[torch.Tensor], Any]] = {
    "a number": float,
    "numbers": lambda tensor: tensor.tolist(),
    "a decision": lambda tensor: bool((tensor == 3).all()),
    "to the host": lambda tensor: tensor.cpu(),
    "from the host": lambda tensor: torch.ones(2).to(tensor.device, non_blocking=True),
    "a constant": lambda tensor: torch.tensor(2.0, device=tensor.device),
    "places": lambda tensor: tensor.nonzero(),
    "a mask": lambda tensor: tensor[tensor > 2],
    "an index of the host": lambda tensor: tensor[torch.tensor([0])],
    "pinned to the device, nothing": lambda tensor: pinned(8).to(tensor.device, non_blocking=True),
    "pinned from the device, nothing": lambda tensor: pinned(4).view(torch.float32).copy_(tensor, non_blocking=True),
    "filled there, nothing": lambda tensor: torch.full((), 2.0, device=tensor.device) + tensor,
    "a backward, nothing": lambda tensor: (tensor.requires_grad_() ** 2).sum().backward(),
}
"""What waits once, and what does not."""


def known(counts: Counts) -> dict[str, int]:
    """Of each, how often it waits."""
    found = {}
    for name, does in KNOWN.items():
        tensor = torch.full((1,), 3.0, device=FAR)
        counts.clear()
        does(tensor)
        found[name] = counts.waits.total()
    return found


def main(recipe: str, words: list[str]) -> None:
    """Train with these flags; what was found is the last line of stdout."""
    start, build, before = distributed.start_accelerator, Engine.__init__, Session.before_step
    steps: list[dict[str, Any]] = []

    def started(*args: Any) -> Any:
        accelerator = start(*args)
        for state in (PartialState._shared_state, accelerator.state._shared_state):
            state["device"] = FAR
        assert accelerator.device == FAR
        return accelerator

    def built(self: Engine, accelerator: Any, policy: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        policy.to(FAR)  # its parameters become others, which a real device's do not
        assert all(isinstance(parameter.data, Far) for parameter in policy.parameters())
        build(self, accelerator, policy, *args, **kwargs)

    with far() as counts:
        sure = known(counts)

        def stepped(self: Session, micro_batches: Any) -> Any:
            steps.append({"waits": dict(counts.waits), "kernels": counts.kernels.total(), "copies": counts.copies})
            found = before(self, micro_batches)
            for batch in micro_batches:
                pairs = zip(tensors_of(batch), tensors_of(batch.to(FAR)), strict=True)
                assert all(torch.equal(own, moved.cpu()) for own, moved in pairs), "a batch arrives as it was"
            counts.clear()
            return found

        distributed.start_accelerator = started
        Engine.__init__ = built  # type: ignore[method-assign]
        Session.before_step = stepped  # type: ignore[method-assign]
        loop.train(parse(getattr(recipes, recipe)(), words))
    print(json.dumps({"known": sure, "steps": steps[1:]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
