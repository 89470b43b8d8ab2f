"""Kills a training again and again at random moments, and compares what it ends with with a run that nobody disturbed.

    python -m tests.faults.soak --kills 200 --steps 2000 --topologies zero2 ddp --seed 0

Both stages of a tiny policy on 2 ranks. Each life goes on with `--resume-from auto` from what the last one left, and
is ended by one of KINDS; lives differ in what a resumed run may differ in (loader workers, steps between saves). In the
end every step's record, every tensor of the last checkpoint and the exported policy must be those of the undisturbed
run, bit for bit. The seed fixes what is done at which step; the moment within the step, down to the instruction, is the
machine's. A life that does not end within its limit is a failure and shows the stacks of its ranks.
"""

import argparse
import collections
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.forkserver import ForkServer, Life
from tests.training.launch import ROOT
from training.checkpoints import checkpoint
from training.run.records import Records
from training.verify.comparison import compare
from vla import errors

KINDS = {
    "SIGKILL to all": 4,
    "SIGKILL to all while saving": 4,
    "SIGKILL to one": 3,
    "SIGKILL to one while saving": 2,
    "SIGTERM to all": 3,
    "SIGTERM to one": 3,
    "SIGTERM to all, SIGKILL soon after": 2,
}
"""How often each way to end a life is drawn."""
RANKS = 2
LIMIT_S = 300.0
"""Of a life, from its start or from the signal that should end it; the machine may be doing other work."""
START_S = 10.0
"""How long the ranks that are left may go on after one was ended before its first step; then they are ended too."""
FLAGS = [
    "--data.roots", str(ROOT / "examples" / "needle"), "--data.validation-share", "0.1", "--backbone.path", "tiny",
    "--seed", "5", "--dropout", "0.1", "--batch-size", "4", "--micro-batch", "1", "--tracker", "jsonl",
    "--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32", "--validation-samples", "2",
    "--validate-every", "50", "--stage.lr.expert", "1e-3", "--stage.lr.lora", "1e-3", "--stage.weight-decay", "0.1",
    "--hang-seconds", "30",  # six times that, within LIMIT_S, is what a rank waits in a save that a killed one left
]  # fmt: skip
PROGRESS, HOLD = "SOAK_PROGRESS", "SOAK_HOLD"
"""Environment variables: the file in which rank 0 keeps the last step it has recorded in this life, and the step at
which it waits to be ended, so that no life that is to be killed outruns its kill."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a life is ended."""

    kind: str
    steps: int | None
    """After so many steps of the life, or None: at any moment after its start, which may be before its first step."""
    delay_s: float
    victim: int
    workers: int
    save_every: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a life."""

    plan: Plan | None
    start: int
    """Step it went on from."""
    step: int
    """Last step it recorded."""
    codes: Sequence[int]
    struck: bool
    """Whether it was alive when it should be ended."""
    in_save: bool
    """Whether it left an unfinished save."""
    seconds: float


def note_progress() -> None:
    """Called in every rank before it trains: rank 0 keeps its last recorded step where the soak sees it."""
    if os.environ["RANK"] != "0":
        return
    handle = os.open(os.environ[PROGRESS], os.O_WRONLY | os.O_CREAT, 0o644)
    struck, hold = struck_file(Path(os.environ[PROGRESS])), int(os.environ[HOLD])
    add_step = Records.add_step

    def add(records: Records, line: Any) -> None:
        add_step(records, line)
        os.pwrite(handle, int(line["step"]).to_bytes(8, "little"), 0)
        while line["step"] >= hold and not struck.exists():
            time.sleep(0.01)

    Records.add_step = add  # type: ignore[method-assign]


class Soak:
    """A run that is killed until its kills are used up, and then left to end."""

    def __init__(self, server: ForkServer, folder: Path, *, steps: int, kills: int, topology: str, seed: int) -> None:
        """`steps` of both stages together."""
        self.server = server
        self.folder = folder
        self.total = 2 * (steps // 2)
        self.kills = kills
        self.topology = topology
        self.random = random.Random(seed)
        self.outcomes: list[Outcome] = []

    def start(self, out: Path, plan: Plan | None) -> tuple[Life, Path]:
        """Begin a life of the run folder `out`."""
        progress = self.folder / "progress"
        progress.unlink(missing_ok=True)
        struck_file(progress).unlink(missing_ok=True)
        hold = self.total + 1 if plan is None else self.total - 6
        # Written behind the training, so that only the save takes longer, and the kill finds it.
        faults = "shard.written:sleep=0.3" if plan is not None and "while saving" in plan.kind else ""
        workers, save_every = (0, 50) if plan is None else (plan.workers, plan.save_every)
        flags = ["--stage.steps", self.total // 2, "--data.workers", workers, "--save-every", save_every]
        life = self.server.start(
            [*FLAGS, *flags, "--out", out, "--resume-from", "auto"],
            ranks=RANKS,
            recipe="two_stage",
            topology=self.topology,
            environment={PROGRESS: str(progress), HOLD: str(hold), "TOUCHSTONE_FAULTS": faults},
            prepare="tests.faults.soak:note_progress",
        )
        return life, progress

    def golden(self) -> Path:
        """The undisturbed run."""
        out = self.folder / "golden"
        life, _ = self.start(out, None)
        codes = life.wait(limit_s=LIMIT_S + self.total)
        if codes != [errors.DONE] * RANKS:
            raise AssertionError(f"the undisturbed run ended with {codes}\n{life.report()}")
        return out

    def plan(self, done: int, kills: int) -> Plan:
        """Draw how the next life ends, so that the kills left last for the steps left."""
        draw = self.random
        (kind,) = draw.choices(list(KINDS), KINDS.values())
        left = self.total - done
        steps = min(
            1 + int(draw.random() * 1.6 * left / (kills + 1)), left - 4
        )  # the last kill, too, meets a running life
        return Plan(
            kind=kind,
            steps=None if draw.random() < 0.1 or steps < 1 else steps,
            delay_s=draw.random() * 0.2,
            victim=draw.randrange(RANKS),
            workers=2 if draw.random() < 0.15 else 0,
            save_every=draw.choice((3, 5, 8)),
        )

    def live(self, out: Path, plan: Plan | None) -> Outcome:
        """One life, from its start to its end."""
        began = time.monotonic()
        before, unfinished = newest(out), leftovers(out)
        life, progress = self.start(out, plan)
        struck = plan is not None and self.reach(life, progress, plan, before) and self.strike(life, plan, out)
        struck_file(progress).touch()
        if struck and plan is not None and "to one" in plan.kind and progress_of(progress) <= before:
            self.give_up_start(life)
        codes = life.wait(LIMIT_S if struck else LIMIT_S + self.total)
        life.kill()  # loader processes of a rank that was killed
        outcome = Outcome(
            plan=plan,
            start=before,
            step=max(before, progress_of(progress)),
            codes=codes,
            struck=struck,
            in_save=bool(leftovers(out) - unfinished),
            seconds=time.monotonic() - began,
        )
        if problem := complaint(outcome, life):
            raise AssertionError(f"{problem}: {outcome}\n{life.report()}")
        return outcome

    def reach(self, life: Life, progress: Path, plan: Plan, before: int) -> bool:
        """Wait for the moment of the plan; False when the life ends first."""
        deadline = time.monotonic() + LIMIT_S
        if plan.steps is not None:
            goal = before + plan.steps
            while progress_of(progress) < goal:
                if None not in life.codes():
                    return False
                if time.monotonic() > deadline:
                    life.wait(0)  # shows the stacks
                time.sleep(0.005)
            time.sleep(plan.delay_s)
        else:
            time.sleep(plan.delay_s * 10)
        return None in life.codes()

    def strike(self, life: Life, plan: Plan, out: Path) -> bool:
        """End a life as planned; False when it ended before."""
        if "while saving" in plan.kind:
            deadline = time.monotonic() + 2
            while not any((out / "checkpoints").glob(".staging-*")) and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(plan.delay_s / 10)
        alive = None in life.codes()
        victim = plan.victim if "to one" in plan.kind else None
        life.signal(signal.SIGTERM if "SIGTERM" in plan.kind else signal.SIGKILL, victim)
        if "soon after" in plan.kind:
            time.sleep(plan.delay_s)
            life.signal(signal.SIGKILL)
        return alive

    def give_up_start(self, life: Life) -> None:
        """What the launcher does: a rank that is waited for before the ranks have met ends the others' waiting."""
        deadline = time.monotonic() + START_S
        while None in life.codes() and time.monotonic() < deadline:
            time.sleep(0.05)
        life.kill()

    def run(self) -> Path:
        """Kill the run until the kills are used up, then let it end; every life is written to lives.jsonl."""
        out = self.folder / "run"
        kills = self.kills
        while True:
            done = newest(out)
            outcome = self.live(out, self.plan(done, kills) if kills and done < self.total else None)
            self.outcomes.append(outcome)
            with (self.folder / "lives.jsonl").open("a") as lines:
                lines.write(json.dumps(asdict(outcome)) + "\n")
            if outcome.codes == [errors.DONE] * RANKS:
                return out
            kills -= outcome.struck
            kind = outcome.plan.kind if outcome.plan else "nothing"
            said = f"life {len(self.outcomes)}: steps {outcome.start} to {outcome.step}, {kind}, exit {outcome.codes}"
            print(said + (", in a save" if outcome.in_save else ""), flush=True)

    def report(self) -> dict[str, Any]:
        """What was done."""
        struck = [outcome for outcome in self.outcomes if outcome.struck and outcome.plan]
        lost = [max(0, life.step - after.start) for life, after in zip(self.outcomes, self.outcomes[1:], strict=False)]
        return {
            "kills": len(struck),
            "kills_by_kind": dict(collections.Counter(life.plan.kind for life in struck if life.plan)),
            "kills_before_the_first_step": sum(life.step == life.start for life in struck),
            "kills_that_cut_off_a_save": sum(life.in_save for life in struck),
            "lives": len(self.outcomes),
            "lives_with_loader_workers": sum(bool(life.plan and life.plan.workers) for life in self.outcomes),
            "exit_codes": dict(collections.Counter(str(list(life.codes)) for life in self.outcomes)),
            "steps": self.total,
            "steps_repeated": sum(lost),
            "most_steps_repeated_after_a_kill": max(lost, default=0),
        }


def progress_of(file: Path) -> int:
    """The last step a life has recorded, 0 before the first."""
    return int.from_bytes(file.read_bytes(), "little") if file.exists() else 0


def struck_file(progress: Path) -> Path:
    """The file that says that a life has been ended, or is left to go on."""
    return progress.with_name("struck")


def leftovers(out: Path) -> set[str]:
    """What unfinished saves and deletions left behind."""
    return {path.name for path in (out / "checkpoints").glob(".*")}


def newest(out: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    return max((checkpoint.read(path).manifest.step for path in checkpoint.steps(out)), default=0)


def complaint(outcome: Outcome, life: Life) -> str | None:
    """What is wrong with a life's end, or None.

    Ranks that SIGTERM meets before they listen die of it; once a step is recorded all must end with 75, or 0 where the
    run was over. Whoever loses its peer may end with any code but must end.
    """
    codes, plan = set(outcome.codes), outcome.plan
    printed = "".join(life.output(rank) for rank in range(RANKS))
    if "skipped:" in printed:
        return "a checkpoint that was killed into being is damaged"
    if plan is None or not outcome.struck:
        return None if codes == {errors.DONE} else "a life that nobody disturbed failed"
    if "SIGTERM" in plan.kind and "SIGKILL" not in plan.kind and outcome.step > outcome.start:
        allowed = {errors.PREEMPTED}, {errors.DONE}
        return None if codes in allowed else "SIGTERM must end every rank with 75"
    return None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def soak(
    server: ForkServer, folder: Path, *, steps: int, kills: int, topology: str, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Run and compare; what was done, and what differs."""
    began = time.monotonic()
    work = Soak(server, folder, steps=steps, kills=kills, topology=topology, seed=seed)
    golden = work.golden()
    print(f"the undisturbed run took {time.monotonic() - began:.0f} s", flush=True)
    out = work.run()
    report = {"topology": f"{topology} x {RANKS}", "seed": seed, "left_over": sorted(leftovers(out)), **work.report()}
    report["seconds"] = round(time.monotonic() - began)
    return report, [*differences(golden, out)]


def differences(golden: Path, out: Path) -> Iterator[str]:
    """Where a run differs from the undisturbed one: in its records, its last checkpoint, its policy."""
    for row in compare(golden, out):
        if not row.holds:
            yield f"{row.name}: {row.verdict}"
    if (golden / "validation.jsonl").read_text() != (out / "validation.jsonl").read_text():
        yield "validation.jsonl differs"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2000, help="of both stages together")
    parser.add_argument("--topologies", nargs="+", choices=("ddp", "zero1", "zero2", "zero3"), default=["zero2"])
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--work", type=Path, help="new folder for the runs; kept; default: a temporary one")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    if arguments.work and arguments.work.exists() and any(arguments.work.iterdir()):
        parser.error(f"{arguments.work} is not empty; give a new folder")
    work = arguments.work or Path(tempfile.mkdtemp(prefix="touchstone-soak-"))
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", WANDB_MODE="offline")
    results = []
    for topology in arguments.topologies:
        settings = {"kills": arguments.kills, "steps": arguments.steps, "topology": topology, "seed": arguments.seed}
        print(f"{settings}, runs in {work / topology}", flush=True)
        with ForkServer(work / topology / "server") as server:
            report, found = soak(server, work / topology, **settings)
        results.append({"bitwise_equal": not found, "differences": found, **report})
        print(json.dumps(results[-1], indent=1), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "soaks": results}, indent=1) + "\n")
    if any(result["differences"] or result["left_over"] for result in results):
        sys.exit(f"a run in {work} differs or left something over; repeat with --seed {arguments.seed}")
    if arguments.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
