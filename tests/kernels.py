"""What is launched and moved through memory: counted by torch's dispatch, on a CPU, where a GPU does the same."""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

VIEWS = {
    "view", "_unsafe_view", "reshape", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "t",
    "detach", "alias", "split", "split_with_sizes", "unbind", "as_strided", "unfold", "lift_fresh", "_reshape_alias",
    "diagonal", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_",
    "view_as_real", "view_as_complex",
}  # fmt: skip
"""What launches no kernel."""
PRODUCTS = {
    "mm", "addmm", "addmm_", "bmm", "baddbmm", "convolution", "convolution_backward",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip
"""Products of matrices, whose time their operations decide and not their bytes."""


class Kernels(TorchDispatchMode):
    """Counts while it is entered; a kernel's bytes are those of all that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        """By name."""
        self.bytes: Counter[str] = Counter()
        """By name."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in VIEWS:
            tensors = [part for part in tree_iter([args, kwargs, found]) if isinstance(part, Tensor)]
            self.launched[name] += 1
            self.bytes[name] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found

    @property
    def moved(self) -> int:
        """Bytes besides those of products."""
        return sum(count for name, count in self.bytes.items() if name not in PRODUCTS)
