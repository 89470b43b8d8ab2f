"""The recordings that a policy is measured on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vla.batch import DataContract
    from vla.evaluation.open_loop import Samples
    from vla.evaluation.phases import Phases
    from vla.policy import Policy
    from vla.policy_folder import HeldOut

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What a policy is measured on. Cameras, horizon and sensor are the policy's."""

    roots: tuple[str, ...] = ()
    """Dataset folders."""
    episodes: tuple[int, ...] = ()
    """Episode indices to use, of every root; none: all."""
    validation_share: float | None = None
    """Share of the episodes to hold out; only these are evaluated. None: as in training. 0: all episodes are."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """An episode without one of the cameras: refuse it, or show the policy nothing there."""
    workers: int = 2
    """Loader processes, >= 0."""


def choose_device(wanted: Device) -> str:
    """`cuda` where there is a GPU and it may be used, else `cpu`.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was given, but no GPU is available here; use --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def describe(folder: Path) -> "tuple[DataContract, HeldOut]":
    """What a policy folder was trained on, and which episodes training did not see."""
    from vla.policy_folder import HeldOut, read_config, read_description

    description = read_description(folder)
    return read_config(description, folder)[1], HeldOut(**description["held_out"])


def open_policy(folder: Path, backbone: str | None, device: str) -> "Policy":
    """The policy in the arithmetic of a device."""
    import torch

    from vla.policy_folder import load_policy

    return load_policy(folder, backbone, torch.bfloat16 if device == "cuda" else torch.float32)


def open_recordings(data: EvaluationData, contract: "DataContract", split: "HeldOut", seed: int) -> "Samples":
    """The frames of the held-out episodes, with the inputs of the policy; of all episodes where none is held out."""
    from vla.data import DataConfig, open_dataset
    from vla.evaluation import open_loop

    share = data.validation_share
    given = dataclasses.asdict(data) | {"validation_share": split.validation_share if share is None else share}
    dataset = open_dataset(
        DataConfig(
            **given,
            cameras=contract.cameras,
            horizon=contract.horizon,
            sensor=contract.sensor or "none",
            sensor_samples=contract.sensor_samples or None,
            sensor_rate_hz=contract.sensor_rate_hz or None,
            without=() if contract.state_dim else ("state",),
        ),
        seed,
    )
    open_loop.check_contract(contract, dataset.contract)
    return open_loop.held_out(dataset)


def open_phases(data: EvaluationData, column: str | None, names: tuple[str, ...]) -> "Phases | None":
    """The phases of the recordings, where a column of theirs tells them apart."""
    from vla.evaluation.phases import read_phases

    if column is None:
        if names:
            raise ValueError("--phase-names was given without a column; name it with --phase COLUMN")
        return None
    return read_phases(data.roots, column, names, data.episodes)
