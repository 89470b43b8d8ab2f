"""What `vla evaluate` does with a policy of human motion."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vla.commands.measuring import Measuring
from vla.commands.recordings import as_body_of, open_policy
from vla.motion_settings import MotionConfig

if TYPE_CHECKING:
    from vla.contract import DataContract
    from vla.data.episode import Reader
    from vla.evaluation.motion.table import Table

DRAWN = 4
"""Motions of each action in its picture."""


def against_clips(
    command: Measuring,
    training: Sequence[str],
    motions: int,
    contract: "DataContract",
    device: str,
    *,
    adapters: Sequence[str] = (),
) -> "Table":
    """Motions of each action beside real ones: motions.json, and a picture an action; `adapters` are on."""
    from vla.evaluation.motion.policies import Asked, captions, judge_policy
    from vla.motion.drawing import strip

    motion = as_body_of(contract, command.data.motion)
    known = [open_clips(root, contract, motion) for root in training]
    held_out = [open_clips(root, contract, motion) for root in command.data.roots]
    policy = open_policy(
        command.policy, command.backbone, device, command.sampling, command.embeddings, adapters=adapters
    ).to(device)
    policy.set_mode(training=False)
    if contract.cameras:
        print(f"motions are made of texts alone: nothing is seen of {', '.join(contract.cameras)}", file=sys.stderr)
    asked = Asked(texts=captions(known), n=motions, seed=command.seed or 0, steps=command.steps)
    found = judge_policy(policy, known, held_out, asked)
    out = command.results
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "policy": str(command.policy),
        "adapters": policy.blend.weights,
        "seed": asked.seed,
        "texts": dict(asked.texts),
        "motions": motions,
    }
    (out / "motions.json").write_text(json.dumps(content | found.table.to_json(), indent=2) + "\n", encoding="utf-8")
    for action, made in found.made.items():
        name = "".join(letter if letter.isalnum() else "_" for letter in action)
        strip([motion.figure() for motion in made[:DRAWN]]).save(out / f"{name}.png")
    return found.table


def open_clips(root: str, contract: "DataContract", motion: MotionConfig) -> "Reader":
    """The clips of a folder as the body of a policy. ValueError where they cannot be."""
    from vla.data.formats import open_folder
    from vla.data.selection import Selection

    reader = open_folder(Path(root), Selection(motion=motion))
    if reader.layout.body != contract.body:
        raise ValueError(f"{root} holds clips of another body than the policy's: give clips of its joints")
    return reader
