"""The training loop."""

import math
import sys
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training import ema, runtime
from training.config import RunConfig
from training.session import Row, Session
from training.sharding import Engine
from training.validation import validate
from vla.batch import Batch, Losses
from vla.data.order import torch_seed


def train(config: RunConfig) -> None:
    """Train the stages of a configuration one after the other, anew or from a checkpoint, and export the policy."""
    session = Session(config)
    for row in session.remaining():
        engine = session.enter(row)
        train_stage(session, engine, row)
        session.leave(engine, row)
        if session.stopped():
            break
    session.records.close()


def train_stage(session: Session, engine: Engine, row: Row) -> None:
    """Take the policy through the remaining steps of a stage. Every rank runs every line."""
    config, accelerator, ranks = session.config, session.accelerator, session.accelerator.num_processes
    total = row.end - row.start
    if session.stopped():
        return
    session.policy.set_mode(training=True)
    if session.step == 0:
        check(session, engine)
    batches = session.batches(row)
    for step in progress(session, row):
        began = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - began

        weight, due = runtime.total(
            accelerator, sum(float(b.weight.sum()) for b in micro_batches), session.save_is_due()
        )
        parts: dict[str, float] = {}
        for index, batch in enumerate(micro_batches):
            torch.manual_seed(torch_seed(config.seed, "dropout", int(batch.positions[0])))
            losses = weigh(engine(batch.to(accelerator.device)), batch, weight)
            # DDP and ZeRO average gradients over ranks; the loss is a sum over them.
            engine.backward(sum_of(losses) * ranks, last=index == len(micro_batches) - 1)
            parts = {part: parts.get(part, 0.0) + float(loss.detach()) for part, loss in losses.items()}

        norms = engine.gradient_norms()
        reduced = dict(zip(parts, runtime.total(accelerator, *parts.values()), strict=True))
        loss = sum(reduced.values())
        if not (math.isfinite(loss) and math.isfinite(norms["all"])):
            raise FloatingPointError(f"step {step + 1}: loss {loss}, gradient norm {norms['all']}; nothing was stepped")
        factor = row.stage.factor(step - row.start, total)
        engine.step(factor, ema.decay_at(step + 1, config.ema_decay), norms["all"])
        session.step = step + 1

        measured = time.perf_counter() - began, waited, runtime.memory_mb(accelerator)
        seconds, waited, memory_mb = (value / ranks for value in runtime.total(accelerator, *measured))
        line = {
            "step": session.step,
            "stage": row.stage.name,
            "loss": loss,
            "losses": reduced,
            "lr": {group.group: group.rate * factor for group in session.groups},
            "grad_norm": norms,
            "samples_seen": session.step * config.batch_size,
            "positions": [step * config.batch_size, session.step * config.batch_size - 1],
            "samples_per_s": config.batch_size / seconds,
            "data_wait": waited / seconds,
            "memory_mb": memory_mb,
        }
        session.records.add_step(line)
        last = session.step == row.end or session.stopped()
        if session.step % config.validate_every == 0 or last:
            check(session, engine)
        if session.step % config.save_every == 0 or due or last:
            session.save(engine, row)
        if session.stopped():
            return


def weigh(losses: Losses, batch: Batch, weight: float) -> dict[str, Tensor]:
    """Each part's share of the step's loss: the weighted mean over all samples of all ranks and micro-batches."""
    weights = batch.weight.to(next(iter(losses.values())).device)
    return {part: (loss * weights).sum() / weight for part, loss in losses.items()}


def sum_of(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the parts, which is what is trained."""
    return torch.stack(list(losses.values())).sum()


def check(session: Session, engine: Engine) -> None:
    """Validate, and record the result at the current step."""
    samples = session.data.validation
    if len(samples) == 0:
        return
    config = session.config
    result = validate(engine, session.policy, samples, config.validation_samples, config.micro_batch)
    session.records.add_validation({"step": session.step, **result})
    if session.accelerator.is_main_process:
        tqdm.write(f"step {session.step}: validation loss {result['loss']:.4f} on {result['samples']} held-out samples")


def progress(session: Session, row: Row) -> Any:
    """The stage's steps, with a bar on rank 0's terminal."""
    return tqdm(
        range(session.step, row.end),
        desc=row.stage.name,
        initial=session.step - row.start,
        total=row.end - row.start,
        disable=not session.accelerator.is_main_process,
        mininterval=1 if sys.stderr.isatty() else 30,
        unit="step",
        dynamic_ncols=True,
    )
