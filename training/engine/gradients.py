"""Sees to it that every trained parameter has a gradient in every backward; zeros are one."""

from collections.abc import Callable, Mapping, Sequence

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
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{missing[0]}{more}, which this stage trains, got no gradient: nothing of the loss depends on it; "
                f"freeze its group with --stage.lr.{self.groups[missing[0]]} None"
            )

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
