"""The formats of recordings on disk: one row each."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vla.data.dimensions import with_dimensions
from vla.data.episode import Reader
from vla.data.formats.insertion.reader import is_insertion, open_insertion
from vla.data.formats.lerobot.metadata import is_lerobot
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.formats.motion.files import is_motion
from vla.data.formats.motion.reader import open_motion
from vla.data.selection import EVERYTHING, Problems, Selection, refuse


@dataclass(frozen=True, kw_only=True)
class Format:
    """How recordings of one format are recognised and read."""

    words: str
    """What such a folder holds, for a sentence that says what is expected."""
    found: Callable[[Path], bool]
    """Whether a folder is of this format, be it damaged."""
    open: Callable[[Path, Selection, Problems], Reader]
    """CorruptData where nothing can be read, ValueError where what was selected is not there; the rest is told."""


FORMATS: dict[str, Format] = {
    "lerobot": Format(words="a LeRobot dataset (meta/info.json)", found=is_lerobot, open=open_lerobot),
    "insertion": Format(words="recordings of the insertion recorder", found=is_insertion, open=open_insertion),
    "motion": Format(words="clips of human motion", found=is_motion, open=open_motion),
}
"""By name, in the order in which a folder is tried."""


def detect(root: Path) -> str:
    """The name of a folder's format. ValueError when there is no such folder or it holds none."""
    if not root.exists():
        siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        nearest = difflib.get_close_matches(root.name, siblings, 1)
        hint = f"did you mean {root.parent / nearest[0]}?" if nearest else "check --data.roots"
        raise ValueError(f"{root} is not there: {hint}")
    for name, candidate in FORMATS.items():
        if candidate.found(root):
            return name
    raise ValueError(
        f"{root} holds no data that can be read, expected {' or '.join(row.words for row in FORMATS.values())}: "
        "check --data.roots"
    )


def open_folder(root: Path, selection: Selection = EVERYTHING, report: Problems = refuse) -> Reader:
    """The reader of a folder, whatever its format.

    Raises:
        CorruptData: nothing of it can be read.
        ValueError: it holds no data, or what was selected is not there.
    """
    return with_dimensions(FORMATS[detect(root)].open(root, selection, report), selection.dims)
