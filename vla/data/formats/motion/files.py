"""The kinds of files that hold human motion: one row each."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vla.data.formats.motion.amc import is_amc, read_amc, skeleton_file
from vla.data.formats.motion.bvh import is_bvh, read_bvh
from vla.data.formats.motion.clip_list import is_clip_list, read_clip_list
from vla.data.formats.motion.deepmimic import is_deepmimic, read_deepmimic
from vla.data.formats.motion.gait_npz import is_gait_npz, read_gait_npz
from vla.data.formats.motion.humanml import captions_beside, is_humanml, read_humanml
from vla.data.formats.motion.markers import is_c3d, read_c3d
from vla.data.formats.motion.opensim import is_opensim, read_opensim
from vla.data.formats.motion.poselib import is_poselib, read_poselib
from vla.data.formats.motion.skeleton_npz import (
    is_points_npz,
    is_skeleton_npz,
    read_points_npz,
    read_skeleton_npz,
)
from vla.data.formats.motion.trc import is_trc, read_trc
from vla.data.formats.motion.trials import same_trial
from vla.errors import CorruptData
from vla.listing import visible
from vla.motion.clip import Clip
from vla.motion_settings import MotionConfig

LABELS = "labels.csv"
"""What clips show, beside them: columns `file` and `text`, a row a caption, and others, such as `action`, `subject`."""
CLIP_LIST = "clip list"
"""The kind whose clips are numbered, so that pictures can be of them."""
LONGEST_CELL = 2**24
"""Characters of a cell of it: a caption of any length is read, and refused where texts are, with its reason."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How files of one kind are recognised and read."""

    words: str
    """What such a file holds, for a sentence that says what is expected."""
    found: Callable[[Path], bool]
    """Whether a file is of this kind, be it damaged: by its name, and by its first bytes where names are shared."""
    read: Callable[[Path, MotionConfig], Iterator[Clip | ValueError]]
    """Its clips, one at a time, named after the file alone, or what is wrong with one of several. CorruptData where the
    file is damaged, ValueError where it does not say what has to be known (an axis, a unit), naming the flag that does,
    MissingPackage where a package is needed."""
    beside: Callable[[Path], tuple[Path, ...]] = lambda _: ()
    """Files that it is read with, such as those of its skeleton, forces or captions, as far as they are there."""
    unsaid: frozenset[str] = frozenset()
    """The fields of MotionFiles that it may leave unsaid; the others change nothing of how it is read."""


KINDS: dict[str, Kind] = {
    "skeleton npz": Kind(
        words="poses of a skeleton (npz)",
        found=is_skeleton_npz,
        read=read_skeleton_npz,
        unsaid=frozenset({"up", "source_rate_hz"}),
    ),
    "points npz": Kind(
        words="places of joints (npz)", found=is_points_npz, read=read_points_npz, unsaid=frozenset({"source_rate_hz"})
    ),
    "poselib": Kind(words="poselib's motions (npy)", found=is_poselib, read=read_poselib, unsaid=frozenset({"up"})),
    "DeepMimic": Kind(
        words="DeepMimic's motions (JSON)", found=is_deepmimic, read=read_deepmimic, unsaid=frozenset({"up"})
    ),
    "BVH": Kind(words="BVH", found=is_bvh, read=read_bvh, unsaid=frozenset({"up", "unit"})),
    "AMC": Kind(
        words="Acclaim's motions and skeletons (AMC, ASF)",
        found=is_amc,
        read=read_amc,
        beside=skeleton_file,
        unsaid=frozenset({"up", "unit", "angles", "source_rate_hz"}),
    ),
    "c3d": Kind(words="markers (c3d)", found=is_c3d, read=read_c3d, unsaid=frozenset({"up", "unit"})),
    "trc": Kind(words="markers (trc)", found=is_trc, read=read_trc, unsaid=frozenset({"up", "unit"})),
    "gait npz": Kind(words="gait trials (npz)", found=is_gait_npz, read=read_gait_npz),
    "OpenSim": Kind(
        words="OpenSim's coordinates and forces (mot, sto)",
        found=is_opensim,
        read=read_opensim,
        beside=same_trial,
        unsaid=frozenset({"angles"}),
    ),
    CLIP_LIST: Kind(words="lists of clips (pt)", found=is_clip_list, read=read_clip_list),
    "HumanML3D": Kind(
        words="HumanML3D (new_joints, new_joint_vecs)", found=is_humanml, read=read_humanml, beside=captions_beside
    ),
}
"""By name, in the order in which a file is tried."""


def kind_of(file: Path) -> str | None:
    """The name of a file's kind; None of one that holds no motion."""
    return next((name for name, kind in KINDS.items() if kind.found(file)), None)


def place_of(root: Path, file: Path) -> str:
    """Where a file lies in a root, or what it is called where it is the root itself."""
    return file.relative_to(root).as_posix() if root.is_dir() else file.name


def name_of(clip: Clip, place: str) -> str:
    """What a clip of a file is called in its root: the file without its ending, and the clip where it says another."""
    stem = place.rpartition(".")[0]
    return stem if clip.name == stem.rpartition("/")[2] else f"{stem}/{clip.name}"


def find_files(root: Path) -> dict[Path, str]:
    """The files of motion in a folder and below, in order of their paths, and what kind each is; or the file itself."""
    paths = [root] if root.is_file() else visible(path for path in root.rglob("*") if path.is_file())
    kinds = {path: kind_of(path) for path in paths}
    return {path: kind for path, kind in kinds.items() if kind is not None}


def is_motion(root: Path) -> bool:
    """Whether a folder holds files of motion, or a file is one."""
    paths = [root] if root.is_file() else visible(path for path in root.rglob("*") if path.is_file())
    return any(kind_of(path) is not None for path in paths)


def read_labels(root: Path) -> dict[str, list[dict[str, str]]]:
    """The labels of a folder's files, by their place in it, a row a caption. CorruptData where they are no table."""
    path = root / LABELS
    if not path.is_file():
        return {}
    csv.field_size_limit(LONGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True, strict=True)
            names, rows = list(table.fieldnames or ()), list(table)
    except UnicodeDecodeError as error:
        raise CorruptData(
            f"{path} is no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise CorruptData(
            f"{path} is no table ({error}): close its quotes, and separate its columns by commas"
        ) from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise CorruptData(f"{path} has two columns {twice[0]}: rename or delete one")
    if "file" not in names:
        raise CorruptData(f"{path} has the columns {', '.join(names)}, and needs one called file, separated by commas")
    for number, row in enumerate(rows, start=2):
        if not row.get("file") or None in row or None in row.values():
            raise CorruptData(f"{path}, line {number}, has no file or another number of columns than its head")
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["file"], []).append(row)
    return found
