"""Files of tensors with several entries in their header: the same content is the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

LENGTH = 8
"""Bytes before the header, which say how long it is; it ends at a multiple of as many."""


def write_tensors(tensors: Mapping[str, Tensor], file: Path, entries: Mapping[str, str]) -> None:
    """Write tensors beside entries in the order of their names; safetensors itself shuffles entries in each process."""
    whole = memoryview(save(dict(tensors), {"format": "pt"}))
    end = LENGTH + int.from_bytes(whole[:LENGTH], "little")
    header = json.loads(bytes(whole[LENGTH:end])) | {"__metadata__": dict(sorted(entries.items()))}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % LENGTH)
    with file.open("wb") as written:
        written.write(len(text).to_bytes(LENGTH, "little") + text)
        written.write(whole[end:])
