"""How far a training is: a bar that fits a terminal, elsewhere lines at a steady pace and none that is stale."""

import os
import pty
import subprocess
import sys
import termios
import textwrap
from pathlib import Path
from typing import Any

import pytest

from training.run import progress
from training.run.progress import Progress
from vla import commandline
from vla.data.dataset import aligned

ROOT = Path(__file__).resolve().parents[2]


def line(step: int, loss: float | None = 0.5, wait: float = 0.1) -> dict[str, Any]:
    """Of metrics.jsonl."""
    return {
        "step": step,
        "loss": loss,
        "lr": {"expert": 1e-4, "lora": 1e-5},
        "positions": [4 * step - 4, 4 * step - 1],
        "samples_seen": 4 * step,
        "samples_per_s": 2.0,
        "data_wait": wait,
    }


def test_lines_come_at_a_steady_pace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress("stage2", start=100, end=160, at=100, active=True)
    for step in shown.steps():
        now[0] += 10
        shown.show(line(step + 1, loss=None if step == 109 else float(step - 99)))
    said = capsys.readouterr()
    assert not said.err, "no bar where there is no terminal"
    lines = said.out.splitlines()
    assert [entry.partition(":")[0] for entry in lines[:3]] == ["stage2 1/60", "stage2 4/60", "stage2 7/60"]
    assert lines[1] == "stage2 4/60: loss 3, rate 0.0001, 2 samples/s, data wait 10%, 2 min left", (
        "means since the last"
    )
    assert lines[3].startswith("stage2 10/60: loss 8.5, "), "of the losses that are finite"
    assert lines[-1].startswith("stage2 60/60: ")
    assert lines[-1].endswith(" 0 s left")
    assert len(lines) == 21
    assert max(map(len, lines)) <= 80
    Progress("stage2", start=0, end=9, at=0, active=False).show(line(1))
    assert not capsys.readouterr().out


def test_a_bar_has_the_numbers_and_fits_a_terminal() -> None:
    program = """
        from tests.training.test_progress import line
        from training.run.progress import Progress
        shown = Progress("stage1", start=0, end=20000, at=9990, active=True)
        for step in shown.steps():
            if step == 10000:
                break
            shown.show(line(step + 1, loss=0.5123) | {"lr": {"expert": 9.5e-5}, "samples_per_s": 31.2})
            shown._bar.refresh()
    """
    parent, child = pty.openpty()
    os.set_blocking(parent, False)
    termios.tcsetwinsize(child, (24, 80))
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        stderr=child, stdout=child, check=False, cwd=ROOT, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    os.close(child)
    drawn = os.read(parent, 100_000).decode().replace("\n", "\r").split("\r")
    os.close(parent)
    assert process.returncode == 0, drawn
    assert any("loss 0.512 rate 9.5e-05 31.2 samples/s data wait 10%" in text for text in drawn), drawn
    assert max(map(len, drawn)) <= 80


def test_what_takes_long_in_a_command_says_so_in_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(commandline.time, "monotonic", lambda: now[0])
    with commandline.progress(5000, "samples") as bar:
        assert isinstance(bar, commandline.Lines)
        bar.said_at = 0.0
        for _ in range(100):
            now[0] += 1
            bar.update(50)
    assert capsys.readouterr().err.splitlines() == [f"{count:,} of 5,000 samples" for count in (1500, 3000, 4500)]


def test_a_table_of_long_roots_fits_80_columns() -> None:
    head = ("root", "format", "episodes")
    assert aligned([head, ("a", "lerobot v3.0", "12")]) == ["root  format        episodes", "a     lerobot v3.0  12"]
    root = "data/" + "long" * 15
    assert aligned([head, (root, "lerobot v3.0", "12"), ("", "  x > 1", "3")]) == [
        *("root", "  format        episodes", root, "  lerobot v3.0  12", "    x > 1       3"),
    ]
