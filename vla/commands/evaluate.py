"""`vla evaluate`."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vla.commandline import progress


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


def evaluate(command: Evaluate) -> None:
    """`vla evaluate`: report and pictures of an open-loop evaluation."""
    import torch

    from vla.data import DataConfig, open_dataset
    from vla.evaluation import figures, open_loop
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
    open_loop.check_contract(contract, dataset.contract)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    policy = load_policy(command.policy, command.backbone, dtype)
    samples = open_loop.held_out(dataset)
    chosen = open_loop.spread(len(samples), command.samples)
    shown = open_loop.episode_indices(samples)
    with progress(len(chosen) + len(shown), "samples") as bar:
        measured, episode = (
            open_loop.predict(
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
    report = open_loop.measure(measured)
    out = command.out or command.policy.resolve().with_name(f"{command.policy.resolve().name}-evaluation")
    figures.draw_episode(episode, out / "actions.png")
    figures.draw_horizon(report, out / "horizon.png")
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
