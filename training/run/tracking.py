"""Weights & Biases beside the training: nothing of it is ever waited for, and nothing that happens to it ends a run."""

import json
import os
import queue
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.settings import Tracker, WandbConfig
from vla.redaction import hide, hide_tree

PROJECT = "touchstone"
START_S, FINISH_S = 30.0, 60.0
"""How long the service may take to answer at first, and to take what is left at the end."""


def wandb_available() -> bool:
    """Whether wandb has a key, or is told to stay offline."""
    return bool(os.environ.get("WANDB_API_KEY")) or os.environ.get("WANDB_MODE") == "offline"


def check_tracker(tracker: Tracker, filed: WandbConfig) -> None:
    """Refuse a tracker that cannot start, and settings of one that does not (ValueError)."""
    asked = "--tracker wandb" if tracker == "wandb" else None
    if tracker == "auto":
        asked = next((f"--wandb.{name}" for name, value in vars(filed).items() if value), None)
    if asked is not None and not wandb_available():
        raise ValueError(f"{asked} needs WANDB_API_KEY, or WANDB_MODE=offline; use --tracker jsonl without")


def filed_under(filed: WandbConfig) -> dict[str, Any]:
    """The arguments that say where wandb files a run: of what is not among them, it asks its own variables."""
    given = {name: value for name, value in vars(filed).items() if value}
    if "tags" in given:
        given["tags"] = list(given["tags"])
    if "project" not in given and not os.environ.get("WANDB_PROJECT"):
        given["project"] = PROJECT
    return given


class Wandb:
    """A wandb run behind a queue, in a thread of its own.

    It gets the resolved configuration and the metrics, and nothing of machine or environment. Its id is kept in the run
    folder, so that a resumed run goes on in the same curve. When the service does not answer, the run is recorded in
    the folder instead, for `wandb sync`.
    """

    def __init__(self, out: Path, config: Mapping[str, Any], filed: WandbConfig, *, start_s: float = START_S) -> None:
        self._out, self._config, self._start_s = out, hide_tree(config), start_s
        self._filed = filed_under(filed)
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wandb", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Record values at a step."""
        self._queue.put((dict(values), step))

    def close(self, timeout_s: float = FINISH_S) -> None:
        """Wait for what is left to be taken, but not longer than `timeout_s`."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            tqdm.write(f"wandb has not taken everything within {timeout_s:.0f} s; metrics.jsonl is complete")

    def _run(self) -> None:
        try:
            run = self._start()
            while (item := self._queue.get()) is not None:
                run.log(item[0], step=item[1])
            run.finish()
        except Exception as error:  # noqa: BLE001  (whatever it is, the training does not depend on it; it is told)
            tqdm.write(hide(f"wandb stopped recording ({error}); metrics.jsonl is complete"))

    def _start(self) -> Any:
        """The run: online where the service answers in time, else recorded in the folder."""
        import wandb

        identity = self._out / "wandb_id.json"
        if not identity.exists():
            identity.write_text(json.dumps(uuid.uuid4().hex[:8]))
        settings = {
            "x_disable_meta": True,
            "x_disable_stats": True,
            "save_code": False,
            "disable_git": True,
            "console": "off",
        }
        arguments = {
            **self._filed,
            "id": json.loads(identity.read_text()),
            "resume": "allow",
            "name": hide(self._out.name),
            "dir": str(self._out),
            "config": self._config,
        }
        try:
            return wandb.init(**arguments, settings=wandb.Settings(**settings, init_timeout=self._start_s))
        except wandb.Error as error:
            tqdm.write(
                hide(f"wandb does not answer ({error}); it is recorded in {self._out / 'wandb'} for `wandb sync`")
            )
            wandb.teardown()
            return wandb.init(**arguments, mode="offline", settings=wandb.Settings(**settings))
