"""Files of one trial: `walk1_ik.mot` and `walk1_grf.mot`, in one folder or in the folders that programs give each."""

import functools
import re
from collections import defaultdict
from pathlib import Path

from vla.listing import visible

TABLES = (".mot", ".sto")
MARK = r"kinematics_q|kinematics|coordinates|ik|grfs?|forces?|id"
MARKED = re.compile(rf"(?:(?:{MARK})_)?(?P<trial>.+?)(?:_(?:{MARK}))?", re.IGNORECASE)
"""What programs put before or after the name of a trial."""
FOLDERS = {"ik", "id", "grf", "kinematics", "forcedata", "forces"}
"""Folders beside one another that programs give each kind of file of a trial."""


def trial_of(file: Path) -> str:
    """What a file calls its trial."""
    found = MARKED.fullmatch(file.stem)
    return found["trial"].lower() if found else file.stem.lower()


def same_trial(file: Path) -> tuple[Path, ...]:
    """The other tables of a file's trial, in order of their paths."""
    folders = {file.parent}
    if file.parent.name.lower() in FOLDERS:
        folders |= {path for path in file.parent.parent.iterdir() if path.name.lower() in FOLDERS and path.is_dir()}
    trial = trial_of(file)
    found = [path for folder in folders for path in _tables(folder, folder.stat().st_mtime_ns).get(trial, ())]
    return tuple(sorted(path for path in found if path != file))


@functools.lru_cache(maxsize=16)
def _tables(folder: Path, _changed_ns: int) -> dict[str, list[Path]]:
    """The tables of a folder by their trial: it is not looked through again for each of its files."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in visible(folder.iterdir()):
        if path.suffix in TABLES:
            found[trial_of(path)].append(path)
    return dict(found)
