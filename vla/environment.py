"""Environments: what a policy can be let loose in, one episode at a time.

The protocol is Gymnasium's, with observations keyed like the features of the data set that the policy was trained on:
whoever records demonstrations in an environment has implemented it already, and a simulator, another benchmark or a
robot's driver plugs in with one class.

    observation.images.front   uint8 (H W 3), one key a camera; one that the policy reads as depth: float32 (H W), in m
    observation.state          float32 (P)
    observation.wrench         float32 (S C), the last S samples up to now, oldest first; one key a sensor stream
    observation.wrench_valid   bool (S), where not all samples were measured
    task                       the instruction
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vla.batch import Observation, Readings
from vla.contract import DataContract, StreamContract
from vla.depth import depth_picture
from vla.floats import floats

Observed = Mapping[str, Any]
"""What an environment shows, by feature key."""
STATE, TASK = "observation.state", "task"


@runtime_checkable
class Environment(Protocol):
    """One world; episodes follow one another in it.

    `info` holds `success` (bool) and may hold `metrics` (numbers by name, those of the episode so far; an episode may
    lack some) and, once the episode has ended without success, `failure` (a few words that name its kind).
    """

    @property
    def fps(self) -> float:
        """Actions a second."""
        ...

    def reset(self, *, seed: int) -> tuple[Observed, dict[str, Any]]:
        """Begin an episode, the same one for the same seed; gives the first observation and info."""
        ...

    def step(self, action: Float32[np.ndarray, " A"], /) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Carry out an action; gives observation, reward, whether the episode ended or was cut off, and info."""
        ...

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """A picture for people, where the environment has one."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def observe(rows: Sequence[Observed], contract: DataContract) -> Observation:
    """What B environments show, as a policy of this contract looks at it.

    Raises:
        ValueError: an environment lacks something the policy looks at, or shows it in another shape.
    """
    for row in rows:
        check_observed(row, contract)
    state: Float[np.ndarray, "B P"] = np.zeros((len(rows), 0), np.float32)
    if contract.state_dim:
        state = np.stack([floats(np.asarray(row[STATE])) for row in rows])
    return Observation(
        images=tuple(tuple(frame(picture(row, camera, contract)) for camera in contract.cameras) for row in rows),
        image_valid=torch.ones(len(rows), len(contract.cameras), dtype=torch.bool),
        instructions=tuple(str(row[TASK]) for row in rows),
        state=torch.from_numpy(state),
        streams={name: readings(rows, stream) for name, stream in contract.streams.items()},
    )


def readings(rows: Sequence[Observed], stream: StreamContract) -> Readings:
    """The windows that B environments show of a sensor stream; all of it was measured where they do not say."""
    every = np.ones(stream.samples, dtype=np.bool_)
    valid = [np.asarray(row.get(f"{stream.key}_valid", every), dtype=np.bool_) for row in rows]
    values = [floats(np.asarray(row[stream.key])) for row in rows]
    return Readings(values=torch.from_numpy(np.stack(values)), valid=torch.from_numpy(np.stack(valid)))


def picture(row: Observed, camera: str, contract: DataContract) -> UInt8[np.ndarray, "height width 3"]:
    """What a camera shows, as the policy looks at it: depth in the colours of its training (vla/depth.py)."""
    if camera not in contract.depth:
        return np.asarray(row[camera])
    metres = np.asarray(row[camera], dtype=np.float32)
    return depth_picture(metres, contract.depth[camera]).transpose(1, 2, 0)


def frame(image: UInt8[np.ndarray, "height width 3"]) -> Tensor:
    """A camera's picture with its channels first."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def check_observed(row: Observed, contract: DataContract) -> None:
    """Refuse an observation without what the policy looks at.

    Raises:
        ValueError: naming the first thing that is missing or of another shape.
    """
    expected: dict[str, tuple[int, ...] | None] = dict.fromkeys((TASK, *contract.cameras))
    if contract.state_dim:
        expected[STATE] = (contract.state_dim,)
    expected |= {stream.key: (stream.samples, stream.channels) for stream in contract.streams.values()}
    for key, shape in expected.items():
        if key not in row:
            raise ValueError(
                f"the policy looks at {key}, but the environment shows {', '.join(sorted(row))}; "
                "use one with the inputs of the data the policy was trained on"
            )
        if shape is not None and np.shape(row[key]) != shape:
            raise ValueError(
                f"the policy expects {key} of shape {list(shape)}, but the environment shows "
                f"{list(np.shape(row[key]))}; use one with the inputs of the data the policy was trained on"
            )
    for camera in contract.depth:
        if np.ndim(row[camera]) != 2:
            raise ValueError(
                f"the policy reads {camera} as depth, but the environment shows it with shape "
                f"{list(np.shape(row[camera]))}; show distances in metres, one a pixel"
            )
    for stream in contract.streams.values():
        check_marks(row, stream)
    for key in (key for key, shape in expected.items() if shape is not None):
        values, measured = np.asarray(row[key]), np.asarray(row.get(f"{key}_valid", True), dtype=np.bool_)
        if values.dtype.kind not in "fiub" or not np.isfinite(values[measured]).all():
            raise ValueError(
                f"the environment shows {key} with values that are no finite numbers; let it show numbers, and mark "
                "sensor samples that it did not measure as not valid"
            )


def check_marks(row: Observed, stream: StreamContract) -> None:
    """Refuse marks of what was measured of a sensor stream that are not one a sample (ValueError)."""
    shape = np.shape(row.get(f"{stream.key}_valid", (True,) * stream.samples))
    if shape != (stream.samples,):
        raise ValueError(
            f"the policy expects {stream.key}_valid of shape {[stream.samples]}, but the environment shows "
            f"{list(shape)}; say of each sample whether it was measured, or leave it out where all were"
        )


def check_contract(
    contract: DataContract, *, action_dim: int, action_names: Sequence[str] = (), state_names: Sequence[str] = ()
) -> None:
    """Refuse a policy whose actions or state are not those of an environment; names count where both sides have some.

    Raises:
        ValueError: naming what the policy has and what the environment.
    """
    if contract.action_dim != action_dim:
        raise ValueError(
            f"the policy's actions have {contract.action_dim} numbers, but the environment takes {action_dim}; "
            "use one with the actions of the data the policy was trained on"
        )
    for what, ours, theirs in (
        ("actions are", contract.action_names, tuple(action_names)),
        ("state is", contract.state_names, tuple(state_names)),
    ):
        if ours and theirs and ours != theirs:
            raise ValueError(
                f"the policy's {what} {' '.join(ours)}, but the environment's {what} {' '.join(theirs)}; "
                "use one with those of the data the policy was trained on"
            )
