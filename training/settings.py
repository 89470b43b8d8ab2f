"""What can be set of a run and of its verification; nothing heavy is imported here, so that help answers at once."""

import math
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import tyro

from vla.parts import GROUPS
from vla.settings import ObjectiveConfig

FinetuneVl = Literal["none", "lora", "full"]
Precision = Literal["auto", "fp32", "bf16"]
Tracker = Literal["auto", "jsonl", "wandb"]


class RatesOfGroups:
    """What the rates of a stage can be asked."""

    def __post_init__(self) -> None:
        for group, rate in self.by_group().items():
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(
                    f"the learning rate of group {group!r} is {rate}; give a positive number, or None to freeze it"
                )

    def by_group(self) -> dict[str, float]:
        """The groups that train."""
        return {group: rate for group, rate in vars(self).items() if rate is not None}

    def changed(self, **rates: float | None) -> Self:
        """The same rates but for some."""
        return type(self)(**{**vars(self), **rates})


if TYPE_CHECKING:

    class Rates(RatesOfGroups):
        """Peak learning rate of each group; None keeps the group frozen."""

        def __init__(self, **rates: float | None) -> None: ...
        def __getattr__(self, group: str) -> float | None: ...
else:
    Rates = make_dataclass(
        "Rates",
        [(group, Annotated[float | None, tyro.conf.arg(help=text)], None) for group, text in GROUPS.items()],
        bases=(RatesOfGroups,),
        frozen=True,
        kw_only=True,
        namespace={
            "__doc__": "Peak learning rate of each group; None keeps the group frozen.",
            "__module__": __name__,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the schedule: how long, which groups, how fast."""

    steps: int
    """Optimizer steps."""
    epochs: float | None = None
    """Passes over the training samples, or of as many samples where shares are given; it takes the place of steps."""
    lr: Rates = field(default_factory=Rates)
    """Peak learning rate by group."""
    blocks: int = 2
    """Language-model blocks, counted from the last, that the group `backbone` has, at least 1."""
    begins: Literal["anew", "weights"] = "anew"
    """With fresh weights, or with those of another run: --init-from."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is trained for."""
    weight_decay: float = 0.01
    """Of the matrices; biases, norms, tables and tokens have none."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises to its peak."""
    warmup_steps: int | None = None
    """Steps of it, at most one pass over the samples or half the stage; they take the place of the share."""
    warmup_from: float | None = None
    """First rate as a share of the peak, which the step after the warm-up has; None: rise from nothing."""
    hold: float = 0.02
    """Share of the steps at the peak after that."""
    floor: float = 0.01
    """Last rate as a share of the peak, the same for every group: so the groups' ratio never changes."""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"--stage.blocks is {self.blocks}; give at least 1")
        if self.steps < 1:
            raise ValueError(f"--stage.steps is {self.steps}; a stage has at least 1 step")
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"--stage.epochs is {self.epochs}; give a positive number of passes over the data")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"--stage.weight-decay is {self.weight_decay}; give a number of at least 0")
        if self.warmup < 0 or self.hold < 0 or self.warmup + self.hold > 1 or not 0 <= self.floor <= 1:
            raise ValueError("warmup, hold and floor are shares in [0, 1], and warmup + hold is at most 1")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"--stage.warmup-steps is {self.warmup_steps}; give at least 0, or None for a share")
        if self.warmup_from is not None and not 0 <= self.warmup_from <= 1:
            raise ValueError(f"--stage.warmup-from is {self.warmup_from}; give a share of the peak in [0, 1], or None")

    def total(self, num_samples: int, batch_size: int) -> int:
        """Optimizer steps of the stage."""
        if self.epochs is not None:
            return max(1, math.ceil(self.epochs * num_samples / batch_size))
        return self.steps

    def rising(self, total: int, epoch: float = math.inf) -> int:
        """Steps of the warm-up of a stage of `total` steps, of which `epoch` are one pass over the samples."""
        if self.warmup_steps is None:
            return math.ceil(self.warmup * total)
        return int(min(self.warmup_steps, epoch, math.ceil(total / 2)))

    def factor(self, step: int, total: int, epoch: float = math.inf) -> float:
        """Share of the peak rate at step `step` of the stage, counted from 0: warm-up, hold, cosine."""
        warmup = self.rising(total, epoch)
        hold = warmup + math.ceil(self.hold * total)
        if step < warmup and self.warmup_from is not None:
            return self.warmup_from + (1 - self.warmup_from) * step / warmup
        if step < warmup:
            return (step + 1) / warmup
        if step < hold:
            return 1.0
        progress = (step - hold + 1) / max(1, total - hold)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What happens to steps that would do harm."""

    max_skipped: int = 10
    """Skipped steps in a row after which the run goes back to its last good checkpoint, once, and then ends."""
    spike_factor: float = 10.0
    """A loss above this many times its running average is a spike, > 1."""
    spike: Literal["log", "skip"] = "log"
    """What a spike is: told, or skipped like a loss that is not finite."""

    def __post_init__(self) -> None:
        if self.max_skipped < 1:
            raise ValueError(f"--guard.max-skipped is {self.max_skipped}; it must be at least 1")
        if not self.spike_factor > 1:
            raise ValueError(f"--guard.spike-factor is {self.spike_factor}; it must be greater than 1")


@dataclass(frozen=True, kw_only=True)
class ForgetConfig:
    """What a policy is made to forget, and how; of training/unlearn.py alone."""

    concept: tuple[str, ...] = ()
    """What is to be forgotten, a word or more each: the episodes whose action it is, or whose instructions say it;
    it may be given several times. With --data.where, which says so itself, only a name."""
    spare: tuple[str, ...] = ()
    """Words of instructions that are no concept, whatever else they say."""
    concept_similarity: float | None = None
    """Cosine of the embeddings from which on an instruction means a concept of one word; None: 0.53, and with hashed
    words, which mean nothing, never."""
    neighbours: bool = True
    """Let instructions near those that are forgotten have half of what is preserved, where --data.near says nothing."""
    near_similarity: float | None = None
    """Cosine from which on they are near; None: 0.5, with hashed words 0.65."""
    method: Literal["esd", "uce"] = "esd"
    """esd: an adapter is trained. uce: that of the text projection is computed in closed form, without steps."""
    anchor: str = ""
    """Instruction whose answer the forgotten ones get; empty: by esd the answer to none, and beyond, by uce that to the
    mean of the preserved ones."""
    ridge: float = 0.5
    """Of uce: how much the old weight counts beside the instructions, above 0; lambda of the formula."""

    def __post_init__(self) -> None:
        for flag, words in (("--concept", self.concept), ("--spare", self.spare)):
            if not all(word.strip() for word in words):
                raise ValueError(f"{flag} has an empty word; name an action, e.g. {flag} kick")
        for flag, value in (
            ("--concept-similarity", self.concept_similarity),
            ("--near-similarity", self.near_similarity),
        ):
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{flag} is {value:g}; give a cosine in [-1, 1]")
        if not 0 < self.ridge < math.inf:
            raise ValueError(f"--ridge is {self.ridge:g}; give a number above 0, e.g. 0.5")


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Where Weights & Biases files the run; what is None comes from its own environment variables."""

    project: str | None = None
    """None: WANDB_PROJECT, or touchstone."""
    entity: str | None = None
    """User or team. None: WANDB_ENTITY, or that of the key."""
    group: str | None = None
    """Of runs that belong together. None: WANDB_RUN_GROUP."""
    tags: tuple[str, ...] = ()
    """Words to find it by; none: WANDB_TAGS, with commas."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What is tried. Flags of the entry point follow after `--`."""

    recipe: Literal["stage1", "stage2", "two_stage", "pretrain", "sft", "adapter", "unlearn"] = "two_stage"
    """Entry point."""
    steps: int = 12
    """Optimizer steps of each stage."""
    kills: int = 3
    """How often the interrupted run is ended."""
    kill_at: tuple[int, ...] = ()
    """After which steps; drawn from --seed unless given."""
    signal: Literal["kill", "term", "mixed"] = "mixed"
    """kill: SIGKILL to every process at once. term: SIGTERM to the launcher, as a scheduler does. mixed: drawn."""
    topologies: tuple[str, ...] = ("zero2:2",)
    """NAME:RANKS or NAME:RANKS:MICRO-BATCH; NAME is a file of accelerate_configs."""
    seed: int = 0
    """Of the kills."""
    work: str | None = None
    """Empty or new folder for the runs; by default a temporary one. A checkpoint has 16 bytes a trained parameter."""
    keep_runs: bool = False
    """Keep the runs; they are kept in any case when the promise does not hold."""
    json: str | None = None
    """File for the result in machine-readable form."""
    leg_seconds: float = 1800.0
    """A launch that takes longer counts as hung."""
    compare: tuple[str, ...] = ()
    """Two run folders: compare these and launch nothing."""
