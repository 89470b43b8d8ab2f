"""Runs trainings, and functions in processes of their own, without the ten seconds that starting Python takes.

A server process imports everything once. Each *life* is a number of ranks that it forks, with an environment of their
own; they train, and end as a launched process would: through `exits.main`, by a signal, or killed at a time limit,
and then every rank's stacks stand in what the test prints.

    with ForkServer(folder) as server:
        life = server.start(["--out", ...], ranks=2, environment={"TOUCHSTONE_FAULTS": "shard.written:kill#1"})
        assert life.wait(limit_s=30) == [1, -signal.SIGKILL]
        assert server.call(some_function_of_a_module, tmp_path, 3).wait() == [0]

A fork holds the one thread that asked for it. The server therefore refuses to fork once a library has started another:
the locks that one holds would stay locked in every rank.
"""

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.training.launch import ROOT
from vla.errors import CODE_FILE

STACKS = signal.SIGUSR2
"""Makes a rank write the stacks of all its threads into its log."""

ANSWER_S, LIFE_S = 300.0, 240.0
"""How long the server may take to answer, which before the first answer imports everything, and a life to do what is
waited for: limits against hanging for ever, on a machine that may be doing much other work."""
PREPARED = ("jemalloc_bg_thd",)
"""Threads whose library gives its locks back in a fork: that of Arrow's allocator, which starts when it is imported."""
PORTS = range(15000, 32000)
"""Below those that Linux hands out to whoever names none, so that nobody takes one between its choice and its use."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """Ranks that were started; all that is known about them is their exit and what they left in files."""

    server: "ForkServer"
    number: int
    pids: Sequence[int]
    logs: Sequence[Path]
    folder: Path
    """Of its logs and of `code`, the exit code that the ranks of a training leave to a launcher."""
    began: float = field(default_factory=time.monotonic)

    def codes(self) -> list[int | None]:
        """Exit codes so far; None of a rank that runs, -N of one that signal N ended."""
        result: list[int | None] = self.server.ask({"codes": self.number})
        return result

    def wait(self, limit_s: float = LIFE_S) -> list[int]:
        """Exit codes of all ranks.

        Raises:
            AssertionError: a rank still runs after the limit; it shows the stacks of all, and all are killed.
        """
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            codes = self.codes()
            if None not in codes:
                return [code for code in codes if code is not None]
            time.sleep(0.02)
        self.signal(STACKS)
        time.sleep(2)  # they are written
        codes = self.codes()
        self.kill()
        raise AssertionError(f"after {limit_s:g} s the exit codes are {codes}\n{self.report()}")

    def wait_for(self, text: str, *, rank: int = 0, limit_s: float = LIFE_S) -> None:
        """Return as soon as a rank has printed `text`.

        Raises:
            AssertionError: it ended, or the limit passed, before it did.
        """
        deadline = time.monotonic() + limit_s
        while text not in self.output(rank):
            ended = self.codes()[rank] is not None
            if time.monotonic() > deadline or (ended and text not in self.output(rank)):
                self.kill()
                raise AssertionError(f"{text!r} was not printed by rank {rank}\n{self.report()}")
            time.sleep(0.01)

    def signal(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one rank or to all that run."""
        self.server.ask({"signal": self.number, "value": int(number), "rank": rank})

    def kill(self) -> None:
        """End every rank and whatever it started, at once."""
        self.server.ask({"kill": self.number})

    def output(self, rank: int = 0) -> str:
        """What a rank has printed, both outputs together."""
        return self.logs[rank].read_text(errors="replace")

    def report(self) -> str:
        """The end of every rank's output."""
        return "\n".join(f"rank {rank}:\n{self.output(rank)[-6000:]}" for rank in range(len(self.logs)))


class ForkServer:
    """A process with everything imported, that forks ranks; use it as a context."""

    def __init__(self, folder: Path) -> None:
        """Logs of the lives go to `folder`."""
        self.folder = folder
        self.lives = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.errors = (self.folder / "server.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()  # the server kills what still runs, and ends
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.errors.close()

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Send a request; the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request, default=os.fspath) + "\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], ANSWER_S)
        line = self.process.stdout.readline() if answered else ""
        assert line, f"the fork server ended or hangs:\n{(self.folder / 'server.log').read_text()[-3000:]}"
        return json.loads(line)

    def start(
        self,
        argv: Sequence[object],
        *,
        ranks: int = 1,
        recipe: str = "stage1",
        topology: str = "ddp",
        environment: Mapping[str, str] | None = None,
        prepare: str = "",
    ) -> Life:
        """Start a training on `ranks` ranks.

        `topology` is ddp or the name of a file in ds_configs; `prepare` names a function, `module:function`, that each
        rank calls first, to change what a test cannot reach through flags and environment.
        """
        where = {"MASTER_PORT": str(free_port()), CODE_FILE: str(self.next_folder() / "code")}
        arguments = [recipe, topology, prepare, [str(word) for word in argv]]
        return self.call(train, *arguments, ranks=ranks, environment=where | dict(environment or {}))

    def call(
        self,
        function: Callable[..., None],
        *arguments: object,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> Life:
        """Call a function of a module on `ranks` ranks; paths reach it as text, all else as JSON has it."""
        folder = self.next_folder()
        folder.mkdir()
        logs = [folder / f"rank-{rank}.log" for rank in range(ranks)]
        for log in logs:
            log.touch()
        request = {
            "start": self.lives,
            "call": [function.__module__, function.__qualname__],
            "arguments": arguments,
            "environment": dict(environment or {}),
            "logs": [str(log) for log in logs],
        }
        life = Life(server=self, number=self.lives, pids=self.ask(request), logs=logs, folder=folder)
        self.lives += 1
        return life

    def next_folder(self) -> Path:
        """Where the next life's files go."""
        return self.folder / f"life-{self.lives:03d}"

    def run(self, argv: Sequence[object], *, limit_s: float = LIFE_S, **options: Any) -> list[int]:
        """Exit codes of a life that nobody disturbs."""
        return self.start(argv, **options).wait(limit_s)


def free_port() -> int:
    """A port that nobody uses."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


class Ranks:
    """The server's view of a life: processes it has forked."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.codes: dict[int, int | None] = {}
        self.group = 0
        self.name = f"life {request['start']}, {request['call'][1]}"
        self.seconds = 0.0
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        others = [name for name in names[1:] if name not in PREPARED]
        assert not others, f"a fork would keep the locks of the threads it leaves behind: {', '.join(others)}"
        for rank, _ in enumerate(request["logs"]):
            pid = os.fork()
            if pid == 0:
                live(request, rank, self.group)
            self.group = self.group or pid
            os.setpgid(pid, self.group)
            self.codes[pid] = None

    def poll(self) -> list[int | None]:
        for pid, code in self.codes.items():
            if code is None and (ended := os.wait4(pid, os.WNOHANG))[0]:
                self.codes[pid] = os.waitstatus_to_exitcode(ended[1])
                self.seconds += ended[2].ru_utime + ended[2].ru_stime
                if None not in self.codes.values():
                    print(f"{self.name}: {self.seconds:.2f} CPU s", file=sys.stderr, flush=True)
        return list(self.codes.values())

    def signal(self, number: int, rank: int | None) -> None:
        self.poll()
        for place, (pid, code) in enumerate(self.codes.items()):
            if code is None and rank in (None, place):
                os.kill(pid, number)

    def kill(self) -> None:
        try:
            os.killpg(self.group, signal.SIGKILL)  # loader processes of a rank that is gone belong to the group too
        except ProcessLookupError:
            return
        while None in self.poll():
            time.sleep(0.01)


def live(request: Mapping[str, Any], rank: int, group: int) -> None:
    """Become a rank; does not return."""
    os.setpgid(0, group)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives the server
    log = os.open(request["logs"][rank], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.register(STACKS, all_threads=True)

    size = str(len(request["logs"]))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    os.environ.update({"MASTER_ADDR": "127.0.0.1"} | request["environment"])
    module, name = request["call"]
    code = 1
    try:
        try:
            getattr(importlib.import_module(module), name)(*request["arguments"])
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        except BaseException as error:  # noqa: BLE001  (a rank never goes on as a server)
            show(error)
    except BaseException as error:  # noqa: BLE001  (torch's handler has raised while the first one was caught)
        show(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def show(error: BaseException) -> None:
    """Print an error, though torch's handler raises another for every loader process that ends meanwhile."""
    text = None
    while text is None:
        with contextlib.suppress(RuntimeError):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            text = "".join(traceback.format_exception(error))
    print(text, file=sys.stderr)


def train(recipe: str, topology: str, prepare: str, argv: Sequence[str]) -> None:
    """What a rank of a training does; it leaves as an entry point does."""
    from training import faults, loop, recipes
    from training.ending import exits
    from training.flags import parse

    if topology.startswith("zero"):  # as in accelerate_configs/<topology>.yaml
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = f"ds_configs/{topology}.json"

    def trained() -> None:
        faults.arm(os.environ.get("TOUCHSTONE_FAULTS", ""))
        if prepare:
            module, _, function = prepare.partition(":")
            getattr(importlib.import_module(module), function)()
        loop.train(parse(getattr(recipes, recipe)(), argv))

    exits.main(trained)


def import_all() -> None:
    """What a training imports, lazily or not, so that no rank has to."""
    import accelerate
    import deepspeed.module_inject.auto_ep_layer
    import deepspeed.runtime.zero.muon.muon_optimizer  # ZeRO's, whichever optimizer it has; brings torch's compiler
    import peft
    import pyarrow.parquet
    import pytest
    import torch
    import torch.distributed.algorithms.ddp_comm_hooks
    import torch.distributed.run
    import torch.utils.data
    import transformers.models.qwen2.tokenization_qwen2
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
    import wandb
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from training import flags, loop, recipes
    from training.ending import preemption, watchdog
    from training.run import lease
    from vla.data.formats.lerobot import reader as lerobot
    from vla.parts import sensor, state

    assert all((accelerate, deepspeed, peft, pyarrow, pytest, transformers, wandb, lerobot))
    assert all((lease, loop, preemption, recipes, sensor, state, watchdog))
    torch.set_num_threads(1)
    # What these make at their first call, they keep.
    get_checkpoint_conversion_mapping("qwen2_5_vl")
    flags.parse(recipes.stage1(), ["--data.roots", "anywhere", "--backbone.path", "tiny"])


def main() -> None:
    """Serve requests, one line each, until the other side closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints does not mix with the answers
    import_all()
    gc.collect()
    gc.freeze()  # shared with the ranks, and not copied by their collections
    lives: dict[int, Ranks] = {}
    for line in sys.stdin:
        answer: Any = None
        match json.loads(line):
            case {"start": number} as request:
                lives[number] = Ranks(request)
                answer = list(lives[number].codes)
            case {"codes": number}:
                answer = lives[number].poll()
            case {"signal": number, "value": value, "rank": rank}:
                lives[number].signal(value, rank)
            case {"kill": number}:
                lives[number].kill()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for ranks in lives.values():
        ranks.kill()


if __name__ == "__main__":
    main()
