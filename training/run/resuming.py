"""What a run is: its stages laid end to end, and what a resumed run must share with the one that was stopped."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from training.checkpoints.checkpoint import Checkpoint
from training.config import ANY_STAGE, RunConfig, digest, younger
from training.engine import stages
from training.settings import Stage
from vla.contract import DataContract
from vla.data.dataset import Dataset
from vla.documents import to_json
from vla.parts import FRESH, PARTS, fitting, row_of
from vla.run_folder import Extension


@dataclass(frozen=True)
class Row:
    """A stage and its place among the run's steps: it takes the policy from step `start` to step `end`."""

    name: str
    stage: Stage
    start: int
    end: int
    epoch: float = math.inf
    """Steps of one pass over the samples."""
    extended: tuple[Extension, ...] = ()
    """What moved its end, the first one first."""

    def factor(self, step: int) -> float:
        """Share of the peak rate at a step of the run.

        An extension goes over to the schedule of the longer stage in a straight line, from the rate that it found,
        within the steps that the warm-up of as many steps would take: no rate jumps, but in a stage without one.
        """
        if not self.extended or self.extended[-1].at <= self.start:
            return self.stage.factor(step - self.start, self.end - self.start, self.epoch)
        last = self.extended[-1]
        before = replace(self, end=last.before, extended=self.extended[:-1])
        if step < last.at:
            return before.factor(step)
        over = last.at + max(1, self.stage.rising(last.to - last.at, self.epoch))
        if step >= over:
            return self.stage.factor(step - self.start, self.end - self.start, self.epoch)
        found = before.factor(last.at - 1)
        aim = self.stage.factor(over - 1 - self.start, self.end - self.start, self.epoch)
        return found + (aim - found) * (step - last.at + 1) / (over - last.at)


def schedule(config: RunConfig, data: Dataset) -> list[Row]:
    """The stages, without the groups the policy does not have, laid end to end."""
    has = {PARTS[row_of(name)].group for name in fitting(config.encoders, data.contract)} | {"expert"}
    placed, start = [], 0
    for name, row in config.stages.items():
        stage = reduce(stages.without, (group for group in FRESH if group not in has), row)
        end = start + stage.total(data.train.num_samples, config.batch_size)
        epoch = math.ceil(data.train.num_samples / config.batch_size)
        placed.append(Row(name, stage, start, end, epoch))
        start = end
    return placed


def extend(rows: Sequence[Row], resumed: Checkpoint | None, to: int | None) -> list[Row]:
    """The stages with the last one ending where the run was extended to, in earlier lives or now, by --extend-to.

    Raises:
        ValueError: there is nothing to extend, or it would end no later.
    """
    *others, last = rows
    if resumed is None:
        if to is not None:
            raise ValueError(
                f"--extend-to {to} goes on with a run, and there is no checkpoint of one: leave it out, and say how "
                "long the run is with --stage.steps"
            )
        return list(rows)
    manifest = resumed.manifest
    end = manifest.extended[-1].to if manifest.extended else last.end
    extended = manifest.extended
    if to is not None and to != end:
        if to <= end:
            raise ValueError(f"--extend-to {to} is no extension: the run ends at step {end}; give more")
        extended = (*extended, Extension(at=manifest.step, before=end, to=to))
        end = to
    return [*others, replace(last, end=end, extended=extended)]


PLACES = "places of the training samples"
"""Which frame stands in which pool, under which instruction and weight: a changed phase column changes the order."""


def content_of(data: Dataset) -> dict[str, Any]:
    """What identifies the data, wherever it lies."""
    contract = to_json(data.contract)
    del contract["instructed"]  # follows from --data.without
    del contract["state_units"], contract["action_units"]  # `check_resumable` compares them, where both sides know them
    if not contract["depth"]:
        del contract["depth"]  # as before depth was read
    for stream in contract["streams"].values():
        stream["names"] = []  # they say nothing of the numbers
        del stream["units"]
    return {
        "data contract": contract,
        "statistics of the training episodes": digest(
            {
                stream: {
                    field: np.asarray(value).tolist()
                    for field, value in vars(statistics).items()
                    if field != "companded"  # follows from --data.compand
                }
                for stream, statistics in data.statistics.items()
            }
        ),
        "number of training samples": data.train.num_samples,
        PLACES: data.train.fingerprint(),
    }


LENGTH = re.compile(r"stages\.\w+\.(steps|epochs)")
"""Settings of how long a stage is."""
EXTENDED = "extended"
"""What a checkpoint holds of extensions, beside the settings: a version that knows of none does not go on with it."""


def shown(settings: Mapping[str, Any], key: str) -> str:
    """A setting as a person gave it: what is usual of younger ones stands nowhere."""
    return repr(settings[key] if key in settings else younger().get(ANY_STAGE.sub("stages.*.", key)))


def check_resumable(
    resumed: Checkpoint, identity: Mapping[str, Any], contract: DataContract, fingerprint: str, end: int
) -> None:
    """Refuse to go on under settings that change what is learned, or on data of other units; `end` is the last step.

    Raises:
        ValueError: names each setting, what the checkpoint has and what was given.
    """
    meaning = resumed.meaning()
    if differences := meaning.contract.unit_differences(contract):
        raise ValueError(
            f"{resumed.path} cannot be resumed: it expects {'; '.join(differences)}. "
            "Give the data of the training, or convert these to its units"
        )
    stored = {key: value for key, value in meaning.identity.items() if key != EXTENDED}
    changed = [key for key in sorted(stored.keys() | identity.keys()) if stored.get(key) != identity.get(key)]
    differences = [f"{key} is {shown(identity, key)}, the checkpoint has {shown(stored, key)}" for key in changed[:3]]
    if resumed.manifest.backbone.fingerprint != fingerprint:
        differences.append("the backbone's files have another fingerprint")
    if differences:
        lengths = [key for key in changed if LENGTH.fullmatch(key) and key in stored and key in identity]
        grown = [key for key in lengths if (identity[key] or 0) > (stored[key] or 0)]
        longer = f"--extend-to {end} instead of {grown[0]}, " if grown else ""
        raise ValueError(
            f"{resumed.path} cannot be resumed: {'; '.join(differences)}. "
            f"Give the same settings, {longer}or start anew from its weights with --init-from"
        )
