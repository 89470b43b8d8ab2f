"""What a run is, once its data and what it goes on from have been read; whatever cannot be trained is refused here."""

import dataclasses
import logging
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from training import distributed, forgetting
from training.checkpoints.beginning import (
    Beginning,
    check_base,
    check_origin,
    check_unconditional,
    normalizers_from_json,
    normalizers_to_json,
    read_origin,
    seen_now,
)
from training.checkpoints.checkpoint import Checkpoint
from training.config import RunConfig, digest, flatten
from training.engine import stages
from training.engine.sharding import Engine
from training.planned import plan_stages
from training.run.folder import RunFolder
from training.run.resuming import EXTENDED, Row, check_resumable, content_of, extend, schedule
from training.run.sizes import became, check_sizes, sizes_of, with_sizes, with_suited_sizes
from vla import cache, provenance
from vla.contract import DataContract
from vla.data.dataset import Dataset, open_dataset
from vla.data.episode import mark_of
from vla.documents import to_json
from vla.motion.body import PLACES_M
from vla.normalize import ANSWERS, INPUTS, Normalizer
from vla.objectives import objective_of
from vla.parts import PARTS, fitting, row_of
from vla.parts.backbone import base_of, fingerprint, width_of
from vla.parts.demands import check_demands
from vla.policy_folder import HeldOut
from vla.provenance import Origin, Versions
from vla.redaction import hide, hide_tree
from vla.run_folder import SCHEMA, BackboneName, GuardState, Manifest, Meaning, Planned, Schedule, ScheduledStage
from vla.settings import DataConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """The same on every rank, from the first stage to the last."""

    config: RunConfig
    data: Dataset
    rows: list[Row]
    """The stages, laid end to end."""
    normalizers: Mapping[str, Normalizer]
    fingerprint: str
    """Of the backbone."""
    identity: Mapping[str, Any]
    """What a resumed run must share with the one that was stopped: settings, and the data by its content."""
    resumed: Checkpoint | None
    """What it goes on from."""
    planned: Mapping[str, Planned]
    """By stage, where the GPUs are known."""
    initial: Mapping[str, Tensor] | None
    """Weights that it begins with; None where they are fresh, or those of the checkpoint."""

    def backbone(self) -> BackboneName:
        """Which backbone the weights belong to."""
        return BackboneName(id=hide(self.config.backbone.path), fingerprint=self.fingerprint)

    def schedule(self) -> Schedule:
        """What was decided, for those who read the run folder."""
        rows = tuple(
            ScheduledStage(
                name=row.name,
                start=row.start,
                end=row.end,
                rates=row.stage.lr.by_group(),
                planned=self.planned.get(row.name),
            )
            for row in self.rows
        )
        return Schedule(entry=self.config.entry, stages=rows, contract=self.data.contract, backbone=self.backbone())

    def meaning(self) -> Meaning:
        """What the weights of its checkpoints mean."""
        return Meaning(
            identity=self.identity, contract=self.data.contract, normalizer=normalizers_to_json(self.normalizers)
        )

    def manifest(
        self, row: Row, step: int, engine: Engine, *, init_from: str | None, guard: GuardState, roll_backs: int
    ) -> Manifest:
        """That of the checkpoint after a step, but for its files."""
        return Manifest(
            schema=SCHEMA,
            step=step,
            stage=row.name,
            samples_seen=step * self.config.batch_size,
            seed=self.config.seed,
            config=digest(self.identity),
            backbone=self.backbone(),
            lora=self.config.policy(row.stage).lora,
            init_from=init_from,
            groups=stages.sizes(engine.groups),
            ranks=engine.accelerator.num_processes,
            zero_stage=engine.zero_stage,
            adam_steps=engine.adam_steps(),
            guard=guard,
            roll_backs=roll_backs,
            shapes={name: tuple(shape) for name, shape in engine.shapes.items()},
            versions=provenance.here(),
            extended=self.rows[-1].extended,
        )

    def held_out(self) -> HeldOut:
        """What finds the episodes again that it does not train on."""
        episodes = (episode for root in self.data.validation.episodes() for episode in root)
        return HeldOut(seed=self.config.seed, episodes=tuple(map(mark_of, episodes)))

    def origin(self) -> Origin:
        """What its policy is made with and from, for whoever gets the policy without the run."""
        path = self.config.backbone.path
        return Origin(versions=provenance.here(), base=base_of(path), data=self.data.sources())


def open_run(config: RunConfig, folder: RunFolder, accelerator: Accelerator) -> Run:
    """Read the data and what to go on from; collective.

    Raises:
        ValueError: it cannot be trained, or would overwrite something; nothing was written.
        CorruptData: a data file or the checkpoint to go on from is damaged.
    """
    check_preserving(config)
    check_adapted(config)
    resumed = folder.resumed()
    say_beginning(config, folder, resumed, accelerator)
    config = folder.config = forgetting.decide(config, accelerator)
    data = open_data(config, accelerator)
    normalizers = normalizers_of(data, config.data)
    rows, initial = schedule(config, data), None
    for row in rows:
        objective_of(row.stage.objective, data.contract)  # a later stage is refused before the first one has trained
    backbone: str = distributed.share(
        accelerator,
        fingerprint(config.backbone.path, config.backbone.pooling, verify=config.data.verify)
        if accelerator.is_main_process
        else None,
    )
    check_demands(config.backbone, config.encoders, data.contract, config.opened)
    origin = None
    if resumed is None and (place := folder.began_from) is not None:
        origin = read_origin(place, config.backbone.path, accelerator)
        check_origin(origin, place, config.data, data.contract, backbone)
        check_unconditional(origin, config.diffusion)
        if config.adapts:
            check_base(origin, config)
            if said := seen_now(origin, data):
                accelerator.print(said)
    if resumed is None and origin is None:
        check_fresh(config, data.contract)
    config = folder.config = sized(config, data, resumed, origin, accelerator)
    planned = plan_stages(config, data, rows, accelerator)
    identity: dict[str, Any] = hide_tree(config.identity() | flatten(content_of(data)))
    if resumed is not None:
        check_resumable(resumed, identity, data.contract, backbone, rows[-1].end)
        say_other_versions(resumed.manifest.versions, accelerator)
        normalizers = normalizers_from_json(resumed.meaning().normalizer)
    rows = extend(rows, resumed, config.extend_to)
    if resumed is not None:
        identity |= {EXTENDED: [to_json(extension) for extension in rows[-1].extended]} if rows[-1].extended else {}
        say_resuming(resumed, rows, accelerator)
    elif origin is not None:
        if config.resume_from is not None:
            accelerator.print(
                f"{config.out} has no checkpoint: it begins with the weights of {origin.place}, as before"
            )
        initial, normalizers = origin.weights, origin.normalizers
    return Run(
        config=config,
        data=data,
        rows=rows,
        normalizers=normalizers,
        fingerprint=backbone,
        identity=identity,
        resumed=resumed,
        planned=planned,
        initial=initial,
    )


def say_beginning(config: RunConfig, folder: RunFolder, resumed: Checkpoint | None, accelerator: Accelerator) -> None:
    """Say, before all else, which weights the run begins with.

    Raises:
        ValueError: its first stage goes on from other weights, and there are none.
    """
    if resumed is not None:
        return
    check_begins(config, folder.began_from)
    fresh = folder.began_from is None
    accelerator.print(
        f"weights: fresh, from seed {config.seed}" if fresh else f"weights: the averaged ones of {folder.began_from}"
    )


def check_begins(config: RunConfig, weights: str | None) -> None:
    """Refuse a first stage that goes on from weights where there are none (ValueError)."""
    name, first = next(iter(config.stages.items()))
    if weights is None and config.resume_from is None and first.begins == "weights":
        raise ValueError(
            f"{name} goes on from the weights of another run: give --init-from RUN, or --stage.begins anew without"
        )
    if weights is None and config.resume_from is None and config.adapts:
        raise ValueError("an adapter of fresh weights is of no use: give --init-from, with the run of its base")


def check_adapted(config: RunConfig) -> None:
    """Refuse what an adapter cannot be trained by, and what only an adapter can (ValueError)."""
    rates = {name: stage.lr.by_group() for name, stage in config.stages.items()}
    for own in rates.values():
        others = sorted(own.keys() - {"adapter"})
        if "adapter" in own and (others or len(rates) > 1):
            raise ValueError(
                "an adapter is trained alone, of a policy that stays as it is: "
                + (
                    f"give {' '.join(f'--stage.lr.{group} None' for group in others)}"
                    if others
                    else "use training/adapter.py on the finished run"
                )
            )
    for stage in config.stages.values():
        if stage.objective.kind == "erase" and not config.adapts:
            raise ValueError(
                "--stage.objective.kind erase asks the policy without its adapter what to forget, and none is "
                "trained: use training/adapter.py"
            )
        untold = stage.objective.kind == "erase" and not config.forget.anchor
        if untold and not config.diffusion.unconditional:
            raise ValueError(
                "--stage.objective.kind erase needs a base that answers without an instruction, and this one was "
                "trained with --diffusion.unconditional 0: train one with 0.1, or give --anchor, another instruction"
            )


def check_preserving(config: RunConfig) -> None:
    """Refuse to preserve what a policy is without its adapter in a stage that trains none (ValueError)."""
    for name, stage in config.stages.items():
        if config.data.preserve and stage.lr.adapter is None:
            raise ValueError(
                f"--data.preserve {config.data.preserve:g} keeps a policy as it is without its adapter, and {name} "
                "trains none: give --stage.lr.adapter 1e-4, or --data.preserve 0"
            )


def check_fresh(config: RunConfig, contract: DataContract) -> None:
    """Refuse fresh weights of a policy of motion, whose recipes train the expert alone, that stay so (ValueError)."""
    trained = {group for stage in config.stages.values() for group in stage.lr.by_group()}
    has = {PARTS[row_of(name)].group for name in fitting(config.encoders, contract)}
    if contract.body is not None and (idle := sorted(has - trained)):
        raise ValueError(
            f"nothing trains the {idle[0]} encoder, whose weights are fresh: give --stage.lr.{idle[0]} 3e-4, or leave "
            "that encoder out"
        )


def say_resuming(resumed: Checkpoint, rows: Sequence[Row], accelerator: Accelerator) -> None:
    """Say where the run goes on, and what an extension that begins here does to the rates."""
    step, last = resumed.manifest.step, rows[-1]
    accelerator.print(f"resuming {resumed.path} at step {step} of {last.end}")
    if last.extended[len(resumed.manifest.extended) :]:
        ahead = [last.factor(later) for later in range(max(step, last.start), last.end)]
        found, peak = last.factor(step - 1) if step > last.start else 0.0, max(ahead)
        accelerator.print(
            f"extended from step {last.extended[-1].before} to {last.end}: rates go from {found:.2g} of their peaks to "
            f"{peak:.2g} at step {max(step, last.start) + ahead.index(peak) + 1}, then down to {ahead[-1]:.2g}"
        )


def sized(
    config: RunConfig, data: Dataset, resumed: Checkpoint | None, origin: Beginning | None, accelerator: Accelerator
) -> RunConfig:
    """The configuration with a number for every size: of the weights that it goes on from, or what suits; told.

    Raises:
        ValueError: it gives another size than the weights have.
    """
    if resumed is not None:
        return with_sizes(config, sizes_of(resumed.meaning().identity))
    if origin is not None:
        check_sizes(config, sizes_of(origin.settings), origin.place)
        return with_sizes(config, sizes_of(origin.settings))
    suits = with_suited_sizes(config, data.contract, width_of(config.backbone.path))
    for line in became(config, suits, data.contract):
        accelerator.print(line)
    return suits


def normalizers_of(data: Dataset, config: DataConfig) -> Mapping[str, Normalizer]:
    """Of each stream that a policy is given or answers in."""
    return {
        kind: Normalizer.of(
            data.statistics[kind], config.normalization, reach(kind, config), finest(kind, data.contract)
        )
        for kind in data.contract.normalized
    }


def finest(kind: str, contract: DataContract) -> Sequence[float] | float:
    """The smallest scale of a stream, in its units: what a motion varies by less is no motion."""
    if contract.body is None or kind not in ("actions", "state"):
        return 0.0
    return contract.body.finest if kind == "actions" else PLACES_M


def reach(kind: str, data: DataConfig) -> float:
    """How far beyond the range of the training data values of a stream are taken as they are."""
    if not data.clamp:
        return math.inf
    return ANSWERS if kind == "actions" else INPUTS


def open_data(config: RunConfig, accelerator: Accelerator) -> Dataset:
    """The data, whose numbers one rank of each machine reads, unless an earlier start has read the same files."""
    data = config.data
    if not accelerator.is_main_process:
        cache.log.setLevel(logging.ERROR)  # what rank 0 finds of the cache, it says
    if not accelerator.is_local_main_process:
        data = dataclasses.replace(data, verify=False)  # the one before has
    opened = distributed.one_first(accelerator, lambda: open_dataset(data, config.seed))
    if opened.recalled:
        accelerator.print("statistics and checks are known from an earlier start; --data.verify reads all numbers")
    return opened


def say_other_versions(before: Versions | None, accelerator: Accelerator) -> None:
    """Say what a resumed run computes with that is not what it computed with before."""
    if before is None or not accelerator.is_main_process:
        return
    if differences := before.differences(provenance.here()):
        told = textwrap.wrap(f"other versions than before, so numbers may differ: {'; '.join(differences)}", 80)
        accelerator.print(*told, sep="\n")
