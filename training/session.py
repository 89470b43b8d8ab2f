"""What a run holds from its first stage to its last: data, place in the schedule, carried state, what guards it."""

import dataclasses
import logging
import os
import socket
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from torch import Tensor

from training import distributed, faults
from training.checkpoints import checkpoint
from training.checkpoints.beginning import (
    check_moments,
    check_origin,
    load_weights,
    normalizers_from_json,
    normalizers_to_json,
    read_origin,
)
from training.checkpoints.checkpoint import Checkpoint
from training.config import RunConfig, digest, flatten
from training.ending import exits
from training.ending.preemption import SHARE_OF_GRACE, Preemption
from training.ending.watchdog import Watchdog
from training.engine import stages
from training.engine.guard import Guard
from training.engine.sharding import Engine, State
from training.feeding.loading import Restarts, batches
from training.run.folder import RunFolder
from training.run.left_out import num_void
from training.run.metrics import Metrics
from training.run.resuming import Row, check_resumable, content_of, schedule
from training.run.tracking import check_tracker
from vla import cache, errors
from vla.batch import Batch, collate
from vla.data.dataset import Dataset, open_dataset
from vla.data.episode import mark_of
from vla.normalize import Normalizer
from vla.objectives import objective_of
from vla.parts.backbone import fingerprint
from vla.policy import assemble, streams
from vla.policy_folder import HeldOut, save_policy
from vla.redaction import hide, hide_tree
from vla.run_folder import SCHEMA, BackboneName, GuardState, Manifest, Meaning, Schedule, ScheduledStage

Ending = Literal["finished", "stopped", "preempted", "exhausted"]
"""Why a stage's steps ended: all taken; --stop-after; a signal; too many steps in a row were skipped."""

START_ALLOWANCE, SAVE_ALLOWANCE = 6.0, 6.0
"""How many times --hang-seconds opening a stage and ending a save may take."""
SHARE_FOR_DATA = 0.25
"""Of --hang-seconds, what a loader process may take for a micro-batch, so that it can be replaced twice within them."""
SHARE_FOR_SAVING = 0.6
"""Of the grace time that is left, what an emergency save may be expected to take."""


class Session:
    """One run of one process among `accelerator.num_processes`, within a `with`. Every method is collective."""

    def __init__(self, config: RunConfig) -> None:
        """Describe a run; it is opened on entering."""
        self.config = config
        self.out = Path(config.out)
        rank = int(os.environ.get("RANK", "0"))
        self.preemption = Preemption(config.grace_seconds, rank, self._say_expired)
        self.watchdog = Watchdog(config.hang_seconds, self.out / "stacks", rank)
        self.step = 0
        self._folder: RunFolder | None = None
        self._save_is_due = False
        self._restarts = Restarts()
        self._stream: Generator[list[Batch]] | None = None
        self._ended = False

    def __enter__(self) -> Self:
        """Open the run: from here signals are answered and progress is watched.

        Raises:
            ValueError: the configuration is refused; nothing was written.
            CorruptData: a data file or the checkpoint to go on from is damaged.
        """
        self.preemption.install()
        self.watchdog.start()
        self.watchdog.beat("start", START_ALLOWANCE)
        try:
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
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
        self.accelerator = accelerator = distributed.start_accelerator()
        self.accumulation = config.accumulation(accelerator.num_processes)
        check_tracker(config.tracker)
        self._folder = RunFolder(config, accelerator)
        resumed = self._folder.resumed()
        self.data: Dataset = self._open_data()
        self.normalizers: Mapping[str, Normalizer] = {
            stream: Normalizer.of(self.data.statistics[stream], config.data.normalization)
            for stream in streams(self.data.contract)
        }
        self.rows = schedule(config, self.data)
        self.fingerprint: str = distributed.share(
            accelerator,
            fingerprint(config.backbone.path, verify=config.data.verify) if accelerator.is_main_process else None,
        )
        self.state: State | None = None
        self.initial: Mapping[str, Tensor] | None = None
        self._guard_state = GuardState()
        self._roll_backs = 0
        self.identity: dict[str, Any] = hide_tree(config.identity() | flatten(content_of(self.data)))
        """What a resumed run must share with the one that was stopped: settings, and the data by its content."""
        if resumed is not None:
            check_resumable(resumed, self.identity, self.fingerprint)
            self._go_on_from(resumed)
            self.normalizers = normalizers_from_json(resumed.meaning().normalizer)
            accelerator.print(f"resuming {resumed.path} at step {self.step} of {self.rows[-1].end}")
        elif (place := self._folder.began_from) is not None:
            if config.resume_from is not None:
                accelerator.print(f"{self.out} has no checkpoint: it begins with the weights of {place}, as before")
            origin = read_origin(place, config.backbone.path, accelerator)
            check_origin(origin, place, config.data, self.data.contract, self.fingerprint)
            self.initial, self.normalizers = origin.weights, origin.normalizers
        elif self.rows[0].stage.name == "stage2":
            raise ValueError(
                "stage 2 goes on from a stage-1 run: give --init-from RUN, or train both with training/two_stage.py"
            )
        self._hosts: list[str] = distributed.collect(accelerator, socket.gethostname())

    def _open_data(self) -> Dataset:
        """The data, whose numbers one rank of each machine reads, unless an earlier start has read the same files."""
        accelerator, data, seed = self.accelerator, self.config.data, self.config.seed
        if not accelerator.is_main_process:
            cache.log.setLevel(logging.ERROR)  # what rank 0 finds of the cache, it says
        if not accelerator.is_local_main_process:
            data = dataclasses.replace(data, verify=False)  # the one before has
        opened = distributed.one_first(accelerator, lambda: open_dataset(data, seed))
        if opened.recalled:
            accelerator.print("statistics and checks are known from an earlier start; --data.verify reads all numbers")
        return opened

    @property
    def folder(self) -> RunFolder:
        """The run folder, once the run is open."""
        assert self._folder is not None, "the session has been entered"
        return self._folder

    def next_row(self) -> Row | None:
        """The stage to train; of a finished run the last one, to export it; None when this run has ended."""
        if self._ended:
            return None
        return next((row for row in self.rows if self.step < row.end), self.rows[-1])

    def stopped(self) -> bool:
        """Whether --stop-after has been reached."""
        return self.config.stop_after is not None and self.step >= self.config.stop_after

    # Stages.

    def enter(self, row: Row) -> Engine:
        """Build the policy of a stage with the weights reached so far, freeze, print the groups, build the engine."""
        config = self.config
        self.watchdog.beat("building the stage", START_ALLOWANCE)
        dtype = distributed.dtype_of(config.precision)
        self.policy = policy = assemble(
            config.policy(row.stage), self.data.contract, self.normalizers, dtype=dtype, seed=config.seed
        )
        tail = policy.backbone.last_layer_names(config.finetune_layers) if row.stage.lr.backbone is not None else set()
        policy.objective = objective_of(row.stage.objective)
        groups = stages.enter(row.stage, policy, {f"backbone.{name}" for name in tail})
        learned = [name for name, _ in policy.named_parameters() if stages.group_of(name, ()) != stages.FROZEN]
        trained = {name for group in groups for name in group.parameters}
        for name, parameter in policy.named_parameters():
            if name in trained:
                parameter.data = parameter.data.float()  # the last blocks come in the dtype of the frozen ones
        within = self.step > row.start
        if self.state is not None:
            load_weights(policy, self.state.weight, learned, groups, opening=not within)
            if within:
                check_moments(self.state, groups)
        elif self.initial is not None:
            load_weights(policy, self.initial, learned, groups, opening=True)
        self.kept = sorted(set(learned) - trained)
        kept = set(self.kept) if self.accelerator.is_main_process else set()
        self._kept_weights = {name: p.detach().clone() for name, p in policy.named_parameters() if name in kept}
        self.groups = groups
        num_frozen = sum(parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad)
        self.accelerator.print(*self.data.table(), stages.table(row.stage, groups, num_frozen), sep="\n")
        self.folder.open(self.step, groups, self._kept_weights, self.data, self._schedule())
        policy.to(self.accelerator.device)
        engine = Engine(
            self.accelerator,
            policy,
            groups,
            betas=config.betas,
            clip=config.clip,
            micro_batch=config.micro_batch,
            accumulation=self.accumulation,
            state=self.state,
        )
        self.state = self.initial = None  # it would be held twice for the rest of the run
        self.guard = Guard(config.guard, self.accelerator.device, self._guard_state if within else None)
        self.metrics = Metrics(self.accelerator, self.folder.records, self.guard, self._hosts)
        self.folder.saver.reserve(engine.pieces())
        return engine

    def _backbone(self) -> BackboneName:
        return BackboneName(id=hide(self.config.backbone.path), fingerprint=self.fingerprint)

    def _schedule(self) -> Schedule:
        """What was decided, for those who read the run folder."""
        stages = tuple(
            ScheduledStage(name=row.stage.name, start=row.start, end=row.end, rates=row.stage.lr.by_group())
            for row in self.rows
        )
        contract = self.data.contract
        return Schedule(entry=self.config.entry, stages=stages, contract=contract, backbone=self._backbone())

    def batches(self, row: Row) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each remaining step of a stage."""
        config = self.config
        self._stream = batches(
            self.data.train,
            partial(collate, seed=config.seed, stream="noise"),
            first_step=self.step,
            last_step=row.end,
            batch_size=config.batch_size,
            micro_batch=config.micro_batch,
            accumulation=self.accumulation,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            workers=config.data.workers,
            timeout_s=SHARE_FOR_DATA * config.hang_seconds,
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
        elif row is self.rows[-1] or self.stopped():
            if self.folder.saver.failures:
                raise self.folder.give_up()
            self.watchdog.beat("saving", SAVE_ALLOWANCE)
            self.export(engine)
            self._ended = True
            self.folder.records.close()
        else:
            self.state = engine.state()
        engine.close()
        del self.policy  # before the next stage builds its own

    # Steps.

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
        if not (last or self._save_is_due or self.step % self.config.save_every == 0):
            return
        self.watchdog.beat("saving", SAVE_ALLOWANCE)
        self.metrics.settle()
        if self.guard.exhausted() or (self.guard.skipped_in_a_row and not last):
            self._save_is_due = True
            return
        self._save(engine, row)

    def _save(self, engine: Engine, row: Row, *, check: bool = True) -> None:
        config = self.config
        manifest = Manifest(
            schema=SCHEMA,
            step=self.step,
            stage=row.stage.name,
            samples_seen=self.step * config.batch_size,
            seed=config.seed,
            config=digest(self.identity),
            backbone=self._backbone(),
            lora=config.policy(row.stage).lora,
            init_from=self.folder.began_from and hide(self.folder.began_from),
            groups=stages.sizes(self.groups),
            ranks=self.accelerator.num_processes,
            zero_stage=engine.zero_stage,
            adam_steps=engine.adam_steps(),
            guard=self.guard.state(),
            roll_backs=self._roll_backs,
            shapes={name: tuple(shape) for name, shape in engine.shapes.items()},
        )
        meaning = Meaning(
            identity=self.identity,
            contract=self.data.contract,
            normalizer=normalizers_to_json(self.normalizers),
        )
        self.folder.save(engine.pieces(), self._kept_weights, manifest, meaning, check=check)
        self._save_is_due = False

    def export(self, engine: Engine) -> None:
        """Write RUN/policy with the averaged weights."""
        tensors = engine.gather("ema") | engine.frozen(self.kept)
        if self.accelerator.is_main_process:
            held_out = HeldOut(
                seed=self.config.seed,
                episodes=tuple(mark_of(episode) for root in self.data.validation.episodes() for episode in root),
            )
            save_policy(self.policy, self.out / "policy", tensors, held_out)
            print(f"policy: {self.out / 'policy'}")
        self.accelerator.wait_for_everyone()

    # Ending early, going back.

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
