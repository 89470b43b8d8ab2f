"""The keys of other trainers' configuration files of human motion, each as a flag of ours or as what it asks in vain.

A rule makes the words of a flag of a key's value, and a remark of what is said at the start; what cannot be obeyed it
refuses with the reason.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from training.config import flatten
from training.rules import (
    Became,
    File,
    Rule,
    lora,
    never,
    nothing,
    number,
    of_lora,
    off,
    only,
    rate,
    takes,
    takes_epochs,
    targets,
)
from vla.errors import UsageError


def batch(value: Any, file: File) -> Became:
    """Samples of a forward pass, and with the accumulation those of a step."""
    steps = file.given.get("training.grad_accum_steps") or 1
    return Became(words=("--micro-batch", str(value), "--batch-size", str(int(number(value) * number(steps)))))


def accumulation(_: Any, file: File) -> Became:
    """What `batch` counts."""
    if file.given.get("training.batch_size") is None:
        raise ValueError("--batch-size counts samples per step: give training.batch_size too")
    return Became(because="counted by --batch-size")


def warmup(value: Any, file: File) -> Became:
    """Epochs of all epochs."""
    epochs = file.given.get("training.epochs")
    if not epochs:
        raise ValueError("--stage.warmup is a share of the steps: give training.epochs too")
    share = number(value) / number(epochs)
    return Became(words=("--stage.warmup", str(share), "--stage.warmup-steps", "None"))


def weight(term: str, use: str) -> Rule:
    """The weight of a term, 0 where it is switched off."""

    def rule(value: Any, file: File) -> Became:
        chosen = 0.0 if file.given.get(use) is False else value
        return Became(words=(f"--stage.objective.motion.{term}", str(chosen)))

    return rule


def label(name: str) -> Rule:
    """The weight of a label of each frame; labels that weigh something are asked for."""

    def rule(value: Any, file: File) -> Became:
        if not value:
            return Became(because="off")
        asked = [other for other in LABELS if file.given.get(f"loss_weights.{other}")]
        return Became(words=(f"--stage.objective.motion.{name}", str(value), "--data.labels", *asked))

    return rule


def switch(term: str, weight: str, usual: float) -> Rule:
    """A term that is switched on has its weight, or the usual one."""

    def rule(value: Any, file: File) -> Became:
        if file.given.get(weight) is not None:
            return Became(because=f"said by {weight}")
        return Became(words=(f"--stage.objective.motion.{term}", str(usual if value else 0.0)))

    return rule


def older(value: Any, file: File) -> Became:
    """Data, unless curated ones are named."""
    curated = CURATED.get(file.entry, CURATED["sft"])
    if file.given.get(curated):
        return Became(because=f"{curated} goes before it")
    return Became(words=("--data.roots", str(value)))


def curated(entry: str) -> Rule:
    """Data of one entry point; adapters are trained on those of fine-tuning."""

    def rule(value: Any, file: File) -> Became:
        if file.entry != entry and (file.entry, entry) != ("adapter", "sft"):
            return Became(because=f"of training/{entry}.py")
        return Became(words=("--data.roots", str(value)))

    return rule


def stage(value: Any, file: File) -> Became:
    """Which entry point."""
    if value != file.entry and (file.entry, value) != ("adapter", "sft"):
        raise ValueError(f"start training/{value}.py with it" if value in CURATED else "give pretrain or sft")
    return Became(because=f"training/{value}.py is what runs")


def pictures(value: Any, file: File) -> Became:
    """Pictures of the clips, and a small network beside the text encoder that looks at them, as there."""
    if not value:
        return Became(because="off")
    if not (root := file.given.get("data.parallax_root")):
        raise ValueError("--data.motion.pictures needs a folder: give data.parallax_root too")
    rate = file.given.get("training.learning_rate") or file.given.get("lr") or 1e-4
    encoder = ("--camera.width", "64", "--stage.lr.camera", str(rate))
    return Became(
        words=("--data.motion.pictures", str(root), *encoder),
        because="the camera encoder, which --camera.width 0 leaves out",
    )


def picture_size(value: Any, file: File) -> Became:
    """Height and width that a camera encoder looks at pictures in."""
    if not file.given.get("data.use_parallax_augmentation"):
        return Became(because=PICTURES)
    sides = {int(number(side)) for side in (value if isinstance(value, list) else [value])}
    if len(sides) != 1:
        raise ValueError("the camera encoder looks at squares: give one size for both sides, a multiple of 8")
    because = "of the camera encoder; --backbone.max-pixels says how large a Qwen2.5-VL sees them"
    return Became(words=("--camera.pixels", str(*sides)), because=because)


CURATED: Mapping[str, str] = {"pretrain": "data.curated_pretrain_data", "sft": "data.curated_sft_data"}
LABELS = ("action", "physics")
VELOCITY = "here the squared error of velocities, in (m/s)^2, in place of a pull to standing still"
LOOKING = "the camera encoder beside the text encoder, or a Qwen2.5-VL as --backbone.path, looks at pictures"
PICTURES = "of data.use_parallax_augmentation"
REFINING = "drafts are not refined yet; what is trained is a diffusion model itself"
SIMULATOR = "no simulator is differentiated here; loss_weights.physics is of physics that the clips say"
PREPARING = "of the preparation of data"
RECORDS = "every step is recorded in RUN/metrics.jsonl; --save-every counts steps"
KEYS: Mapping[str, Rule] = {
    "model.d_model": takes("--expert.width"),
    "model.num_layers": takes("--expert.depth"),
    "model.nhead": takes("--expert.heads"),
    "model.dropout": takes("--dropout"),
    "model.input_dim": nothing("follows from the data"),
    "model.output_dim": nothing("follows from the data"),
    "model.embedding_dim": nothing("follows from --backbone.path"),
    "model.num_actions": nothing("counted in the data"),
    "model.image_encoder_arch": nothing(LOOKING),
    "model.fusion_strategy": nothing("the expert attends to what is seen and what is read"),
    "training.stage": stage,
    "training.batch_size": batch,
    "training.grad_accum_steps": accumulation,
    "training.epochs": takes("--stage.epochs"),
    "training.learning_rate": rate,
    "training.warmup_epochs": warmup,
    "training.max_grad_norm": takes("--clip"),
    "training.resume_from": takes("--resume-from"),
    "training.init_from": takes("--init-from"),
    "loss_weights.pose": only("1", "the error of the chunk weighs 1: give the other weights relative to it"),
    "loss_weights.temporal": takes("--stage.objective.motion.velocity", VELOCITY),
    "loss_weights.action": label("action"),
    "loss_weights.physics": label("physics"),
    "loss_weights.diff_physics": off(SIMULATOR),
    "loss_weights.diffusion": off(REFINING),
    "physics.*": nothing("weights within loss_weights.physics"),
    "diffusion.enabled": off(REFINING),
    "diffusion.learning_rate": nothing("of diffusion.enabled"),
    "diffusion.timesteps": nothing("of diffusion.enabled"),
    "diffusion.use_style_conditioning": nothing("of diffusion.enabled"),
    "diffusion.cfg_dropout_prob": nothing("of diffusion.enabled"),
    "lora.enabled": lora,
    "lora.rank": of_lora("--adapter.rank"),
    "lora.alpha": of_lora("--adapter.alpha"),
    "lora.dropout": of_lora("--adapter.dropout"),
    "lora.target_modules": targets,
    "data.train_data": older,
    "data.curated_pretrain_data": curated("pretrain"),
    "data.curated_sft_data": curated("sft"),
    "data.checkpoint_dir": takes("--out"),
    "data.log_dir": nothing("the run folder holds its records"),
    "data.use_parallax_augmentation": pictures,
    "data.parallax_root": nothing(PICTURES),
    "data.parallax_image_size": picture_size,
    "data.image_backend": nothing("Pillow decodes pictures"),
    "data.use_parallax_sequences": nothing("each sample is a chunk of --data.horizon frames"),
    "data.parallax_sequence_length": nothing("--data.horizon says how long a chunk is"),
    "data.parallax_sequence_stride": nothing("a chunk begins at every frame"),
    "data.parallax_conditioning_mode": nothing("a sample sees the newest picture of its clip, or its one still"),
    "data_generation.*": nothing(PREPARING),
    "data_curation.*": nothing(PREPARING),
    "metadata.*": nothing("of people"),
    "device.type": nothing("accelerate launch --config_file accelerate_configs/cpu.yaml says it"),
    "device.num_workers": takes("--data.workers"),
    "device.pin_memory": nothing("the loader pins where there is a GPU"),
    "logging.*": nothing(RECORDS),
    "optimization.optimizer": only("AdamW", "the optimizer is AdamW"),
    "optimization.weight_decay": takes("--stage.weight-decay"),
    "optimization.betas": takes("--betas"),
    "optimization.eps": only("1e-8", "AdamW's eps is 1e-8"),
    "cpu.*": nothing("OMP_NUM_THREADS says how many threads"),
    "lr": rate,
    "num_epochs": takes("--stage.epochs"),
    "max_grad_norm": takes("--clip"),
    "use_velocity_loss": switch("velocity", "velocity_weight", 0.1),
    "velocity_weight": weight("velocity", "use_velocity_loss"),
    "use_acceleration_loss": switch("acceleration", "acceleration_weight", 0.05),
    "acceleration_weight": weight("acceleration", "use_acceleration_loss"),
    "use_geometric_loss": switch("bones", "geometric_weight", 0.01),
    "geometric_weight": weight("bones", "use_geometric_loss"),
    "log_every": never(RECORDS),
    "save_every_e": takes_epochs,
    "diffusion_steps": never("time is continuous here; --diffusion.sampling-steps says how many calls a sample takes"),
}
"""Of the files of a trainer in sections (model, training, ...), and of one whose options have none."""
SHARED = {"lora.rank", "lora.alpha", "lora.dropout"}
"""Keys that our own files have, too."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """What a file of another trainer says here."""

    words: list[str]
    """Of flags."""
    own: dict[str, Any]
    """What stands in it by our own names, flat."""
    remarks: list[str]
    """What became of each key."""


def rule_of(key: str) -> Rule | None:
    """The rule of a key or of its whole section; None of one that is not known."""
    return KEYS.get(key) or KEYS.get(f"{key.partition('.')[0]}.*")


def is_foreign(tree: Mapping[str, Any]) -> bool:
    """Whether settings have keys of another trainer's files."""
    return any(rule_of(key) is not None and key not in SHARED for key in flatten(tree))


def translate(tree: Mapping[str, Any], entry: str, place: str, flags: Collection[str]) -> Translation:
    """What the settings of another trainer are here; `flags` are ours, and `place` names the file.

    Raises:
        UsageError: a key is unknown, with the nearest known one.
        ValueError: keys cannot be obeyed, each with the reason.
    """
    file = File(entry=entry, given={str(key): value for key, value in flatten(tree).items()})
    found, refused = Translation(words=[], own={}, remarks=[]), []
    for key, value in file.given.items():
        rule = rule_of(key)
        if rule is None and f"--{key.replace('_', '-')}" not in flags:
            raise UsageError(f"{place} has the unknown key {key}; {nearest(key, flags)}")
        if value is None:
            continue
        if rule is None:
            found.own[key] = value
            continue
        try:
            became = rule(value, file)
        except ValueError as reason:
            refused.append(f"{key} {value} ({reason})")
            continue
        found.words.extend(became.words)
        name = key if key in KEYS else f"{key.partition('.')[0]}.*"
        remark = f"{name}: {', '.join(filter(None, (' '.join(became.words), became.because)))}"
        found.remarks.extend([] if remark in found.remarks else [remark])
    if refused:
        raise ValueError(f"{place} asks for what cannot be had: {'; '.join(refused)}")
    return found


def nearest(key: str, flags: Collection[str]) -> str:
    """The known key that is most like another one."""
    known = [*KEYS, *(flag.removeprefix("--").replace("-", "_") for flag in flags)]
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else "no trainer that is known here has it"
