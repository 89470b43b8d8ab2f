"""`vla info`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Info:
    """Tell what a bug report needs of a run, policy, adapter, checkpoint, data set or imported model."""

    path: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|POLICY|ADAPTER|CHECKPOINT|DATA")]]
    """The folder. Nothing that is printed tells who or where: no home, host, user, token."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print it as JSON."""


def info(command: Info) -> int:
    """`vla info`: what it is, what made it, what this is; the exit code is that of the first problem."""
    from vla import inspection
    from vla.errors import DONE, told

    found = inspection.inspect(command.path)
    tree = found.to_json()
    print(json.dumps(tree, indent=2) if command.json else "\n".join(inspection.lines(tree)))
    return told(found.problems[0])[0] if found.problems else DONE
