"""Folders that are there when they are complete, and not before."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_beside(destination: Path) -> Iterator[Path]:
    """A folder beside the destination, which becomes it at the end; it is removed where there is an error.

    ValueError where the destination exists, or nothing can be written there.
    """
    if destination.exists() or destination.is_symlink():
        raise ValueError(f"{destination} exists; give a folder that does not, or move it away")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    except OSError as error:
        raise ValueError(f"cannot write to {destination.parent} ({error.strerror}); give another folder") from error
    try:
        beside.chmod(0o755)
        yield beside
        beside.rename(destination)  # fails where somebody else has made it meanwhile
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # it is gone where it has become the destination
