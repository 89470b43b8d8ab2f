"""The environment variables that set flags of a training, in one table.

The recipes of human motion read those that their users' documents name; runpod/entrypoint.sh asks for all of them:

    python3 training/variables.py stage1 RUN [DATA]   the flags of an entry point with this run folder, zero bytes
                                                      between, on DATA where no variable names data
    python3 training/variables.py curate              the flags of a command of `vla` that prepares data
    python3 training/variables.py                     the names of all variables, one a line

A flag goes before a variable, a variable before a file. Nothing of ours is imported, so that any Python 3 runs this.
"""

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROBOT, MOTION, ADAPTER, UNLEARN = ("stage1", "stage2"), ("pretrain", "sft"), ("adapter", "unlearn"), ("unlearn",)
EVERY = (*ROBOT, *MOTION, *ADAPTER)
READING = (*MOTION, *ADAPTER)
"""Entry points that read variables by themselves."""
ADAPTING = ("sft", *ADAPTER)
"""Those that train an adapter where they are asked to."""
PREPARING = ("curate", "embed")
"""Commands of `vla` that make data ready for a training."""
QWEN = ("3b", "7b", "32b", "72b")
CURATE = ("curate",)
CURATION = (
    "MIN_SECONDS MAX_SECONDS MAX_ARTIFACT MIN_REALISM_PRETRAIN MIN_REALISM_SFT MIN_QUALITY_PRETRAIN MIN_QUALITY_SFT "
    "MIN_CAMERA_STABILITY_SFT BALANCE_MAX_FRACTION SOURCE_MAX_FRACTION HELD_OUT SEED"
)


@dataclass(frozen=True)
class Variable:
    """An environment variable, and the flag that it sets."""

    name: str
    flag: str
    entries: "tuple[str, ...]" = EVERY
    """Entry points and commands that have the flag."""
    several: bool = False
    """Its value is several, separated by spaces; concepts, which may have spaces, by commas or newlines."""
    read: bool = False
    """The recipes of human motion and of adapters read it too, whoever starts them."""


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
    Variable("LR_EXPERT", "--stage.lr.expert", (*ROBOT, *MOTION)),
    Variable("LR_LORA", "--stage.lr.lora", ("stage2",)),
    Variable("FINETUNE_VL", "--finetune-vl", ("stage2",)),
    Variable("LORA_RANK", "--lora.rank", ("stage2",)),
    Variable("LORA_ALPHA", "--lora.alpha", ("stage2",)),
    Variable("LORA_DROPOUT", "--lora.dropout", ("stage2",)),
    Variable("LORA_RANK", "--adapter.rank", ADAPTING, read=True),
    Variable("LORA_R", "--adapter.rank", ADAPTER, read=True),
    Variable("LORA_ALPHA", "--adapter.alpha", ADAPTING, read=True),
    Variable("LORA_DROPOUT", "--adapter.dropout", ADAPTING, read=True),
    Variable("LORA_EXP_NAME", "--adapter.name", ADAPTER, read=True),
    Variable("LORA_SAVE_DIR", "--out", ADAPTER, read=True),
    Variable("LORA_DATA_ROOT", "--data.roots", ADAPTER, read=True),
    Variable("LORA_EPOCHS", "--stage.epochs", ADAPTER, read=True),
    Variable("LORA_BATCH", "--batch-size", ADAPTER, read=True),
    Variable("LORA_LR", "--stage.lr.adapter", ADAPTING, read=True),
    Variable("UNLEARN_CONCEPT", "--concept", UNLEARN, several=True, read=True),
    Variable("UNLEARN_METHOD", "--method", UNLEARN, read=True),
    Variable("UNLEARN_ANCHOR", "--anchor", UNLEARN, read=True),
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
    Variable("TEXT_ENCODER", "--backbone.path", (*MOTION, "embed")),
    *(Variable(f"CURATION_{name}", f"--{name.lower().replace('_', '-')}", CURATE) for name in CURATION.split()),
)
"""In the order of their flags."""

BEGINNING = ("INIT_FROM_CHECKPOINT", "RESUME_FROM_CHECKPOINT")
"""Weights to begin with, or a run to go on with: one of them."""
USE = "USE_LORA"
"""Whether sft trains an adapter of the weights that it begins with, in place of the weights themselves."""
USED = ("--stage.lr.expert", "None", "--stage.lr.adapter", "1e-3")
"""What it is then."""
TUNING = ("LORA_RANK", "LORA_ALPHA", "LORA_DROPOUT", "LORA_LR")
"""What says more of it."""
OF_ADAPTER = ("LORA_R", "LORA_EPOCHS", "LORA_BATCH", "LORA_EXP_NAME", "LORA_DATA_ROOT", "LORA_SAVE_DIR")
"""What training/adapter.py and unlearn.py alone read."""
OF_UNLEARNING = ("UNLEARN_CONCEPT", "UNLEARN_METHOD", "UNLEARN_ANCHOR")
"""What training/unlearn.py alone reads."""
NAMED, SAVED, ADAPTERS_IN = "LORA_EXP_NAME", "LORA_SAVE_DIR", "runs/adapter_train"
"""What a run of an adapter is called, what folder it is in, and which one without."""
NO = ("", "0", "false", "no", "off")
UPLOADED = "nothing is sent anywhere from a pod; take data and policies from the volume, and unset it"
OF_ONE_FOLDER = "is in one folder, which curation reads whole; put them into RAW_DATA_PATH, and unset it"
INSTEAD: "Mapping[str, str]" = {
    "SYNTHETIC_SAMPLES": "no clips are made up here; put recordings into RAW_DATA_PATH, and unset it",
    "AUTO_CLEANUP": "nothing on a volume is deleted; remove what you no longer need yourself, and unset it",
    **dict.fromkeys(("UPLOAD_DATASET", "HF_PUSH_DATASET", "AUTO_PUSH"), UPLOADED),
    **dict.fromkeys(("CURATION_INPUTS", "CURATION_CANONICAL_DIR"), f"what is curated {OF_ONE_FOLDER}"),
    **dict.fromkeys(("CURATED_OUTPUT_DIR", "OUTPUT_PATH"), "every stage writes into DATA_PATH; set that in its place"),
    "MERGE_BALANCE_SOURCES": "curation limits sources; set CURATION_SOURCE_MAX_FRACTION (1: no limit) in its place",
    "MERGE_MAX_SOURCE_FRACTION": "curation limits sources; set CURATION_SOURCE_MAX_FRACTION in its place",
    "MERGE_FILTER_ARTIFACTS": "curation leaves faulty clips out; set CURATION_MAX_ARTIFACT (1: none) in its place",
    "MERGE_MAX_ARTIFACT_SCORE": "curation leaves faulty clips out; set CURATION_MAX_ARTIFACT in its place",
    "MERGE_MIN_FRAMES": "clips are measured in seconds; set CURATION_MIN_SECONDS in its place",
    "MERGE_MAX_FRAMES": "clips are measured in seconds; set CURATION_MAX_SECONDS in its place",
}
"""Variables of the documents that a job of human motion or of its data cannot obey, and what to do instead."""
SWITCHES = ("SYNTHETIC_SAMPLES", "AUTO_CLEANUP", "UPLOAD_DATASET", "HF_PUSH_DATASET", "AUTO_PUSH")
"""Those of them that may say no, which asks for nothing."""
IDLE: "Mapping[str, str]" = {
    **dict.fromkeys(("USE_ASYNC_PIPELINE", "ASYNC_MAX_CONCURRENT", "ASYNC_RESUME"), "a stage goes on where it was"),
    **dict.fromkeys(("ASYNC_SKIP_SYNTHETIC", "DISABLE_MOCK_LLM", "FORCE_MOCK_LLM"), "no clips are made up here"),
    **dict.fromkeys(("HF_REPO_NAME", "HF_DATASET_REPO", "HF_ASYNC_UPLOAD", "VERSION"), "nothing is sent anywhere"),
}
"""Variables of the documents that change nothing, and why."""
ELSEWHERE = ("train_data_final.pt", "pretrain_data_embedded.pt", "sft_data_embedded.pt")
"""What the documents call the files that a training reads; here it reads the folder that a stage has written."""


def flags_of(entry: str, environment: "Mapping[str, str]") -> "list[tuple[str, list[str]]]":
    """The variables that a recipe of human motion reads by itself: each with its flag and values.

    Raises:
        ValueError: one asks for what there is not.
    """
    if entry not in READING:
        return []
    refuse(entry, environment)
    given = {**environment, SAVED: environment.get(SAVED) or (ADAPTERS_IN if environment.get(NAMED) else "")}
    found = [(USE, [*USED])] if uses_lora(entry, environment) else []
    return found + [
        (row.name, [row.flag, *values_of(row, given[row.name], name=given.get(NAMED))])
        for row in TABLE
        if row.read and entry in row.entries and given.get(row.name)
    ]


def uses_lora(entry: str, environment: "Mapping[str, str]") -> bool:
    """Whether USE_LORA makes a fine-tuning that of an adapter."""
    return entry == "sft" and environment.get(USE, "").lower() not in NO


def refuse(entry: str, environment: "Mapping[str, str]") -> None:
    """Refuse what a recipe that reads variables cannot obey; one that says no asks for nothing.

    Raises:
        ValueError: it is of another recipe, or two say the same.
    """
    given = {name for name, value in environment.items() if value.lower() not in NO}
    if entry == "pretrain" and (own := first(given, (USE, *TUNING))):
        raise ValueError(f"{own} is set, but LoRA of fresh weights is of no use: adapt a trained model; unset it")
    if entry in MOTION and (own := first(given, OF_ADAPTER)):
        raise ValueError(f"{own} is set, but training/adapter.py and unlearn.py alone read it; unset it")
    if entry not in UNLEARN and (own := first(given, OF_UNLEARNING)):
        raise ValueError(f"{own} is set, but training/unlearn.py alone reads it; unset it")
    if entry == "sft" and USE not in given and (own := first(given, TUNING)):
        raise ValueError(f"{own} is set, but {USE} is not true: set that too, or train as it is; unset it")
    flags: dict[str, str] = {}
    for row in TABLE:
        if row.read and entry in row.entries and row.name in given:
            if row.flag in flags:
                raise ValueError(f"{flags[row.flag]} and {row.name} both say {row.flag}; unset one of them")
            flags[row.flag] = row.name


def first(given: "set[str]", names: "tuple[str, ...]") -> str:
    """The first of some names that is given; empty where none is."""
    return next((name for name in names if name in given), "")


def refuse_of_jobs(environment: "Mapping[str, str]") -> "list[str]":
    """Why variables of the documents change nothing, a sentence each.

    Raises:
        ValueError: one cannot be obeyed, or none of that name is known.
    """
    for name, instead in INSTEAD.items():
        value = environment.get(name, "").lower()
        if value not in (NO if name in SWITCHES else ("",)):
            raise ValueError(f"{name} is set, but {instead}")
    known = {row.name for row in TABLE if row.entries == CURATE} | {"CURATION_ARGS"}
    prefixes = {"CURATION_": known, "MERGE_": {name for name in INSTEAD if name.startswith("MERGE_")}}
    for name in sorted(environment):
        for prefix, names in prefixes.items():
            if name.startswith(prefix) and environment[name] and name not in names | set(INSTEAD):
                near = difflib.get_close_matches(name, known, 1, 0)[0]
                raise ValueError(f"{name} is no variable of curation; the nearest is {near}, runpod/README.md has all")
    return [f"{name} changes nothing: {reason}" for name, reason in IDLE.items() if environment.get(name)]


def values_of(row: Variable, value: str, folder: str = "", name: "str | None" = None) -> "list[str]":
    """The values of a variable; paths are those in `folder` where they are not absolute, `name` that of an adapter."""
    if row.name == SAVED:
        return [str(Path(folder, value, name or "adapter"))]
    if row.flag == "--data.roots":
        return [str(Path(folder, place)) for place in places(value, folder, row.name)]
    if row.name == "TEXT_ENCODER":
        return [str(Path(folder, value)) if Path(folder, value).is_dir() else value]
    if row.name == "UNLEARN_CONCEPT":
        return [concept.strip() for concept in value.replace("\n", ",").split(",") if concept.strip()]
    return value.split() if row.several else [value]


def places(value: str, folder: str, name: str = "TRAIN_DATA_PATH") -> "list[str]":
    """Paths separated by newlines, colons or spaces; a colon keeps the spaces of a path, a folder that exists is whole.

    Raises:
        ValueError: there is none.
    """
    if os.path.lexists(Path(folder, value)):
        return [value]
    separator = next((mark for mark in ("\n", ":") if mark in value), None)
    found = [place for place in value.split(separator) if place.strip()]
    if not found:
        raise ValueError(f"{name} names no folder; give one or more data sets, e.g. /workspace/data/pick")
    return found


def job(entry: str, run: str, environment: "Mapping[str, str]", data: str = "") -> "list[str]":
    """The flags of an entry point that runs in a job, with this run folder; on `data` where no variable names any.

    Raises:
        ValueError: something is missing, or contradicts something.
    """
    folder = environment.get("DATA_ROOT") or str(Path.cwd())
    given = {name: value for name, value in environment.items() if value}
    if entry in ADAPTER and SAVED in given:
        raise ValueError(f"{SAVED} is set, but CHECKPOINT_DIR says where a job writes; unset it")
    named = entry in ADAPTER and "LORA_DATA_ROOT" in given
    if "TRAIN_DATA_PATH" not in given and not data and not named:
        raise ValueError("TRAIN_DATA_PATH is not set; give one or more data set folders, e.g. /workspace/data/pick")
    if entry in READING:
        refuse(entry, environment)
    words = [*USED] if uses_lora(entry, environment) else []
    for row in TABLE:
        if entry not in row.entries:
            continue
        if row.name == "TRAIN_DATA_PATH" and named:
            continue
        if row.name == "TRAIN_DATA_PATH":
            roots = values_of(row, given[row.name], folder) if row.name in given else [data]
            words += [row.flag, *(present(root, entry, environment) for root in roots)]
        elif row.name == BEGINNING[0]:
            words += ["--out", run, *beginning(run, given, folder)]
        elif row.name == "MODEL_VARIANT" and entry in ROBOT:
            words += [row.flag, model(given.get(row.name, "3b"), folder)]
        elif row.name in given and row.name not in (*BEGINNING, SAVED):
            words += [row.flag, *values_of(row, given[row.name], folder)]
    return words


def present(root: str, entry: str, environment: "Mapping[str, str]") -> str:
    """A data set. ValueError where it is a file of the documents that no stage writes here, with what it is now."""
    if entry in MOTION and Path(root).name in ELSEWHERE and not os.path.lexists(root):
        curated = Path(environment.get("DATA_PATH") or Path(root).parent, "curated", entry)
        raise ValueError(
            f"TRAIN_DATA_PATH is {root}, which is not there and which no stage writes: unset it and set "
            f"USE_CURATED_DATA=true, which reads {curated}"
        )
    return root


def preparing(command: str, environment: "Mapping[str, str]") -> "list[str]":
    """The flags of a command that prepares data in a job."""
    folder = environment.get("DATA_ROOT") or str(Path.cwd())
    given = {"TEXT_ENCODER": "hash", **{name: value for name, value in environment.items() if value}}
    rows = [row for row in TABLE if command in row.entries and row.name in given]
    return [word for row in rows for word in (row.flag, *values_of(row, given[row.name], folder))]


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
        print("\n".join(dict.fromkeys([*(row.name for row in TABLE), USE])))
        return 0
    entry, told = argv[0], []
    try:
        if entry not in ROBOT:
            told = refuse_of_jobs(os.environ)
        words = preparing(entry, os.environ) if entry in PREPARING else job(entry, argv[1], os.environ, *argv[2:])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 78
    print("".join(f"{remark}\n" for remark in told), end="", file=sys.stderr)
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
