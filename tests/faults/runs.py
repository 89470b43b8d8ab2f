"""Run folders: how they are asked for, read, and compared."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.forkserver import LIFE_S, Life
from training.checkpoints import checkpoint

STEPS, SAVE_EVERY, LAG = 16, 4, 3
KILLED = -signal.SIGKILL


def flags(data: Path, **changes: object) -> list[str]:
    """The flags of a small run; `changes` replaces or adds some, `batch_size=8`; a tuple is several words."""
    values: dict[str, object] = {
        "data.roots": data,
        "data.workers": 0,
        "backbone.path": "tiny",
        "expert.width": 32,
        "expert.depth": 1,
        "sensor.width": 32,
        "batch-size": 4,
        "micro-batch": 2,
        "stage.steps": STEPS,
        "save-every": SAVE_EVERY,
        "keep": 99,
        "validation-samples": 2,
        "validate-every": 1000,
        "dropout": 0.1,
        "seed": 3,
        "tracker": "jsonl",
    }
    values |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [
        str(word)
        for name, value in values.items()
        for word in (f"--{name}", *(value if isinstance(value, tuple) else (value,)))
    ]


def hold(step: int, go: Path) -> str:
    """The fault that lets a life begin its step number `step` when there is the file `go`: no test comes too late.

    What is recorded by then lags behind by up to LAG steps.
    """
    return f"start:wait={go}@{step}"


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The complete objects of a JSON-lines file of a run, which may be being written."""
    path = run / name
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def losses(run: Path) -> dict[int, float]:
    """Loss by step."""
    return {line["step"]: line["loss"] for line in lines(run)}


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints that were committed."""
    return [int(path.name.removeprefix("step-")) for path in checkpoint.steps(run)]


def at(run: Path, step: int) -> Path:
    """The folder of a checkpoint."""
    return run / "checkpoints" / f"step-{step:08d}"


def rewind(golden: Path, run: Path, step: int) -> None:
    """Make `run` what the golden run was when it had been killed some steps after saving `step`."""
    later = [path.name for path in checkpoint.steps(golden) if path.name > at(golden, step).name]
    shutil.copytree(golden, run, ignore=shutil.ignore_patterns(*later, "policy"))
    (run / "checkpoints" / "LATEST").write_text(at(golden, step).name)


def state(path: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint by key and name, and the steps its moments have seen."""
    read = checkpoint.read(path).state()
    tensors = {f"weight/{name}": tensor for name, tensor in read.weight.items()}
    tensors |= {f"{key}/{name}": tensor for key, named in read.moments.items() for name, tensor in named.items()}
    return tensors | {"adam_steps": dict(read.adam_steps)}


def assert_same(run: Path, golden: Path) -> None:
    """Bit-exact: every step's loss and positions, and every tensor of the last checkpoint."""
    ours, theirs = lines(run), lines(golden)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, len(theirs) + 1))
    for key in ("loss", "losses", "lr", "grad_norm", "positions"):
        different = [line["step"] for line, other in zip(ours, theirs, strict=True) if line[key] != other[key]]
        assert not different, f"{key} differs at steps {different}"
    last = checkpoint.steps(golden)[-1]
    assert checkpoint.steps(run)[-1].name == last.name
    assert_same_state(run / "checkpoints" / last.name, last)


def assert_same_state(one: Path, other: Path) -> None:
    """Bit-exact: every tensor of two checkpoints."""
    ours, theirs = state(one), state(other)
    assert ours.keys() == theirs.keys()
    assert ours.pop("adam_steps") == theirs.pop("adam_steps")
    different = [name for name in ours if not ours[name].equal(theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, first {different[0]}"


def leftovers(run: Path) -> list[str]:
    """What stands in the checkpoints folder that is no checkpoint and no pointer to one."""
    folder = run / "checkpoints"
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    return [name for name in names if not name.startswith("step-") and name != "LATEST"]


def wait_until(condition: Callable[[], bool], life: Life, what: str, limit_s: float = LIFE_S) -> None:
    """Return when the condition holds.

    Raises:
        AssertionError: all ranks ended, or the limit passed, before it did.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        ended = None not in life.codes()
        if (ended and not condition()) or time.monotonic() > deadline:
            life.kill()
            raise AssertionError(f"waited in vain until {what}\n{life.report()}")
        time.sleep(0.01)


def files(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]
