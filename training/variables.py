"""The environment variables that set flags of a training, in one table.

The recipes of human motion read those that their users' documents name; runpod/entrypoint.sh asks for all of them:

    python3 training/variables.py stage1 RUN     the flags of an entry point with this run folder, zero bytes between
    python3 training/variables.py                the names of all variables, one a line

A flag goes before a variable, a variable before a file. Nothing of ours is imported, so that any Python 3 runs this.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROBOT, MOTION = ("stage1", "stage2"), ("pretrain", "sft")
EVERY = (*ROBOT, *MOTION)
QWEN = ("3b", "7b", "32b", "72b")


@dataclass(frozen=True)
class Variable:
    """An environment variable, and the flag that it sets."""

    name: str
    flag: str
    entries: "tuple[str, ...]" = EVERY
    """Entry points that have the flag."""
    several: bool = False
    """Its value is several, separated by spaces."""
    read: bool = False
    """The recipes of human motion read it too, whoever starts them."""


TABLE = (
    Variable("TRAIN_DATA_PATH", "--data.roots", read=True),
    Variable("MODEL_VARIANT", "--backbone.path", ROBOT),
    Variable("MODEL_VARIANT", "--preset", MOTION, read=True),
    Variable("INIT_FROM_CHECKPOINT", "--init-from", read=True),
    Variable("RESUME_FROM_CHECKPOINT", "--resume-from", read=True),
    Variable("STEPS", "--stage.steps"),
    Variable("EPOCHS", "--stage.epochs"),
    Variable("BATCH_SIZE", "--batch-size"),
    Variable("MICRO_BATCH", "--micro-batch"),
    Variable("LR_SENSOR", "--stage.lr.sensor", ROBOT),
    Variable("LR_EXPERT", "--stage.lr.expert"),
    Variable("LR_LORA", "--stage.lr.lora", ("stage2",)),
    Variable("FINETUNE_VL", "--finetune-vl", ("stage2",)),
    Variable("LORA_RANK", "--lora.rank", ("stage2",)),
    Variable("LORA_ALPHA", "--lora.alpha", ("stage2",)),
    Variable("LORA_DROPOUT", "--lora.dropout", ("stage2",)),
    Variable("DROPOUT", "--dropout"),
    Variable("SEED", "--seed"),
    Variable("SAVE_EVERY", "--save-every"),
    Variable("SAVE_SECONDS", "--save-seconds"),
    Variable("KEEP", "--keep"),
    Variable("GRACE_SECONDS", "--grace-seconds"),
    Variable("HANG_SECONDS", "--hang-seconds"),
    Variable("SAVE_FAILURES", "--save-failures"),
    Variable("QUARANTINE", "--data.quarantine"),
    Variable("TRACKER", "--tracker"),
    Variable("TRAIN_DATA_WEIGHTS", "--data.weights", several=True),
    Variable("TRAIN_DATA_EPISODES", "--data.episodes", several=True),
)
"""In the order of their flags."""

BEGINNING = ("INIT_FROM_CHECKPOINT", "RESUME_FROM_CHECKPOINT")
"""Weights to begin with, or a run to go on with: one of them."""
ADAPTERS = "adapters of motion are not trained yet"
REFUSED: "Mapping[str, str]" = {
    "USE_LORA": ADAPTERS,
    **dict.fromkeys(("LORA_RANK", "LORA_R", "LORA_ALPHA", "LORA_DROPOUT", "LORA_EPOCHS", "LORA_BATCH"), ADAPTERS),
    **dict.fromkeys(("LORA_LR", "LORA_EXP_NAME", "LORA_DATA_ROOT", "LORA_SAVE_DIR"), ADAPTERS),
}
"""Variables of the documents that a recipe of human motion cannot obey, and why; one that says no asks for nothing."""
NO = ("", "0", "false", "no", "off")


def flags_of(entry: str, environment: "Mapping[str, str]") -> "list[tuple[str, list[str]]]":
    """The variables that a recipe of human motion reads by itself: each with its flag and values.

    Raises:
        ValueError: one asks for what there is not.
    """
    if entry not in MOTION:
        return []
    refuse(environment)
    return [
        (row.name, [row.flag, *values_of(row, environment[row.name])])
        for row in TABLE
        if row.read and entry in row.entries and environment.get(row.name)
    ]


def refuse(environment: "Mapping[str, str]") -> None:
    """Refuse what a recipe of human motion cannot obey (ValueError)."""
    for name, reason in REFUSED.items():
        if environment.get(name, "").lower() not in NO:
            raise ValueError(f"{name} is set, but {reason}; unset it")


def values_of(row: Variable, value: str, folder: str = "") -> "list[str]":
    """The values of a variable; paths are those in `folder` where they are not absolute."""
    if row.name == "TRAIN_DATA_PATH":
        return [str(Path(folder, place)) for place in places(value, folder)]
    return value.split() if row.several else [value]


def places(value: str, folder: str) -> "list[str]":
    """Paths separated by newlines, colons or spaces; a colon keeps the spaces of a path, a folder that exists is whole.

    Raises:
        ValueError: there is none.
    """
    if os.path.lexists(Path(folder, value)):
        return [value]
    separator = next((mark for mark in ("\n", ":") if mark in value), None)
    found = [place for place in value.split(separator) if place.strip()]
    if not found:
        raise ValueError("TRAIN_DATA_PATH names no folder; give one or more data sets, e.g. /workspace/data/pick")
    return found


def job(entry: str, run: str, environment: "Mapping[str, str]") -> "list[str]":
    """The flags of an entry point that runs in a job, with this run folder.

    Raises:
        ValueError: something is missing, or contradicts something.
    """
    folder = environment.get("DATA_ROOT") or str(Path.cwd())
    given = {name: value for name, value in environment.items() if value}
    if "TRAIN_DATA_PATH" not in given:
        raise ValueError("TRAIN_DATA_PATH is not set; give one or more data set folders, e.g. /workspace/data/pick")
    if entry in MOTION:
        refuse(environment)
    words = []
    for row in TABLE:
        if entry not in row.entries:
            continue
        if row.name == BEGINNING[0]:
            words += ["--out", run, *beginning(run, given, folder)]
        elif row.flag == "--backbone.path":
            words += [row.flag, model(given.get(row.name, "3b"), folder)]
        elif row.name in given and row.name not in BEGINNING:
            words += [row.flag, *values_of(row, given[row.name], folder)]
    return words


def model(variant: str, folder: str) -> str:
    """The backbone that MODEL_VARIANT names.

    Raises:
        ValueError: it names none.
    """
    if variant.lower() == "tiny":
        return "tiny"
    if variant.lower() in QWEN:
        return f"Qwen/Qwen2.5-VL-{variant.upper()}-Instruct"
    if "/" not in variant:
        raise ValueError(
            f"MODEL_VARIANT is '{variant}'; give tiny, {', '.join(QWEN)}, a hub id (owner/name) or a folder (./name)"
        )
    return str(Path(folder, variant)) if Path(folder, variant).is_dir() else variant


def beginning(run: str, given: "Mapping[str, str]", folder: str) -> "list[str]":
    """Where a run of a job begins: one with a checkpoint goes on from it, its first weights are needed only before.

    Raises:
        ValueError: two beginnings are given, or one for two runs.
    """
    init, resume = (given.get(name) for name in BEGINNING)
    if init and resume:
        raise ValueError(
            f"{' and '.join(BEGINNING)} are both set; unset {BEGINNING[1]}: a run that was already started from "
            f"{BEGINNING[0]} resumes by itself"
        )
    resume = resume or "auto"
    if resume != "auto" and given.get("STAGE", "both") == "both":
        raise ValueError(
            f"{BEGINNING[1]} is '{resume}' but STAGE is both; set STAGE to 1 or 2, or leave {BEGINNING[1]} at auto, "
            "which resumes each stage from its own folder"
        )
    if init and not any(Path(run, "checkpoints").glob("step-*")):
        return ["--init-from", str(Path(folder, init))]
    return ["--resume-from", resume if resume == "auto" else str(Path(folder, resume))]


def main(argv: "list[str]") -> int:
    """Print flags, or names; the exit code."""
    if not argv:
        print("\n".join(dict.fromkeys([*(row.name for row in TABLE), *REFUSED])))
        return 0
    try:
        words = job(argv[0], argv[1], os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 78
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
