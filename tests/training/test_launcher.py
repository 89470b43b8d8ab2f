"""The launcher acts for our entry points alone, and ends as they end."""

import atexit
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.forkserver import ForkServer
from tests.training.children import Child, child, wait_until
from training import launching
from training.ending import launcher
from vla.errors import CODE_FILE

TRAINING = Path(__file__).resolve().parents[2] / "training"
STUB = Path(__file__).resolve().parent / "launched.py"
Launch = Callable[..., AbstractContextManager[Child]]


def test_it_recognises_a_launcher_of_our_entry_points() -> None:
    ours = str(TRAINING / "stage1.py")
    assert launcher.launches_ours(["/venv/bin/accelerate", "launch", "--config_file", "x.yaml", ours, "--out", "run"])
    assert launcher.launches_ours(["/site-packages/accelerate/commands/launch.py", "--num_processes", "2", ours])
    assert launcher.launches_ours(["/venv/bin/torchrun", "--nproc-per-node", "2", ours])


def test_it_leaves_everything_else_alone() -> None:
    assert not launcher.launches_ours(["/venv/bin/accelerate", "launch", "/home/me/train.py", "--config", "stage1.py"])
    assert not launcher.launches_ours([str(TRAINING / "stage1.py"), "--out", "run"])
    assert not launcher.launches_ours(["/venv/bin/pytest", str(TRAINING / "stage1.py")])
    assert not launcher.launches_ours([])


@pytest.mark.parametrize(
    ("told", "codes", "expected"),
    [
        (75, [75, 75], 75),
        (34, [1, 34], 34),  # the other rank's connection broke
        (34, [1], 34),  # and it was seen before the one that failed
        (75, [-signal.SIGKILL, 1], 128 + signal.SIGKILL),
        (1, [1, -signal.SIGSEGV], 128 + signal.SIGSEGV),
        (33, [33, -signal.SIGKILL], 128 + signal.SIGKILL),  # whoever waits for a killed rank
        (33, [33, 34, -signal.SIGKILL], 34),
        (75, [75, 33], 33),
        (75, [1, 75], 75),  # the rank with 75 was first
        (1, [75, 1], 1),
        (33, [33, 75], 33),
        (None, [-signal.SIGALRM], 33),
        (75, [-signal.SIGALRM, 75], 33),
        (None, [1, 3], 1),
        (None, [3, -signal.SIGTERM], 3),
        (None, [-signal.SIGTERM], 75),  # before it answered signals
        (None, [-signal.SIGTERM, -signal.SIGTERM], 75),
        (33, [33, -signal.SIGTERM], 33),  # the rank that hung came first, the launcher then ended the other
    ],
)
def test_the_likeliest_reason_counts(told: int | None, codes: list[int], expected: int) -> None:
    assert launcher.choose(told, codes) == expected


def test_a_long_grace_time_is_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.launcher.api import LaunchConfig

    for name in (CODE_FILE, launching.PID, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "/nowhere/code")
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    monkeypatch.setattr(sys, "argv", ["torchrun", str(TRAINING / "stage1.py")])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    launcher.register()
    assert LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout == 600


def launched(arguments: list[str], temporary: str, environment: dict[str, str], hang_ups: str) -> None:
    """A process that becomes a launcher of the stub."""
    os.environ.update(environment)
    tempfile.tempdir = temporary
    launcher.ENTRY_POINTS = STUB.parent
    signal.signal(signal.SIGHUP, signal.SIG_IGN if hang_ups == "ignored" else signal.SIG_DFL)  # whatever nohup did
    sys.argv = ["torchrun", *arguments]
    launcher.register()
    from torch.distributed.run import main

    try:
        main()
    except BaseException:  # noqa: BLE001  (what the interpreter does at the end of a program)
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    atexit._run_exitfuncs()


@pytest.fixture
def launch(server: ForkServer, tmp_path: Path) -> Launch:
    """Starts two ranks of the stub through torchrun."""

    @contextmanager
    def start(how: str, *, ranks: int = 2, hang_ups: str = "heard", **environment: str) -> Iterator[Child]:
        (tmp_path / "temporary").mkdir()
        (tmp_path / "temporary" / f"{launcher.OWN_PREFIX}{2**22 + 1}-left").touch()  # by a launcher that was killed
        arguments = ["--standalone", "--nproc-per-node", str(ranks), str(STUB), how, str(tmp_path)]
        with child(server, launched, arguments, tmp_path / "temporary", environment, hang_ups) as process:
            yield process
        pids = [path.read_text() for path in tmp_path.glob("ready-*")]
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        left = list((tmp_path / "temporary").glob("touchstone-*"))
        assert left == [] or CODE_FILE in environment

    return start


def wait_for_ranks(folder: Path, ranks: int = 2) -> list[int]:
    """The process numbers of the ranks, once all are ready."""
    files = [folder / f"ready-{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("how", "expected", "said"),
    [
        ("finishes", 0, ""),
        ("is refused", 78, ""),
        ("is killed", 128 + signal.SIGKILL, "rank 1 was ended by SIGKILL\n"),
        ("is ended by its watchdog", 33, "rank 1 was ended by SIGALRM\n"),
        ("takes its peer down", 34, ""),
    ],
)
def test_it_ends_as_its_processes_end(launch: Launch, how: str, expected: int, said: str) -> None:
    with launch(how) as process:
        assert process.code() == expected
        assert "Traceback" not in process.said()
        assert process.said().endswith(said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(("how", "expected"), [("gives way", 75), ("fails to save", 34), ("knows no signals", None)])
def test_a_signal_is_passed_on_and_ends_it_quietly(
    tmp_path: Path, launch: Launch, number: signal.Signals, how: str, expected: int | None
) -> None:
    with launch(how) as process:
        wait_for_ranks(tmp_path)
        os.killpg(process.pid, number)  # as a terminal does; the ranks are in sessions of their own
        assert process.code() == (expected or 75)
        assert "Traceback" not in process.said()
        assert "death signal" not in process.said()
        assert {path.read_text() for path in tmp_path.glob("signals-*")} == ({number.name} if expected else set())


def test_a_second_signal_reaches_the_ranks_too(tmp_path: Path, launch: Launch) -> None:
    with launch("gives way slowly") as process:
        wait_for_ranks(tmp_path)
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: len(list(tmp_path.glob("signals-*"))) == 2)
        os.kill(process.pid, signal.SIGINT)
        assert process.code() == 76
        assert "Traceback" not in process.said()


def test_the_file_of_the_user_has_the_code(tmp_path: Path, launch: Launch) -> None:
    file = tmp_path / "code"
    file.write_text("65")  # an earlier run's
    with launch("is killed", TOUCHSTONE_EXIT_CODE_FILE=str(file)) as process:
        assert process.code() == 128 + signal.SIGKILL
    assert file.read_text() == "137"


def test_under_nohup_it_outlives_the_terminal(tmp_path: Path, launch: Launch) -> None:
    with launch("gives way", hang_ups="ignored") as process:
        wait_for_ranks(tmp_path)
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.5)
        assert process.alive()
        os.kill(process.pid, signal.SIGTERM)
        assert process.code() == 75


@pytest.mark.parametrize("how", ["training with loaders", pytest.param("training", marks=pytest.mark.deep)])
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.deep)])
def test_a_signal_is_one_request_to_a_training_process(
    tmp_path: Path, launch: Launch, how: str, number: signal.Signals
) -> None:
    with launch(how) as process:
        pids = wait_for_ranks(tmp_path)
        for pid in pids:
            os.kill(pid, number)  # a scheduler signals every process of a job
        os.kill(process.pid, number)
        assert process.code() == 75
        assert process.said().count(f"gives way to {number.name}") == 2
        assert "Traceback" not in process.said()


def test_a_signal_to_one_rank_ends_the_run_the_same_way(tmp_path: Path, launch: Launch) -> None:
    with launch("training") as process:
        os.kill(wait_for_ranks(tmp_path)[1], signal.SIGTERM)
        assert process.code() == 75
        assert "Traceback" not in process.said()


def test_the_ranks_do_not_outlive_a_killed_launcher(server: ForkServer, tmp_path: Path, launch: Launch) -> None:
    with child(server, launched, ["--standalone", str(STUB), "training", str(tmp_path)], tmp_path, {}, "") as process:
        pids = wait_for_ranks(tmp_path, 1)
        process.kill()
        wait_until(lambda: not Path(f"/proc/{pids[0]}").exists())
        assert "rank 0 gives way to SIGTERM" in process.said()
