"""What is kept or dropped as a whole: a file of a clip, a sample of a list with all its actors, a robot's episode."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.episode import Episode, Reader
from vla.data.formats.motion.clip_list import is_clip_list, sample_of
from vla.data.formats.motion.reader import MotionReader

UNKNOWN = "unknown"
"""The action of what names none: clips of it are a group like any other, since nothing says that they differ."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to keep or to drop."""

    name: str
    """Readable, and unique in its root: that of its episode, or of the sample that several actors share."""
    episodes: tuple[Episode, ...]
    file: Path | None
    """Where its clips lie; None of an episode of a data set."""
    sample: int | None
    """Its place in a list of clips; None where its file holds nothing else."""

    @property
    def action(self) -> str:
        """What it shows: what its labels say, else its first caption."""
        first = self.episodes[0]
        return str(first.facts.get("action") or first.instructions.different[0] or UNKNOWN)

    @property
    def subject(self) -> str:
        """Who moves; itself where nobody is named, so that subjects can be held out of any data."""
        said = self.episodes[0].facts.get("subject")
        return f"subject {said}" if said not in (None, "") else self.name

    def source(self, root: str) -> str:
        """Where it comes from: what its labels say, else the name of the root."""
        return str(self.episodes[0].facts.get("source") or Path(root).stem)

    def digest(self) -> str:
        """SHA-256 of all that is known of it but pictures."""
        found = hashlib.sha256(json.dumps([self.name, self.sample]).encode())
        for episode in self.episodes:
            said = [episode.name, episode.instructions.different, episode.facts, sorted(episode.cameras)]
            found.update(json.dumps(said, sort_keys=True, default=str).encode())
            streams = [episode.actions, *([episode.state] if episode.state is not None else [])]
            streams += [episode.streams[key] for key in sorted(episode.streams)]
            arrays = [array for stream in streams for array in (stream.timestamps, stream.values)]
            arrays += [episode.columns[key] for key in sorted(episode.columns)]
            arrays += [episode.seen[key] for key in sorted(episode.seen)]
            for array in arrays:
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def items_of(reader: Reader) -> list[Item]:
    """All of a root, in its order."""
    if not isinstance(reader, MotionReader):
        return [Item(name=episode.name, episodes=(episode,), file=None, sample=None) for episode in reader.episodes]
    found: dict[tuple[Path, int | None], list[Episode]] = {}
    for episode, file in zip(reader.episodes, reader.files, strict=True):
        key = file, sample_of(episode.name) if is_clip_list(file) else None
        found.setdefault(key, []).append(episode)
    return [
        Item(name=name_of(episodes), episodes=tuple(episodes), file=file, sample=sample)
        for (file, sample), episodes in found.items()
    ]


def name_of(episodes: Sequence[Episode]) -> str:
    """What a sample of several actors is called, or a clip."""
    return re.sub(r"/actor_\d+$", "", episodes[0].name)


def broken_samples(problems: Sequence[ValueError]) -> Iterator[tuple[str, int]]:
    """The file and the place in it of each sample of which one actor could not be read."""
    for problem in problems:
        if found := re.match(r"(.+\.pt), clip_(\d+)/actor_\d+: ", str(problem)):
            yield found[1], int(found[2])
