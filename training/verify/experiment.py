"""A training told twice: straight, and in legs that are ended before their time, on changing topologies."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from training import recipes
from training.checkpoints import checkpoint
from training.config import RunConfig
from training.flags import parse
from training.settings import Verification
from training.verify.comparison import EXACT, Row, Tolerance, compare
from training.verify.launches import ROOT, Launch, Start, TimeUp, accelerate_launch, last_step
from vla import errors
from vla.documents import to_json
from vla.errors import CorruptData
from vla.randomness import derive

__all__ = ["Experiment", "Kill", "Start", "TimeUp", "Topology"]

OWNED = (
    "--out",
    "--resume-from",
    "--extend-to",
    "--stop-after",
    "--dry-run",
    *(f"--stage{n}.{k}" for n in ("", 1, 2) for k in ("steps", "epochs")),
)


LAG = 3
"""Steps that a run may be ahead of its metrics: a kill drawn later would often find it at its end."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """On what a leg runs."""

    name: str
    ranks: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.name} x {self.ranks}"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """The end of a leg before its time."""

    step: int
    signal: Literal["SIGKILL", "SIGTERM"]
    delay: float
    """Share of a step that passes first."""


class Experiment:
    """A reference run and an interrupted run of one configuration."""

    def __init__(
        self,
        wanted: Verification,
        argv: Sequence[str],
        folder: Path,
        say: Callable[[str], None],
        start: Start | None = None,
    ) -> None:
        """Check everything that can be refused; `say` tells what is being done, `start` starts legs, or a launcher.

        Raises:
            ValueError: the configuration or the request is refused.
        """
        self.wanted, self.folder, self.say = wanted, folder, say
        self.start = start or accelerate_launch
        self.config = shortened(wanted, argv)
        self.total = wanted.steps * len(self.config.stages)
        if self.config.micro_batch == "auto":
            raise ValueError("runs that are compared take as many samples at once: give a number as --micro-batch")
        self.topologies = [topology(word, self.config.micro_batch) for word in wanted.topologies]
        check_topologies(self.config, self.topologies)
        self.kills = draw_kills(wanted, self.total)
        if len(self.topologies) > len(self.kills) + 1:
            raise ValueError(
                f"{len(self.topologies)} topologies need {len(self.topologies) - 1} kills to change between them"
                f"; give --kills {len(self.topologies) - 1}"
            )
        self.failures: list[str] = []
        """Legs that did not end as they should."""
        self.struck, self.repeated = 0, 0
        """Kills that met a running leg, and steps that were trained again because no checkpoint had them."""

    @property
    def exact(self) -> bool:
        """Whether equality of every bit is promised."""
        return len(set(self.topologies)) == 1

    def run(self) -> list[Row]:
        """Train both and compare.

        Raises:
            ValueError: the entry point refuses the configuration.
            TimeUp: a leg did not end.
            CorruptData: a leg failed, or a run left nothing to compare.
        """
        reference, interrupted = self.folder / "reference", self.folder / "interrupted"
        (self.folder / "config.json").write_text(json.dumps(to_json(self.config), indent=1) + "\n")
        self.say(f"reference: {self.topologies[0]}, {self.total} steps")
        with self.leg(reference, self.topologies[0], "reference") as leg:
            self.end(leg, "the reference")
        legs = len(self.kills) + 1
        for number, kill in enumerate([*self.kills, None]):
            chosen, name = self.topologies[number % len(self.topologies)], f"leg {number + 1} of {legs}"
            start = newest_step(interrupted)
            with self.leg(interrupted, chosen, f"leg-{number + 1}") as leg:
                struck = None if kill is None else self.strike(leg, kill, interrupted)
                if struck is None:
                    self.end(leg, name)
            reached = last_step(interrupted)
            self.say(f"{name}: {chosen} from step {start}, {struck or 'to its end'} at step {reached}")
            if struck is None:
                break
            self.struck += 1
            self.repeated += max(0, reached - newest_step(interrupted))
        rows = compare(reference, interrupted, EXACT if self.exact else Tolerance())
        return [*self.ends(), *rows]

    def ends(self) -> list[Row]:
        """The rows on how the legs ended: a trial whose legs were over before they were killed has shown nothing."""
        enough = self.struck >= max(len(self.topologies) - 1, min(1, len(self.kills)))
        met = f"met a running leg; {self.repeated} steps trained again"
        return [
            Row(
                name="kills",
                count=f"{self.struck} of {len(self.kills)}",
                verdict=met if enough else "TOO FEW met a running leg: give more --steps",
                difference=0.0,
                holds=enough,
            ),
            Row(
                name="exit codes",
                count=f"{self.struck + 1} legs",
                verdict=f"DIFFERS: {self.failures[0]}" if self.failures else "as they should",
                difference=0.0,
                holds=not self.failures,
            ),
        ]

    def leg(self, out: Path, chosen: Topology, name: str) -> Launch:
        """Launch a part of a run: from its newest checkpoint, or anew where it has none."""
        flags = ["--config", str(self.folder / "config.json"), "--out", str(out)]
        flags += ["--micro-batch", str(chosen.micro_batch)]
        if newest_step(out):
            flags += ["--init-from", "None", "--resume-from", "auto"]
        else:
            shutil.rmtree(out, ignore_errors=True)
        return Launch(
            self.wanted.recipe,
            flags,
            topology=chosen.name,
            ranks=chosen.ranks,
            log=self.folder / f"{name}.log",
            limit_s=self.wanted.leg_seconds,
            start=self.start,
        )

    def strike(self, leg: Launch, kill: Kill, out: Path) -> str | None:
        """End a leg once it has recorded a step; what was done, or None when it was over before."""
        goal = max(kill.step, last_step(out) + 1)
        times: dict[int, float] = {}

        def reached() -> bool:
            step = last_step(out)
            times.setdefault(step, time.monotonic())
            return step >= goal

        if not leg.wait_until(reached):
            return None
        *_, before, at = times.values() if len(times) > 2 else (0.0, 0.05)  # the first step comes after the start
        time.sleep(kill.delay * (at - before))
        if last_step(out) >= self.total:
            return None
        if kill.signal == "SIGKILL":
            leg.kill()
            return "SIGKILL"
        leg.terminate()
        code = leg.wait()
        if code == errors.DONE:
            return None
        if code != errors.PREEMPTED:
            self.failures.append(f"exit code {code} after SIGTERM instead of {errors.PREEMPTED}; see {leg.log}")
        return f"SIGTERM and exit code {code}"

    def end(self, leg: Launch, name: str) -> None:
        """Wait for the end of a leg.

        Raises:
            ValueError: it refused its configuration; the sentence is its own.
            CorruptData: it failed.
        """
        code = leg.wait()
        if code == errors.REFUSED:
            raise ValueError(leg.last_words(1).removeprefix("error: "))
        if code != errors.DONE:
            raise CorruptData(f"{name} ended with exit code {code}:\n{leg.last_words()}")


def shortened(wanted: Verification, argv: Sequence[str]) -> RunConfig:
    """The configuration of both runs: the user's, with as many steps as wanted and several saves among them.

    Raises:
        ValueError: it is refused, or sets what belongs to the verification.
    """
    if taken := [word for word in argv if word.split("=")[0] in OWNED]:
        raise ValueError(f"{taken[0]} is set by the verification; leave it out (--steps says how long each stage is)")
    config = parse(recipes.RECIPES[wanted.recipe](), argv)
    given = {word.split("=")[0] for word in argv}
    changes: dict[str, Any] = {"resume_from": None, "stop_after": None}
    if "--save-every" not in given:
        changes["save_every"] = max(1, wanted.steps * len(config.stages) // 6)
    if "--tracker" not in given:
        changes["tracker"] = "jsonl"
    changes["stages"] = {
        name: dataclasses.replace(stage, steps=wanted.steps, epochs=None) for name, stage in config.stages.items()
    }
    return dataclasses.replace(config, **changes)


def topology(word: str, micro_batch: int) -> Topology:
    """Of NAME:RANKS or NAME:RANKS:MICRO-BATCH.

    Raises:
        ValueError: it is neither.
    """
    name, *numbers = word.split(":")
    if len(numbers) not in (1, 2) or not all(number.isdecimal() and int(number) for number in numbers):
        raise ValueError(f"--topologies {word} is not NAME:RANKS or NAME:RANKS:MICRO-BATCH, such as zero2:2")
    known = sorted(path.stem for path in (ROOT / "accelerate_configs").glob("*.yaml"))
    if name not in known:
        raise ValueError(f"there is no accelerate_configs/{name}.yaml; give one of {', '.join(known)}")
    return Topology(name=name, ranks=int(numbers[0]), micro_batch=int(numbers[1]) if numbers[1:] else micro_batch)


def check_topologies(config: RunConfig, topologies: Sequence[Topology]) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: the batch does not divide, or dropout would differ.
    """
    for chosen in topologies:
        dataclasses.replace(config, micro_batch=chosen.micro_batch).accumulation(chosen.ranks)
    if len({chosen.micro_batch for chosen in topologies}) > 1 and config.dropout != 0:
        raise ValueError(
            "with another micro-batch dropout draws other masks, so the runs would differ by right"
            "; give one micro-batch, or --dropout 0 after the --"
        )


def draw_kills(wanted: Verification, total: int) -> list[Kill]:
    """After which steps the interrupted run is ended, and how.

    Raises:
        ValueError: there are not so many steps.
    """
    draw = derive(wanted.seed, "kills")
    steps = sorted(set(wanted.kill_at)) or list(range(1, max(total - LAG, 2)))
    if outside := [step for step in steps if not 0 < step < total]:
        raise ValueError(f"--kill-at {outside[0]} lies outside the run; give steps from 1 to {total - 1}")
    if not wanted.kill_at:
        if not 0 <= wanted.kills <= len(steps):
            raise ValueError(f"--kills {wanted.kills} does not fit {total} steps; give at most {len(steps)}")
        steps = sorted(draw.choice(steps, wanted.kills, replace=False).tolist())
    named: dict[str, Sequence[Literal["SIGKILL", "SIGTERM"]]] = {"kill": ["SIGKILL"], "term": ["SIGTERM"]}
    signals = named.get(wanted.signal, ["SIGKILL", "SIGTERM"])
    return [
        Kill(step=step, signal=signals[int(draw.integers(len(signals)))], delay=float(draw.random())) for step in steps
    ]


def newest_step(out: Path) -> int:
    """Step of a run's newest checkpoint, 0 without one."""
    return max((checkpoint.read(path).manifest.step for path in checkpoint.steps(out)), default=0)
