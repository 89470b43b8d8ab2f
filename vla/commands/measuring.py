"""What the commands that measure a policy are told: on which recordings, in which environment, how."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vla.commands.recordings import Device, EvaluationData
from vla.policy_settings import Sampling
from vla.settings import Sampler

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.evaluation.arena import Arena
    from vla.evaluation.closed_loop import RolloutConfig

OF_ENVIRONMENT = ("env_settings", "episodes", "within", "execute", "workers", "group", "record")
OF_RECORDINGS = ("samples", "phase", "phase_names", "batch_size")
"""Settings that only the one or the other uses."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Settings of `vla evaluate` and of `vla ablate`."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    data: EvaluationData = field(default_factory=EvaluationData)
    """The recordings."""
    samples: int = 1000
    """At most this many frames of the recordings, evenly spread; 0: all."""
    phase: str | None = None
    """Column of the recordings that tells phases apart; None: all frames together."""
    phase_names: tuple[str, ...] = ()
    """Names of the phases, from the column's smallest value on; none: the values."""
    batch_size: int = 8
    """Frames of the recordings per forward pass, >= 1."""
    env: str | None = None
    """Environment to act in: needle, metaworld, or module:factory of your own (see vla/environment.py)."""
    env_settings: tuple[str, ...] = ()
    """Of the environment, NAME=VALUE each, e.g. error-mm=3."""
    episodes: int = 100
    """Episodes in the environment, >= 1."""
    execute: int = 1
    """Actions of a chunk to carry out before the policy looks again."""
    workers: int = 2
    """Processes that run episodes, >= 1; on a GPU one."""
    seed: int | None = None
    """Of noise and of the episodes in the environment. None: as in training."""
    steps: int | None = None
    """Sampling steps; None: as the policy says."""
    sampler: Sampler | None = None
    """How chunks come out of noise; None: as the policy says."""
    guidance: float | None = None
    """How many times as far as with the instruction chunks are from those without it; None: as the policy says."""
    device: Device = "auto"
    """Where to compute; auto: on a GPU when there is one."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""
    embeddings: str | None = None
    """File of `vla embed`: instructions that a policy's sentence encoder need not read again."""
    out: Path | None = None
    """Folder for the results and pictures; None: beside the policy, POLICY-evaluation."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the results as JSON."""

    @property
    def sampling(self) -> Sampling:
        """What the policy is to sample otherwise than it says."""
        return Sampling(sampler=self.sampler, guidance=self.guidance)

    @property
    def results(self) -> Path:
        """Folder for the results and pictures."""
        policy = self.policy.resolve()
        return self.out or policy.with_name(f"{policy.name}-evaluation")


def check_numbers(command: Measuring, further: dict[str, tuple[int, int]]) -> None:
    """Refuse what is too small, before anything is loaded; `further` has a value and its smallest for each flag.

    Raises:
        ValueError: a number is too small.
    """
    lowest = {
        "--samples": (command.samples, 0),
        "--batch-size": (command.batch_size, 1),
        "--seed": (command.seed or 0, 0),
        "--episodes": (command.episodes, 1),
        "--execute": (command.execute, 1),
        "--workers": (command.workers, 1),
        "--steps": (1 if command.steps is None else command.steps, 1),
    }
    for flag, (value, least) in (lowest | further).items():
        if value < least:
            raise ValueError(f"{flag} is {value}; give {least} or more")


def check_consumers(command: Measuring) -> None:
    """Refuse what was set and nothing would use: settings of recordings or of an environment that is not given.

    Raises:
        ValueError: names the flags.
    """
    if command.env is None and (idle := changed(command, OF_ENVIRONMENT)):
        raise ValueError(
            f"{' and '.join(idle)} would have no effect without an environment: name one with --env needle, or leave "
            "that out"
        )
    if command.data.roots:
        return
    of_data = [entry.name for entry in fields(command.data)]
    if idle := changed(command, OF_RECORDINGS) + changed(command.data, of_data, "--data."):
        raise ValueError(
            f"{' and '.join(idle)} would have no effect without recordings: give some with --data.roots DIR, or leave "
            "that out"
        )


def changed(settings: Any, names: Sequence[str], prefix: str = "--") -> list[str]:
    """The flags, among those of some names, whose value is not the default."""
    defaults = {
        entry.name: entry.default for entry in fields(settings) if entry.name in names and entry.default is not MISSING
    }
    return [
        f"{prefix}{name.replace('_', '-')}" for name, default in defaults.items() if getattr(settings, name) != default
    ]


def check_results(command: Measuring) -> None:
    """Refuse a folder that results cannot be written to, before anything is measured; it is made when they are.

    Raises:
        ValueError: a file has its name, or the system refuses it.
    """
    folder = command.results
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written to ({error.strerror}); give another folder with --out") from error
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


def processes_of(command: Measuring, device: str) -> int:
    """How many processes run episodes."""
    return 1 if device == "cuda" else command.workers


def choose_arena(
    command: Measuring, policy: Path, config: "RolloutConfig", contract: "DataContract", device: str
) -> "Arena":
    """What each process needs to let a policy loose; what does not fit is refused here, before they start.

    Raises:
        ValueError: there is no such environment, or it or the configuration does not suit the policy.
    """
    import torch

    from vla.evaluation.arena import Arena
    from vla.evaluation.environments import open_environment

    assert command.env is not None
    if config.execute > contract.horizon:
        raise ValueError(f"--execute is {config.execute}, but a chunk of the policy has {contract.horizon} actions")
    open_environment(command.env, contract, command.env_settings, config.max_steps).close()
    return Arena(
        policy=policy.resolve(),
        backbone=command.backbone,
        sampling=command.sampling,
        embeddings=command.embeddings,
        device=device,
        environment=command.env,
        settings=command.env_settings,
        config=config,
        out=command.results,
        threads=max(1, torch.get_num_threads() // processes_of(command, device)),
    )
