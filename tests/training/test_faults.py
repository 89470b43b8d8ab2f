"""Fault points: nothing when unarmed, exactly what the text says when armed, and a typing error is never silent."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from training import faults


@pytest.fixture(autouse=True)
def disarmed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TOUCHSTONE_FAULTS", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    faults.arm("")
    yield
    faults.arm("")


def raising(point: str, hits: int) -> list[int]:
    """Which of so many hits of a point raise."""
    numbers = []
    for number in range(1, hits + 1):
        try:
            faults.hit(point)
        except OSError:
            numbers.append(number)
    return numbers


def python(code: str, armed: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TOUCHSTONE_FAULTS": armed, "PYTHONUNBUFFERED": ""} | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_an_unarmed_point_looks_at_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_act", lambda point: pytest.fail("an unarmed point did something"))
    faults.hit("start")
    faults.hit("not even a point")


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("@1", [1]),
        ("@3", [3]),
        ("@2-4", [2, 3, 4]),
        ("@5-5", [5]),
        ("@7", []),
        ("@3#0", [3]),
        ("#0", [1, 2, 3, 4, 5, 6]),
        ("#1", []),
        ("@2#10", []),
    ],
)
def test_hits_and_ranks_are_selected(selected: str, expected: list[int]) -> None:
    with faults.armed(f"forward:raise=EIO{selected}"):
        assert raising("backward", 6) == []
        assert raising("forward", 6) == expected
    assert raising("forward", 6) == []


def test_the_rank_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "forward:raise=EIO@1#0; forward:raise=EIO@2#1; forward:raise=EIO@3#12; forward:raise=EIO@4"
    for rank, expected in (("0", [1, 4]), ("1", [2, 4]), ("12", [3, 4]), ("2", [4])):
        monkeypatch.setenv("RANK", rank)
        with faults.armed(text):
            assert raising("forward", 5) == expected


@pytest.mark.parametrize("name", faults.ERRNOS)
def test_every_errno_is_raised_as_itself(name: str) -> None:
    with faults.armed(f"storage.chunk:raise={name}"), pytest.raises(OSError, match=r"storage\.chunk") as caught:
        faults.hit("storage.chunk")
    assert caught.value.errno == getattr(errno, name)


@pytest.mark.parametrize("point", faults.POINTS)
def test_every_point_can_be_armed(point: str) -> None:
    with faults.armed(f"{point}:raise=EIO@2"):
        assert raising(point, 3) == [2]


def test_entries_of_one_point_share_its_count_and_act_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("training.faults.time.sleep", slept.append)
    with faults.armed(" data:sleep=0.25@1-2 ; data:raise=ESTALE@2;\n data:sleep=3@2; ; data:sleep=7@3;"):
        assert raising("data", 4) == [2]
    assert slept == [0.25, 0.25, 7.0]  # the third entry comes after the one that raised


def test_sleep_takes_its_time_and_lets_others_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep, woken = threading.Event(), threading.Event()
    with faults.armed("data:sleep=0.1@1-2"):
        start = time.monotonic()
        faults.hit("data")
        assert time.monotonic() - start >= 0.1
        monkeypatch.setattr("training.faults.time.sleep", lambda _: (asleep.set(), woken.wait(240)))
        sleeper = threading.Thread(target=faults.hit, args=("data",))
        sleeper.start()
        assert asleep.wait(240)
        faults.hit("data")
        assert sleeper.is_alive()
        woken.set()
        sleeper.join(timeout=240)
        assert not sleeper.is_alive()


def test_wait_goes_on_once_there_is_the_file(tmp_path: Path) -> None:
    with faults.armed(f"data:wait={tmp_path / 'go'}@2"):
        faults.hit("data")
        waiting = threading.Thread(target=faults.hit, args=("data",))
        waiting.start()
        waiting.join(timeout=0.1)
        assert waiting.is_alive()
        (tmp_path / "go").touch()
        waiting.join(timeout=240)
        assert not waiting.is_alive()


def test_hits_are_counted_once_over_threads() -> None:
    failed: list[int] = []

    def hits() -> None:
        failed.append(len(raising("data", 500)))

    with faults.armed("data:raise=EIO@1001-1017; data:raise=EIO@2500; data:raise=EIO@3999"):
        threads = [threading.Thread(target=hits) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=240)
        assert faults._hits["data"] == 4000
    assert sum(failed) == 19


@pytest.mark.parametrize(("action", "number"), [("terminate", signal.SIGTERM), ("interrupt", signal.SIGINT)])
def test_signals_reach_the_process_itself(action: str, number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda signum, _: seen.append(signum))
    try:
        with faults.armed(f"backward:{action}@2"):
            faults.hit("backward")
            assert seen == []
            faults.hit("backward")
            assert seen == [number]
    finally:
        signal.signal(number, before)


def test_kill_is_immediate_and_flushes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = f"""
import atexit, os
from training import faults
print("in the buffer")
file = open({str(path)!r}, "w"); file.write("in the buffer")
atexit.register(lambda: open({str(path)!r}, "w").write("left in order"))
try:
    faults.hit("emergency"); os.write(2, b"first ")
    faults.hit("emergency"); os.write(2, b"second")
finally:
    os.write(2, b"cleaned up")
"""
    ended = python(code, "emergency:kill@2")
    assert ended.returncode == -signal.SIGKILL
    assert (ended.stdout, ended.stderr) == ("", "first ")
    assert path.read_text() == ""
    assert python(code, "emergency:kill@2#1", RANK="0").returncode == 0
    assert python(code, "emergency:kill@2#1", RANK="1").returncode == -signal.SIGKILL


def test_the_environment_is_read_at_import_and_by_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = python("from training import faults; faults.hit('start')", "start:raise=EDQUOT")
    assert ended.returncode == 1
    assert "fault at start" in ended.stderr
    refused = python("import training.faults", "start:kil")
    assert refused.returncode == 1
    assert "did you mean kill" in refused.stderr
    monkeypatch.setenv("TOUCHSTONE_FAULTS", "start:raise=EIO@2")
    assert raising("start", 2) == []
    faults.arm()
    assert raising("start", 2) == [2]
    faults.arm()
    assert raising("start", 2) == [2]  # counted anew


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shard.writen:kill", "unknown point 'shard.writen'; known are start, data, .*; did you mean shard.written"),
        ("zzz:kill", "unknown point 'zzz'"),
        ("start:explode", "unknown action 'explode'; known are kill, terminate, interrupt, sleep, wait, raise"),
        ("start:raise=ENOSPACE", "unknown errno 'ENOSPACE'; known are EACCES, .*; did you mean ENOSPC"),
        ("start:raise", "unknown errno ''"),
        ("start:raise=", "write point:action"),
        ("start:sleep", "seconds to sleep"),
        ("start:sleep=-1", "seconds to sleep"),
        ("start:sleep=nan", "seconds to sleep"),
        ("start:sleep=1e9", "seconds to sleep"),
        ("start:wait", "file to wait for"),
        ("start:kill=9", "kill takes no value"),
        ("start:kill@0", "counted from 1"),
        ("start:kill@3-2", "smaller hit first, @2-3"),
        ("start:kill@1.5", "write point:action"),
        ("start:kill@", "write point:action"),
        ("start:kill#", "write point:action"),
        ("start:kill#-1", "write point:action"),
        ("start:kill#1@2", "write point:action"),
        ("start", "write point:action"),
        (":kill", "write point:action"),
        ("start:kill:2", "write point:action"),
        ("data:kill; start:expode", "unknown action"),
        ("start:explode#5", "unknown action"),  # wrong for a rank that is not this one, too
        ("start:kill@٣", "write point:action"),  # a digit to Python, not to anybody else
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, complaint: str) -> None:
    with faults.armed("data:raise=EIO@1"):
        with pytest.raises(ValueError, match=complaint):
            faults.arm(text)
        assert raising("data", 2) == [1]  # what was armed before still is
