"""From a root to a folder: scores of all items, kept as they are found, then what is decided, then what is written."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla.curation.items import Item, broken_samples, items_of
from vla.curation.journal import open_journal
from vla.curation.scores import score
from vla.curation.selection import SPLITS, Candidate, Curated, select
from vla.curation.writing import write_clips, write_episodes
from vla.curation_settings import CurationConfig
from vla.data.episode import Reader
from vla.data.formats import detect, open_folder
from vla.data.formats.motion.reader import MotionReader
from vla.data.selection import Selection, check_left_out
from vla.data.writing.beside import written_beside
from vla.documents import to_json

STATS, CLIPS, PAGE = "curation_stats.json", "clips.jsonl", "index.html"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A root, its items, and what could not be read."""

    reader: Reader
    selection: Selection
    """With which it was opened."""
    items: Sequence[Item]
    digests: Sequence[str]
    """Of the items."""
    problems: Sequence[str]
    remarks: Sequence[str]
    """What was chosen in reading, and what is wrong with pictures, a sentence each."""
    made_with: dict[str, Any]
    """All that the result follows from, as JSON."""


def check_places(root: Path, destination: Path) -> None:
    """Refuse a destination that is the root, or in it, or holds the root (ValueError)."""
    source, target = root.resolve(), destination.resolve()
    if source == target:
        raise ValueError(f"OUT is {destination}, which is IN itself; give another folder")
    if target.is_relative_to(source):
        raise ValueError(f"{destination} is in {root}, which would be read with it next time; give a folder outside")
    if source.is_relative_to(target):
        raise ValueError(f"{destination} holds {root}; give a folder that does not exist")


def open_items(root: Path, selection: Selection, config: CurationConfig) -> Opened:
    """All items of a root; what cannot be read is kept as a sentence.

    Raises:
        CorruptData: nothing can be read.
        ValueError: it holds nothing to curate.
    """
    problems: list[ValueError] = []
    # Clips are kept as the files that they are, so nothing is lost of them that a copy would have to carry.
    selection = replace(selection, carry=detect(root) != "motion")
    reader = open_folder(root, selection, problems.append)
    check_left_out({str(root): reader.layout.left_out}, selection.without)
    if reader.layout.body is not None and reader.layout.body.kind == "coordinates":
        raise ValueError(f"{root} holds coordinates of a model, which say no places to judge; give clips of joints")
    broken = set(broken_samples(problems))
    items = [item for item in items_of(reader) if (str(item.file), item.sample) not in broken]
    digests = [item.digest() for item in items]
    pictures = selection.motion.pictures
    told = list(dict.fromkeys(map(str, problems)))
    # Pictures that are not those of a clip leave the clip: it is curated without them.
    about = [sentence for sentence in told if pictures is not None and pictures in sentence]
    said = [sentence for sentence in told if sentence not in about]
    whole = hashlib.sha256(json.dumps([digests, said]).encode()).hexdigest()
    asked = {name: value for name, value in to_json(selection).items() if name not in ("carry", "keep_damaged")}
    made_with = {"settings": to_json(config), "data": asked, "input": whole, "fps": reader.layout.fps}
    return Opened(
        reader=reader,
        selection=selection,
        items=items,
        digests=digests,
        problems=said,
        remarks=[*reader.layout.remarks, *about],
        made_with=made_with,
    )


def is_finished(destination: Path, opened: Opened) -> bool:
    """Whether a destination holds what would be written. ValueError where it holds something else."""
    if not destination.exists() and not destination.is_symlink():
        return False
    file = destination / STATS
    if not file.is_file():
        raise ValueError(f"{destination} exists and holds no curation; give a folder that does not exist")
    try:
        content = json.loads(file.read_bytes())
        there, files = content["made_with"], content["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged; give another folder, or remove {destination}") from error
    if there != opened.made_with:
        what = next(name for name in opened.made_with if there.get(name) != opened.made_with[name])
        raise ValueError(f"{destination} holds a curation of other {what}; give another folder, or remove it")
    if files != files_of(destination):
        raise ValueError(
            f"{destination} is finished, but files of it are gone or are not those that were written: give another "
            "folder, or remove it"
        )
    return True


def judge(opened: Opened, destination: Path, config: CurationConfig, progress: Callable[[int], object]) -> Curated:
    """Scores of all items, those of an earlier start as they are, and what is decided. Errors as `select`."""
    candidates = []
    root = opened.reader.layout.root
    with open_journal(destination, config.critic) as journal:
        for item, digest in zip(opened.items, opened.digests, strict=True):
            scores = journal.known.get(digest)
            if scores is None:
                scores = score(item, opened.reader, config.critic)
                journal.keep(digest, scores)
            candidates.append(
                Candidate(
                    name=item.name,
                    action=item.action,
                    source=item.source(root),
                    subject=item.subject,
                    digest=digest,
                    scores=scores,
                )
            )
            progress(1)
    motion = opened.reader.layout.body is not None
    return select(candidates, config, motion=motion, problems=opened.problems)


def stats_of(opened: Opened, curated: Curated) -> dict[str, Any]:
    """`curation_stats.json`."""
    settings = opened.made_with["settings"]
    thresholds = {name: value for name, value in settings.items() if name not in ("critic", "robot")}
    return {**curated.to_json(), "thresholds": thresholds, "made_with": opened.made_with}


def files_of(folder: Path) -> dict[str, Any]:
    """How many files a curation has, but for its statistics, and a digest of their places and sizes."""
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path != folder / STATS
    }
    digest = hashlib.sha256(json.dumps(sorted(sizes.items())).encode()).hexdigest()
    return {"count": len(sizes), "digest": digest}


def write(opened: Opened, curated: Curated, destination: Path, page: str, progress: Callable[[int], object]) -> None:
    """The folder of a curation, there when it is complete; then the scores beside it are not needed any more."""
    root = Path(opened.reader.layout.root)
    with written_beside(destination) as beside:
        for split in SPLITS:
            if members := curated.members(split):
                items = [opened.items[place] for place in members]
                if isinstance(opened.reader, MotionReader):
                    write_clips(root, items, beside / split, split, opened.selection.motion.pictures)
                else:
                    write_episodes(opened.reader, opened.selection, items, beside / split, progress)
        lines = "".join(json.dumps(line) + "\n" for line in curated.lines())
        (beside / CLIPS).write_text(lines, encoding="utf-8")
        (beside / PAGE).write_text(page, encoding="utf-8")
        stats = stats_of(opened, curated) | {"files": files_of(beside)}
        (beside / STATS).write_text(json.dumps(stats, indent=1) + "\n", encoding="utf-8")
    destination.with_name(f".{destination.name}.scores").unlink(missing_ok=True)
