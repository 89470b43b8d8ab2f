"""Runs on N ranks: trains one job after the other in one process group, each under a topology of its own.

    train_worker.py JOBS.json      [{"recipe": "stage1", "topology": "zero2", "argv": ["--out", ...]}, ...]

In each run folder it leaves FROZEN.json: whether every frozen tensor still is what the backbone's folder holds.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState

from training import distributed, loop, recipes
from training.ending import exits
from training.flags import parse
from training.session import Session
from vla.parts.backbone import load_backbone

RECIPES = {"stage1": recipes.stage1, "stage2": recipes.stage2, "two_stage": recipes.two_stage}


def use(topology: str) -> None:
    """What `accelerate launch --config_file accelerate_configs/<topology>.yaml` sets in the environment."""
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        os.environ.pop(name, None)
    if topology.startswith("zero"):
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = f"ds_configs/{topology}.json"
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def compare_frozen(session: Session, engine: Any) -> None:
    named = session.policy.named_parameters()
    names = [name for name, parameter in named if name.startswith("backbone.") and not parameter.requires_grad]
    now = engine.frozen(names)
    if session.accelerator.is_main_process:
        original = dict(
            load_backbone(session.config.backbone, distributed.dtype_of(session.config.precision)).named_parameters()
        )
        plain = {
            name.removeprefix("backbone.").replace("base_model.model.", "").replace("base_layer.", ""): name
            for name in names
        }
        same = [torch.equal(now[name], original[short]) for short, name in plain.items()]
        result = {"tensors": len(same), "changed": same.count(False)}
        (session.out / "FROZEN.json").write_text(json.dumps(result))


def main() -> None:
    leave = Session.leave

    def checked_leave(session: Session, engine: Any, row: Any, ending: Any) -> None:
        compare_frozen(session, engine)
        leave(session, engine, row, ending)

    Session.leave = checked_leave  # type: ignore[method-assign]
    for job in json.loads(Path(sys.argv[1]).read_text()):
        use(job["topology"])
        argv = job["argv"]
        loop.train(parse(RECIPES[job["recipe"]](), argv))
        gc.collect()


if __name__ == "__main__":
    exits.main(main)
