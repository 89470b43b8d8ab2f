"""Ranks that start together: one of them reads the data for all, and what it is refused, all are."""

from pathlib import Path

import numpy as np

from tests.forkserver import ForkServer
from tests.vla.data.recordings import write_v2

CORRUPT = 65


def test_one_rank_reads_for_all(server: ForkServer, flags: list[str], tmp_path: Path) -> None:
    known, read = "known from an earlier start", "all numbers are read"
    said = []
    for number, more in enumerate(([], [], ["--data.verify"])):
        life = server.start(
            [*flags, *more, "--out", tmp_path / str(number), "--stop-after", 1],
            ranks=2,
            prepare="tests.faults.watch:numbers_read",
            environment={"XDG_CACHE_HOME": str(tmp_path / "cache")},
        )
        assert life.wait() == [0, 0], life.report()
        said.append([(life.output(rank).count(read), life.output(rank).count(known)) for rank in (0, 1)])
    assert said == [[(1, 0), (0, 0)], [(0, 1), (0, 0)], [(1, 0), (0, 0)]]
    losses = {(tmp_path / str(number) / "metrics.jsonl").read_text().split('"loss"')[1][:20] for number in range(3)}
    assert len(losses) == 1


def test_refused_data_end_every_rank(server: ForkServer, flags: list[str], tmp_path: Path) -> None:
    values = np.zeros((40, 2), dtype=np.float32)
    values[7, 1] = np.nan
    extra = {"observation.force": {"dtype": "float32", "shape": [2], "names": None}}
    root = write_v2(tmp_path / "set", (40, 40), columns={"observation.force": lambda _: values.tolist()}, extra=extra)
    life = server.start([*flags, "--data.roots", root, "--out", tmp_path / "run"], ranks=2)
    assert life.wait() == [CORRUPT, CORRUPT], life.report()
    for rank in (0, 1):
        assert life.output(rank).count("has nan in sensor, row 7, dimension 1: repair the data") == 1, life.report()
    assert not (tmp_path / "run").exists()
