"""What ranks call before they train (`prepare`), to compare frozen tensors with the backbone's folder at the end."""

import json
from typing import Any

import torch

from training import distributed
from training.session import Session
from vla.parts.backbone import load_backbone


def compare() -> None:
    """Leave FROZEN.json in the run folder: whether every frozen tensor still is what the backbone's folder holds."""
    leave = Session.leave

    def checked_leave(session: Session, engine: Any, row: Any, ending: Any) -> None:
        compare_frozen(session, engine)
        leave(session, engine, row, ending)

    Session.leave = checked_leave  # type: ignore[method-assign]


def compare_frozen(session: Session, engine: Any) -> None:
    named = session.policy.named_parameters()
    names = [name for name, parameter in named if name.startswith("backbone.") and not parameter.requires_grad]
    now = engine.frozen(names)
    if session.accelerator.is_main_process:
        dtype = distributed.dtype_of(session.config.precision)
        original = dict(load_backbone(session.config.backbone, dtype).named_parameters())
        plain = {
            name.removeprefix("backbone.").replace("base_model.model.", "").replace("base_layer.", ""): name
            for name in names
        }
        same = [torch.equal(now[name], original[short]) for short, name in plain.items()]
        result = {"tensors": len(same), "changed": same.count(False)}
        (session.out / "FROZEN.json").write_text(json.dumps(result))
