"""Everything that Python prints, without secrets: standard output and error behind `redaction.hide`.

Tracebacks, warnings and progress bars write to these two streams. What is logged loses its secrets before any handler
sees it, so that log files of libraries have none either. What is written to the file descriptors themselves (by a
library in C, or a child process) does not pass here.
"""

import atexit
import codecs
import contextlib
import io
import logging
import os
import resource
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from vla import redaction
from vla.errors import OutputClosed


class Guarded:
    """A text stream that passes on what it is given, without secrets; in all else it is the stream behind it.

    A secret may come in pieces (`print(name, value, sep="=")` is three of them). The end of a text that may be the
    start of a secret is therefore held back until more comes; `flush` releases it unless it begins a known secret.

    Where the reader of a pipe has ended, what is written goes nowhere from then on; the first time `write` and `flush`
    raise OutputClosed, unless the program has more to do than to print.
    """

    def __init__(self, stream: Any, *, outlives_readers: bool = False) -> None:
        self.stream = stream
        self._outlives_readers = outlives_readers
        self.buffer = GuardedBytes(self)
        self._held = ""
        self._lock = threading.RLock()
        _all.add(self)

    def write(self, text: str) -> int:
        """Pass the text on, as far as it is clear that no secret begins in it; returns its length."""
        with self._lock:
            self._pass_on(self._held + text, known_only=False)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Show what was written, but for the beginning of a known secret."""
        with self._lock:
            self._pass_on(self._held, known_only=True)
            try:
                self.stream.flush()
            except BrokenPipeError:
                self._let_go()

    def release(self) -> None:
        """Show everything: nothing more comes."""
        with self._lock:
            text, self._held = self._held, ""
            if self.stream.closed:
                return
            with contextlib.suppress(OutputClosed):
                try:
                    self.stream.write(redaction.hide(text))
                    self.stream.flush()
                except BrokenPipeError:
                    self._let_go()

    def forget(self) -> None:
        """Start anew in the child of a fork: what is held, and who holds the lock, is the parent's."""
        self._held, self._lock = "", threading.RLock()

    def _pass_on(self, text: str, *, known_only: bool) -> None:
        end = len(text) - redaction.unfinished(text, known_only=known_only)
        self._held = text[end:]
        if not end:
            return
        try:
            self.stream.write(redaction.hide(text[:end]))
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        """Let all that is still written go nowhere, so that nothing fails at it again."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)
        if not self._outlives_readers:
            raise OutputClosed from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class GuardedBytes:
    """The byte stream below a guarded text stream, with the same guard."""

    def __init__(self, text: Guarded) -> None:
        self._text = weakref.proxy(text)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, content: bytes) -> int:
        """Pass bytes on as UTF-8 text."""
        self._text.write(self._decoder.decode(content))
        return len(content)

    def flush(self) -> None:
        """As the text stream's."""
        self._text.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._text.stream.buffer, name)


_all: "weakref.WeakSet[Guarded]" = weakref.WeakSet()


def forget_all() -> None:
    """What a forked process does first."""
    for stream in _all:
        stream.forget()


os.register_at_fork(after_in_child=forget_all)


def install(*, outlives_readers: bool = False) -> None:
    """Guard standard output, standard error and logging until the process ends.

    A program that `outlives_readers` goes on where nobody reads its output any more. Core files are switched off too:
    one would hold the whole environment. Calling it again changes nothing.
    """
    for name in ("stdout", "stderr"):
        # Python has none where the program was started without (`vla info RUN >&-`).
        stream = getattr(sys, name) or io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")
        if not isinstance(stream, Guarded):
            guarded = Guarded(stream, outlives_readers=outlives_readers)
            setattr(sys, name, guarded)
            redirect_logging(stream, guarded)
    logging.setLogRecordFactory(record_without_secrets)
    _, highest = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, highest))
    atexit.unregister(uninstall)
    atexit.register(uninstall)


def uninstall() -> None:
    """Write what is still held back, and give standard output and error back."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Guarded):
            stream.release()
            setattr(sys, name, stream.stream)
            redirect_logging(stream, stream.stream)
    logging.setLogRecordFactory(logging.LogRecord)


def record_without_secrets(*values: Any, **named: Any) -> logging.LogRecord:
    """A record of logging whose message and traceback are written out, without secrets."""
    record = logging.LogRecord(*values, **named)
    try:
        record.msg, record.args = redaction.hide(record.getMessage()), ()
    except (TypeError, ValueError, KeyError):
        return record  # the values do not fit the message: its handler says so
    if record.exc_info:
        record.exc_text = redaction.hide(logging.Formatter().formatException(record.exc_info))
    return record


def redirect_logging(old: Any, new: Any) -> None:
    """Let the handlers that write to one stream write to another."""
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)
