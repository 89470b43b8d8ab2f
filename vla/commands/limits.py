"""The limits of a robot, of its demonstrations or of a file of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.critic.robot import Limits

FILE = "limits.json"
"""What they are called among the results."""


def open_limits(source: Path, contract: "DataContract") -> "Limits":
    """The limits of a policy's robot: of a JSON file, or learned from a folder of demonstrations.

    Raises:
        CorruptData: the file holds none.
        ValueError: they are of other actions or sensors than the policy's, or there are no demonstrations.
    """
    from vla.critic.robot import Limits

    if contract.body is not None:
        raise ValueError(
            "--limits are of a robot, and this policy moves a body, which the seven checks judge: leave it out"
        )
    limits = Limits.load(source) if source.is_file() else learned(source, contract)
    if len(limits.step) != contract.action_dim or (limits.names and limits.names != contract.action_names):
        raise ValueError(
            f"{source} has limits of {len(limits.step)} actions {' '.join(limits.names)}, the policy has "
            f"{contract.action_dim} {' '.join(contract.action_names)}: give those of its robot"
        )
    for name, stream in contract.streams.items():
        if name in limits.force and len(limits.force[name]) != stream.channels:
            raise ValueError(
                f"{source} has limits of {len(limits.force[name])} channels of {name}, the policy sees "
                f"{stream.channels}: give those of its robot"
            )
    return limits


def learned(folder: Path, contract: "DataContract") -> "Limits":
    """The limits that the demonstrations of a folder keep; strays are told on standard error."""
    import numpy as np

    from vla.critic.robot import learn
    from vla.data.formats import open_folder
    from vla.data.selection import Selection

    keys = {name: stream.key for name, stream in contract.streams.items()}
    chosen = Selection(
        missing_cameras="mask",
        sensor=tuple(keys.values()) or ("none",),
        state_key=contract.state_key,
        action_key=contract.action_key,
        dims=contract.dims,
        withhold_state=not contract.state_dim,
    )
    episodes = open_folder(folder, chosen).episodes
    return learn(
        [np.asarray(episode.actions.values) for episode in episodes],
        {
            name: [np.asarray(episode.streams[key].values) for episode in episodes if key in episode.streams]
            for name, key in keys.items()
        },
        fps=contract.fps,
        periods=contract.action_periods,
        names=contract.action_names,
        remark=lambda said: print(f"{folder}: {said}", file=sys.stderr),
    )
