"""Arrays computed once from a recording and kept on disk, so that processes map them instead of holding them."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32


def cache_folder() -> Path:
    """The user's cache folder of this project (XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "touchstone"


def stored_array(
    sources: Sequence[Path], purpose: str, build: Callable[[], Float32[np.ndarray, "N C"]]
) -> Float32[np.ndarray, "N C"]:
    """The array that `build` computes from the sources, as a read-only memory map.

    It is stored under the names, sizes and modification times of the sources, written beside and renamed: processes
    that build it at the same time write the same file.
    """
    digest = hashlib.sha256(purpose.encode())
    for source in sources:
        status = source.stat()
        digest.update(f"\n{source.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    path = cache_folder() / "streams" / f"{digest.hexdigest()[:32]}.npy"
    if not path.exists():
        values = build()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        except OSError as error:
            raise ValueError(
                f"cannot write the cache of sensor streams {path.parent} ({error.strerror}); "
                "set XDG_CACHE_HOME to a folder that can be written"
            ) from error
        try:
            with os.fdopen(handle, "wb") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink()
            raise
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
