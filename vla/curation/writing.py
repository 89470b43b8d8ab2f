"""The folders of a curation: each split as data of the kind that they come from, which training reads at once."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vla.curation.items import Item
from vla.data.episode import Reader
from vla.data.formats import open_folder
from vla.data.formats.motion.clip_list import is_clip_list, load, write_clip_list
from vla.data.formats.motion.exporting import write_labels
from vla.data.formats.motion.files import KINDS, LABELS, find_files, place_of, read_labels
from vla.data.formats.motion.pictures import SIDECAR, list_folders
from vla.data.selection import Selection
from vla.data.writing.writer import write_lerobot


def write_episodes(
    reader: Reader, selection: Selection, items: Sequence[Item], folder: Path, progress: Callable[[int], object]
) -> None:
    """A copy of some episodes of a data set."""
    wanted = tuple(sorted(item.episodes[0].index for item in items))

    def told(_: ValueError) -> None:
        """What is damaged was said when it was opened first."""

    root = Path(reader.layout.root)
    write_lerobot(open_folder(root, replace(selection, episodes=wanted, without=()), told), folder, progress=progress)


def write_clips(root: Path, items: Sequence[Item], folder: Path, split: str, pictures: str | None) -> None:
    """Files of clips with what is known of them: whole ones as they are, samples of a list in a list of theirs.

    Where a root has one list, its part is called after the split: pretrain_data.pt. `pictures` of that list are copied
    to the numbers that its samples have now.
    """
    kinds, labels = find_files(root), read_labels(root) if root.is_dir() else {}
    beside = {file: KINDS[kind].beside(file) for file, kind in kinds.items()}
    # Files that clips are read with may lie beside the root, such as the captions of a folder of joints.
    folders = [root if root.is_dir() else root.parent, *(other.parent for some in beside.values() for other in some)]
    base = Path(os.path.commonpath([path.absolute() for path in folders]))
    lists = [file for file in kinds if is_clip_list(file)]
    rows: list[dict[str, str]] = []
    for file in dict.fromkeys(item.file for item in items):
        assert file is not None, "clips lie in files"
        place = Path(f"{split}_data.pt") if lists == [file] else file.absolute().relative_to(base)
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_clip_list(file):
            samples = load(file)
            chosen = sorted(item.sample for item in items if item.file == file and item.sample is not None)
            write_clip_list(target, [samples[number] for number in chosen])
            if pictures is not None:
                copy_pictures(Path(pictures), chosen, folder / "pictures")
        else:
            shutil.copyfile(file, target)
        for other in beside[file]:
            copied = folder / other.absolute().relative_to(base)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other, copied)
        rows += [row | {"file": place.as_posix()} for row in labels.get(place_of(root, file), ())]
    write_labels(folder / LABELS, rows)


def copy_pictures(root: Path, chosen: Sequence[int], folder: Path) -> None:
    """The pictures of some samples, as those of their places in the new list."""
    places = {old: new for new, old in enumerate(chosen)}
    for (sample, actor), own in list_folders(root).items():
        if sample not in places:
            continue
        called = f"sample_{places[sample]:06d}"
        target = folder / called / f"actor_{actor}"
        shutil.copytree(own, target)
        sidecar = target / SIDECAR
        told = json.loads(sidecar.read_bytes()) if sidecar.is_file() else {}
        if "sample_id" in told:
            sidecar.write_text(json.dumps(told | {"sample_id": called}), encoding="utf-8")
