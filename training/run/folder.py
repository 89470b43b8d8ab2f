"""The run folder while a run writes it: its lease, records, checkpoints, and samples left out."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from training import distributed
from training.checkpoints import checkpoint, storage
from training.checkpoints.checkpoint import Checkpoint
from training.checkpoints.saving import Saver
from training.config import RunConfig
from training.engine.stages import Group
from training.engine.state import KEYS
from training.run.lease import Lease
from training.run.left_out import LeftOut
from training.run.records import Records
from vla import documents
from vla.data.dataset import Dataset
from vla.documents import to_json
from vla.errors import StorageFailed
from vla.redaction import hide_tree
from vla.run_folder import Manifest, Meaning, Schedule

Result = TypeVar("Result")


class RunFolder:
    """The run folder of one rank. Every method but `last` and `say` is called by all ranks, in the same order."""

    records: Records
    saver: Saver
    left_out: LeftOut

    def __init__(self, config: RunConfig, accelerator: Accelerator) -> None:
        """Describe the folder of a run; nothing is written."""
        self.config, self.accelerator, self.path = config, accelerator, Path(config.out)
        self.checkpoints = self.path / "checkpoints"
        self.lease = Lease(self.path)
        self.resumed_at: int | None = None
        """Step of the checkpoint that the run went on from."""
        self.began_from: str | None = config.init_from
        """Where the weights came from that the run began with, in whichever of its lives."""
        self._held = self._opened = False
        self._damaged: list[Path] = []
        self._saved_at = -math.inf
        self._last_error = ""

    def resumed(self) -> Checkpoint | None:
        """The checkpoint to go on from.

        Raises:
            ValueError: the folder holds a run, and nothing says to resume it; or another process writes it.
            CorruptData: no checkpoint in it is valid.
        """
        if distributed.share(self.accelerator, self.checkpoints.exists()):
            self._take()  # before reading: another process may be about to write a newer checkpoint
        choice = self.config.resume_from
        if choice is not None:
            found = self._find(choice)
            began = self._agree_to(lambda: self._read_beginning(found))
            self.began_from = distributed.share(self.accelerator, began)
            return found
        taken = (self.path / "metrics.jsonl").exists() or bool(checkpoint.steps(self.path))
        if distributed.share(self.accelerator, taken):
            raise ValueError(f"{self.path} already holds a run; go on with --resume-from auto, or choose another --out")
        return None

    def open(
        self, step: int, groups: list[Group], kept: Mapping[str, Tensor], data: Dataset, schedule: Schedule
    ) -> None:
        """Begin to write; of several stages only the first does. Everything that can be refused has been.

        `groups` will be saved by all ranks together, `kept` by this one.

        Raises:
            ValueError: another process writes this run, or the folder cannot take a checkpoint.
        """
        if self._opened:
            return
        config, main = self.config, self.accelerator.is_main_process
        # What the run is, not how this life of it was started: who trains by config.json begins where it began.
        settings = to_json(config) | {"resume_from": None, "init_from": self.began_from, "extend_to": None}
        missing = [path for path in (self.path, self.checkpoints) if not path.exists()]
        self._take()
        size = sum(group.num_parameters for group in groups) * len(KEYS) * 4 // self.accelerator.num_processes
        size += sum(weight.numel() * weight.element_size() for weight in kept.values())
        try:
            # All at once, as they will write.
            rate = self._agree_to(lambda: storage.probe(self.checkpoints, size), everyone=True)
        except ValueError:
            self.close()
            for path in reversed(missing) if main else ():
                with contextlib.suppress(FileNotFoundError):
                    path.rmdir()
            raise
        assert rate is not None, "every rank has measured"
        if main:
            checkpoint.clean(self.path)
            for path in self._damaged:
                self.say(f"{path.name} is damaged and set aside as {checkpoint.set_aside(path).name}")
            # The newest steps are kept, and gone on from: beside these, what is saved from now on would be neither.
            for path in checkpoint.later(self.path, step):
                aside = checkpoint.set_aside(path, "later")
                self.say(f"{path.name} is after step {step}, which the run goes on from: set aside as {aside.name}")
            (self.path / "config.json").write_text(json.dumps(hide_tree(settings), indent=1) + "\n")
            (self.path / "schedule.json").write_bytes(documents.to_bytes(schedule))
        self.records = Records(self.path, config.tracker, settings, config.wandb, resumed_at=step, active=main)
        self.saver = Saver(
            self.accelerator,
            self.path,
            keep=config.keep,
            keep_best=config.keep_best,
            rate=rate,
            objection=self._objection,
        )
        self.left_out = LeftOut(self.path, config.data.quarantine, data.train, active=main, held_out=data.validation)
        self.accelerator.wait_for_everyone()
        self._opened, self._saved_at = True, time.monotonic()

    def close(self) -> None:
        """Let another process write the folder."""
        self.lease.release()

    # Checkpoints.

    def save_is_late(self) -> bool:
        """Whether --save-seconds have passed and nothing is being written; rank 0's clock decides for all."""
        late = time.monotonic() - self._saved_at >= self.config.save_seconds
        return self.accelerator.is_main_process and late and not self.saver.busy()

    def save(
        self,
        pieces: Mapping[str, Tensor],
        kept: Mapping[str, Tensor],
        manifest: Manifest,
        meaning: Meaning,
        *,
        check: bool = True,
    ) -> None:
        """Begin to write a checkpoint, after the one in flight."""
        self.finish_save()
        self.saver.save(pieces, kept, manifest=manifest, meaning=meaning, check=check)
        self._saved_at = time.monotonic()

    def finish_save(self, seconds: float | None = None) -> None:
        """Wait for the save in flight, at most some seconds, and say how it ended."""
        outcome = self.saver.finish(seconds)
        if outcome is None:
            return
        if outcome.error is None:
            remark = f", but {outcome.remark}" if outcome.remark else ""
            size = f"{outcome.num_bytes / 1e6:,.1f} MB"
            self.say(f"step {outcome.step}: saved {size} in {outcome.seconds:.1f} s{remark}")
        else:
            self._last_error = outcome.error
            self.say(
                f"step {outcome.step}: no checkpoint: {outcome.error}; training goes on, and the earlier ones are as "
                f"they were ({self.saver.failures} of {self.config.save_failures} failures in a row)"
            )

    def holds(self, step: int) -> bool:
        """Whether there is a checkpoint of a step; a run that ends before its first step has the one it came from."""
        return bool(distributed.share(self.accelerator, checkpoint.path_of(self.path, step).is_dir()))

    def saves_fail(self) -> bool:
        """Whether this rank knows of too many failed saves in a row."""
        return self.saver.failures >= self.config.save_failures

    def give_up(self) -> StorageFailed:
        """The error of a run that cannot save."""
        count = self.saver.failures
        what = "a checkpoint" if count < self.config.save_failures else f"{count} checkpoints in a row"
        return StorageFailed(
            f"{what} could not be written ({self._last_error}); the last one is {self.last()}; make room or mend the "
            "storage, and go on with --resume-from auto"
        )

    def last(self) -> str:
        """The last checkpoint, in words."""
        step = self.saver.last if self._opened and self.saver.last is not None else self.resumed_at
        return "none" if step is None else f"step {step}"

    def say(self, text: str) -> None:
        """Print a line, once for all ranks, past the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text)

    # The folder itself.

    def _find(self, choice: str) -> Checkpoint | None:
        """The checkpoint that --resume-from means."""
        if choice == "auto":
            return checkpoint.newest(self.path, self.accelerator, damaged=self._damaged)
        return checkpoint.find(choice, self.accelerator)

    def _read_beginning(self, found: Checkpoint | None) -> str | None:
        """Where the run began that is gone on with; without a checkpoint its config.json says."""
        if found is not None:
            return found.manifest.init_from
        file = self.path / "config.json"
        try:
            place: str | None = json.loads(file.read_text()).get("init_from")
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON ({error}); restore it, or choose another --out") from error
        return place

    def _take(self) -> None:
        """Become the one writer of the folder (ValueError where that cannot be)."""
        if not self._held:
            self._agree_to(self._make)
            self._held = True

    def _make(self) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lease.acquire()
        except OSError as error:
            raise ValueError(f"--out {self.path} cannot be written: {error.strerror}; choose another folder") from error

    def _agree_to(self, attempt: Callable[[], Result], *, everyone: bool = False) -> Result | None:
        """What an attempt of rank 0, or of everyone, gives to each who made it; if one refuses, all do (ValueError)."""
        result, problem = None, None
        if everyone or self.accelerator.is_main_process:
            try:
                result = attempt()
            except ValueError as error:
                problem = str(error)
        if problems := list(filter(None, distributed.collect(self.accelerator, problem))):
            raise ValueError(problems[0])
        return result

    def _objection(self) -> str | None:
        """Why rank 0 must make no checkpoint now: what it would belong to is not, or no longer, written by this run."""
        if not self.lease.held():
            return f"another process writes {self.path}"
        if self.records.incomplete():
            return f"{self.records.metrics} lacks lines that could not be written"
        return None
