"""What `--help` of an entry point begins with, and the settings that it shows; `--help-all` shows all."""

from collections.abc import Mapping

ESSENTIAL = (
    *("--data.roots", "--data.weights", "--data.cameras", "--data.state-key", "--data.action-key", "--data.horizon"),
    *("--data.sensor", "--data.validation-share", "--backbone.path", "--out", "--batch-size", "--micro-batch"),
    *("--seed", "--resume-from", "--init-from", "--finetune-vl"),
    *("--stage.steps", "--stage.lr.sensor", "--stage.lr.expert", "--stage.lr.lora"),
)
"""The twenty settings that decide most of what becomes of a training."""
LAUNCH = "accelerate launch --config_file accelerate_configs/single.yaml"
EXAMPLES: Mapping[str, tuple[str, str]] = {
    "stage1": (
        "--data.roots /data/pick \\\n    --backbone.path Qwen/Qwen2.5-VL-3B-Instruct --out runs/pick/stage1",
        "--config runs/pick/stage1/config.json \\\n    --seed 1 --out runs/pick/seed1",
    ),
    "stage2": (
        "--init-from runs/pick/stage1 \\\n    --data.roots /data/pick --backbone.path /models/3B --out runs/pick/s2",
        "--config runs/pick/stage2/config.json \\\n    --resume-from auto",
    ),
    "two_stage": (
        "--data.roots /data/pick \\\n    --backbone.path Qwen/Qwen2.5-VL-3B-Instruct --out runs/pick/both",
        "--config runs/pick/both/config.json \\\n    --stage1.steps 4000 --stage2.steps 2000 --out runs/pick/short",
    ),
}
"""Of each entry point, what stands behind its name."""


def examples(entry: str) -> tuple[str, ...]:
    """Two command lines of an entry point."""
    return tuple(f"{LAUNCH} \\\n    training/{entry}.py {words}" for words in EXAMPLES[entry])


def essential(stages: tuple[str, ...]) -> frozenset[str]:
    """The flags that `--help` shows, where the stages' flags begin with these names."""
    return frozenset(flag.replace("--stage.", f"--{stage}.") for flag in ESSENTIAL for stage in (stages or ("stage",)))
