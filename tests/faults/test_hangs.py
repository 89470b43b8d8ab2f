"""Rows 34-37 and 45: ranks and loader processes that hang, lag, go another way, or find no port."""

import socket
import sys
from pathlib import Path

import pytest

from tests.book import Book
from tests.faults import runs
from tests.faults.runs import KILLED
from tests.forkserver import LIFE_S, ForkServer
from tests.training.launch import execute
from vla.data.dataset import open_dataset
from vla.settings import DataConfig

HUNG, CORRUPT = 33, 65


@pytest.mark.fault(34, "one rank hangs", "stacks of all ranks, exit 33 in time, resume bit-exact")
def test_hang(server: ForkServer, flags: list[str], golden: Path, tmp_path: Path) -> None:
    run, limit = tmp_path / "run", 3
    argv = [*flags, "--out", run, "--resume-from", "auto"]
    faults = {"TOUCHSTONE_FAULTS": "forward:sleep=600@8#1"}
    life = server.start([*argv, "--hang-seconds", limit], ranks=2, environment=faults)
    runs.wait_until(lambda: len(runs.lines(run)) >= 5, life, "5 steps are recorded")
    assert life.wait() == [HUNG, HUNG], life.report()
    stacks = [(run / "stacks" / f"rank-{rank:05d}.txt").read_text() for rank in (0, 1)]
    assert "faults.py" in stacks[1] and "section: forward" in stacks[1], "where rank 1 sleeps"
    assert "faults.py" not in stacks[0], "rank 0 waits for it elsewhere"
    assert all("step: 8" in text and "train_stage" in text for text in stacks)
    assert "no progress for" in life.output(0) and "no progress for" in life.output(1)
    assert server.run(argv, ranks=2) == [0, 0]
    runs.assert_same(run, golden)


@pytest.mark.deep
def test_a_rank_that_is_gone_before_the_ranks_meet(server: ForkServer, flags: list[str], tmp_path: Path) -> None:
    """Nobody can tell the others; what ends them without a launcher is the limit of opening a run."""
    lives = {
        victim: server.start(
            [*flags, "--out", tmp_path / str(victim), "--hang-seconds", 1],
            ranks=2,
            topology=topology,
            prepare="tests.faults.watch:gone",
            environment={"GONE": str(victim)},
        )
        for victim, topology in ((1, "ddp"), (0, "zero2"))
    }
    for victim, life in lives.items():
        codes = life.wait()
        assert (codes[victim], codes[1 - victim]) == (KILLED, HUNG), life.report()
        assert "in 'start'; its stacks are in" in life.output(1 - victim)
        assert not (tmp_path / str(victim) / "metrics.jsonl").exists()


@pytest.mark.fault(35, "one rank is much slower", "named in the log; nothing is ended", deep=34)
def test_straggler(server: ForkServer, book: Book, needle: Path, tmp_path: Path) -> None:
    flags = runs.flags(needle, **{"stage.steps": 24})  # a rank is named after 20
    golden = book.of(flags, ranks=2)
    for slow in (1, 0):
        run = tmp_path / str(slow)
        fault = f"forward:sleep=0.5@1-12#{slow}"  # most of a window; long beside a step of a machine with other work
        life = server.start([*flags, "--out", run], ranks=2, environment={"TOUCHSTONE_FAULTS": fault})
        assert life.wait() == [0, 0], life.report()
        assert f"rank {slow} is slow: " in life.output()
        assert f"rank {1 - slow} is slow: " not in life.output()
        runs.assert_same(run, golden)


@pytest.mark.fault(
    36, "uneven last batch; a rank that goes another way", "no deadlock; the others end with it", deep=34
)
def test_uneven(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    episodes = (0, 1, 2, 3)
    data = open_dataset(DataConfig(roots=(str(needle),), episodes=episodes), seed=3)
    count, held_out = data.train.num_samples, len(data.validation)
    assert count % 4 and held_out % 4, "neither divides by the samples of a step"
    run = tmp_path / "run"
    changes = {"data.episodes": episodes, "stage.epochs": 2, "validation-samples": held_out, "validate-every": 9}
    flags = runs.flags(needle, **changes)
    at = flags.index("--stage.steps")
    del flags[at : at + 2]  # epochs say how long it is
    life = server.start([*flags, "--out", run], ranks=2)
    assert life.wait() == [0, 0], life.report()
    steps = -(-2 * count // 4)
    assert [line["positions"] for line in runs.lines(run)] == [[4 * step, 4 * step + 3] for step in range(steps)]
    assert {line["samples"] for line in runs.lines(run, "validation.jsonl")} == {held_out}

    # Position 30 is rank 1's: it raises, while rank 0 is in the collective.
    life = server.start(
        [*runs.flags(needle), "--out", tmp_path / "parted", "--hang-seconds", 30],
        ranks=2,
        prepare="tests.faults.watch:failing_forward",
        environment={"FAIL_AT": "30"},
    )
    codes = life.wait()
    assert 0 not in codes and KILLED not in codes, life.report()
    assert "rank 1 alone goes another way" in life.output(1)


@pytest.mark.fault(37, "loader process killed, raises, hangs; a corrupt row", "told by sample; restarted or left out")
def test_workers(server: ForkServer, flags: list[str], needle: Path, golden: Path, tmp_path: Path) -> None:
    at = 4 * 13 + 1  # a position of rank 0, in step 14
    episode, frame = open_dataset(DataConfig(roots=(str(needle),)), seed=3).train.locate(at)

    def live(name: str, how: str, times: int, *words: object) -> tuple[list[int], str]:
        life = server.start(
            [*flags, "--out", tmp_path / name, "--data.workers", 1, *words],
            ranks=2,
            prepare=f"tests.faults.watch:{'corrupt_sample' if how == 'corrupt' else 'worker_fault'}",
            environment={
                "WORKER_AT": str(at),
                "WORKER_HOW": how,
                "WORKER_TIMES": str(times),
                "WORKER_COUNT": str(tmp_path / f"{name}.count"),
                "CORRUPT_EPISODE": episode,
                "CORRUPT_FRAME": str(frame),
            },
        )
        return life.wait(), life.output()

    # Once: the processes are started again, and nothing is lost. A hung one is given up after a part of --hang-seconds.
    for how, words in (("killed", []), ("hangs", ["--hang-seconds", 6])):
        codes, said = live(how, how, 1, *words)
        assert codes == [0, 0], said
        assert f"{episode}, frame {frame}" in said and "restart 1 of 2" in said, said
        runs.assert_same(tmp_path / how, golden)
    # Again and again: an end, with an error that names the sample.
    for how in ("killed", "raises"):
        codes, said = live(f"{how}-always", how, 1000)
        assert 0 not in codes, said
        assert f"{episode}, frame {frame}" in said.splitlines()[-1], said
        assert ("a fault of the reader" in said) == (how == "raises")
    # A corrupt row: refused by name, or left out within the budget, while all others stay what they were.
    codes, said = live("corrupt", "corrupt", 0)
    assert codes[0] == CORRUPT, said
    assert f"{episode}, frame {frame}" in said and "Traceback" not in said
    codes, said = live("budget", "corrupt", 0, "--data.quarantine", 1)
    assert codes == [0, 0], said
    [entry] = runs.lines(tmp_path / "budget", "quarantine.jsonl")
    assert (entry["episode"], entry["frame"]) == (episode, frame)
    ours, theirs = runs.losses(tmp_path / "budget"), runs.losses(golden)
    assert next(step for step in ours if ours[step] != theirs[step]) == at // 4 + 1, "the same up to there"


@pytest.mark.fault(45, "rendezvous port in use", "accelerate says so and takes another; else an error at once", deep=7)
def test_port_in_use(server: ForkServer, flags: list[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        life = server.start([*flags, "--out", tmp_path / "alone"], environment={"MASTER_PORT": str(port)})
        assert life.wait()[0] not in (0, KILLED)
        assert "address already in use" in life.output()
        words = ["training/stage1.py", *flags, "--out", str(tmp_path / "run"), "--stop-after", "2"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
        ended = execute([*torchrun, *words], LIFE_S)
        assert ended.returncode != 0
        assert str(port) in ended.stdout and "address already in use" in ended.stdout
        assert not (tmp_path / "run").exists()
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
        ended = execute([*launch, "--num_processes", "2", "--main_process_port", str(port), *words], LIFE_S)
        assert ended.returncode == 0, ended.stdout[-3000:]
        assert f"Port `{port}` is already in use" in ended.stdout
        assert len(runs.lines(tmp_path / "run")) == 2
