"""What `--help` of an entry point begins with, and the settings that it shows; `--help-all` shows all."""

from collections.abc import Mapping

from training.presets import PRESETS

ESSENTIAL = (
    *("--data.roots", "--data.weights", "--data.cameras", "--data.state-key", "--data.action-key", "--data.horizon"),
    *("--data.sensor", "--data.validation-share", "--backbone.path", "--out", "--batch-size", "--micro-batch"),
    *("--seed", "--resume-from", "--init-from", "--finetune-vl"),
    *("--stage.steps", "--stage.lr.sensor", "--stage.lr.expert", "--stage.lr.lora"),
)
"""The twenty settings that decide most of what becomes of a training."""
OF_MOTION = (
    *("--preset", "--data.roots", "--data.weights", "--data.horizon", "--data.motion.rate-hz", "--data.motion.joints"),
    *("--data.motion.representation", "--data.validation-share", "--backbone.path", "--diffusion.prediction", "--out"),
    *("--batch-size", "--micro-batch", "--seed", "--resume-from", "--extend-to", "--init-from"),
    *("--stage.steps", "--stage.epochs", "--stage.lr.expert"),
)
"""As many of a training on human motion."""
OF_ADAPTERS = (
    *("--init-from", "--data.roots", "--data.where", "--data.preserve", "--data.near", "--data.text"),
    *("--data.validation-share", "--adapter.name", "--adapter.rank", "--adapter.alpha", "--adapter.dropout"),
    *("--adapter.targets", "--out", "--batch-size", "--micro-batch", "--seed", "--save-every", "--resume-from"),
    *("--stage.epochs", "--stage.lr.adapter"),
)
"""As many of a training of an adapter; all else is as its base has it."""
OF_UNLEARNING = (
    *("--init-from", "--data.roots", "--concept", "--data.where", "--spare", "--neighbours", "--data.near"),
    *("--data.preserve", "--method", "--anchor", "--adapter.rank", "--adapter.alpha", "--out", "--batch-size"),
    *("--micro-batch", "--seed", "--resume-from", "--stage.steps", "--stage.lr.adapter"),
    "--stage.objective.negative-guidance",
)
"""As many of unlearning."""
LAUNCH = "accelerate launch --config_file accelerate_configs/single.yaml"
EXAMPLES: Mapping[str, tuple[str, str]] = {
    "stage1": (
        "--data.roots /data/pick \\\n    --backbone.path Qwen/Qwen2.5-VL-3B-Instruct --out runs/pick/stage1",
        "--config runs/pick/stage1/config.json \\\n    --seed 1 --out runs/pick/seed1",
    ),
    "stage2": (
        "--init-from runs/pick/stage1 \\\n    --data.roots /data/pick --backbone.path /models/3B --out runs/pick/s2",
        "--config runs/pick/stage2/config.json \\\n    --init-from None --resume-from auto",
    ),
    "two_stage": (
        "--data.roots /data/pick \\\n    --backbone.path Qwen/Qwen2.5-VL-3B-Instruct --out runs/pick/both",
        "--config runs/pick/both/config.json \\\n    --stage1.steps 4000 --stage2.steps 2000 --out runs/pick/short",
    ),
    "pretrain": (
        "--preset small \\\n    --data.roots /data/walks /data/actions --out runs/motion",
        "--config runs/motion/config.json \\\n    --resume-from auto --extend-to 20000",
    ),
    "sft": (
        "--init-from runs/motion/best \\\n    --data.roots /data/dances --out runs/dances",
        "--config runs/dances/config.json \\\n    --stage.lr.expert 5e-5 --out runs/slower",
    ),
    "adapter": (
        "--init-from runs/motion/best \\\n    --data.roots /data/gait --data.where condition=crouch --out runs/crouch",
        "--init-from runs/pick/stage2 \\\n    --data.roots /data/pick --data.where task=2 --out runs/task2",
    ),
    "unlearn": (
        "--init-from runs/motion/best \\\n    --data.roots /data/actions --concept kick punch --out runs/no-kick",
        "--init-from runs/motion/best \\\n    --data.roots /data/actions --concept kick --method uce --out runs/uce",
    ),
}
"""Of each entry point, what stands behind its name."""


def examples(entry: str) -> tuple[str, ...]:
    """Two command lines of an entry point."""
    return tuple(f"{LAUNCH} \\\n    training/{entry}.py {words}" for words in EXAMPLES[entry])


def describe(entry: str) -> str:
    """What an entry point does."""
    if entry == "adapter":
        return """Train a named adapter of the policy of --init-from, which stays as it is, by `accelerate launch`.
What the two must share is read from there. --config FILE replays the config.json of a run; flags change it."""
    if entry == "unlearn":
        return """Make the policy of --init-from forget a concept by an adapter; start it with `accelerate launch`.
What the two must share is read from there. --config FILE replays the config.json of a run; flags change it."""
    kind, file = (
        ("model of human motion", ", or is a file of another trainer")
        if entry in PRESETS
        else ("vision-language-action policy", "")
    )
    return f"""Train a {kind}; start it with `accelerate launch`.
--config FILE (JSON or YAML) replays the config.json of a run{file}; flags change it."""


def essential(entry: str, stages: tuple[str, ...]) -> frozenset[str]:
    """The flags that `--help` of an entry point shows, where the stages' flags begin with these names."""
    own = {"adapter": OF_ADAPTERS, "unlearn": OF_UNLEARNING}
    shown = own.get(entry, OF_MOTION if entry in PRESETS else ESSENTIAL)
    return frozenset(flag.replace("--stage.", f"--{stage}.") for flag in shown for stage in (stages or ("stage",)))
