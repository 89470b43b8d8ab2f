"""Sees to it that every trained parameter has a gradient in every backward; zeros are one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.engine.stages import Group


class Arrivals:
    """Which parameters the gradient of a loss has reached.

    One that it does not reach is moved all the same: by its momentum and decay under ZeRO-1 and ZeRO-2, by the gradient
    of an earlier step under ZeRO-3. Plain torch leaves it alone. No two topologies would train the same.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], groups: Sequence[Group]) -> None:
        """Watch the parameters of all groups, before anything wraps them; no number is read."""
        self.groups = {name: group.group for group in groups for name in group.parameters}
        self.reached: set[str] = set()
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._noting(name)) for name, parameter in parameters.items()
        ]

    def _noting(self, name: str) -> Callable[[Tensor], None]:
        return lambda _: self.reached.add(name)

    def check(self) -> None:
        """Ask, after a backward, whether it reached all.

        Raises:
            ValueError: it did not reach one, which is named.
        """
        missing = [name for name in self.groups if name not in self.reached]
        self.reached.clear()
        if missing:
            group = self.groups[missing[0]]
            freeze = (
                "narrow --adapter.targets" if group == "adapter" else f"freeze its group with --stage.lr.{group} None"
            )
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{missing[0]}{more}, which this stage trains, got no gradient: nothing of the loss depends on it; "
                f"{freeze}"
            )

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()


class Summed:
    """The gradients of a step by parameter, whatever wraps the policy: summed as they come, of each micro-batch."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Watch parameters, before anything wraps them."""
        self.sums: dict[str, Tensor] = {}
        self._shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self._hooks = [parameter.register_hook(self._adding(name)) for name, parameter in parameters.items()]

    def _adding(self, name: str) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            own = gradient.detach().float()
            self.sums[name] = self.sums[name] + own if name in self.sums else own.clone()

        return add

    def norms(self, accelerator: Accelerator) -> dict[str, float]:
        """L2 norm of the gradient of each, averaged over ranks as the step is; collective."""
        norms = {}
        for name, shape in self._shapes.items():
            own = self.sums.get(name, torch.zeros(shape, device=accelerator.device))
            total = accelerator.reduce(own, "sum")
            norms[name] = float(torch.linalg.vector_norm(total)) / accelerator.num_processes
        return norms

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
        self.sums.clear()
