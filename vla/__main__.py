"""`vla` on the command line: measure, merge, examine, convert. Training starts with `accelerate launch`.

Heavy packages are imported by the command that needs them, so that help and mistakes answer at once.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from vla import commandline, printing
from vla.commandline import UsageError

DONE, USAGE, CORRUPT, REFUSED, INTERRUPTED = 0, 2, 65, 78, 130
"""Exit codes."""
DESCRIPTION = """Tools around trained policies and their data.

Training starts with `accelerate launch training/stage1.py`. Exit codes: 0 done,
2 usage, 65 a file is corrupt, 78 refused (the message says how to fix it)."""


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What a policy is measured on. Cameras, horizon and sensor are the policy's."""

    roots: tuple[str, ...]
    """Dataset folders."""
    episodes: tuple[int, ...] = ()
    """Episode indices to use, of every root; none: all."""
    validation_share: float | None = None
    """Share of the episodes to hold out; only these are evaluated. None: as in training. 0: all episodes are."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """An episode without one of the cameras: refuse it, or show the policy nothing there."""
    workers: int = 2
    """Loader processes, >= 0."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Compare a policy's actions with those recorded, frame by frame."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    data: EvaluationData
    """The recordings."""
    out: Path | None = None
    """Folder for report.json and the pictures; None: beside the policy, POLICY-evaluation."""
    samples: int = 1000
    """At most this many frames, evenly spread; 0: all."""
    seed: int | None = None
    """Of the noise, and of the split. None: as in training, which finds the episodes it held out."""
    steps: int | None = None
    """Sampling steps; None: as the policy says."""
    batch_size: int = 8
    """Frames per forward pass, >= 1."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on a GPU when there is one."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the report as JSON."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge a policy's adapter into a backbone of its own."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """Folder of the merged policy; its backbone lies in OUT/backbone."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine data: outliers, constants, missing files, gaps, modalities."""

    roots: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DATA [DATA ...]")]]
    """Dataset folders."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the findings as JSON."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Write data of another format as LeRobot v3.0."""

    format: tyro.conf.Positional[Annotated[Literal["lerobot", "insertion"], tyro.conf.arg(metavar="FORMAT")]]
    """Format of the source: lerobot (any version) or insertion (the insertion recorder's)."""
    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SRC")]]
    """Folder to read."""
    destination: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DST")]]
    """Folder to write; it must not exist."""


Command = (
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Import, tyro.conf.subcommand("import")]
)


def evaluate(command: Evaluate) -> None:
    """`vla evaluate`: report and pictures of an open-loop evaluation."""
    import torch

    from vla import evaluation
    from vla.data import DataConfig, open_dataset
    from vla.policy_folder import HeldOut, load_policy, read_config, read_description

    check_settings(command)
    if command.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was given, but no GPU is available here; use --device cpu")
    device = torch.device("cuda" if command.device != "cpu" and torch.cuda.is_available() else "cpu")
    description = read_description(command.policy)
    _, contract = read_config(description, command.policy)
    split = HeldOut(**description["held_out"])
    seed = split.seed if command.seed is None else command.seed
    share = command.data.validation_share
    given = dataclasses.asdict(command.data) | {"validation_share": split.validation_share if share is None else share}
    dataset = open_dataset(
        DataConfig(
            **given,
            cameras=contract.cameras,
            horizon=contract.horizon,
            sensor=contract.sensor or "none",
            sensor_samples=contract.sensor_samples or None,
            sensor_rate_hz=contract.sensor_rate_hz or None,
        ),
        seed,
    )
    evaluation.check_contract(contract, dataset.contract)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    policy = load_policy(command.policy, command.backbone, dtype)
    samples = evaluation.held_out(dataset)
    chosen = evaluation.spread(len(samples), command.samples)
    shown = evaluation.episode_indices(samples)
    with progress(len(chosen) + len(shown), "samples") as bar:
        measured, episode = (
            evaluation.predict(
                policy,
                samples,
                indices,
                seed=seed,
                batch_size=command.batch_size,
                workers=command.data.workers,
                device=device,
                steps=command.steps,
                progress=bar.update,
            )
            for indices in (chosen, shown)
        )
    report = evaluation.measure(measured)
    out = command.out or command.policy.resolve().with_name(f"{command.policy.resolve().name}-evaluation")
    evaluation.draw_episode(episode, out / "actions.png")
    evaluation.draw_horizon(report, out / "horizon.png")
    text = json.dumps(report.to_json(), indent=2)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    print(text if command.json else "\n".join(report.lines()))
    print(f"report.json, actions.png and horizon.png are in {out}", file=sys.stderr)


def check_settings(command: Evaluate) -> None:
    """Refuse numbers out of range, before anything is loaded."""
    lowest = {
        "--samples": (command.samples, 0),
        "--batch-size": (command.batch_size, 1),
        "--seed": (command.seed or 0, 0),
    }
    if command.steps is not None:
        lowest["--steps"] = (command.steps, 1)
    for flag, (value, least) in lowest.items():
        if value < least:
            raise ValueError(f"{flag} is {value}; give {least} or more")


def merge(command: Merge) -> None:
    """`vla merge`."""
    from vla.policy_folder import merge_policy

    merge_policy(command.policy, command.out, command.backbone)
    print(f"merged policy with a backbone of its own: {command.out}")


def doctor(command: Doctor) -> None:
    """`vla doctor`."""
    if not command.roots:
        raise UsageError("give at least one dataset folder: vla doctor DATA")

    from vla.data.doctor import examine

    report = examine(command.roots)
    print(json.dumps(report.to_json(), indent=2) if command.json else report)


def convert(command: Import) -> None:
    """`vla import`."""
    from vla.data import DataConfig, detect, open_root
    from vla.data.writer import write_lerobot

    if (found := detect(command.source)) != command.format:
        raise ValueError(f"{command.source} is of format {found}, not {command.format}; give `vla import {found}`")
    reader = open_root(command.source, DataConfig(roots=(str(command.source),), missing_cameras="mask"))
    with progress(sum(len(episode.timestamps) for episode in reader.episodes), "frames") as bar:
        totals = write_lerobot(reader, command.destination, progress=bar.update)
    print(f"{', '.join(f'{count:,} {what}' for what, count in totals.items())} in {command.destination}")


@contextlib.contextmanager
def progress(total: int, unit: str) -> Iterator["tqdm[None]"]:
    """A bar on standard error, where that is a terminal."""
    with tqdm(total=total, unit=f" {unit}", disable=None, leave=False) as bar:
        yield bar


def parse(arguments: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ValueError: a flag is unknown, or a value does not fit.
        UsageError: something is missing.
    """
    commands = {"evaluate", "merge", "doctor", "import"}
    if not arguments:
        raise UsageError(f"give a command, one of {', '.join(sorted(commands))}; `vla --help` explains them")
    if arguments[0] not in commands and not arguments[0].startswith("-"):
        hint = commandline.nearest(arguments[0], commands, f"give one of {', '.join(sorted(commands))}")
        raise UsageError(f"there is no command {arguments[0]!r}: {hint}")
    help_command = f"vla {arguments[0]} --help"
    command: Command
    command, unknown = commandline.parse(Command, arguments, help_command, prog="vla", description=DESCRIPTION)
    if unknown:
        hint = commandline.nearest(unknown[0], commandline.flags(type(command)), f"`{help_command}` lists all")
        raise ValueError(f"unknown argument {unknown[0]}: {hint}")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; a user's mistake is one sentence on standard error."""
    if arguments is None:
        printing.install()
    try:
        match parse(sys.argv[1:] if arguments is None else arguments):
            case Evaluate() as command:
                evaluate(command)
            case Merge() as command:
                merge(command)
            case Doctor() as command:
                doctor(command)
            case Import() as command:
                convert(command)
    except UsageError as error:
        print(f"usage: {error}", file=sys.stderr)
        return USAGE
    except ValueError as error:
        from vla.data.episode import CorruptData

        print(f"error: {error}", file=sys.stderr)
        return CORRUPT if isinstance(error, CorruptData) else REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
