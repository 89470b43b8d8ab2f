"""Damage and storage that does not answer are told apart, whichever library says it."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pytest

from vla.data import reading
from vla.data.formats.insertion.hdf5 import StoredImage
from vla.data.images import decode_image
from vla.data.reading import read_again, refused, unreadable
from vla.errors import CorruptData, StorageFault


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DELAYS_S", (0.0, 0.0, 0.0))


def failing(times: int, error: Callable[[], Exception]) -> Callable[[], str]:
    left = [times]

    def read() -> str:
        if left[0] == 0:
            return "read"
        left[0] -= 1
        raise error()

    return read


def test_what_passes_is_tried_again_and_what_stays_is_not() -> None:
    stale = lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # noqa: E731
    assert read_again(failing(3, stale), lambda: "it") == "read"
    with pytest.raises(StorageFault, match=r"^it could not be read in 4 attempts \(.*Stale file handle.*start again$"):
        read_again(failing(4, stale), lambda: "it")
    for error in (FileNotFoundError(errno.ENOENT, "x"), CorruptData("x"), OSError("truncated"), KeyError("x")):
        read = failing(1, lambda error=error: error)  # type: ignore[misc]
        with pytest.raises(type(error)):
            read_again(read, lambda: "it")
        assert read() == "read", "it was tried once"


def test_hdf5_says_the_errno_in_its_text_alone() -> None:
    text = "Can't synchronously read data (file read failed: time = now, errno = {}, error message = 'E')"
    assert refused(OSError(text.format(errno.EIO))) == errno.EIO
    assert refused(OSError(text.format(0))) is None
    assert isinstance(unreadable(OSError(text.format(errno.EIO)), "it"), StorageFault)
    assert str(unreadable(OSError("truncated"), "it")) == "it; copy or record it again"


def damages(content: bytes, count: int) -> list[bytes]:
    """Truncations and flipped bits."""
    generator = random.Random(0)
    results = [content[: generator.randrange(len(content))] for _ in range(count // 4)]
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 3, 30])):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        results.append(bytes(changed))
    return results


@pytest.mark.parametrize("kind", ["png", "jpg", "h5"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # a header that promises too many pixels
def test_whatever_happens_to_a_file_is_corrupt_data(tmp_path: Path, kind: str) -> None:
    path, pixels = tmp_path / f"file.{kind}", np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["images"] = np.stack([pixels] * 4)
    else:
        PIL.Image.fromarray(pixels).save(path)
    found: list[str] = []
    for content in damages(path.read_bytes(), 200):
        path.write_bytes(content)
        try:
            image = StoredImage(path, "images", (3, 2))(1) if kind == "h5" else decode_image(path, str(path))
        except CorruptData as error:
            found.append(str(error))
        else:
            assert len(image) == 3
    assert len(found) > 40
    assert all(str(path) in sentence and "\n" not in sentence for sentence in found)
