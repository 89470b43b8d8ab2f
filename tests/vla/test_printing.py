"""Standard output and error without secrets: in pieces, in tracebacks, on a terminal, in forks and threads."""

import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from vla import printing
from vla.printing import Guarded, install, uninstall
from vla.redaction import HIDDEN, hide

CANARY = "canary7f3a9c51"
SECRETS = {"HF_TOKEN": CANARY, "WANDB_API_KEY": CANARY * 3, "B_KEY": "51-other-8%", "C_KEY": "aaab-aaac"}


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


def through(pieces: list[str], *, flush: bool = False) -> str:
    """What comes out when these pieces are written one after the other."""
    target = io.StringIO()
    stream = Guarded(target)
    for piece in pieces:
        assert stream.write(piece) == len(piece)
        if flush:
            stream.flush()
    stream.release()
    return target.getvalue()


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    parts = st.sampled_from(
        [*SECRETS.values(), "canary", "a", "aa", "51", "b-", "\n", " ", "word ", "hf_", "://", "\r"]
    )
    text = "".join(draw(st.lists(parts, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(cut_texts(), st.booleans())
def test_no_secret_in_pieces_gets_through(pieces: list[str], flush: bool) -> None:
    written = through(pieces, flush=flush)
    assert not [secret for secret in SECRETS.values() if secret in written]


@given(st.lists(st.text(alphabet="ab -\n\r€x1", max_size=8), max_size=8), st.booleans())
def test_other_texts_come_out_as_they_were_written(pieces: list[str], flush: bool) -> None:
    text = "".join(pieces)
    if hide(text) == text:
        assert through(pieces, flush=flush) == text


def test_only_the_start_of_a_secret_is_held_back() -> None:
    target = io.StringIO()
    stream = Guarded(target)
    stream.write("loading")
    assert target.getvalue() == "loading", "a partial line is shown"
    stream.write(" can")
    assert target.getvalue() == "loading "
    stream.flush()
    assert target.getvalue() == "loading ", "the next piece may complete it"
    stream.write("al boats")
    assert target.getvalue() == "loading canal boats"
    stream.write(" hf_xyz")
    assert target.getvalue() == "loading canal boats "
    stream.flush()
    assert target.getvalue() == "loading canal boats hf_xyz", "only the shape is known: shown when it is asked for"
    stream.write(" can")
    stream.release()
    assert target.getvalue().endswith("hf_xyz can"), "the end is not lost"


def test_a_progress_bar_keeps_working() -> None:
    target = io.StringIO()
    stream = Guarded(target)
    for _ in tqdm(range(3), file=cast("TextIO", stream), desc=f"epoch {CANARY}", mininterval=0, ascii=True):
        pass
    shown = target.getvalue()
    assert shown.count("\r") >= 3
    assert "3/3" in shown
    assert f"epoch {HIDDEN}" in shown
    assert CANARY not in shown


def test_it_is_the_stream_behind_it_in_all_else(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+", encoding="latin-1") as file:
        stream = Guarded(file)
        assert stream.fileno() == file.fileno()
        assert not stream.isatty()
        assert stream.encoding == "latin-1"
        assert stream.writable()
        stream.buffer.write(f"bytes {CANARY[:5]}".encode())
        stream.buffer.write(f"{CANARY[5:]}\n".encode())
        stream.writelines(["a", "b\n"])
        stream.flush()
        file.seek(0)
        assert file.read() == f"bytes {HIDDEN}\nab\n"


def test_installing_twice_and_taking_off(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    logger = logging.getLogger("touchstone.test")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        printing.install()
        first = sys.stdout
        printing.install()
        assert sys.stdout is first
        print("name", CANARY, sep="=", end="")
        logger.error("logged %s", CANARY)
        print(CANARY[:7], end="", file=sys.stderr, flush=True)
        print(CANARY[7:], file=sys.stderr)
    finally:
        printing.uninstall()
        logger.removeHandler(handler)
    assert sys.stdout is out
    assert sys.stderr is err
    assert handler.stream is err
    assert out.getvalue() == f"name={HIDDEN}"
    assert err.getvalue() == f"logged {HIDDEN}\n{HIDDEN}\n"


def test_log_files_of_libraries_have_no_secret(tmp_path: Path) -> None:
    logger = logging.getLogger("touchstone.test")
    handler = logging.FileHandler(tmp_path / "debug.log")
    logger.addHandler(handler)
    try:
        printing.install()
        logger.error("%s of %d %%", CANARY, 5)
        logger.error("100 %")
        logger.error({"config": {"roots": [f"/data/{CANARY}"]}})
        try:
            int(CANARY)
        except ValueError:
            logger.exception("failed")
    finally:
        printing.uninstall()
        logger.removeHandler(handler)
        handler.close()
    text = (tmp_path / "debug.log").read_text()
    assert text.startswith(f"{HIDDEN} of 5 %\n100 %\n{{'config': {{'roots': ['/data/{HIDDEN}']}}}}\nfailed\nTraceback")
    assert text.endswith(f"invalid literal for int() with base 10: '{HIDDEN}'\n")
    odd = printing.record_without_secrets("name", logging.ERROR, "file", 1, "%d", ("no number",), None)
    assert odd.args == ("no number",), "its handler complains, as always"


def test_threads_write_whole_lines() -> None:
    target = io.StringIO()
    stream = Guarded(target)
    threads = [
        threading.Thread(target=lambda: [stream.write(f"line {CANARY} end\n") for _ in range(50)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert target.getvalue() == f"line {HIDDEN} end\n" * 200


SCRIPT = """
    import logging, os, resource, sys, threading, warnings
    logging.basicConfig(stream=sys.stderr)
    from vla import printing
    printing.install()
    secret = os.environ["HF_TOKEN"]
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    print("half of it:", secret[:5], end="", flush=True)
    child = os.fork()
    if child == 0:
        print("the child", secret, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(secret[5:])
    warnings.warn(f"careful with {secret}")
    logging.warning("logged %s", secret)
    thread = threading.Thread(target=lambda: 1 / int(secret))
    thread.start()
    thread.join()
    sys.stdout.write("no newline at the end " + secret[:4])
    def fail(value):
        raise RuntimeError("Illegal header value b'Bearer " + value + "'")
    fail(secret)
"""


def test_tracebacks_warnings_logging_threads_and_forks_of_a_process() -> None:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=240, env={**os.environ}
    )
    assert result.returncode == 1
    assert CANARY not in result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines == [f"half of it: the child {HIDDEN}", HIDDEN, f"no newline at the end {CANARY[:4]}"]
    assert "Traceback" in result.stderr
    assert f"Bearer {HIDDEN}" in result.stderr
    assert f"careful with {HIDDEN}" in result.stderr
    assert f"logged {HIDDEN}" in result.stderr
    assert f"invalid literal for int() with base 10: '{HIDDEN}'" in result.stderr


def test_a_command_whose_reader_has_ended_ends_too_and_says_nothing() -> None:
    """In each way in which a closed pipe is noticed: in a long text, and at the end of a short one."""
    program = """
        import sys
        import vla.__main__ as command
        from vla.commands.report import Report
        command.COMMANDS["report"] = (Report, lambda settings: print("x" * int(str(settings.run))))
        sys.exit(command.main())
    """
    for length in (10, 1_000_000):
        reader, writer = os.pipe()
        os.close(reader)
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), "report", str(length)],
            stdout=writer, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        os.close(writer)
        assert (process.returncode, process.stderr) == (141, b"")


def test_without_an_output_nothing_is_shown_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    install()
    try:
        print("to nobody")
        sys.stdout.flush()
    finally:
        uninstall()
        sys.stdout.close()


def test_a_training_goes_on_where_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        stream = Guarded(pipe, outlives_readers=True)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
        stream.release()
