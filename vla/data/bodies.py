"""What the actions mean where they are the motion of a body, among the facts that a copy of recordings keeps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.documents import from_json, to_json
from vla.motion.body import Body

MOTION_BODY = "motion_body"
"""What it is called among the facts."""


def body_facts(body: Body) -> dict[str, Any]:
    """A body as a fact."""
    return {MOTION_BODY: to_json(body)}


def body_of(facts: Mapping[str, Any], action_names: Sequence[str], file: Path) -> Body | None:
    """The body that the facts of a file tell of actions of these names; None where they tell of none, or of others.

    Raises:
        CorruptData: what the file tells is no body.
    """
    if MOTION_BODY not in facts:
        return None
    body = from_json(Body, json.dumps(facts[MOTION_BODY]), file)
    return body if body.names == tuple(action_names) else None
