"""What a call of `act` takes, by part: medians of wall-clock time, with a device's work waited for at each border."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from vla.parts.qwen import QwenVL
from vla.policy import Policy

Seconds = dict[str, float]
"""Of one call: `vision` and `language` of the backbone, `context` up to the expert's first call, `expert` in all its
calls, and the `rest`: units, the sampler's arithmetic, a critic."""
PARTS = ("vision", "language", "context", "expert", "rest")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of some calls."""

    calls: int
    rows: float
    """Observations answered at once, the median."""
    milliseconds: dict[str, float]
    """Medians by part, and `all` of a call; the parts' medians need not add up to it."""

    @staticmethod
    def of(calls: Sequence[Seconds]) -> "Latency | None":
        """None where there were none."""
        if not calls:
            return None
        medians = {name: float(np.median([call[name] for call in calls])) for name in ("rows", *PARTS, "all")}
        rows = medians.pop("rows")
        return Latency(calls=len(calls), rows=rows, milliseconds={name: 1e3 * s for name, s in medians.items()})

    def line(self) -> str:
        """As a person reads it."""
        parts = ", ".join(f"{name} {self.milliseconds[name]:.3g}" for name in PARTS)
        return f"act, ms of {self.rows:g} at once: {self.milliseconds['all']:.3g} ({parts})"


@dataclass
class Stopwatch:
    """Times the calls of a policy."""

    policy: Policy
    calls: list[Seconds] = field(default_factory=list)
    _spent: Seconds = field(default_factory=dict)
    _began: Seconds = field(default_factory=dict)
    _waiting: float | None = None
    """Since when the expert could have been called for the first time; None: it has been."""
    _aside: float = 0.0
    """What was spent on something else, for which the clock stood still."""
    _idle: bool = False

    @contextmanager
    def call(self, rows: int) -> Iterator[None]:
        """Within it `act` is called once, for so many observations."""
        self._spent = dict.fromkeys(("backbone", "vision", "context", "expert"), 0.0)
        with ExitStack() as hooks:
            for name, module in self._parts().items():
                before = module.register_forward_pre_hook(lambda *_, name=name: self._begin(name))
                after = module.register_forward_hook(lambda *_, name=name: self._end(name))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            began = self._waiting = self._now()
            yield
            whole, spent = self._now() - began, self._spent
        language = spent["backbone"] - spent["vision"]
        rest = whole - spent["backbone"] - spent["context"] - spent["expert"]
        told = {"vision": spent["vision"], "language": language, "context": spent["context"]}
        self.calls.append({"rows": float(rows), **told, "expert": spent["expert"], "rest": rest, "all": whole})

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within it, inside a call, what does not belong to acting is done, such as a loss."""
        began, self._idle = self._now(), True
        yield
        self._aside, self._idle = self._aside + self._now() - began, False

    def _parts(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {"backbone": self.policy.backbone, "expert": self.policy.expert}
        if isinstance(self.policy.backbone, QwenVL):
            parts["vision"] = self.policy.backbone.plain.model.visual
        return parts

    def _now(self) -> float:
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize(self.policy.device)
        return time.perf_counter() - self._aside

    def _begin(self, name: str) -> None:
        if self._idle:
            return
        self._began[name] = now = self._now()
        if name == "expert" and self._waiting is not None:
            self._spent["context"], self._waiting = now - self._waiting, None

    def _end(self, name: str) -> None:
        if self._idle:
            return
        now = self._now()
        self._spent[name] += now - self._began[name]
        if name == "backbone":
            self._waiting = now
