"""The samples of a run that were left out because they cannot be read: which, why, and how many may be.

A void sample keeps its position and weighs 0, so the step is that of the other samples. Which samples are void follows
from the data alone, so it is the same on any number of ranks, and after a resume.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from tqdm import tqdm

from training import distributed
from vla.batch import Batch
from vla.errors import CorruptData
from vla.lines import append, read_lines
from vla.redaction import hide_tree


class Samples(Protocol):
    """Samples that can be void."""

    def locate(self, position: int) -> tuple[str, int]:
        """Name of the episode and index of the frame."""
        ...

    def fault(self, position: int) -> str | None:
        """Why a sample is void, read anew; None where it can be read now."""
        ...


class LeftOut:
    """What was left out, the same on every rank once `settle` has been called; rank 0 keeps RUN/quarantine.jsonl."""

    def __init__(
        self, out: Path, budget: int, samples: Samples, *, active: bool, held_out: Samples | None = None
    ) -> None:
        """Go on from what `out` holds. `budget` samples may be left out; `active` says that this rank writes."""
        self.path, self.budget = out / "quarantine.jsonl", budget
        self._samples, self._held_out, self._active = samples, held_out, active
        self.left_out: dict[tuple[str, int], Mapping[str, Any]] = {}
        """By episode and frame."""
        if active:
            self.left_out = {(line["episode"], line["frame"]): line for line in read_lines(self.path)}
        self._num_told = self._num_written = len(self.left_out)

    def settle(self, accelerator: Accelerator, batches: Sequence[Batch], *, step: int, held_out: bool = False) -> None:
        """Record the void samples of a step's batches, or of held-out ones. Every rank calls it with its own batches.

        Raises:
            CorruptData: more samples than the budget allows; on every rank.
        """
        mine = [self._describe(position, step, held_out=held_out) for position in void_positions(batches)]
        known = list(self.left_out.values()) if self._active else []
        gathered = distributed.collect(accelerator, [known, [entry for entry in mine if entry is not None]])
        recorded, found = ([line for part in parts for line in part] for parts in zip(*gathered, strict=True))
        for line in (*recorded, *sorted(found, key=lambda line: int(line["position"]))):
            self.left_out.setdefault((line["episode"], line["frame"]), line)
        self._record()
        if len(self.left_out) > self.budget:
            last = list(self.left_out.values())[-1]
            raise CorruptData(
                f"{len(self.left_out)} samples cannot be read, {self.budget} may be left out; the last is "
                f"{last['episode']}, frame {last['frame']} ({last['reason']}); repair the data, or allow more with "
                "--data.quarantine"
            )

    def _describe(self, position: int, step: int, *, held_out: bool) -> dict[str, Any] | None:
        """The line for a void sample; None where it has one."""
        samples = self._held_out if held_out else self._samples
        assert samples is not None, "it was made without held-out samples"
        episode, frame = samples.locate(position)
        if (episode, frame) in self.left_out:
            return None
        return {
            "episode": episode,
            "frame": frame,
            "position": position,
            "step": step,
            "held_out": held_out,
            "reason": samples.fault(position) or "it could be read a moment later",
        }

    def _record(self) -> None:
        """Print and write what is new."""
        lines = list(self.left_out.values())
        if not self._active:
            return
        for count, line in enumerate(lines[self._num_told :], start=self._num_told + 1):
            sample = f"{line['episode']}, frame {line['frame']}"
            tqdm.write(f"left out {count} of at most {self.budget} samples: {sample} ({line['reason']})")
        self._num_told = len(lines)
        with contextlib.suppress(OSError):  # a full volume; the lines are tried again with the next ones
            append(self.path, "".join(json.dumps(hide_tree(line)) + "\n" for line in lines[self._num_written :]))
            self._num_written = len(lines)


def void_positions(batches: Sequence[Batch]) -> list[int]:
    """Positions of the samples that weigh nothing; padding, which repeats the last sample of a round, counts once."""
    positions = [batch.positions[batch.weight == 0] for batch in batches]
    return sorted({int(position) for part in positions for position in part})


def num_void(batches: Sequence[Batch]) -> int:
    """How many samples weigh nothing."""
    return sum(int((batch.weight == 0).sum()) for batch in batches)
