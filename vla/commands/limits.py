"""The limits of a robot, of its demonstrations or of a file of them."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vla.commands.measuring import changed
from vla.critic_settings import CriticConfig

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.critic.critic import Critic
    from vla.critic.robot import Limits

FILE = "limits.json"
"""What they are called among the results."""
TRIES = 4
Unsafe = Literal["execute", "stop"]
OF_ROBOTS, OF_BOTH = ("step", "force"), ("unsafe_severity",)
"""Settings of the critic that judge a robot's actions, and all there is; the others judge motions."""


def check_limits(limits: Path | None, env: str | None, tries: int, unsafe: Unsafe) -> None:
    """Refuse settings that would have no effect, before anything is loaded. ValueError."""
    idle = ["--tries"] * (tries != TRIES) + ["--unsafe"] * (unsafe != "execute")
    if limits is None and idle:
        raise ValueError(
            f"{' and '.join(idle)} would have no effect without limits: add --limits DEMONSTRATIONS, or leave that out"
        )
    if limits is not None and env is None:
        raise ValueError("--limits judges what is executed: let the policy loose with --env needle, or leave it out")
    if limits is not None and not limits.exists():
        raise ValueError(f"--limits {limits} is not there; give a folder of demonstrations, or a file of limits")


def check_critic(critic: CriticConfig, *, suites: bool, limits: bool) -> None:
    """Refuse settings of the critic that nobody would ask. ValueError."""
    names = [entry.name for entry in fields(critic)]
    of_motions = [name for name in names if name not in (*OF_ROBOTS, *OF_BOTH)]
    for used, own, how in (
        (suites, of_motions, "prompt suites: add --suites"),
        (limits, OF_ROBOTS, "a robot's limits: add --limits DEMONSTRATIONS"),
        (suites or limits, OF_BOTH, "prompt suites or a robot's limits: add --suites, or --limits DEMONSTRATIONS"),
    ):
        if not used and (idle := changed(critic, own, "--critic.")):
            raise ValueError(f"{' and '.join(idle)} would have no effect without {how}, or leave that out")


def critic_of(source: Path, contract: "DataContract", config: CriticConfig, results: Path) -> "Critic":
    """The critic of a policy's robot; its limits are written among the results."""
    from vla.critic.critic import Critic

    limits = open_limits(source, contract)
    results.mkdir(parents=True, exist_ok=True)
    limits.save(results / FILE)
    return Critic(config=config, limits=limits)


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
    if set(limits.force) != set(contract.streams):
        raise ValueError(
            f"{source} has limits of the sensors {' '.join(limits.force) or 'none'}, the policy sees "
            f"{' '.join(contract.streams) or 'none'}: give one number a channel of each, as large as you like"
        )
    for name, stream in contract.streams.items():
        if len(limits.force[name]) != stream.channels:
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
