"""Files of a folder, without those that a system puts beside them for itself."""

from collections.abc import Iterable
from pathlib import Path


def visible(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, without hidden ones: a Mac's disk has a companion `._NAME` beside each file."""
    return sorted(path for path in paths if not path.name.startswith("."))
