"""Arrays out of numpy's files of objects: the one place where a pickle is read, and nothing of it is executed.

A pickle is a program that may call anything by its name. Here no name is looked up: the few that numpy writes for its
arrays stand for classes of this module, which hold what they are given and do nothing, and any other name ends the
reading. Arrays are made afterwards, of plain numbers and texts alone.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import CorruptData, ForeignLayout

MAGIC = b"\x93NUMPY"
HEAD_BYTES = 128
PLAIN = re.compile(r"[biuf][1248]|[US]\d{1,5}")
"""Types of arrays that hold numbers and texts."""
REMEMBERS = ("PUT", "BINPUT", "LONG_BINPUT")
"""Instructions that remember something under an index."""
OBJECTS = re.compile(r"O\d?")
NotPlain = pickle.UnpicklingError
"""What torch raises of a file that holds more than plain data, too."""
DAMAGED = (
    pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, LookupError, RecursionError, OverflowError
)  # fmt: skip
"""What reading damaged content ends with; the last where a length is more than any memory."""


class _Held:
    """What stands for an array, a type or a number of numpy: what it is made with, and the state that follows."""

    __slots__ = ("given", "state")
    given: tuple[Any, ...]
    state: Any

    def __init__(self, *given: Any) -> None:
        self.given, self.state = given, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Held):
    __slots__ = ()


class _Type(_Held):
    __slots__ = ()


class _Number(_Held):
    __slots__ = ()


STANDS_FOR: dict[str, type] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Number,
    "numpy._core.multiarray.scalar": _Number,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "collections.OrderedDict": dict,
}
"""All names that a file may use."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (full := f"{module}.{name}") not in STANDS_FOR:
            raise ForeignLayout(full)
        return STANDS_FOR[full]


def is_objects(file: Path) -> bool:
    """Whether a file is an npy file of objects."""
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    return head.startswith(MAGIC) and b"'descr': '|O'" in head


def read_objects(file: Path) -> Any:
    """What an npy file of one object holds: dictionaries, lists, texts, numbers, and arrays of these.

    Raises:
        CorruptData: it is damaged.
        ForeignLayout: it holds something else, or would have something called.
    """
    return objects_in(file.read_bytes(), file)


def objects_in(content: bytes, file: Path) -> Any:
    """As `read_objects`, of an npy file within a file; of an array of objects these, as a list."""
    try:
        return plain(_content(io.BytesIO(content)))
    except ForeignLayout as foreign:
        raise ForeignLayout(
            f"{file} holds {foreign}, and only arrays, numbers, texts, lists and dictionaries are read: it was not "
            "executed; write the file anew without it"
        ) from None
    except DAMAGED as error:
        raise CorruptData(f"{file} cannot be read ({error}): copy it again") from error


def _content(opened: io.BytesIO) -> Any:
    """The object behind a file's head."""
    if np.lib.format.read_magic(opened) == (1, 0):
        np.lib.format.read_array_header_1_0(opened)
    else:
        np.lib.format.read_array_header_2_0(opened)
    data = opened.read()
    check_memo(data)
    return _Reader(io.BytesIO(data)).load()


def check_memo(data: bytes) -> None:
    """Refuse an index of what is remembered that is larger than the file (ValueError): so long a list would be made."""
    if any(kind.name in REMEMBERS and (place or 0) > len(data) for kind, place, _ in pickletools.genops(data)):
        raise ValueError("it remembers more than it has")


def plain(held: Any) -> Any:
    """What stands for arrays as arrays; arrays of objects as lists, or where they have no shape, as the one object.

    ForeignLayout of anything but arrays, containers, numbers and texts.
    """
    match held:
        case _Array(state=(_, tuple(shape), _Type() as kind, fortran, content)):
            if isinstance(content, list) and OBJECTS.fullmatch(kind.given[0]):
                return [plain(item) for item in content] if shape else plain(content[0])
            values = np.frombuffer(content, _dtype(kind))
            return values.reshape(shape, order="F" if fortran else "C")
        case _Number(given=(_Type() as kind, bytes(content))):
            return np.frombuffer(content, _dtype(kind))[0]
        case dict():
            return {plain(key): plain(value) for key, value in held.items()}
        case list() | tuple():
            return [plain(item) for item in held]
        case None | bool() | int() | float() | str():
            return held
    raise ForeignLayout(f"an object of type {type(held).__name__.strip('_').lower()}")


def _dtype(kind: _Type) -> np.dtype:
    """The numpy type that is meant, of numbers and texts alone."""
    text = kind.given[0]
    if not isinstance(text, str) or not PLAIN.fullmatch(text):
        raise ForeignLayout(f"an array of {text!s}")
    order = kind.state[1] if kind.state else "="
    return np.dtype(f"{order if order in ('<', '>') else '='}{text}")
