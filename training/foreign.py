"""Flags of other trainers: refused by name, with what says the same here."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from vla.errors import UsageError

INSTEAD = MappingProxyType(
    {
        "--batch_size": "--micro-batch, per rank; --batch-size counts samples per optimizer step over all ranks",
        "--grad_accum": "--batch-size, over all ranks: --micro-batch x ranks x accumulation",
        "--epochs": "--stage.epochs, or --stage.steps",
        "--lr": "--stage.lr.expert, --stage.lr.sensor and --stage.lr.camera, a rate for each group",
        "--vl-lr": "--stage.lr.lora, or --stage.lr.backbone for the last blocks themselves",
        "--lora-r": "--lora.rank",
        "--lora-alpha": "--lora.alpha",
        "--lora-dropout": "--lora.dropout",
        "--dataset_dir": "--data.roots",
        "--stage1-checkpoint": "--init-from, with the stage-1 run",
        "--resume": "--resume-from",
        "--checkpoint": "--resume-from to go on, --init-from for its weights; `vla evaluate POLICY` measures",
        "--training-stage": "training/stage1.py, training/stage2.py or, for both, training/two_stage.py",
        "--stage": "training/stage1.py, training/stage2.py or, for both, training/two_stage.py",
        "--nproc_per_node": "--num_processes of `accelerate launch`, before the name of the script",
        "--diffusion.draws": "--stage.objective.draws",
        "--finetune-layers": "--stage.blocks",
    }
)
"""Each flag as it is written elsewhere, or was here, with what to give instead."""
OF_MOTION = MappingProxyType(
    {
        "--data_path": "--data.roots",
        "--checkpoint_dir": "--out",
        "--num_epochs": "--stage.epochs",
        "--use_velocity_loss": "--stage.objective.motion.velocity, 0 without it",
        "--velocity_weight": "--stage.objective.motion.velocity",
        "--use_acceleration_loss": "--stage.objective.motion.acceleration, 0 without it",
        "--acceleration_weight": "--stage.objective.motion.acceleration",
        "--use_geometric_loss": "--stage.objective.motion.bones, 0 without it",
        "--geometric_weight": "--stage.objective.motion.bones",
        "--log_every": "nothing: every step is recorded in RUN/metrics.jsonl",
        "--save_every_e": "--save-every, as 1epoch",
        "--diffusion_steps": "--diffusion.sampling-steps, the calls for a sample: time is continuous in training",
    }
)
"""Those of trainers of human motion."""
OF_ADAPTERS = MappingProxyType(
    {
        "--checkpoint": "--init-from, with the run of the base; its normaliser comes with it",
        "--window_len": "--data.horizon to the base, which says how many frames a window has",
        "--target_sampling_rate": "--data.motion.rate-hz to the base, which says how many frames a second there are",
    }
)
"""Those of a trainer of adapters, where an adapter is trained."""
OF_UNLEARNING = MappingProxyType(
    {
        "--name": "--init-from, with the run or the policy itself",
        "--dataset_name": "--data.roots",
        "--target_concept": "--concept, of training/unlearn.py",
        "--lora_rank": "--adapter.rank",
        "--lora_alpha": "--adapter.alpha",
        "--unlearn_lr": "--stage.lr.adapter",
        "--unlearn_epochs": "--stage.epochs",
        "--negative_guidance": "--stage.objective.negative-guidance",
        "--ckpt": "--init-from to begin with its weights, --resume-from to go on",
        "--is_lora": "nothing: an adapter's file says what it is",
    }
)
"""Those of trainers that make a model forget."""
APART: Mapping[str, Mapping[str, str]] = {"adapter": OF_ADAPTERS, "unlearn": OF_UNLEARNING}
"""By the entry point that knows them."""
RENAMED = MappingProxyType({("--data.without", name): f"--data.withhold {name}" for name in ("state", "instruction")})
"""A flag with a value that it had here, and what says the same now."""


def refuse_foreign(arguments: Sequence[str], known: Collection[str], entry: str) -> None:
    """Refuse the flags of other trainers, with dashes or underscores; `known` are ours, which are spelled with dashes.

    Raises:
        UsageError: names the flag, and what to give instead.
    """
    flag = ""
    apart = APART.get(entry, {})
    for argument in arguments:
        flag, _, value = argument.partition("=") if argument.startswith("--") else (flag, "", argument)
        if (flag, value) in RENAMED:
            raise UsageError(f"{flag} {value} is {RENAMED[flag, value]} now: {flag} names episodes by their indices")
    by_dashes = {flag.replace("_", "-"): instead for flag, instead in {**INSTEAD, **OF_MOTION, **apart}.items()}
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag not in known and (instead := by_dashes.get(flag.replace("_", "-"))) is not None:
            raise UsageError(f"there is no flag {flag} here; give {instead}")
