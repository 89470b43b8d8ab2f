"""The control of an ablation: a policy's training once more, from its start, without one of the inputs.

What a policy does without an input at test time says how much it relies on it; what the input is worth, only a policy
that never had it can say.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vla.errors import CODE_FILE, CorruptData, ProgramFailed, Terminated
from vla.report.folder import Json, check, read_object
from vla.run_folder import manifests, read_manifest, read_schedule
from vla.settings import renamed

if TYPE_CHECKING:
    from vla.contract import DataContract

PROJECT = "run `vla ablate --control` in the project's root, where training/ and accelerate_configs/ lie"
TOLD = "commands.json"
"""File with the launches of a control, beside its runs."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run that led to a policy."""

    run: Path
    entry: str
    """Its entry point, training/ENTRY.py."""
    config: Json
    ranks: int
    zero_stage: int
    stop_after: int | None = None
    """Step after which it ended: as it was told, or that of the checkpoint which the next run started from."""


def trainings(policy: Path) -> list[Training]:
    """The runs that led to a policy, each starting from the weights of the one before.

    Raises:
        ValueError: the policy lies in no run, or started from weights that do not.
    """
    runs = [read_training(policy.resolve().parent)]
    while start := runs[0].config.get("init_from"):
        place = Path(start).resolve()
        holding = [folder for folder in (place, *place.parents) if is_run(folder)]
        if not holding:
            raise ValueError(
                f"{runs[0].run} started from {start}, which lies in no run: it cannot be trained again without an input"
            )
        runs.insert(0, read_training(holding[0], step_taken(place, holding[0])))
        if runs[0].run in [training.run for training in runs[1:]]:
            raise ValueError(f"{runs[0].run} says that it started from itself; its config.json is not that of its run")
    return runs


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a training."""
    try:
        check(folder)
    except ValueError:
        return False
    return True


def step_taken(place: Path, run: Path) -> int | None:
    """The step of the checkpoint that weights came from; None where they were those that the run ended with."""
    if (place / "manifest.json").exists():
        return read_manifest(place).step
    if found := re.fullmatch(r"step-(\d+)", place.name):  # the run has pruned it since
        return int(found[1])
    if place == run and not exported(run):
        return max((manifest.step for manifest in manifests(run)), default=None)
    return None


def exported(run: Path) -> bool:
    """Whether a run has ended with a policy."""
    return (run / "policy" / "config.json").exists()


def read_training(folder: Path, step: int | None = None) -> Training:
    """What a run was, up to a step where one is given. ValueError where the folder is none."""
    check(folder)
    last = max(manifests(folder), key=lambda manifest: manifest.step, default=None)
    config = read_object(folder / "config.json")
    return Training(
        run=folder,
        entry=read_schedule(folder).entry,
        config=config,
        ranks=1 if last is None else last.ranks,
        zero_stage=0 if last is None else last.zero_stage,
        stop_after=config.get("stop_after") if step is None else step,
    )


def removal(name: str, contract: "DataContract", config: Json) -> list[str]:
    """The flags that take an input out of a training.

    Raises:
        ValueError: it is the only camera.
    """
    data = renamed(config["data"])
    companded = [stream for stream in data.get("compand", ()) if stream != name]
    kept = ["--data.compand", *companded] if companded != list(data.get("compand", ())) else []
    if name in ("instruction", "state"):
        return ["--data.withhold", *data["withhold"], name, *kept]
    if name in contract.streams:
        others = [stream for other, stream in contract.streams.items() if other != name]
        keys = [stream.key for stream in others] or ["none"]
        words = ["--data.sensor", *keys]
        if data.get("sensor_samples"):
            words += ["--data.sensor-samples", *(f"{stream.key}={stream.samples}" for stream in others)]
        if data.get("sensor_rate_hz"):
            words += ["--data.sensor-rate-hz", *(f"{stream.key}={stream.rate_hz!r}" for stream in others)]
        return [*words, *kept]
    cameras = [camera for camera in contract.cameras if camera != name]
    if not cameras:
        raise ValueError(f"{name} is the only camera of the policy, and none can be trained without a picture")
    depth = [shown.flag(camera) for camera, shown in contract.depth.items() if camera != name]
    return ["--data.cameras", *cameras, *(["--data.depth", *depth] if contract.depth else [])]


def commands(trained: Sequence[Training], name: str, contract: "DataContract", out: Path) -> list[list[str]]:
    """What trains the control: a launch for each run that led to the policy. Each writes to a folder of its own.

    Raises:
        ValueError: the files of the project are not here, or the input cannot be left out.
    """
    found = []
    for place, training in enumerate(trained):
        entry, topology = Path("training") / f"{training.entry}.py", Path(topology_of(training))
        for file in (entry, topology):
            if not file.exists():
                raise ValueError(f"{file} is not here: {PROJECT}")
        words = ["--config_file", str(topology), "--num_processes", str(ranks_of(training)), "--main_process_port", "0"]
        words += [str(entry), "--config", str(training.run / "config.json"), *removal(name, contract, training.config)]
        words += ["--out", str(run_folder(out, place, training)), "--stop-after", str(training.stop_after)]
        found.append([sys.executable, "-m", "accelerate.commands.launch", *words])
    return found


def run_folder(out: Path, place: int, training: Training) -> Path:
    """Where a run of the control goes."""
    return out / f"{place + 1}-{training.entry}"


def ranks_of(training: Training) -> int:
    """As many processes as the run had; no more than there are GPUs, where there are any, and a divisor."""
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else training.ranks
    return next(count for count in range(min(here, training.ranks), 0, -1) if training.ranks % count == 0)


def topology_of(training: Training) -> str:
    """The Accelerate configuration that fits the run and this machine."""
    import torch

    if not torch.cuda.is_available():
        name = "cpu"
    elif training.zero_stage:
        name = f"zero{training.zero_stage}"
    else:
        name = "ddp" if ranks_of(training) > 1 else "single"
    return f"accelerate_configs/{name}.yaml"


def check_place(launches: list[list[str]], out: Path) -> None:
    """Refuse a folder that holds another control (ValueError)."""
    told = out / TOLD
    if told.exists() and read_launches(told) != launches:
        raise ValueError(f"{out} holds a control that was trained otherwise; move it away, or give another --out")


def read_launches(told: Path) -> object:
    """The launches of the control that lies there. CorruptData where the file is no JSON."""
    try:
        return json.loads(told.read_text())
    except ValueError as error:
        raise CorruptData(f"{told} is damaged ({error}); move away {told.parent} to train the control anew") from error


def train(trained: Sequence[Training], name: str, contract: "DataContract", out: Path) -> Path:
    """Train the control, or go on where it was interrupted; the policy. One that is there is used again.

    Raises:
        ValueError: another control lies there.
        CorruptData: what lies there cannot be read.
        ProgramFailed: the training ended early.
    """
    launches = commands(trained, name, contract, out)
    check_place(launches, out)
    out.mkdir(parents=True, exist_ok=True)
    (out / TOLD).write_text(json.dumps(launches, indent=1) + "\n", encoding="utf-8")
    runs = [run_folder(out, place, training) for place, training in enumerate(trained)]
    for run, before, launch in zip(runs, [None, *runs], launches, strict=False):
        if exported(run):
            print(f"{run} is there already", file=sys.stderr)
            continue
        words = [*launch, *beginning(run, before)]
        print(f"+ {shlex.join(words[2:])}", file=sys.stderr, flush=True)
        if code := call(words):
            raise ProgramFailed(
                f"the training of the control without {name} ended with code {code}, see above; "
                f"the same command goes on with it",
                code,
            )
    return runs[-1] / "policy"


def beginning(run: Path, before: Path | None) -> list[str]:
    """The flags that begin a run of the control, or go on with it: one that has begun remembers where."""
    begun = (run / "config.json").exists()
    return ["--resume-from", "auto" if begun else "None", "--init-from", "None" if begun else str(before)]


def call(words: Sequence[str]) -> int:
    """Run a training, its output on standard error; its exit code, 128 + N where signal N ended it.

    `accelerate launch` may replace the code, which the training therefore writes into a file too. Ctrl-C reaches the
    training as well, SIGTERM is passed on to it; both are waited for, while it saves.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exit-code"
        environment = os.environ | {CODE_FILE: str(file)}
        with subprocess.Popen(words, stdout=sys.stderr, env=environment) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt as interruption:
                if isinstance(interruption, Terminated):
                    process.terminate()
                process.wait()
                raise
        told = file.read_text() if code and file.exists() else ""
    if told.isdecimal() and int(told):
        return int(told)
    return code if code >= 0 else 128 - code
