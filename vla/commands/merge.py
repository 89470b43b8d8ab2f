"""`vla merge`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge a policy's adapter into a backbone of its own."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """Folder of the merged policy; its backbone lies in OUT/backbone."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""


def merge(command: Merge) -> None:
    """`vla merge`."""
    from vla.policy_folder import merge_policy

    merge_policy(command.policy, command.out, command.backbone)
    print(f"merged policy with a backbone of its own: {command.out}")
