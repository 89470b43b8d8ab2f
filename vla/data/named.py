"""Names that tell apart what lies in folders of the same name: roots among one another, and recordings within one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vla.data.episode import Episode, Layout, Reader


def distinct(names: Sequence[str], paths: Sequence[Path]) -> tuple[str, ...]:
    """The names, each once: one that several paths have is followed back into their folders as far as it takes.

    `a/pick` and `b/pick` for two folders called `pick`. A path that is given twice has one name.
    """
    parts = [path.absolute().parts[1:] for path in paths]

    def name_of(place: int) -> str:
        alike = {parts[other] for other, name in enumerate(names) if name == names[place]}
        if len(alike) == 1:
            return names[place]
        longest = max(map(len, alike))
        depth = next(depth for depth in range(2, longest + 1) if len({other[-depth:] for other in alike}) == len(alike))
        return "/".join(parts[place][-depth:])

    return tuple(map(name_of, range(len(names))))


@dataclass(frozen=True)
class Renamed:
    """A reader whose episodes have another name of the root before their own."""

    reader: Reader
    root: str

    @property
    def layout(self) -> Layout:
        """That of the root."""
        return self.reader.layout

    @property
    def sources(self) -> Sequence[Path]:
        """Those of the root."""
        return self.reader.sources

    @cached_property
    def episodes(self) -> Sequence[Episode]:
        """Those of the root."""
        return tuple(
            replace(episode, name=f"{self.root}/{episode.name.partition('/')[2]}") for episode in self.reader.episodes
        )

    def __reduce__(self) -> tuple[type["Renamed"], tuple[Reader, str]]:
        """As the reader within, which opens again where it is unpickled."""
        return Renamed, (self.reader, self.root)


def distinguish(roots: Sequence[str], readers: Sequence[Reader]) -> list[Reader]:
    """The readers of some roots, with names of episodes that stand for one each."""
    names = [Path(root).name for root in roots]
    return [
        reader if name == own else Renamed(reader, name)
        for own, name, reader in zip(names, distinct(names, list(map(Path, roots))), readers, strict=True)
    ]
