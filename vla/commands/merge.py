"""`vla merge`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge a policy's adapters into weights of its own."""

    policy: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="POLICY")]]
    """Policy folder, e.g. RUN/policy."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """Folder of the merged policy; a backbone that was adapted lies in OUT/backbone."""
    adapter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Named adapter to merge, and its weight, `FILE:0.7` (1 without), or a quantity of its curve, `FILE:speed=0.9`; or
    the name of one in POLICY/adapters; may be given several times."""
    backbone: str | None = None
    """Where the policy's backbone lies here; None: where it lay in training."""


def merge(command: Merge) -> None:
    """`vla merge`."""
    from vla.merging import merge_policy
    from vla.policy_folder import MERGED

    for line in merge_policy(command.policy, command.out, command.backbone, command.adapter):
        print(line)
    own = " with a backbone of its own" if (command.out / MERGED).is_dir() else ""
    print(f"merged policy{own}: {command.out}")
