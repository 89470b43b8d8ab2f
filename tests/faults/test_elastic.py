"""Rows 19-22: a run goes on with other ranks, micro-batches, loader processes, from anywhere in an epoch."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.book import Book
from tests.faults import runs
from tests.forkserver import ForkServer
from vla.data.dataset import open_dataset
from vla.settings import DataConfig

REFUSED = 78


@pytest.fixture
def straight(book: Book, needle: Path) -> Path:
    """Without dropout, whose masks belong to a micro-batch, on one rank, uninterrupted."""
    return book.of(runs.flags(needle, dropout=0, batch_size=6, micro_batch=6))


def assert_close(run: Path, straight: Path) -> None:
    """The same positions, the same losses and weights but for the order of sums."""
    ours, theirs = runs.lines(run), runs.lines(straight)
    assert [line["positions"] for line in ours] == [line["positions"] for line in theirs]
    assert runs.losses(run) == pytest.approx(runs.losses(straight), rel=1e-5)
    last, golden = runs.state(runs.at(run, runs.STEPS)), runs.state(runs.at(straight, runs.STEPS))
    assert last.keys() == golden.keys()
    assert last.pop("adam_steps") == golden.pop("adam_steps")
    for name in golden:
        scale = golden[name].abs().max()
        assert (last[name] - golden[name]).abs().max() <= 1e-4 * scale, name


@pytest.mark.fault(19, "ranks 2 -> 1 -> 3, ZeRO-2 -> DDP -> ZeRO-3", "same order; losses to 1e-5; state re-sharded")
@pytest.mark.promise(23, "a moved run keeps its positions", "2 ranks -> 1 -> 3 in the order of one rank")
def test_other_ranks(server: ForkServer, needle: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*runs.flags(needle, dropout=0, batch_size=6, micro_batch=1), "--out", run, "--resume-from", "auto"]
    assert server.run([*argv, "--stop-after", 5], ranks=2, topology="zero2") == [0, 0]
    assert server.run([*argv, "--stop-after", 11, "--micro-batch", 3]) == [0]
    assert server.run([*argv, "--micro-batch", 2], ranks=3, topology="zero3") == [0, 0, 0]
    manifests = [json.loads((runs.at(run, step) / "manifest.json").read_text()) for step in (5, 11, runs.STEPS)]
    assert [(manifest["ranks"], manifest["zero_stage"]) for manifest in manifests] == [(2, 2), (1, 0), (3, 3)]
    assert_close(run, straight)


@pytest.mark.fault(
    20, "micro-batch changed on resume", "same samples, losses to 1e-5; another batch size refused", deep=19
)
def test_other_micro_batch(server: ForkServer, needle: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*runs.flags(needle, dropout=0, batch_size=6), "--out", run, "--resume-from", "auto"]
    assert server.run([*argv, "--micro-batch", 1, "--stop-after", 11]) == [0]
    for change, words in (
        (("--batch-size", 8), ("batch_size is 8", "6")),
        (("--micro-batch", 4), ("--batch-size 6", "--micro-batch 4", "use --micro-batch")),
    ):
        life = server.start([*argv, *change])
        assert life.wait() == [REFUSED]
        assert all(word in life.output() for word in words), life.output()
    assert server.run(argv) == [0]
    assert_close(run, straight)


@pytest.mark.fault(
    21, "resume in the middle of a later epoch", "every sample once an epoch, in the golden order", deep=19
)
def test_middle_of_an_epoch(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "samples.jsonl"
    data = DataConfig(roots=(str(needle),), episodes=(0, 1, 2))
    train = open_dataset(data, seed=3).train
    epoch, batch = train.num_samples, 4
    total = -(-3 * epoch // batch)
    changes = {"data.episodes": (0, 1, 2), "stage.steps": total, "save-every": 1000}
    argv = [*runs.flags(needle, micro_batch=4, **changes), "--out", run, "--resume-from", "auto"]
    drawn = random.Random(21)
    inside = [drawn.randrange(number * epoch // batch + 1, (number + 1) * epoch // batch) for number in (0, 1, 1, 2)]
    stops = sorted({*inside, epoch // batch, total})
    for stop in stops:
        words = [] if stop == total else ["--stop-after", stop]
        life = server.start(
            [*argv, *words], prepare="tests.faults.watch:samples", environment={"NOTE_SAMPLES": str(notes)}
        )
        assert life.wait() == [0], life.report()
    read = runs.lines(tmp_path, notes.name)
    assert [line["position"] for line in read] == list(range(total * batch))
    samples = [(line["episode"], line["frame"]) for line in read]
    assert samples == [train.locate(position) for position in range(total * batch)]
    for number in range(3):
        counts = Counter(samples[number * epoch : (number + 1) * epoch])
        assert len(counts) == epoch and set(counts.values()) == {1}, f"epoch {number}"
    assert samples[:epoch] != samples[epoch : 2 * epoch]


@pytest.mark.fault(22, "loader processes and prefetch changed", "same samples, noise and losses, bit for bit", deep=19)
def test_other_workers(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "samples.jsonl"
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    note = {"prepare": "tests.faults.watch:samples", "environment": {"NOTE_SAMPLES": str(notes)}}
    for workers, stop in ((2, 5), (0, 9), (1, runs.STEPS)):
        life = server.start([*argv, "--data.workers", workers, "--stop-after", stop], ranks=2, **note)
        assert life.wait() == [0, 0], life.report()
    runs.assert_same(run, golden)
    positions = Counter(line["position"] for line in runs.lines(tmp_path, notes.name))
    assert set(positions) == set(range(runs.STEPS * 4)), "none left out, none beyond the end"
    # A stage's loader ends with the stage: what it had read ahead of --stop-after is not trained on and is read again.
    trained = [line["positions"] for line in runs.lines(run)]
    assert trained == [[4 * step, 4 * step + 3] for step in range(runs.STEPS)]
