"""The recordings that a policy is measured on."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vla.motion_settings import Forces, MotionConfig, NamedMotionFiles, Representation
from vla.policy_settings import Sampling
from vla.settings import Pairing

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.data.dataset import ValidationSamples
    from vla.data.episode import Episode
    from vla.evaluation.phases import Phases
    from vla.motion.body import Body
    from vla.policy import Policy
    from vla.policy_folder import HeldOut

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table are cameras, state, actions and sensor streams, and how its rows have frames."""

    without: tuple[int, ...] = ()
    """Episode indices to leave out, of every root that has them."""
    cameras: tuple[str, ...] = ()
    """Camera keys to use, in this order; none: all."""
    state_key: str = "observation.state"
    """Column of the table that is the state; without one of this default name there is no state."""
    action_key: str = "action"
    """Column of the table that is the action."""
    dims: tuple[str, ...] = ()
    """Dimensions of actions and state, by index or name: `action=0,1,gripper state=joint_1,joint_2`; none: all."""
    sensor: tuple[str, ...] = ("auto",)
    """Keys of the sensor streams, or their last parts; auto: the only one there is; none: no sensor."""
    pairing: Pairing = "auto"
    """Of rows and video frames. time: the nearest in time; number: row k has frame k; auto: time, unless they drift."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """How clips of human motion become episodes."""


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """What a policy is measured on. Cameras, horizon and sensor streams are the policy's."""

    roots: tuple[str, ...] = ()
    """Dataset folders."""
    episodes: tuple[int, ...] = ()
    """Episode indices to use, of every root; none: all."""
    without: tuple[int, ...] = ()
    """Episode indices to leave out, of every root that has them."""
    validation_share: float | None = None
    """Share of the episodes to hold out; only these are evaluated. None: what training did. 0: all episodes are."""
    state_key: str | None = None
    """Column of the table that is the state; None: as in training."""
    action_key: str | None = None
    """Column of the table that is the action; None: as in training."""
    dims: tuple[str, ...] | None = None
    """Dimensions of actions and state, such as `action=0,1,gripper`; None: as in training."""
    pairing: Pairing = "auto"
    """Of rows and video frames. time: the nearest in time; number: row k has frame k; auto: time, unless they drift."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """An episode without one of the cameras: refuse it, or show the policy nothing there."""
    workers: int = 2
    """Loader processes, >= 0."""
    verify: bool = False
    """Read and check every number, whatever earlier starts found in the same files."""
    motion: NamedMotionFiles = field(default_factory=NamedMotionFiles)
    """What clips of human motion leave unsaid; they become the policy's body."""


def choose_device(wanted: Device) -> str:
    """`cuda` where there is a GPU and it may be used, else `cpu`.

    Raises:
        ValueError: a GPU was asked for and there is none.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was given, but no GPU is available here; use --device cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def describe(folder: Path, sampling: Sampling) -> "tuple[DataContract, HeldOut]":
    """What a policy folder was trained on, and which episodes training did not see.

    Raises:
        ValueError: it is no policy, or cannot sample like that.
    """
    from vla.policy_folder import read_description

    description = read_description(folder)
    sampling.of(description.policy.diffusion)
    return description.contract, description.held_out


def open_policy(
    folder: Path,
    backbone: str | None,
    device: str,
    sampling: Sampling,
    embeddings: str | None = None,
    *,
    adapters: Sequence[str] = (),
) -> "Policy":
    """The policy in the arithmetic of a device; `embeddings` is a file of `vla embed`, `adapters` as of --adapter.

    What is done with adapters is printed to standard error. ValueError where it cannot sample like that, or an adapter
    does not fit.
    """
    import torch

    from vla import adapting
    from vla.parts.backbone import remember_texts
    from vla.policy_folder import load_policy

    policy = load_policy(folder, backbone, torch.bfloat16 if device == "cuda" else torch.float32, fold=True)
    policy.sample_by(sampling)
    remember_texts(policy.backbone, embeddings)
    for line in adapting.blend(policy, adapters, folder):
        print(line, file=sys.stderr)
    return policy


def as_body_of(contract: "DataContract", files: NamedMotionFiles) -> MotionConfig:
    """How clips become the body of a policy of human motion, at its rate."""
    from vla.motion.joints import BODY

    body = contract.body
    assert body is not None, "asked of a policy of motion"
    places = tuple(joint for joint, row in BODY.items() if not row.aims)
    own = () if body.joints in (tuple(BODY), places) else ("all",)
    kinds: dict[str, Representation] = {"rotations": "rotations", "positions": "positions"}
    return MotionConfig(
        **vars(files) | {"joints": (*own, *files.joints)},
        rate_hz=contract.fps,
        representation=kinds.get(body.kind, "auto"),
        forces=forces_of(body),
    )


def forces_of(body: "Body") -> Forces:
    """Which forces a policy models."""
    from vla.motion.kinetics import is_residual

    if not body.forces:
        return "none"
    if is_residual(body):
        return "residual"
    return "feet" if any(".left." in name for name in body.forces) else "total"


def open_recordings(
    data: EvaluationData, contract: "DataContract", split: "HeldOut", *, remark: bool = True
) -> "ValidationSamples":
    """The frames of the episodes to measure on, with the inputs of the policy.

    With `remark`, what training may have seen of them is told on standard error.

    Raises:
        ValueError: the recordings do not suit the policy, or none of them was held out in training.
    """
    from vla.data.dataset import open_dataset
    from vla.evaluation import open_loop
    from vla.settings import DataConfig

    given = {key: value for key, value in vars(data).items() if value is not None and key != "motion"}
    if contract.body is not None:
        given["motion"] = as_body_of(contract, data.motion)
    streams = contract.streams.values()
    trained = {key: getattr(contract, key) for key in ("state_key", "action_key", "dims")}
    dataset = open_dataset(
        DataConfig(
            **trained | given | {"validation_share": 0.0},
            cameras=contract.cameras,
            depth=tuple(shown.flag(camera) for camera, shown in contract.depth.items()),
            horizon=contract.horizon,
            style=contract.style,
            sensor=tuple(stream.key for stream in streams) or ("none",),
            sensor_samples=tuple(f"{stream.key}={stream.samples}" for stream in streams),
            sensor_rate_hz=tuple(f"{stream.key}={stream.rate_hz!r}" for stream in streams),
            withhold=() if contract.state_dim else ("state",),
        ),
        split.seed,
    )
    open_loop.check_contract(contract, dataset.contract)
    everything = dataset.everything
    episodes = everything.episodes()
    unseen = held_out(episodes, split)
    share = data.validation_share
    chosen = unseen if share is None else apart(episodes, share, split.seed)
    if share is None and split.episodes and not unseen:
        raise ValueError(
            f"none of the {sum(map(len, episodes))} episodes was held out in training, so which of them the policy has "
            "seen cannot be told; give the --data.roots of the training, or measure on all with "
            "--data.validation-share 0"
        )
    samples = everything.only(chosen) if chosen else everything
    measured = {episode.name for root in samples.episodes() for episode in root}
    if remark and (seen := measured - unseen):
        print(
            f"training did not hold out {len(seen)} of these {len(measured)} episodes and may have seen them",
            file=sys.stderr,
        )
    return samples


def held_out(episodes: "Sequence[Sequence[Episode]]", split: "HeldOut") -> set[str]:
    """The names of the episodes, by root, that training held out."""
    from vla.data.episode import mark_of

    known = set(split.episodes)
    return {episode.name for root in episodes for episode in root if mark_of(episode) in known}


def apart(episodes: "Sequence[Sequence[Episode]]", share: float, seed: int) -> set[str]:
    """The names of those that a training on these episodes, by root, would hold out."""
    from vla.data.mixture import split

    places = split([len(root) for root in episodes], share, seed)
    return {root[place].name for root, own in zip(episodes, places, strict=True) for place in own}


def open_phases(
    data: EvaluationData, contract: "DataContract", column: str | None, names: tuple[str, ...]
) -> "Phases | None":
    """The phases of the recordings, where a column of theirs tells them apart."""
    from vla.evaluation.phases import read_phases

    if column is None:
        if names:
            raise ValueError("--phase-names was given without a column; name it with --phase COLUMN")
        return None
    return read_phases(
        data.roots, column, names, data.episodes, data.action_key or contract.action_key, without=data.without
    )
