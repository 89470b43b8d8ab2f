"""Trainings that several tests ask about, each run once a session."""

from collections.abc import Sequence
from pathlib import Path

from tests.forkserver import ForkServer


class Book:
    """Run folders by what was asked for."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        """The runs go to `folder`."""
        self.server = server
        self.folder = folder
        self.runs: dict[tuple[object, ...], Path] = {}
        self.seen: dict[Path, tuple[int, int]] = {}
        """Size and time of every file, as the trainings left them."""

    def of(
        self,
        flags: Sequence[object],
        *,
        ranks: int = 1,
        topology: str = "ddp",
        recipe: str = "stage1",
        prepare: str = "",
    ) -> Path:
        """The folder of the run with these flags, which --out is none of; trained by the first who asks.

        It is for reading: copy it before you change it.
        """
        key = (*map(str, flags), ranks, topology, recipe, prepare)
        if key not in self.runs:
            run = self.folder / f"run-{len(self.runs):02d}"
            life = self.server.start(
                [*flags, "--out", run], ranks=ranks, topology=topology, recipe=recipe, prepare=prepare
            )
            assert life.wait() == [0] * ranks, life.report()
            self.runs[key] = run
            self.seen |= files(run)
        return self.runs[key]

    def check(self) -> None:
        """Refuse a session in which a test has changed, added or removed a file of a run.

        Raises:
            AssertionError: it names the files.
        """
        now = {path: seen for run in self.runs.values() for path, seen in files(run).items()}
        changed = sorted(str(path) for path, _ in now.items() ^ self.seen.items())
        assert not changed, f"a test has changed what others read: {', '.join(dict.fromkeys(changed))}"


def files(run: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file of a run."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in run.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
