"""A device of Python: its tensors lie on the host, what is computed is right, and what a GPU would wait for is counted.

It is torch's PrivateUse1, which a process has once: only processes of their own import this. A wait is

    a number that the host reads           item(), tolist(), float(), a comparison that decides
    a copy to the host                     unless into pinned memory, non-blocking: who reads it waits for its event
    a copy from memory that is not pinned  a tensor of numbers, .to(device): it may wait for all work before it
    a shape that depends on values         nonzero, masked_select, an index that is a mask
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

NAME = "far"
HERE = Path(__file__).resolve().parents[1]
READS = {"_local_scalar_dense", "is_nonzero", "equal"}
SHAPES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
VIEWS = {
    "view", "_unsafe_view", "reshape", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "t",
    "detach", "alias", "split", "split_with_sizes", "unbind", "as_strided", "unfold", "lift_fresh", "_reshape_alias",
    "diagonal", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_",
    "_local_scalar_dense", "view_as_real", "view_as_complex", "_to_copy",
}  # fmt: skip
"""What launches no kernel, or is counted as a copy."""


class Counts:
    """What was counted since the last `clear`."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        """By what and where."""
        self.kernels: Counter[str] = Counter()
        self.copies = 0
        """To the device."""

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


counts = Counts()
_pinned: list[Tensor] = []


def wait(what: str) -> None:
    """Note one, with the line of ours that asked for it."""
    lines = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in reversed(traceback.extract_stack())
        if "tests/far.py" not in frame.filename and ("/vla/" in frame.filename or "/training/" in frame.filename)
    ]
    counts.waits[f"{what} at {' < '.join(lines[:3]) or 'nowhere of ours'}"] += 1


def is_pinned(tensor: Tensor) -> bool:
    start = tensor.untyped_storage().data_ptr()
    return any(own.untyped_storage().data_ptr() == start for own in _pinned)


def near(value: Any) -> Any:
    return tree_map_only(Far, lambda tensor: tensor.near, value)


class Far(Tensor):
    """A tensor that says it lies on the device."""

    near: Tensor

    @staticmethod
    def __new__(cls, tensor: Tensor) -> Self:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, tensor.shape, strides=tensor.stride(), storage_offset=tensor.storage_offset(), dtype=tensor.dtype,
            device=FAR,
        )  # fmt: skip

    def __init__(self, tensor: Tensor) -> None:
        self.near = tensor

    def tolist(self) -> Any:
        """Its numbers, which torch refuses to read of a subclass."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.partition("::")[2]
        if name == "_to_copy":
            return copied(function, args[0], kwargs)
        if name == "copy_":
            return filled(function, *args, **kwargs)
        note(name, args, kwargs)
        found = tree_map_only(Tensor, Far, function(*near(args), **near(without_device(kwargs))))
        return return_and_correct_aliasing(function, args, kwargs, found)


def without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}


def copied(function: Any, tensor: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """A copy to the device, on it, or to the host."""
    target = torch.device(kwargs.get("device") or tensor.device)
    rest = without_device(kwargs)
    if target.type == "cpu":
        if isinstance(tensor, Far):
            wait("a copy to the host")
        return function(near(tensor), **rest)  # type: ignore[no-any-return]
    if isinstance(tensor, Far):
        counts.kernels["_to_copy"] += 1
    else:
        arrive(tensor, kwargs.get("non_blocking", False))
    return Far(function(near(tensor), **rest))


def filled(function: Any, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """A copy into a tensor that is there."""
    if isinstance(target, Far) and isinstance(source, Far):
        counts.kernels["copy_"] += 1
    elif isinstance(target, Far):
        arrive(source, non_blocking)
    elif not (non_blocking and is_pinned(target)):
        wait("a copy to the host")
    function(near(target), near(source))
    return target


def arrive(tensor: Tensor, non_blocking: bool) -> None:
    """A copy of something of the host."""
    counts.copies += 1
    if not (non_blocking and is_pinned(tensor)):
        wait("a copy from memory that is not pinned")


def note(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Count a call."""
    if name in READS:
        wait("a number that is read")
    elif name in SHAPES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        wait(f"{name}, whose shape depends on values")
    elif name in ("index", "index_put_", "_index_put_impl_"):
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                wait(f"{name} by a mask, whose shape depends on values")
            elif isinstance(index, Tensor) and not isinstance(index, Far) and index.ndim:
                wait(f"{name} by a tensor of the host")
    if name not in VIEWS:
        counts.kernels[name] += 1


class Factories(TorchDispatchMode):
    """Makes tensors on the device, and notes which memory is pinned."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory") and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            found = function(*args, **without_device(kwargs))
            _pinned.append(found)
            return found
        name = function._schema.name.partition("::")[2]
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return function(*args, **kwargs)
        if name == "_to_copy":
            return copied(function, args[0], kwargs)
        if any(isinstance(value, Far) for value in tree_iter((args, kwargs))):
            return function(*args, **kwargs)
        note(name, args, kwargs)
        return Far(function(*args, **without_device(kwargs)))


class Event:
    """The device is never behind."""

    def record(self, stream: Any = None) -> None:
        """Nothing is under way."""

    def synchronize(self) -> None:
        """Nothing is waited for."""


class Module(backend_registration._DummyBackendModule):
    """torch.far."""

    Event = Event

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
FAR = torch.device(f"{NAME}:0")
_library = torch.library.Library("_", "IMPL")
_library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


@contextmanager
def far() -> Iterator[Counts]:
    """Within this, tensors may lie on the device."""
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        """As torch's own, which makes it on the host and copies it where no mode sees that."""
        made = make(data, **kwargs)
        return made if device is None else made.to(device)

    torch.tensor = tensor
    try:
        with Factories():
            yield counts
    finally:
        torch.tensor = make
