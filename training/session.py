"""What a run holds from its first stage to its last: data, place in the schedule, carried state, records."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import checkpoint, runtime, stages
from training.checkpoint import Checkpoint
from training.config import RunConfig, digest, flatten, to_json
from training.records import Records, check_tracker
from training.sharding import Engine, State
from training.stages import Group, Stage
from vla.backbone import fingerprint
from vla.batch import Batch, DataContract, collate
from vla.data import Dataset, open_dataset
from vla.data.episode import CorruptData
from vla.normalize import Normalizer
from vla.policy import assemble, streams
from vla.policy_folder import HeldOut, load_policy, save_policy

QUALIFIED_NAME = f"{CorruptData.__module__}.{CorruptData.__qualname__}"


@dataclass(frozen=True)
class Row:
    """A stage and its place among the run's steps: it takes the policy from step `start` to step `end`."""

    stage: Stage
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where weights come from, and what they mean."""

    weights: Mapping[str, Tensor]
    contract: DataContract
    normalization: str
    normalizers: Mapping[str, Normalizer]
    fingerprint: str


class Session:
    """One run of one process among `accelerator.num_processes`. Every method is collective."""

    def __init__(self, config: RunConfig) -> None:
        """Open the run: refuse, before anything is written, what cannot be trained or would overwrite something.

        Raises:
            ValueError: the configuration is refused.
            CorruptData: a data file or the checkpoint to go on from is damaged.
        """
        self.config = config
        self.accelerator = accelerator = runtime.start_accelerator()
        self.accumulation = config.accumulation(accelerator.num_processes)
        check_tracker(config.tracker)
        self.out = Path(config.out)
        resumed = self._resumed()
        self.data: Dataset = open_dataset(config.data, config.seed)
        self.normalizers: Mapping[str, Normalizer] = {
            stream: Normalizer.of(self.data.statistics[stream], config.data.normalization)
            for stream in streams(self.data.contract)
        }
        self.rows = schedule(config.stages(), self.data, config.batch_size)
        self.fingerprint: str = runtime.share(
            accelerator, fingerprint(config.backbone.path) if accelerator.is_main_process else None
        )
        self.step = 0
        self.state: State | None = None
        self.initial: Mapping[str, Tensor] | None = None
        if resumed is not None:
            check_resumable(resumed, self.identity(), self.fingerprint)
            self.step, self.state = resumed.step, resumed.state()
            self.normalizers = normalizers_from_json(resumed.policy()["normalizer"])
            accelerator.print(f"resuming {resumed.path} at step {self.step} of {self.rows[-1].end}")
        elif config.init_from is not None:
            origin = read_origin(config.init_from, config.backbone.path, accelerator)
            check_origin(origin, config, self.data.contract, self.fingerprint)
            self.initial, self.normalizers = origin.weights, origin.normalizers
        elif self.rows[0].stage.name == "stage2":
            raise ValueError(
                "stage 2 goes on from a stage-1 run: give --init-from RUN, or train both with training/two_stage.py"
            )
        self.opened = False

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one that was stopped: settings, and the data by its content."""
        data = {
            "data contract": self.data.contract.to_json(),
            "statistics of the training episodes": digest(
                {
                    stream: {field: np.asarray(value).tolist() for field, value in vars(statistics).items()}
                    for stream, statistics in self.data.statistics.items()
                }
            ),
            "number of training samples": self.data.train.num_samples,
        }
        return self.config.identity() | flatten(data)

    def remaining(self) -> list[Row]:
        """The stages that still have steps to go; of a finished run the last one, to export it."""
        return [row for row in self.rows if self.step < row.end] or self.rows[-1:]

    def stopped(self) -> bool:
        """Whether --stop-after has been reached."""
        return self.config.stop_after is not None and self.step >= self.config.stop_after

    # Stages.

    def enter(self, row: Row) -> Engine:
        """Build the policy of a stage with the weights reached so far, freeze, print the groups, build the engine."""
        config = self.config
        self.policy = policy = assemble(
            config.policy(row.stage), self.data.contract, self.normalizers, dtype=config.dtype(), seed=config.seed
        )
        tail = policy.backbone.last_layer_names(config.finetune_layers) if row.stage.lr.backbone is not None else set()
        groups = stages.enter(row.stage, policy, {f"backbone.{name}" for name in tail})
        learned = [name for name, _ in policy.named_parameters() if stages.group_of(name, ()) != stages.FROZEN]
        trained = {name for group in groups for name in group.parameters}
        for name, parameter in policy.named_parameters():
            if name in trained:
                parameter.data = parameter.data.float()  # the last blocks come in the dtype of the frozen ones
        within = self.step > row.start
        if self.state is not None:
            load_weights(policy, self.state.weight, learned, groups, opening=not within)
        elif self.initial is not None:
            load_weights(policy, self.initial, learned, groups, opening=True)
        self.kept = sorted(set(learned) - trained)
        self.groups = groups
        num_frozen = sum(parameter.numel() for parameter in policy.parameters() if not parameter.requires_grad)
        self.accelerator.print(*self.data.table(), stages.table(row.stage, groups, num_frozen), sep="\n")
        if not self.opened:
            self._open_records()
        policy.to(self.accelerator.device)
        return Engine(
            self.accelerator,
            policy,
            groups,
            betas=config.betas,
            clip=config.clip,
            micro_batch=config.micro_batch,
            accumulation=self.accumulation,
            state=self.state,
        )

    def batches(self, row: Row) -> Iterator[list[Batch]]:
        """This rank's micro-batches of each remaining step of a stage.

        A step takes the next batch_size positions of the stream, dealt out by micro-batch: rank 0 | rank 1 | rank 0 ...
        """
        size, workers = self.config.micro_batch, self.config.data.workers
        starts = range(self.step * self.config.batch_size, row.end * self.config.batch_size, size)
        mine = starts[self.accelerator.process_index :: self.accelerator.num_processes]
        loader = DataLoader(
            self.data.train,
            batch_sampler=[list(range(start, start + size)) for start in mine],
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=2 * self.accumulation if workers else None,
        )
        stream = iter(loader)
        for _ in range(self.step, row.end):
            try:
                micro_batches = [next(stream) for _ in range(self.accumulation)]
            except CorruptData as error:
                # From a loader process it comes with that process' traceback; the sentence is the last line.
                raise CorruptData(str(error).splitlines()[-1].removeprefix(f"{QUALIFIED_NAME}: ")) from None
            yield micro_batches

    def leave(self, engine: Engine, row: Row) -> None:
        """Carry the state of a finished stage to the next one, or export the policy after the last."""
        last = row is self.rows[-1] or self.stopped()
        if last:
            self.export(engine)
        else:
            self.state = engine.state()
        engine.close()
        del self.policy  # before the next stage builds its own

    # Records.

    def _open_records(self) -> None:
        """Create the run folder; everything that can be refused has been."""
        self.opened = True
        main = self.accelerator.is_main_process
        if main:
            self.out.mkdir(parents=True, exist_ok=True)
            checkpoint.clean(self.out)
            (self.out / "config.json").write_text(json.dumps(to_json(self.config), indent=1) + "\n")
        self.records = Records(self.out, self.config.tracker, to_json(self.config), resumed_at=self.step, active=main)
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def save_is_due(self) -> bool:
        """Whether --save-seconds have passed; rank 0's clock decides for all."""
        return self.accelerator.is_main_process and time.monotonic() - self.saved_at >= self.config.save_seconds

    def save(self, engine: Engine, row: Row) -> None:
        """Write a checkpoint of the current step and delete what --keep does not."""
        config = self.config
        lora = config.policy(row.stage).lora
        entries = {
            "stage": row.stage.name,
            "samples_seen": self.step * config.batch_size,
            "seed": config.seed,
            "config": digest(self.identity()),
            "backbone": {"id": config.backbone.path, "fingerprint": self.fingerprint},
            "lora": None if lora is None else to_json(lora),
            "groups": stages.manifest_groups(self.groups),
        }
        policy = {
            "identity": self.identity(),
            "contract": self.data.contract.to_json(),
            "normalizer": normalizers_to_json(self.normalizers),
        }
        checkpoint.save(engine, self.out, step=self.step, entries=entries, policy=policy, frozen=self.kept)
        if self.accelerator.is_main_process:
            checkpoint.prune(self.out, config.keep)
        self.saved_at = time.monotonic()

    def export(self, engine: Engine) -> None:
        """Write RUN/policy with the averaged weights."""
        tensors = engine.gather("ema") | engine.frozen(self.kept)
        if self.accelerator.is_main_process:
            held_out = HeldOut(seed=self.config.seed, validation_share=self.config.data.validation_share)
            save_policy(self.policy, self.out / "policy", tensors, held_out)
            print(f"policy: {self.out / 'policy'}")
        self.accelerator.wait_for_everyone()

    def _resumed(self) -> Checkpoint | None:
        """The checkpoint to go on from.

        Raises:
            ValueError: the run folder holds a run, and nothing says to resume it.
        """
        choice = self.config.resume_from
        if choice == "auto":
            return checkpoint.newest(self.out, self.accelerator)
        if choice is not None:
            return checkpoint.find(choice, self.accelerator)
        taken = (self.out / "metrics.jsonl").exists() or bool(checkpoint.steps(self.out))
        if runtime.share(self.accelerator, taken):
            raise ValueError(f"{self.out} already holds a run; go on with --resume-from auto, or choose another --out")
        return None


def schedule(rows: Sequence[Stage], data: Dataset, batch_size: int) -> list[Row]:
    """The stages, without the groups the data has no use for, laid end to end."""
    placed, start = [], 0
    for row in rows:
        stage = stages.without(row, "sensor") if data.contract.sensor is None else row
        end = start + stage.total(data.train.num_samples, batch_size)
        placed.append(Row(stage, start, end))
        start = end
    return placed


def check_resumable(resumed: Checkpoint, identity: Mapping[str, Any], fingerprint: str) -> None:
    """Refuse to go on under settings that change what is learned.

    Raises:
        ValueError: names each setting, what the checkpoint has and what was given.
    """
    stored = resumed.policy()["identity"]
    changed = [key for key in sorted(stored.keys() | identity.keys()) if stored.get(key) != identity.get(key)]
    differences = [f"{key} is {identity.get(key)!r}, the checkpoint has {stored.get(key)!r}" for key in changed[:3]]
    if resumed.manifest["backbone"]["fingerprint"] != fingerprint:
        differences.append("the backbone's files have another fingerprint")
    if differences:
        raise ValueError(
            f"{resumed.path} cannot be resumed: {'; '.join(differences)}. "
            "Give the same settings, or start anew from its weights with --init-from"
        )


def read_origin(place: str, backbone: str, accelerator: Accelerator) -> Origin:
    """The averaged weights of a checkpoint, run or policy folder.

    Raises:
        ValueError: there is none at that place.
    """
    path = Path(place)
    if (path / "normalizer.safetensors").exists():
        policy = load_policy(path, backbone)
        return Origin(
            weights=policy.learned(),
            contract=policy.contract,
            normalization=policy.config.normalization,
            normalizers={stream: policy.normalizer_of(stream) for stream in streams(policy.contract)},
            fingerprint=fingerprint(backbone),
        )
    found = checkpoint.find(place, accelerator)
    meaning, state = found.policy(), found.state()
    return Origin(
        weights={**state.weight, **state.moments["ema"]},
        contract=DataContract.from_json(meaning["contract"]),
        normalization=meaning["identity"]["data.normalization"],
        normalizers=normalizers_from_json(meaning["normalizer"]),
        fingerprint=found.manifest["backbone"]["fingerprint"],
    )


def check_origin(origin: Origin, config: RunConfig, contract: DataContract, fingerprint: str) -> None:
    """Refuse weights that were learned for other data or on another backbone.

    Raises:
        ValueError: names each difference.
    """
    place = config.init_from
    given, expected = contract.to_json(), origin.contract.to_json()
    names = ("action_dim", "state_dim", "horizon", "cameras", "sensor_channels", "sensor_samples")
    differences = [
        f"{name.replace('_', ' ')} {expected[name]}, but the data has {given[name]}"
        for name in names
        if given[name] != expected[name]
    ]
    if differences:
        raise ValueError(
            f"{place} was trained with {'; '.join(differences)}; train on matching data, or without --init-from"
        )
    if origin.fingerprint != fingerprint:
        raise ValueError(f"{place} was trained on another backbone than --backbone.path; give the one it names")


def load_weights(
    policy: nn.Module, weights: Mapping[str, Tensor], learned: Sequence[str], groups: Sequence[Group], *, opening: bool
) -> None:
    """Copy weights into the policy by name; every learned parameter must be among them, and nothing else.

    `opening` says that a stage begins: parameters that it adds or opens (LoRA, the last blocks) may be missing.

    Raises:
        ValueError: missing, unexpected or mis-shaped tensors, by name.
    """
    parameters = dict(policy.named_parameters())
    opened = {name for group in groups if group.group in ("lora", "backbone") for name in group.parameters}
    required = set(learned) | opened
    missing = sorted(required - weights.keys())
    if opening and opened.isdisjoint(weights):
        missing = [name for name in missing if name not in opened]
    unexpected = sorted(weights.keys() - required)
    if missing or unexpected:
        parts = ", ".join(sorted({name.split(".")[0] for name in missing}))
        said = [
            f"{len(missing)} tensors of the policy are missing (first {missing[0]}; parts: {parts})" if missing else "",
            f"{len(unexpected)} tensors have no place in the policy (first {unexpected[0]})" if unexpected else "",
        ]
        raise ValueError(
            f"the weights do not fit: {' and '.join(filter(None, said))}; give the run that this stage continues"
        )
    for name, weight in weights.items():
        if parameters[name].shape != weight.shape:
            raise ValueError(
                f"tensor {name!r} has shape {tuple(weight.shape)}, but this policy's is {tuple(parameters[name].shape)}"
                "; give the settings the weights were trained with"
            )
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def normalizers_to_json(normalizers: Mapping[str, Normalizer]) -> dict[str, Any]:
    """Normalisers as JSON values; floats keep every bit."""
    return {
        stream: {name: buffer.tolist() for name, buffer in normalizer.state_dict().items()}
        for stream, normalizer in normalizers.items()
    }


def normalizers_from_json(tree: Mapping[str, Any]) -> dict[str, Normalizer]:
    """The normalisers written by `normalizers_to_json`."""
    normalizers = {}
    for stream, buffers in tree.items():
        normalizer = Normalizer(len(buffers["offset"]))
        own = normalizer.state_dict()
        normalizer.load_state_dict({name: torch.tensor(buffers[name], dtype=own[name].dtype) for name in buffers})
        normalizers[stream] = normalizer
    return normalizers
