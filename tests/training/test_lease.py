"""A run folder has one writer, whatever is killed, stopped or started twice."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.forkserver import ForkServer
from tests.training.children import LIMIT_S, Child, wait_until
from training.run import process
from training.run.lease import Lease, Record
from training.run.process import Identity
from vla import errors

FAST = {"takeover_s": 1.0, "beat_s": 0.1}


def hold(folder: str, exchange: str, host: str | None) -> None:
    """A process that takes the lease when told, says what came of it, and lives until told otherwise."""
    if host is not None:
        process.socket.gethostname = lambda: host  # type: ignore[attr-defined]
    told = Path(exchange)
    wait_until((told / "go").exists)
    lease = Lease(Path(folder), **FAST)
    try:
        lease.acquire()
    except ValueError as error:
        print(error, flush=True)
        return
    print("held", flush=True)
    time.sleep(LIMIT_S)


class Contender:
    """A process that wants the lease."""

    def __init__(self, server: ForkServer, folder: Path, host: str | None = None) -> None:
        self.exchange = Path(tempfile.mkdtemp(dir=server.folder))
        self.child = Child(server, hold, (folder, self.exchange, host))

    def go(self) -> None:
        (self.exchange / "go").touch()

    def answer(self) -> str:
        wait_until(lambda: self.child.said().endswith("\n"), lambda: "no answer")
        return self.child.said().removesuffix("\n")

    def holds(self) -> "Contender":
        self.go()
        assert self.answer() == "held"
        return self

    def end(self) -> None:
        self.child.life.kill()


@contextmanager
def contender(server: ForkServer, folder: Path, host: str | None = None) -> Iterator[Contender]:
    """A contender that is gone afterwards."""
    started = Contender(server, folder, host)
    try:
        yield started
    finally:
        started.end()


def never(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lease]]:
    """Makes leases of one folder in this process, which must not be lost unless a test says so."""
    made: list[Lease] = []

    def lease(lost: Callable[[str], None] = never, **times: float) -> Lease:
        made.append(Lease(tmp_path, lost=lost, **{**FAST, **times}))
        return made[-1]

    yield lease
    for each in made:
        each.release()


def content(folder: Path) -> dict[str, Any]:
    """What the lease of a folder says."""
    fields: dict[str, Any] = json.loads((folder / "lease.json").read_bytes())
    return fields


def write(folder: Path, holder: Identity, beat: int = 0) -> None:
    """A lease of some process."""
    (folder / "lease.json").write_bytes(Record(holder=holder, token="theirs", beat=beat).content())


def test_it_names_this_process_and_counts_until_released(tmp_path: Path, make: Callable[..., Lease]) -> None:
    lease = make()
    lease.acquire()
    assert content(tmp_path)["pid"] == os.getpid()
    wait_until(lambda: int(content(tmp_path)["beat"]) >= 2)
    assert lease.held()
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_reading_while_it_is_written_never_sees_it_lost(make: Callable[..., Lease]) -> None:
    lease = make(beat_s=0.0002)
    lease.acquire()
    assert all(lease.held() for _ in range(2000))


def test_a_living_process_is_refused_at_once(server: ForkServer, tmp_path: Path) -> None:
    with contender(server, tmp_path) as first:
        first.holds()
        began = time.monotonic()
        with pytest.raises(ValueError, match=rf"process {first.child.pid} on .*--out"):
            Lease(tmp_path).acquire()
        assert time.monotonic() - began < 10  # not the 30 s that another machine would be watched
        os.utime(tmp_path / "lease.json", (0, 0))  # times of files are not looked at
        with pytest.raises(ValueError, match="is being written by"):
            Lease(tmp_path).acquire()


def test_a_killed_process_is_followed_at_once(server: ForkServer, tmp_path: Path, make: Callable[..., Lease]) -> None:
    with contender(server, tmp_path) as first:
        first.holds()
        first.child.kill()
    began = time.monotonic()
    make(takeover_s=600).acquire()
    assert time.monotonic() - began < 60
    assert content(tmp_path)["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_a_zombie_has_ended(tmp_path: Path, make: Callable[..., Lease]) -> None:
    with subprocess.Popen(["sleep", "60"]) as ended:
        holder = replace(Identity.own(), pid=ended.pid, started=process._fields(ended.pid).started)
        write(tmp_path, holder)
        with pytest.raises(ValueError, match="is being written by"):
            make(takeover_s=600).acquire()
        ended.kill()  # and nobody asks for its exit code
        wait_until(lambda: process._fields(ended.pid).state == "Z")
        make(takeover_s=600).acquire()


def test_a_process_number_used_again_is_another_process(tmp_path: Path, make: Callable[..., Lease]) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        started = process._fields(other.pid).started
        write(tmp_path, replace(Identity.own(), pid=other.pid, started=started - 1))
        make(takeover_s=600).acquire()
        other.kill()


@pytest.mark.parametrize("changed", [{"host": "node7"}, {"boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_process_that_cannot_be_looked_for_is_watched(
    tmp_path: Path, make: Callable[..., Lease], changed: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = replace(Identity.own(), pid=1, **changed)
    write(tmp_path, elsewhere)
    began = time.monotonic()
    make().acquire()
    assert time.monotonic() - began >= FAST["takeover_s"]
    assert content(tmp_path)["pid"] == os.getpid()
    assert f"was last written by process 1 on {elsewhere.host}; waiting up to 1 s" in capfd.readouterr().err


def test_a_machine_that_still_counts_is_refused(server: ForkServer, tmp_path: Path) -> None:
    with contender(server, tmp_path, host="node7") as first:
        first.holds()
        with pytest.raises(ValueError, match=rf"is being written by process {first.child.pid} on node7"):
            Lease(tmp_path, takeover_s=LIMIT_S).acquire()
        assert content(tmp_path)["host"] == "node7"


def test_a_lease_cut_short_is_watched_like_a_stranger(tmp_path: Path, make: Callable[..., Lease]) -> None:
    (tmp_path / "lease.json").write_text('{"host": "no')
    began = time.monotonic()
    make().acquire()
    assert time.monotonic() - began >= FAST["takeover_s"]


def test_a_lease_given_back_while_watched_is_taken_at_once(tmp_path: Path, make: Callable[..., Lease]) -> None:
    write(tmp_path, replace(Identity.own(), host="node7"))
    timer = threading.Timer(0.3, (tmp_path / "lease.json").unlink)
    timer.start()
    make(takeover_s=600).acquire()
    timer.join()


def test_runs_of_one_process_follow_each_other(tmp_path: Path, make: Callable[..., Lease]) -> None:
    first, second = make(), make()
    first.acquire()
    second.acquire()  # as after a run that failed and released nothing
    token = content(tmp_path)["token"]
    wait_until(lambda: int(content(tmp_path)["beat"]) >= 3)
    assert content(tmp_path)["token"] == token
    first.release()
    assert second.held()


def test_of_many_contenders_one_wins(server: ForkServer, tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with contender(server, folder) as dead:
            dead.holds()
        contenders = [Contender(server, folder) for _ in range(5)]
        try:
            for each in contenders:
                each.go()
            answers = [each.answer() for each in contenders]
            for each, answer in zip(contenders, answers, strict=True):
                if answer != "held":
                    each.child.code()
            time.sleep(3 * FAST["beat_s"])  # whoever lost it after all ends
            alive = [each.child.alive() for each in contenders]
        finally:
            for each in contenders:
                each.end()
        assert answers.count("held") == 1, answers
        assert alive == [answer == "held" for answer in answers]


def test_a_slow_contender_puts_back_what_it_took(
    server: ForkServer, tmp_path: Path, make: Callable[..., Lease]
) -> None:
    with contender(server, tmp_path) as dead:
        dead.holds()
    stale = (tmp_path / "lease.json").read_bytes()
    winner = make()
    winner.acquire()
    Lease(tmp_path)._clear(stale)  # it looked before the winner came, and acts now
    assert winner.held()
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_without_links_the_winner_writes_its_lease_again(
    tmp_path: Path, make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    winner = make()
    winner.acquire()
    Lease(tmp_path)._clear(b"stale")
    wait_until((tmp_path / "lease.json").exists)
    assert winner.held()


def test_a_stopped_process_that_was_followed_ends_on_waking(
    server: ForkServer, tmp_path: Path, make: Callable[..., Lease]
) -> None:
    with contender(server, tmp_path, host="node7") as first:
        first.holds()
        os.kill(first.child.pid, signal.SIGSTOP)
        second = make()
        second.acquire()
        os.kill(first.child.pid, signal.SIGCONT)
        assert first.child.code() == errors.PREEMPTED
        time.sleep(3 * FAST["beat_s"])
        assert second.held()


def test_the_loser_hears_who_won_and_touches_nothing(tmp_path: Path, make: Callable[..., Lease]) -> None:
    heard: list[str] = []
    lease = make(lost=heard.append)
    lease.acquire()
    write(tmp_path, replace(Identity.own(), host="node7", pid=12), beat=3)
    theirs = (tmp_path / "lease.json").read_bytes()
    assert not lease.held()
    wait_until(lambda: bool(heard))
    assert "taken over by process 12 on node7" in heard[0]
    lease.release()
    assert (tmp_path / "lease.json").read_bytes() == theirs


def test_failing_storage_ends_no_run_by_itself(
    tmp_path: Path, make: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = make()
    lease.acquire()
    working = os.open
    failed: list[str] = []

    def fail(path: Any, *arguments: Any) -> int:
        if str(path).endswith("lease.json"):
            failed.append(str(path))
            raise OSError(5, "Input/output error")
        return working(path, *arguments)

    monkeypatch.setattr(os, "open", fail)
    wait_until(lambda: len(failed) >= 3)
    monkeypatch.undo()
    before = content(tmp_path)["beat"]
    wait_until(lambda: content(tmp_path)["beat"] != before)
