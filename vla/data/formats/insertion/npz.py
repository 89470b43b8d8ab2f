"""NPZ files of numbers: arrays, mapped into memory where they are stored as they are."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.reading import unreadable


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file; those stored without compression are mapped, not read."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if entry.compress_type != zipfile.ZIP_STORED:
                    with archive.open(entry) as member:
                        arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
                    continue
                file.seek(entry.header_offset + 26)
                name_size, extra_size = np.frombuffer(file.read(4), dtype="<u2").tolist()
                file.seek(entry.header_offset + 30 + name_size + extra_size)
                arrays[name] = _map_array(file, path)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise unreadable(error, f"{path} is not a complete NPZ file of numbers ({error})", "copy it again") from error
    return arrays


def _map_array(file: Any, path: Path) -> np.ndarray:
    """The array whose header the file stands at, as a memory map."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")
