"""One writer a run folder, agreed on through a file in it, without locks (network volumes have none that work).

RUN/lease.json names the process that writes the folder and counts its heartbeats. No two clocks are ever compared: on
the machine of the writer the process itself is looked for, on any other machine the count is watched for a while.
"""

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.ending import exits
from training.run import process
from training.run.process import Identity
from vla import errors

SIZE = 1024
"""Bytes of a lease, padded: a heartbeat writes in place and at once. A new file could replace the lease of a process
that has taken over meanwhile; writing into a file that was renamed or deleted harms nobody."""

_held: dict[Path, "Lease"] = {}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a lease says."""

    holder: Identity
    token: str
    """Of this lease alone."""
    beat: int = 0

    @staticmethod
    def read(content: bytes) -> "Record | None":
        """The record in the content of a lease; None while it is being written."""
        try:
            fields = json.loads(content)
            token, beat = fields.pop("token"), int(fields.pop("beat"))
            return Record(holder=Identity(**fields), token=token, beat=beat)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def content(self) -> bytes:
        """The content of the lease."""
        # Of one width, so that whoever reads while it is written in place reads the old count or the new one.
        fields = asdict(self.holder) | {"token": self.token, "beat": f"{self.beat:012d}"}
        return json.dumps(fields).encode().ljust(SIZE - 1) + b"\n"


def leave_to_the_other(sentence: str) -> None:
    """What a process does that has lost its lease: it leaves at once, resumable, and writes nothing more."""
    print(sentence, file=sys.stderr)
    exits.leave(errors.PREEMPTED)


class Lease:
    """The right of this process to write a run folder."""

    def __init__(
        self,
        folder: Path,
        *,
        takeover_s: float = 30.0,
        beat_s: float = 5.0,
        lost: Callable[[str], None] = leave_to_the_other,
    ) -> None:
        """Describe the lease of `folder`, which exists.

        A lease of another machine whose count stands still for `takeover_s` seconds is taken over. `lost` gets a
        sentence when that happened to this process, which must then write nothing more; it is called in a thread.
        """
        assert takeover_s > 2 * beat_s, "a heartbeat may be late"
        self.folder, self.path = folder, folder / "lease.json"
        self._takeover_s, self._beat_s, self._lost = takeover_s, beat_s, lost
        self._record = Record(holder=Identity.own(), token=uuid.uuid4().hex)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease, waiting up to `takeover_s` seconds for one of another machine; heartbeats follow.

        Raises:
            ValueError: another process writes this folder.
        """
        key = self.path.resolve()
        if earlier := _held.pop(key, None):
            earlier._stop()
        while not self._create():
            if (seen := self._read()) is not None and self._is_free(seen):
                self._clear(seen)
        _held[key] = self
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def held(self) -> bool:
        """Whether the lease names this process now; ask before what must not happen twice, such as a commit."""
        with self._lock:
            if not self.path.exists():
                self._create()
            content = self._read()
        return content is not None and self._is_own(content)

    def release(self) -> None:
        """Give the lease back; the lease of another process stays."""
        self._stop()
        _held.pop(self.path.resolve(), None)
        content = self._read()
        if content is not None and self._is_own(content):
            self._clear(content)

    def _is_own(self, content: bytes) -> bool:
        record = Record.read(content)
        return record is not None and record.token == self._record.token

    def _stop(self) -> None:
        """Beat no longer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _create(self) -> bool:
        """Write a new lease; False where there is one."""
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(file, self._record.content())
        finally:
            os.close(file)
        return True

    def _read(self) -> bytes | None:
        """The content of the lease; None where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def _is_free(self, seen: bytes) -> bool:
        """Whether the lease with content `seen` is nobody's any more; False says to look again.

        Raises:
            ValueError: its holder is alive.
        """
        record = Record.read(seen)
        match "elsewhere" if record is None else process.state(record.holder):
            case "own" | "gone":
                return True
            case "exiting":
                time.sleep(0.05)
                return False
            case "elsewhere":
                return self._stands_still(seen)
            case "alive":
                raise self._refusal(record)

    def _stands_still(self, seen: bytes) -> bool:
        """Watch a lease whose process cannot be looked for; whether it stood still, False when it is gone.

        Raises:
            ValueError: its holder is alive.
        """
        print(
            f"{self.folder} was last written by {name(Record.read(seen))}; "
            f"waiting up to {self._takeover_s:g} s for a sign of life",
            file=sys.stderr,
        )
        until = time.monotonic() + self._takeover_s
        while time.monotonic() < until:
            time.sleep(min(1.0, self._takeover_s / 20))
            now = self._read()
            if now is None:
                return False
            if now != seen and (record := Record.read(now)) is not None:
                raise self._refusal(record)
        return True

    def _refusal(self, record: Record | None) -> ValueError:
        return ValueError(
            f"{self.folder} is being written by {name(record)}; wait until it ends, stop it, or choose another --out"
        )

    def _clear(self, seen: bytes) -> None:
        """Take the lease with content `seen` out of the way.

        Of two processes that want to, the slower one may find that it took the new lease of the faster one: it puts
        that back. Where it cannot (file systems without links), the next heartbeat of the faster one does.
        """
        aside = self.path.with_name(f"lease.json.{uuid.uuid4().hex}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if aside.read_bytes() != seen:
            with contextlib.suppress(OSError):
                self.path.hardlink_to(aside)
        aside.unlink()

    def _keep(self) -> None:
        """The thread: a heartbeat every `beat_s` seconds."""
        while not self._stopped.wait(self._beat_s):
            try:
                with self._lock:
                    other = self._beat()
            except OSError:
                continue  # failing storage ends a run through its checkpoints; the next heartbeat tries again
            if other is not None:
                self._lost(
                    f"{self.folder} was taken over by {name(other)} while this process stood still; "
                    "it leaves the folder to the other and ends"
                )
                return

    def _beat(self) -> Record | None:
        """Count on; the record of another process if that holds the lease now."""
        self._record = replace(self._record, beat=self._record.beat + 1)
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            self._create()
            return None
        try:
            found = Record.read(os.read(file, 2 * SIZE))
            if found is not None and found.token != self._record.token:
                return found
            if found is not None:
                os.pwrite(file, self._record.content(), 0)
        finally:
            os.close(file)
        return None


def name(record: Record | None) -> str:
    """The holder, in words."""
    return "an unknown process" if record is None else str(record.holder)
