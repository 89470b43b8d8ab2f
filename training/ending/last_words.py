"""Says something on stderr from a thread, without waiting for anybody.

What a run says when it ends must not hang where the run hangs: in Python's buffers, which the main thread may hold, or
in a pipe that nobody reads any more.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def stderr() -> Iterator[int]:
    """A file descriptor of what stderr is connected to, which drops what it cannot write at once."""
    try:
        # Opened anew: whoever shares stderr keeps one that waits.
        descriptor = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    except OSError:  # a socket, a closed stderr, a terminal of another user
        yield 2
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def say(sentence: str) -> None:
    """Write a line, if that is possible now."""
    with stderr() as descriptor, contextlib.suppress(OSError):
        os.write(descriptor, f"{sentence}\n".encode())
