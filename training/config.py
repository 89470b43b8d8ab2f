"""The configuration of a run: the tree of everyone's settings, its cross-checks, and what a resumed run must share."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import tyro

from training.settings import ForgetConfig, GuardConfig, Precision, Stage, Tracker, WandbConfig
from vla.adapter_settings import AdapterConfig, LoraConfig
from vla.documents import to_json
from vla.motion_settings import MotionConfig
from vla.parts import Encoders
from vla.policy_settings import PolicyConfig
from vla.prefix_settings import PrefixConfig
from vla.role_settings import Roles
from vla.settings import BackboneConfig, DataConfig, DiffusionConfig, ExpertConfig, MotionWeights

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run depends on."""

    entry: Annotated[str, tyro.conf.Suppress] = "stage1"
    """Entry point that trains by it: training/ENTRY.py."""
    stages: Annotated[Mapping[str, Stage], tyro.conf.Suppress] = field(default_factory=dict)
    """By name, in order: who trains what, how fast and how long."""

    out: str = "runs/latest"
    """Run folder; refused when it already holds a run, unless that one is resumed."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to train on."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model, or the sentence encoder."""
    encoders: Annotated[Encoders, tyro.conf.arg(name="")] = field(default_factory=Encoders)
    """The other parts; a policy has those that its data has something for."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The diffusion action expert."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Path, prediction and sampler."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters of stage 2."""
    cache: PrefixConfig = field(default_factory=PrefixConfig)
    """What is computed once of each sample."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """The named adapter of a frozen policy."""
    forget: Annotated[ForgetConfig, tyro.conf.arg(name="")] = field(default_factory=ForgetConfig)
    """What it is to forget."""
    batch_size: int = 32
    """Samples per optimizer step over all ranks."""
    micro_batch: int | Literal["auto"] = 4
    """Samples per rank and forward; accumulation follows. auto: as many as the GPU has memory for, measured."""
    seed: int = 0
    """Of order, timesteps, noise, dropout and initial weights."""
    dropout: float | None = None
    """Every dropout rate of the trained parts at once, LoRA's too; None keeps their own."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    clip: float = 1.0
    """Largest L2 norm of the gradient over all groups."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are evaluated and exported."""
    precision: Precision = "auto"
    """Of frozen weights and of the arithmetic; trained weights are always fp32. auto: bf16 on GPU, fp32 on CPU."""
    validate_every: int = 500
    """Steps between validations on the held-out episodes; one at the start and one at the end besides."""
    validation_samples: int = 64
    """At most this many, spread evenly over the held-out episodes."""
    save_every: int | str = 500
    """Steps between checkpoints, or passes over the training samples: `1epoch`."""
    save_seconds: float = 300.0
    """Seconds after which a checkpoint is due whatever the step."""
    keep: int = 3
    """Checkpoints to keep."""
    keep_best: bool = False
    """Save after each validation, keep the best checkpoint of the stage too, and export it as RUN/best at the end."""
    save_failures: int = 3
    """Saves that may fail in a row, >= 1; then the run ends with exit code 34."""
    grace_seconds: float = 5.0
    """From SIGTERM or SIGINT to the end of the run, which saves when that is quick enough; RunPod gives 5 s."""
    hang_seconds: float = 300.0
    """Without progress for this long, every rank writes its stacks and the run ends with exit code 33."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Of steps that would do harm."""
    stop_after: int | None = None
    """Save after this step and end, as if the time were up; the schedule keeps its total."""
    resume_from: str | None = None
    """`auto`, a checkpoint or a run: go on with everything."""
    extend_to: int | None = None
    """Step at which the run that is resumed ends instead; its rates go over to the longer schedule without a jump."""
    init_from: str | None = None
    """A checkpoint, a run or a policy folder: take its (averaged) weights and start at step 0."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of tensors, `camera.*`, that those weights may lack, which begin fresh, or have too many."""
    ignore_cluster: bool = False
    """Train as launched though variables of the platform, such as NUM_NODES, describe another cluster."""
    ignore_memory: bool = False
    """Train though the plan says that the GPU's memory is too small by far."""
    dry_run: bool = False
    """Check what can be told without reading numbers or weights, say it, and end; nothing is begun or downloaded."""
    tracker: Tracker = "auto"
    """metrics.jsonl is always written; auto adds wandb where it has a key or WANDB_MODE=offline."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Where wandb files the run."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "micro_batch", "validate_every", "validation_samples")
        for name in (*counts, "save_failures", "keep", "stop_after", "extend_to"):
            if getattr(self, name) not in (None, "auto") and getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        if isinstance(self.save_every, int) and self.save_every < 1:
            raise ValueError(f"--save-every is {self.save_every}; it must be at least 1")
        if isinstance(self.save_every, str) and not EPOCHS.fullmatch(self.save_every):
            raise ValueError(f"--save-every is {self.save_every}; give a number of steps, or of epochs: 1epoch")
        for name in ("clip", "save_seconds", "grace_seconds", "hang_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be greater than 0")
        shares = {"dropout": self.dropout or 0.0, "ema-decay": self.ema_decay}
        for name, share in (*shares.items(), *(("betas", beta) for beta in self.betas)):
            if not 0 <= share < 1:
                raise ValueError(f"--{name} is {share}; it must lie in [0, 1)")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed is {self.seed}; it must lie in [0, 2^63)")
        if self.resume_from and self.init_from:
            raise ValueError("--resume-from restores everything and --init-from only weights; give one of them")
        check_forgetting(self.entry, self.forget, self.data.renamed)
        if self.extend_to is not None and self.resume_from is None:
            raise ValueError(f"--extend-to {self.extend_to} goes on with a run: give --resume-from too")

    def accumulation(self, ranks: int) -> int:
        """Micro-batches per rank and step.

        Raises:
            ValueError: the batch does not divide, with numbers that would.
        """
        if self.batch_size % (self.together * ranks):
            fitting = [size for size in range(1, self.batch_size + 1) if self.batch_size % (size * ranks) == 0]
            unit = self.together * ranks
            larger = -(-self.batch_size // unit) * unit
            hint = f"--micro-batch {min(fitting, key=lambda size: abs(size - self.together))}, or " if fitting else ""
            raise ValueError(
                f"--batch-size {self.batch_size} is not a multiple of --micro-batch {self.together} x {ranks} ranks"
                f"; use {hint}--batch-size {larger}"
            )
        return self.batch_size // (self.together * ranks)

    def share(self, ranks: int) -> int:
        """Samples of a rank and step.

        Raises:
            ValueError: the batch does not divide among so many.
        """
        if self.batch_size % ranks:
            larger = -(-self.batch_size // ranks) * ranks
            raise ValueError(
                f"--batch-size {self.batch_size} does not divide among {ranks} ranks; use --batch-size {larger}"
            )
        return self.batch_size // ranks

    def check_batch(self, ranks: int) -> None:
        """Refuse a batch that does not divide (ValueError), as far as the micro-batch is known."""
        if self.micro_batch == "auto":
            self.share(ranks)
        else:
            self.accumulation(ranks)

    @property
    def together(self) -> int:
        """The micro-batch, once it is decided."""
        assert self.micro_batch != "auto", "the micro-batch is decided as a run opens"
        return self.micro_batch

    def policy(self, stage: Stage, *, lora: bool = False) -> PolicyConfig:
        """The policy of a stage: with adapters where the stage trains them, or its weights have those of `lora`."""
        return PolicyConfig(
            backbone=self.backbone,
            encoders=Encoders(**{name: self._dropped(settings) for name, settings in vars(self.encoders).items()}),
            expert=self._dropped(self.expert),
            diffusion=self.diffusion,
            lora=self._dropped(self.lora) if lora or stage.lr.lora is not None else None,
            adapter=self._dropped(self.adapter) if stage.lr.adapter is not None else None,
            normalization=self.data.normalization,
        )

    def steps_between_saves(self, epoch: float) -> int:
        """What --save-every is in steps, of which one pass over the samples takes `epoch`."""
        if isinstance(self.save_every, int):
            return self.save_every
        return max(1, round(float(self.save_every.removesuffix("s").removesuffix("epoch")) * epoch))

    @property
    def opened(self) -> set[str]:
        """The groups of the backbone's parameters that some stage trains."""
        return {group for stage in self.stages.values() for group in stage.lr.by_group()} & {"lora", "backbone"}

    @property
    def adapts(self) -> bool:
        """Whether a named adapter is trained."""
        return any(stage.lr.adapter is not None for stage in self.stages.values())

    def _dropped(self, settings: Settings) -> Settings:
        """Settings of a part, with the run's dropout where they have one."""
        own = vars(settings)
        return (
            settings
            if self.dropout is None or "dropout" not in own
            else type(settings)(**own | {"dropout": self.dropout})
        )

    def identity(self) -> dict[str, Any]:
        """The settings a resumed run must share, flat: those that change what is learned, not where or how it runs."""
        settings = {key: value for key, value in flatten(to_json(self)).items() if not VOLATILE.match(key)}
        young = younger()
        return {
            key: value for key, value in settings.items() if young.get(ANY_STAGE.sub("stages.*.", key), ...) != value
        }


def check_forgetting(entry: str, forget: ForgetConfig, renamed: float | None) -> None:
    """Refuse a concept where nothing is forgotten (ValueError)."""
    if entry != "unlearn" and forget != ForgetConfig():
        raise ValueError("--concept and what goes with it are of training/unlearn.py; start that, or leave it out")
    if entry != "unlearn" and renamed:
        raise ValueError("--data.renamed is of training/unlearn.py; start that, or leave it out")


EPOCHS = re.compile(r"(?=.*[1-9])\d*\.?\d+epochs?")
"""How --save-every says a number of passes over the samples."""
VOLATILE = re.compile(
    r"(out|micro_batch|validate_every|validation_samples|save_every|save_seconds|save_failures|keep|keep_best|extend_to"
    r"|allow_missing|grace_seconds|hang_seconds|stop_after|resume_from|init_from|ignore_cluster|ignore_memory|dry_run|tracker|wandb|precision|guard\.max_skipped|cache\.path|data\.(roots|motion\.pictures|workers|quarantine|verify|depth)|backbone\.(path|pooling|embeddings|gradient_checkpointing|recomputed_layers))(\.|$)"
)
"""Settings in which a resumed run may differ from its checkpoint; what they point at is compared by content."""
ANY_STAGE = re.compile(r"^stages\.[^.]+\.")


def younger() -> dict[str, Any]:
    """Settings that older checkpoints do not know, and what they did: so they count as the same."""
    adapter = {f"adapter.{key}": value for key, value in to_json(AdapterConfig()).items()}
    motion = {f"data.motion.{key}": value for key, value in flatten(to_json(MotionConfig())).items()}
    forget = {f"forget.{key}": value for key, value in to_json(ForgetConfig()).items()}
    roles = {f"data.{key}": value for key, value in to_json(Roles()).items()}
    weights = {f"stages.*.objective.motion.{key}": value for key, value in to_json(MotionWeights()).items()}
    return {
        "diffusion.unconditional": 0.0,
        "diffusion.guidance": 1.0,
        "diffusion.given": 0.0,
        "data.labels": [],
        "data.style": [],
        "data.style_dropout": 0.1,
        "data.balance": "",
        "data.retarget": 0.0,
        "expert.positions": "small",
        "lora.layers": "all",
        "cache.door": "none",
        "cache.precision": "auto",
        "stages.*.lr.adapter": None,
        "stages.*.objective.negative_guidance": None,
        **adapter,
        **forget,
        **roles,
        **motion,
        **weights,
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of a tree of JSON values."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
