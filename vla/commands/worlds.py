"""The environment that a policy is let loose in."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vla.batch import DataContract
    from vla.evaluation.closed_loop import Arena, RolloutConfig


def choose_arena(
    config: "RolloutConfig",
    contract: "DataContract",
    *,
    policy: Path,
    backbone: str | None,
    device: str,
    environment: str,
    settings: tuple[str, ...],
    out: Path,
    workers: int,
) -> "Arena":
    """What each of some processes needs; what does not fit is refused here, before they start.

    Raises:
        ValueError: there is no such environment, or it or the configuration does not suit the policy.
    """
    import torch

    from vla.evaluation.closed_loop import Arena
    from vla.evaluation.environments import open_environment

    if config.execute > contract.horizon:
        raise ValueError(f"--execute is {config.execute}, but a chunk of the policy has {contract.horizon} actions")
    open_environment(environment, contract, settings).close()
    return Arena(
        policy=policy.resolve(),
        backbone=backbone,
        device=device,
        environment=environment,
        settings=settings,
        config=config,
        out=out,
        threads=max(1, torch.get_num_threads() // workers),
    )
