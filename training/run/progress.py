"""How far a stage is, for a person: a bar on a terminal; elsewhere a line at a steady pace, which suits a log."""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import tqdm

from vla.commandline import LINE_S

BAR = "{desc} {n_fmt}/{total_fmt}|{bar}| {remaining}{postfix}"


class Progress:
    """The steps of one stage of a run, from the step it is at."""

    def __init__(self, stage: str, *, start: int, end: int, at: int, active: bool) -> None:
        """`start` and `end` are the stage's among the run's steps; only the `active` rank shows something."""
        self._stage, self._start, self._end, self._at, self._active = stage, start, end, at, active
        self._bar: tqdm[Any] | None = None
        self._unsaid: list[Mapping[str, Any]] = []
        self._said_at = -LINE_S

    def steps(self) -> Iterator[int]:
        """The steps that are left, counted from 0 over the whole run."""
        if self._active and sys.stderr.isatty():
            total = self._end - self._start
            self._bar = tqdm(
                desc=self._stage,
                initial=self._at - self._start,
                total=total,
                bar_format=BAR,
                dynamic_ncols=True,
                mininterval=1,
            )
        try:
            for step in range(self._at, self._end):
                yield step
                if self._bar is not None:
                    self._bar.update()
        finally:
            if self._bar is not None:
                self._bar.close()

    def show(self, line: Mapping[str, Any]) -> None:
        """A step, as its line of metrics.jsonl; lines tell means over the steps since the last one."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(" ".join(numbers([line])), refresh=False)
            return
        self._unsaid.append(line)
        now = time.monotonic()
        if now - self._said_at < LINE_S and line["step"] < self._end:
            return
        first, last = line["positions"]
        seconds = (last - first + 1) * (self._end - line["step"]) / mean(self._unsaid, "samples_per_s")
        place = f"{self._stage} {line['step'] - self._start}/{self._end - self._start}"
        tqdm.write(f"{place}: {', '.join(numbers(self._unsaid))}, {remaining(seconds)} left")
        self._unsaid.clear()
        self._said_at = now


def numbers(lines: list[Mapping[str, Any]]) -> list[str]:
    """Loss, highest rate, speed, wait for data, MFU where it is known: means, but for the rate, which is the last."""
    rate = max(lines[-1]["lr"].values(), default=0.0)
    losses = [line for line in lines if line["loss"] is not None]
    loss = f"{mean(losses, 'loss'):.3g}" if losses else "not finite"
    speed, wait = mean(lines, "samples_per_s"), mean(lines, "data_wait")
    told = [f"loss {loss}", f"rate {rate:.2g}", f"{speed:.3g} samples/s", f"data wait {wait:.0%}"]
    return [*told, f"MFU {mean(lines, 'mfu'):.0%}"] if "mfu" in lines[-1] else told


def mean(lines: list[Mapping[str, Any]], name: str) -> float:
    """Of a number of some steps."""
    return float(sum(line[name] for line in lines)) / len(lines)


def remaining(seconds: float) -> str:
    """A time that is left, in minutes or hours."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
