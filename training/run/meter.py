"""Model FLOPs of the steps of a rank, and how much of what its backbone reads is padding; the device is not asked."""

import functools
from typing import NamedTuple

import torch
from accelerate import Accelerator

from vla.parts.kind import Read
from vla.planning.flops import flops_of
from vla.planning.gpus import reported
from vla.planning.workload import Patches, Workload
from vla.policy import Policy

KEPT = 4096
"""Lengths whose FLOPs are remembered."""


class Work(NamedTuple):
    """Of a step and rank, or summed over ranks."""

    flops: float
    tokens: float
    """That the language model was given, padding not."""
    places: float
    """Padding too."""


class Meter:
    """Counts what the backbone of a policy reads, from step to step."""

    def __init__(self, policy: Policy, draws: int) -> None:
        """Which parameters learn has been decided."""
        self._policy, self._draws = policy, draws
        self._of = functools.lru_cache(KEPT)(self._count)
        self.clear()
        policy.backbone.on_read = self.read

    def clear(self) -> None:
        """A step begins; what was read in between, to validate, is no part of it."""
        self._flops, self._tokens, self._places = 0.0, 0, 0

    def read(self, read: Read) -> None:
        """A micro-batch was read."""
        images = len(read.grids) // len(read.tokens)
        for place, tokens in enumerate(read.tokens):
            own = read.grids[place * images : (place + 1) * images]
            self._flops += self._of(tokens, tuple((rows, columns) for _, rows, columns in own), read.first)
        self._tokens += sum(read.tokens)
        self._places += len(read.tokens) * read.length

    def take(self, samples: int) -> Work:
        """That of the step, of as many samples on this rank; a sentence encoder reads none of them anew."""
        flops = self._flops if self._places else samples * self._of(0, ())
        return Work(flops, self._tokens, self._places)

    def _count(self, tokens: int, images: tuple[Patches, ...], first: int = 0) -> float:
        work = Workload(tokens=tokens, images=images, draws=self._draws, first=first)
        return float(flops_of(self._policy, work).model)


def peak_of(accelerator: Accelerator, policy: Policy) -> float | None:
    """FLOP/s that this rank's device has at most; None where its kind, or its rate in this arithmetic, is not known."""
    if accelerator.device.type != "cuda" or policy.compute_dtype != torch.bfloat16:
        return None
    gpu = reported(torch.cuda.get_device_name(accelerator.device))
    return None if gpu is None else float(gpu.flops)
