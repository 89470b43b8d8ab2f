"""What a run holds from its first stage to its last: data, place in the schedule, carried state, what guards it."""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn, Self

from training import adapted, distributed, faults, launching, micro_batch
from training.checkpoints import checkpoint
from training.checkpoints.beginning import check_moments, load_weights
from training.checkpoints.checkpoint import Checkpoint
from training.config import RunConfig
from training.ending import exits
from training.ending.preemption import SHARE_FOR_SAVING, SHARE_OF_GRACE, Preemption
from training.ending.watchdog import SAVE_ALLOWANCE, START_ALLOWANCE, Watchdog
from training.engine import stages
from training.engine.gradients import Summed
from training.engine.guard import Guard
from training.engine.sharding import Engine
from training.engine.state import State
from training.exporting import exporter
from training.feeding.loading import SHARE_OF_HANG, Restarts, batches
from training.opening import open_run
from training.prefixes import keep
from training.ranks import rank
from training.run.folder import RunFolder
from training.run.left_out import num_void
from training.run.metrics import Metrics
from training.run.resuming import Row
from training.run.tracking import check_tracker
from vla import errors
from vla.batch import Batch, collate
from vla.redaction import hide
from vla.run_folder import GuardState

Ending = Literal["finished", "stopped", "preempted", "exhausted"]
"""Why steps ended: all taken; --stop-after; a signal; too many were skipped."""


class Session:
    """One run of one process among `accelerator.num_processes`, within a `with`. Every method is collective."""

    def __init__(self, config: RunConfig) -> None:
        """Describe a run; it is opened on entering."""
        self.config = config
        self.out = Path(config.out)
        self.preemption = Preemption(config.grace_seconds, rank(), self._say_expired)
        self.watchdog = Watchdog(config.hang_seconds, self.out / "stacks", rank())
        self.step = 0
        self._folder: RunFolder | None = None
        self._save_is_due = False
        self.validated: dict[int, float | None] = {}
        """The loss of the last validation, by the step it was after; None where it is not finite."""
        self._restarts = Restarts()
        self._stream: Generator[list[Batch]] | None = None
        self._ended = False
        self._held = contextlib.ExitStack()
        self.gradients: Summed | None = None
        """Those of an adapter's first step, until they are told."""

    def __enter__(self) -> Self:
        """Open the run: from here signals are answered and progress is watched.

        Raises:
            ValueError: the configuration is refused; nothing was written.
            CorruptData: a data file or the checkpoint to go on from is damaged.
        """
        self.preemption.install()
        self.watchdog.start()
        self.watchdog.beat("start", START_ALLOWANCE)
        with contextlib.ExitStack() as stack:
            stack.push(self)
            self._open()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give everything back; a peer that is gone because one of them was asked to end is no error."""
        self.watchdog.stop()
        self.preemption.restore()
        if self._folder is not None:
            self._folder.close()
        # A rank whose grace time is over in the middle of a step leaves before the others know that it was signalled.
        asked = self.preemption.requested or exits.code_told() == errors.PREEMPTED
        if isinstance(error, RuntimeError) and exits.lost_peer(error) and asked:
            raise SystemExit(errors.PREEMPTED) from error

    def _open(self) -> None:
        """Read the data and what to go on from; refuse what cannot be trained or would overwrite something."""
        config = self.config
        launching.check(ignore_cluster=config.ignore_cluster)
        self.accelerator = accelerator = distributed.start_accelerator()
        if config.ignore_cluster and (ignored := launching.ignored()):
            accelerator.print(f"--ignore-cluster passes over {', '.join(ignored)}")
        config.check_batch(accelerator.num_processes)
        check_tracker(config.tracker, config.wandb)
        self._folder = RunFolder(config, accelerator)
        self.run = run = micro_batch.decided(open_run(config, self._folder, accelerator), accelerator, self.watchdog)
        self.config = self._folder.config = run.config  # with numbers for what was left open
        self.accumulation = self.config.accumulation(accelerator.num_processes)
        self.state: State | None = None
        self.initial = run.initial
        self._guard_state, self._roll_backs = GuardState(), 0
        if run.resumed is not None:
            self._go_on_from(run.resumed)
        self._save_every = config.steps_between_saves(run.rows[0].epoch)
        if isinstance(config.save_every, str):
            accelerator.print(f"--save-every {config.save_every}: every {self._save_every} steps")

    @property
    def folder(self) -> RunFolder:
        """The run folder, once the run is open."""
        assert self._folder is not None, "the session has been entered"
        return self._folder

    def next_row(self) -> Row | None:
        """The stage to train; of a finished run the last one, to export it; None when this run has ended."""
        if self._ended:
            return None
        return next((row for row in self.run.rows if self.step < row.end), self.run.rows[-1])

    def stopped(self) -> bool:
        """Whether --stop-after has been reached."""
        return self.config.stop_after is not None and self.step >= self.config.stop_after

    def enter(self, row: Row) -> Engine:
        """Build the policy of a stage with the weights reached so far, freeze, print the groups, build the engine."""
        config = self.config
        self.watchdog.beat("building the stage", START_ALLOWANCE)
        dtype = distributed.dtype_of(config.precision)
        given = self.state.weight if self.state is not None else self.initial or {}
        self.policy = policy = adapted.policy_of(row, self.run, given, dtype)
        groups = adapted.enter(row, policy)
        trained = {name for group in groups for name in group.parameters}
        learned = stages.learned(policy, trained | policy.tuned)
        within = self.step > row.start
        if self.state is not None:
            load_weights(policy, self.state.weight, learned, groups, opening=not within)
            if within:
                check_moments(self.state, groups)
        elif self.initial is not None:
            spared = load_weights(policy, self.initial, learned, groups, opening=True, allowed=config.allow_missing)
            if spared:
                self.accelerator.print(f"fresh, or left out, by --allow-missing: {', '.join(spared)}")
        kept = sorted(set(learned) - trained)
        self.export = exporter(policy, kept)
        kept = kept if self.accelerator.is_main_process else []  # rank 0 alone stores them
        self._kept_weights = {name: p.detach().clone() for name, p in policy.named_parameters() if name in kept}
        self.groups = groups
        table = stages.table(row.name, groups, adapted.num_frozen(policy))
        self.accelerator.print(*self.run.data.table(), table, sep="\n")
        policy.to(self.accelerator.device)
        self.kept = keep(config, self.run, policy, self.accelerator, held=self._held, beat=self.watchdog.beat)
        self.gradients = adapted.begin(policy, self.run.data.train, config.seed, self.accelerator)
        self.folder.open(self.step, groups, self._kept_weights, self.run.data, self.run.schedule())
        engine = Engine(
            self.accelerator,
            policy,
            groups,
            betas=config.betas,
            clip=config.clip,
            micro_batch=config.together,
            accumulation=self.accumulation,
            state=self.state,
        )
        self.state = self.initial = None  # it would be held twice for the rest of the run
        self.guard = Guard(config.guard, self.accelerator.device, self._guard_state if within else None)
        self.metrics = Metrics(self.accelerator, self.folder.records, self.guard, row, at=self.step)
        self.metrics.count(policy)
        self.folder.saver.reserve(engine.pieces())
        return engine

    def batches(self, row: Row) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each remaining step of a stage."""
        self._stream = batches(
            self.kept.of(self.run.data.train),
            partial(collate, seed=self.config.seed, stream="noise"),
            first_step=self.step,
            last_step=row.end,
            batch_size=self.config.batch_size,
            micro_batch=self.config.together,
            accumulation=self.accumulation,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            workers=self.config.data.workers,
            timeout_s=SHARE_OF_HANG * self.config.hang_seconds,
            pin=self.accelerator.device.type != "cpu",
            restarts=self._restarts,
        )
        return self._stream

    def leave(self, engine: Engine, row: Row, ending: Ending) -> None:
        """Carry the state of a finished stage to the next, or end the run: export the policy, go back, or give way.

        Raises:
            StorageFailed: the last checkpoint could not be written.
            FloatingPointError: too many steps were skipped, and going back did not help.
            SystemExit: the run was pre-empted, with the exit code that says so.
        """
        self.watchdog.beat("saving", SAVE_ALLOWANCE)
        if self._stream is not None:
            self._stream.close()
        if ending == "preempted":
            self._give_way(engine, row)
        self.folder.finish_save()
        if ending == "exhausted":
            self._roll_back()
        elif row is self.run.rows[-1] or self.stopped():
            if self.folder.saver.failures:
                raise self.folder.give_up()
            self.watchdog.beat("saving", SAVE_ALLOWANCE)
            self.export(engine, self.run, self.folder)
            self._ended = True
            self.folder.records.close()
        else:
            self.state = engine.state()
        engine.close()
        self._held.close()
        del self.policy  # before the next stage builds its own

    def before_step(self, micro_batches: Sequence[Batch]) -> tuple[float, bool]:
        """What the ranks must know together before a step: the weight of the whole batch, and whether to give way.

        Raises:
            CorruptData: more samples cannot be read than may be left out.
            StorageFailed: checkpoints failed too often.
        """
        folder = self.folder
        self.watchdog.beat("waiting for the other ranks")
        if not folder.saver.busy():
            folder.finish_save()
        weight, void, due, preempted, failed = self.metrics.before_step(
            sum(float(batch.weight.sum()) for batch in micro_batches),
            num_void(micro_batches),
            folder.save_is_late(),
            self.preemption.requested,
            folder.saves_fail(),
        )
        self._save_is_due = self._save_is_due or due > 0
        if void:
            self.leave_out(micro_batches)
        if failed:
            raise folder.give_up()
        return weight, bool(preempted)

    def leave_out(self, batches: Sequence[Batch], *, held_out: bool = False) -> None:
        """Record the samples of this rank's batches that could not be read.

        Raises:
            CorruptData: there are more than may be left out.
        """
        self.folder.left_out.settle(self.accelerator, batches, step=self.step + 1, held_out=held_out)

    def save_if_due(self, engine: Engine, row: Row) -> None:
        """Save at the intervals of --save-every and --save-seconds, and at the end of a stage or of the run.

        While steps are being skipped nothing is saved that going back would have to pass over.
        """
        last = self.step == row.end or self.stopped()
        validated = self.config.keep_best and self.step in self.validated
        if not (last or validated or self._save_is_due or self.step % self._save_every == 0):
            return
        self.watchdog.beat("saving", SAVE_ALLOWANCE)
        self.metrics.settle()
        if self.guard.exhausted() or (self.guard.skipped_in_a_row and not last):
            self._save_is_due = True
            return
        self._save(engine, row)
        if self.step % self._save_every == 0:
            self.export.after(self.step, engine, self.run, self.folder)

    def _save(self, engine: Engine, row: Row, *, check: bool = True) -> None:
        began = self.folder.began_from and hide(self.folder.began_from)
        manifest = self.run.manifest(
            row, self.step, engine, init_from=began, guard=self.guard.state(), roll_backs=self._roll_backs
        )
        manifest = replace(manifest, validation_loss=self.validated.get(self.step))
        self.folder.save(engine.pieces(), self._kept_weights, manifest, self.run.meaning(), check=check)
        self._save_is_due = False

    def _give_way(self, engine: Engine, row: Row) -> NoReturn:
        """End for a signal: save if that fits into what is left of the grace time, and say which it was."""
        faults.hit("emergency")
        folder, saver = self.folder, self.folder.saver
        remaining = min(
            distributed.collect(self.accelerator, min(self.config.grace_seconds, self.preemption.remaining_s()))
        )
        began = time.monotonic()
        saves = 1 + saver.busy()
        needed = max(distributed.collect(self.accelerator, saves * saver.seconds_needed(engine.pieces())))
        signal = next(filter(None, distributed.collect(self.accelerator, self.preemption.name)))
        self.metrics.settle()
        affordable = SHARE_FOR_SAVING * remaining
        if needed < affordable:
            folder.finish_save()
            if not folder.holds(self.step):
                self._save(engine, row, check=False)
        folder.finish_save(max(0.0, SHARE_OF_GRACE * remaining - (time.monotonic() - began)))
        how = "saved" if folder.holds(self.step) else "not saved"
        if needed >= affordable:
            how += f"; a save would take {needed:.1f} s, more than {affordable:.1f} s of the {remaining:.1f} s left"
        folder.say(f"{signal} at step {self.step}: {how}; the last checkpoint is {folder.last()}")
        folder.records.close()
        self.accelerator.wait_for_everyone()  # the launcher ends the others as soon as one has left
        raise SystemExit(errors.PREEMPTED)

    def _say_expired(self) -> str:
        """What is said when the grace time is over before the run could end; called from a thread."""
        last = "what it was" if self._folder is None else self._folder.last()
        return f"the grace time is over in the middle of step {self.step + 1}; the last checkpoint is {last}"

    def _roll_back(self) -> None:
        """Go back to the last checkpoint that was not written among skipped steps, once a run.

        Raises:
            FloatingPointError: there is none, or the run has been back before.
        """
        skipped = f"{self.guard.skipped_in_a_row} steps in a row were skipped up to step {self.step}"
        advice = "look at the data of the positions named above, or lower the learning rate"
        if self._roll_backs:
            raise FloatingPointError(f"{skipped}, after going back to a checkpoint as well: {advice}")
        self.watchdog.beat("going back", SAVE_ALLOWANCE)
        good = checkpoint.newest(
            self.out, self.accelerator, accept=lambda found: not found.manifest.guard.skipped_in_a_row
        )
        if good is None:
            raise FloatingPointError(f"{skipped}, and there is no checkpoint to go back to: {advice}")
        if self.accelerator.is_main_process:
            for path in checkpoint.steps(self.out):
                if path.name > good.path.name:
                    checkpoint.discard(path)
        self.folder.say(f"{skipped}: going back to {good.path.name}, once")
        self._go_on_from(good)
        self._roll_backs += 1
        self._save_is_due = False
        self.folder.records.cut_back(self.step)
        self.accelerator.wait_for_everyone()

    def _go_on_from(self, found: Checkpoint) -> None:
        manifest = found.manifest
        self.step, self.state = manifest.step, found.state()
        self.folder.resumed_at = manifest.step
        self._guard_state, self._roll_backs = manifest.guard, manifest.roll_backs
