"""What a run is: its stages laid end to end, and what a resumed run must share with the one that was stopped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from training.checkpoints.checkpoint import Checkpoint
from training.config import RunConfig, digest
from training.engine import stages
from training.settings import Stage
from vla.contract import DataContract
from vla.data.dataset import Dataset
from vla.documents import to_json
from vla.parts import FRESH, PARTS, fitting, row_of


@dataclass(frozen=True)
class Row:
    """A stage and its place among the run's steps: it takes the policy from step `start` to step `end`."""

    name: str
    stage: Stage
    start: int
    end: int
    epoch: float = math.inf
    """Steps of one pass over the samples."""

    def factor(self, step: int) -> float:
        """Share of the peak rate at a step of the run."""
        return self.stage.factor(step - self.start, self.end - self.start, self.epoch)


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


def check_resumable(resumed: Checkpoint, identity: Mapping[str, Any], contract: DataContract, fingerprint: str) -> None:
    """Refuse to go on under settings that change what is learned, or on data of other units.

    Raises:
        ValueError: names each setting, what the checkpoint has and what was given.
    """
    meaning = resumed.meaning()
    if differences := meaning.contract.unit_differences(contract):
        raise ValueError(
            f"{resumed.path} cannot be resumed: it expects {'; '.join(differences)}. "
            "Give the data of the training, or convert these to its units"
        )
    stored = meaning.identity
    changed = [key for key in sorted(stored.keys() | identity.keys()) if stored.get(key) != identity.get(key)]
    differences = [f"{key} is {identity.get(key)!r}, the checkpoint has {stored.get(key)!r}" for key in changed[:3]]
    if resumed.manifest.backbone.fingerprint != fingerprint:
        differences.append("the backbone's files have another fingerprint")
    if differences:
        raise ValueError(
            f"{resumed.path} cannot be resumed: {'; '.join(differences)}. "
            "Give the same settings, or start anew from its weights with --init-from"
        )
