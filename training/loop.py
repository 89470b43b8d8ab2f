"""The training loop."""

import os

import torch
from torch import Tensor
from tqdm import tqdm

from training import adapted, checking, distributed, faults
from training.config import RunConfig
from training.engine import ema
from training.engine.guard import finite_or_none
from training.engine.sharding import Engine
from training.ranks import rank
from training.run.metrics import Step
from training.run.resuming import Row
from training.session import Ending, Session
from training.validation import validate
from vla.batch import Losses
from vla.randomness import torch_seed


def train(config: RunConfig) -> None:
    """Train the stages of a configuration one after the other, anew or from a checkpoint, and export the policy.

    With --dry-run it is only looked at, and what was found is printed.
    """
    if config.dry_run:
        lines = checking.check(config, os.environ)
        if rank() == 0:
            print(*lines, sep="\n")
        return
    with Session(config) as session:
        while (row := session.next_row()) is not None:
            engine = session.enter(row)
            ending = train_stage(session, engine, row)
            session.leave(engine, row, ending)


def train_stage(session: Session, engine: Engine, row: Row) -> Ending:
    """Take the policy through the remaining steps of a stage. Every rank runs every line."""
    config, accelerator, ranks = session.config, session.accelerator, session.accelerator.num_processes
    device, beat = accelerator.device, session.watchdog.beat
    if session.stopped():
        return "stopped"
    session.policy.set_mode(training=True)
    if session.step == 0:
        check(session, engine)
    batches = session.batches(row)
    for step in session.metrics.progress.steps():
        beat("data", step=step + 1)
        faults.hit("start")
        watch = session.metrics.begin()
        faults.hit("data")
        micro_batches = next(batches)
        watch.data_came()
        watch.pause()
        summed, preempted = session.before_step(micro_batches)
        if preempted:
            return "preempted"
        watch.go_on()

        parts: dict[str, Tensor] = {}
        for index, batch in enumerate(micro_batches):
            beat("forward")
            faults.hit("forward")
            torch.manual_seed(torch_seed(config.seed, "dropout", int(batch.positions[0])))
            last = index == len(micro_batches) - 1
            with engine.micro_batch(last=last):
                moved = batch.to(device)
                losses = weigh(engine(moved), moved.weight, summed or 1.0)  # 0: every sample was left out
                if last:
                    watch.pause()
                beat("backward")
                faults.hit("backward")
                # DDP and ZeRO average gradients over ranks; the loss is a sum over them.
                engine.backward(sum_of(losses) * ranks)
            parts = {part: parts.get(part, 0.0) + loss.detach().double() for part, loss in losses.items()}

        if session.gradients is not None:
            adapted.tell(session.gradients, accelerator, session.step)
            session.gradients = None
        norms = engine.gradient_norms()
        reduced = dict(zip(parts, distributed.sum_over_ranks(accelerator, [*parts.values()]), strict=True))
        skip, spike = session.guard.judge(sum_of(reduced), norms["all"])
        factor = row.factor(step)
        engine.step(factor, ema.decay_at(step + 1, config.ema_decay), norms["all"], skip)
        session.step = step + 1
        session.metrics.add(
            Step(
                step=session.step,
                stage=row.name,
                batch_size=config.batch_size,
                lr={group.group: group.rate * factor for group in session.groups},
                losses=reduced,
                gradient_norms=norms,
                skip=skip,
                spike=spike,
                timing=watch.stop(),
            )
        )
        if session.step % config.validate_every == 0 or session.step == row.end or session.stopped():
            check(session, engine)
        session.save_if_due(engine, row)
        if session.guard.exhausted():
            return "exhausted"
        if session.stopped():
            return "stopped"
    return "finished"


def weigh(losses: Losses, weights: Tensor, total: float) -> dict[str, Tensor]:
    """Each part's share of the step's loss: the weighted mean over all samples of all ranks and micro-batches.

    The total is a number of the host: a tensor made of it would be copied, and the copy waits for the device.
    """
    return {part: (loss * weights).sum() / total for part, loss in losses.items()}


def sum_of(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the parts, which is what is trained."""
    return torch.stack(list(losses.values())).sum()


def check(session: Session, engine: Engine) -> None:
    """Validate, and record the result at the current step."""
    samples = session.kept.of(session.run.data.validation)
    if len(samples) == 0:
        return
    config = session.config
    session.metrics.settle()
    result = validate(
        engine,
        session.policy,
        samples,
        limit=config.validation_samples,
        micro_batch=config.together,
        seed=config.seed,
        beat=session.watchdog.beat,
        settle=lambda unread: session.leave_out(unread, held_out=True),
    )
    session.folder.records.add_validation({"step": session.step, **result})
    session.validated = {session.step: finite_or_none(result["loss"])}
    if session.accelerator.is_main_process:
        tqdm.write(f"step {session.step}: validation loss {result['loss']:.4f} on {result['samples']} held-out samples")
