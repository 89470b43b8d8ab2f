"""What a run records of itself: metrics.jsonl and validation.jsonl always, Weights & Biases where it can be had."""

import contextlib
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.run.tracking import Wandb, wandb_available
from training.settings import Tracker, WandbConfig
from vla.lines import append, read_lines
from vla.redaction import hide_tree


class Records:
    """The records of a run folder: written by rank 0, silent on the others.

    A resumed run keeps what stands there up to its step and drops the rest, so that every step is recorded once.
    """

    def __init__(
        self,
        out: Path,
        tracker: Tracker,
        config: Mapping[str, Any],
        filed: WandbConfig,
        *,
        resumed_at: int,
        active: bool,
    ) -> None:
        self.active = active
        if not active:
            return
        self._unwritten: deque[tuple[Path, str]] = deque()
        self.metrics, self.validations = out / "metrics.jsonl", out / "validation.jsonl"
        self.cut_back(resumed_at)
        tracked = tracker == "wandb" or (tracker == "auto" and wandb_available())
        self.wandb = Wandb(out, config, filed) if tracked else None

    def cut_back(self, step: int) -> None:
        """Drop what stands there of later steps: the run goes on from `step`."""
        if self.active:
            self._unwritten.clear()
            for path in (self.metrics, self.validations):
                cut_back(path, step)

    def add_step(self, line: Mapping[str, Any]) -> None:
        """One optimizer step."""
        if self.active:
            self._add(line, self.metrics, line)

    def add_validation(self, line: Mapping[str, Any]) -> None:
        """One validation."""
        if self.active:
            self._add(line, self.validations, {"validation": line})

    def _add(self, line: Mapping[str, Any], path: Path, logged: Mapping[str, Any]) -> None:
        self._unwritten.append((path, json.dumps(hide_tree(line)) + "\n"))
        with contextlib.suppress(OSError):  # a full volume; the line waits for the next one, or for `flush`
            self.flush()
        if self.wandb is not None:
            self.wandb.log(logged, line["step"])

    def incomplete(self) -> bool:
        """Whether lines wait for room to be written."""
        return self.active and len(self._unwritten) > 0

    def flush(self) -> None:
        """Write what could not be written before.

        Raises:
            OSError: it still cannot; every line is kept.
        """
        while self._unwritten:
            path, text = self._unwritten[0]
            append(path, text)
            self._unwritten.popleft()

    def close(self) -> None:
        """Write what is left and let the tracker finish; the process may end at once afterwards.

        Raises:
            OSError: lines could not be written.
        """
        if not self.active:
            return
        if self.wandb is not None:
            self.wandb.close()
        self.flush()


def cut_back(path: Path, step: int) -> None:
    """Keep the complete lines up to a step, and none at step 0, where a run starts anew.

    A line that was cut off while being written is dropped too.
    """
    kept = [line for line in read_lines(path) if line["step"] <= step] if step else []
    beside = path.with_name(path.name + ".tmp")
    beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
    beside.replace(path)
