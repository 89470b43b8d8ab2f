"""The RunPod entry point: environment to flags, refusals, signals, exit codes, a second start."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.pods import ENTRYPOINT, Pod, after, finish
from training import variables


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def head(config: str, processes: int, stage: int) -> list[str]:
    return [
        "accelerate", "launch", "--config_file", f"accelerate_configs/{config}.yaml", "--num_processes", str(processes),
        "--main_process_port", "0", f"training/stage{stage}.py",
    ]  # fmt: skip


def test_both_stages(pod: Pod) -> None:
    run = pod.base["CHECKPOINT_DIR"]
    data = ["--data.roots", "/data/pick", "--backbone.path", "tiny"]
    assert pod.planned() == [
        [*head("cpu", 1, 1), *data, "--out", f"{run}/stage1", "--resume-from", "auto"],
        [
            *head("cpu", 1, 2), *data, "--out", f"{run}/stage2",
            "--init-from", f"{run}/stage1",
        ],
    ]  # fmt: skip
    assert not Path(run).exists(), "a dry run writes nothing"
    assert not pod.calls()


FLAGS = {
    "STEPS": ("--stage.steps", "20"),
    "BATCH_SIZE": ("--batch-size", "32"),
    "MICRO_BATCH": ("--micro-batch", "4"),
    "LR_SENSOR": ("--stage.lr.sensor", "1e-4"),
    "LR_EXPERT": ("--stage.lr.expert", "2e-4"),
    "DROPOUT": ("--dropout", "0.1"),
    "SEED": ("--seed", "7"),
    "SAVE_EVERY": ("--save-every", "500"),
    "SAVE_SECONDS": ("--save-seconds", "300"),
    "KEEP": ("--keep", "3"),
    "GRACE_SECONDS": ("--grace-seconds", "5"),
    "HANG_SECONDS": ("--hang-seconds", "300"),
    "SAVE_FAILURES": ("--save-failures", "3"),
    "QUARANTINE": ("--data.quarantine", "8"),
    "TRACKER": ("--tracker", "wandb"),
}
STAGE_2_FLAGS = {
    "LR_LORA": ("--stage.lr.lora", "1e-5"),
    "FINETUNE_VL": ("--finetune-vl", "lora"),
    "LORA_RANK": ("--lora.rank", "16"),
    "LORA_ALPHA": ("--lora.alpha", "32"),
    "LORA_DROPOUT": ("--lora.dropout", "0.05"),
}


def test_every_variable_becomes_its_flag(pod: Pod) -> None:
    settings = {name: value for name, (_, value) in {**FLAGS, **STAGE_2_FLAGS}.items()}
    first, second = pod.planned(**settings)
    for flag, value in FLAGS.values():
        assert after(first, flag) == value
        assert after(second, flag) == value
    for flag, value in STAGE_2_FLAGS.values():
        assert flag not in first
        assert after(second, flag) == value


def test_no_variable_of_the_table_is_untested() -> None:
    elsewhere = {"TRAIN_DATA_PATH", "MODEL_VARIANT", "INIT_FROM_CHECKPOINT", "RESUME_FROM_CHECKPOINT"}
    lists = {"EPOCHS", "TRAIN_DATA_WEIGHTS", "TRAIN_DATA_EPISODES"}
    adapters = {row.name for row in variables.TABLE if set(row.entries) <= set(variables.ADAPTING)}
    prepared = {row.name for row in variables.TABLE if set(row.entries) & set(variables.PREPARING)}
    assert {row.name for row in variables.TABLE} - prepared == {*FLAGS, *STAGE_2_FLAGS, *lists, *elsewhere, *adapters}


def test_training_knows_every_flag_of_the_table() -> None:
    from training import recipes
    from training.flags import view_of
    from vla import commandline

    for flags, recipe in ((FLAGS, recipes.stage1()), (FLAGS | STAGE_2_FLAGS, recipes.stage2())):
        assert {flag for flag, _ in flags.values()} <= set(commandline.flags(view_of(recipe)))


def test_one_variable_alone_changes_one_flag(pod: Pod) -> None:
    (bare,) = pod.planned(STAGE="1")
    (changed,) = pod.planned(STAGE="1", EPOCHS="3")
    assert changed == [*bare, "--stage.epochs", "3"]


def test_lists(pod: Pod) -> None:
    (command,) = pod.planned(STAGE="1", TRAIN_DATA_PATH="/a /b", TRAIN_DATA_WEIGHTS="3 1", TRAIN_DATA_EPISODES="0 3 5")
    text = " ".join(command)
    assert "--data.roots /a /b --backbone.path" in text
    assert "--data.weights 3 1" in text
    assert "--data.episodes 0 3 5" in text


@pytest.mark.parametrize(
    ("variant", "path"),
    [
        ("tiny", "tiny"),
        (None, "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("3B", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("7b", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("owner/name", "owner/name"),
        ("/models/my qwen", "/models/my qwen"),
    ],
)
def test_model_variant(pod: Pod, variant: str | None, path: str) -> None:
    (command,) = pod.planned(STAGE="1", MODEL_VARIANT=variant)
    assert after(command, "--backbone.path") == path


@pytest.mark.parametrize(
    ("value", "roots"),
    [
        ("/a /b\t/c", ["/a", "/b", "/c"]),
        ("/a b:/c", ["/a b", "/c"]),
        ("/a b:", ["/a b"]),
        ("/a:b c\n/d\n", ["/a:b c", "/d"]),
        ('/it\'s "quoted" $HOME `id` *:/größe/数据', ['/it\'s "quoted" $HOME `id` *', "/größe/数据"]),
    ],
)
def test_data_paths_survive(pod: Pod, value: str, roots: list[str]) -> None:
    (command,) = pod.planned(STAGE="1", TRAIN_DATA_PATH=value)
    start = command.index("--data.roots") + 1
    assert command[start : command.index("--backbone.path")] == roots


def test_a_folder_that_exists_is_taken_whole(pod: Pod) -> None:
    (pod.volume / "my data").mkdir()
    (command,) = pod.planned(STAGE="1", TRAIN_DATA_PATH="my data", DATA_ROOT=str(pod.volume))
    assert after(command, "--data.roots") == f"{pod.volume}/my data"


@pytest.mark.parametrize("entry", ["pretrain", "sft"])
def test_human_motion(pod: Pod, entry: str) -> None:
    run = pod.base["CHECKPOINT_DIR"]
    pod.base |= {"STAGE": entry, "MODEL_VARIANT": "medium", "TRAIN_DATA_PATH": "/data/walks:/data/jumps"}
    (command,) = pod.planned(INIT_FROM_CHECKPOINT="/runs/first/best")
    launched = [f"training/{entry}.py" if word == "training/stage1.py" else word for word in head("cpu", 1, 1)]
    data = ["--data.roots", "/data/walks", "/data/jumps", "--preset", "medium", "--out", run]
    assert command == [*launched, *data, "--init-from", "/runs/first/best"]
    settings = {name: setting for name, setting in FLAGS.items() if name != "LR_SENSOR"}
    (command,) = pod.planned(**{name: value for name, (_, value) in settings.items()}, LR_SENSOR="1")
    assert all(after(command, flag) == value for flag, value in settings.values())
    assert "--stage.lr.sensor" not in command, "a motion has no sensor"
    (command,) = pod.planned(MODEL_VARIANT=None)
    assert "--preset" not in command and "--backbone.path" not in command


def test_what_human_motion_cannot_obey_ends_the_job(pod: Pod) -> None:
    for name, reason in (("LORA_RANK", "USE_LORA is not true: set that too, or train as it is"),
                         ("LORA_R", "training/adapter.py and unlearn.py alone read it"),
                         ("UNLEARN_CONCEPT", "training/unlearn.py alone reads it")):  # fmt: skip
        result = pod.start(STAGE="sft", MODEL_VARIANT="small", **{name: "1"})
        assert result.returncode == 78
        assert result.stderr == f"error: {name} is set, but {reason}; unset it\n"
    assert pod.start(STAGE="sft", MODEL_VARIANT="small", USE_LORA="false").returncode == 0


def test_adapters(pod: Pod) -> None:
    """Of a fine-tuning that is asked for one, and of a stage of their own."""
    pod.base |= {
        "INIT_FROM_CHECKPOINT": "/runs/first/best",
        "LORA_ALPHA": "8",
        "LORA_DROPOUT": "0.1",
        "LORA_LR": "2e-3",
    }
    sizes = {"--adapter.rank": "4", "--adapter.alpha": "8", "--adapter.dropout": "0.1", "--stage.lr.adapter": "2e-3"}
    (tuned,) = pod.planned(STAGE="sft", MODEL_VARIANT="medium", USE_LORA="true", LORA_RANK="4")
    assert "training/sft.py" in tuned and after(tuned, "--preset") == "medium"
    assert tuned[tuned.index("--stage.lr.expert") + 1] == "None"
    assert {flag: tuned[len(tuned) - tuned[::-1].index(flag)] for flag in sizes} == sizes, "the last one counts"
    own = {"LORA_R": "4", "LORA_EXP_NAME": "crouch", "LORA_EPOCHS": "3", "LORA_BATCH": "24", "LORA_DATA_ROOT": "/gait"}
    (adapted,) = pod.planned(STAGE="adapter", MODEL_VARIANT=None, TRAIN_DATA_PATH=None, **own)
    assert "training/adapter.py" in adapted and after(adapted, "--init-from") == "/runs/first/best"
    sizes |= {"--adapter.name": "crouch", "--stage.epochs": "3", "--batch-size": "24", "--data.roots": "/gait"}
    assert {flag: after(adapted, flag) for flag in sizes} == sizes
    concepts = {"UNLEARN_CONCEPT": "kick, play soccer", "UNLEARN_METHOD": "uce", "UNLEARN_ANCHOR": "a person stands"}
    (forgetful,) = pod.planned(STAGE="unlearn", MODEL_VARIANT=None, TRAIN_DATA_PATH=None, **own, **concepts)
    assert "training/unlearn.py" in forgetful and after(forgetful, "--init-from") == "/runs/first/best"
    at = forgetful.index("--concept")
    assert forgetful[at : at + 7] == [
        "--concept", "kick", "play soccer", "--method", "uce", "--anchor", "a person stands",
    ]  # fmt: skip
    assert {flag: after(forgetful, flag) for flag in sizes} == sizes
    result = pod.start(STAGE="adapter", LORA_SAVE_DIR="/elsewhere")
    assert result.returncode == 78 and "CHECKPOINT_DIR says where a job writes" in result.stderr


def test_training_is_told_by_flags_alone(pod: Pod) -> None:
    """A recipe that read a variable too would take it for another source."""
    given = {row.name: "1" for row in variables.TABLE if row.name not in variables.BEGINNING}
    assert pod.start(STAGE="1", **{**given, "MODEL_VARIANT": "tiny", "INIT_FROM_CHECKPOINT": "/a"}).returncode == 0
    seen = (pod.bin / "env-0").read_text().splitlines()
    assert not {row.name for row in variables.TABLE} & set(seen)
    assert {"CHECKPOINT_DIR", "STAGE"} <= set(seen)


def test_a_finished_run_is_extended(pod: Pod) -> None:
    finish(Path(pod.base["CHECKPOINT_DIR"]))
    pod.base |= {"STAGE": "pretrain", "MODEL_VARIANT": "small"}
    assert pod.planned() == []
    (command,) = pod.planned(EXTRA_ARGS="--extend-to 20000")
    assert after(command, "--extend-to") == "20000"
    assert after(command, "--resume-from") == "auto"


HARD_VALUES = [
    "two words", "it's", 'a "b"', "line\nbreak", "tail\n", "größe 数据", "$(id) `id` $HOME *", "back\\slash", "-x",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD_VALUES)
def test_values_survive_the_real_start(pod: Pod, text: str) -> None:
    run = str(pod.volume / text)
    result = pod.start(STAGE="1", CHECKPOINT_DIR=run, SEED=text)
    assert result.returncode == 0, result.stderr
    (call,) = pod.calls()
    assert after(call, "--out") == run
    assert after(call, "--seed") == text


def test_dry_run_prints_what_is_started(pod: Pod) -> None:
    settings = {"SEED": "it's\n$HOME", "STEPS": "5", "EXTRA_ARGS": "--stage.warmup 0.1 --name 'a \"b\" c'"}
    planned = pod.planned(**settings)
    assert pod.start(**settings).returncode == 0
    assert [["accelerate", *call] for call in pod.calls()] == planned


def test_extra_arguments_are_words_of_a_shell_and_are_not_run(pod: Pod) -> None:
    (command,) = pod.planned(STAGE="1", EXTRA_ARGS="--a 'b c' --d \"e'f\" $(touch /owned) ;")
    assert command[-7:] == ["--a", "b c", "--d", "e'f", "$(touch", "/owned)", ";"]


@pytest.mark.parametrize(
    ("changes", "config", "processes"),
    [
        ({}, "cpu", "1"),
        ({"RUNPOD_GPU_COUNT": "1"}, "single", "1"),
        ({"RUNPOD_GPU_COUNT": "8"}, "ddp", "8"),
        ({"RUNPOD_GPU_COUNT": "8", "NUM_PROCESSES": "4"}, "ddp", "4"),
        ({"RUNPOD_GPU_COUNT": "8", "ACCELERATE_CONFIG": "zero3"}, "zero3", "8"),
        ({"RUNPOD_GPU_COUNT": "none"}, "cpu", "1"),
        ({"NUM_PROCESSES": "2"}, "cpu", "2"),
        ({"WORLD_SIZE": "16", "RANK": "3", "LOCAL_RANK": "3"}, "cpu", "1"),
    ],
)
def test_processes(pod: Pod, changes: Mapping[str, str], config: str, processes: str) -> None:
    (command,) = pod.planned(STAGE="1", **changes)
    assert after(command, "--config_file") == f"accelerate_configs/{config}.yaml"
    assert after(command, "--num_processes") == processes


def test_gpus_are_counted_without_the_platform(pod: Pod) -> None:
    pod.fake("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200'\necho 'GPU 1: NVIDIA H200'\n")
    (command,) = pod.planned(STAGE="1")
    assert command[:9] == head("ddp", 2, 1)


def test_ranks_of_another_launcher_are_not_inherited(pod: Pod) -> None:
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    cluster = ("NUM_NODES", "NODE_RANK", "PRIMARY_ADDR")
    assert pod.start(STAGE="1", **dict.fromkeys((*names, *cluster), "5")).returncode == 0
    seen = (pod.bin / "env-0").read_text().splitlines()
    assert not set(names) & set(seen)
    assert set(cluster) <= set(seen), "training refuses what it does not obey"
    assert "TOUCHSTONE_EXIT_CODE_FILE" in seen


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"TRAIN_DATA_PATH": None}, "TRAIN_DATA_PATH is not set"),
        ({"TRAIN_DATA_PATH": ""}, "TRAIN_DATA_PATH is not set"),
        ({"TRAIN_DATA_PATH": " \n "}, "TRAIN_DATA_PATH names no folder"),
        ({"CHECKPOINT_DIR": None}, "CHECKPOINT_DIR is not set"),
        ({"STAGE": "3"}, "STAGE is '3'"),
        ({"MODEL_VARIANT": "medium"}, "MODEL_VARIANT is 'medium'"),
        ({"NUM_PROCESSES": "many"}, "NUM_PROCESSES is 'many'"),
        ({"NUM_PROCESSES": "0"}, "NUM_PROCESSES is '0'"),
        ({"ACCELERATE_CONFIG": "zero9"}, "ACCELERATE_CONFIG is 'zero9'"),
        ({"EXTRA_ARGS": "--a 'b"}, "EXTRA_ARGS has a quotation mark"),
        ({"INIT_FROM_CHECKPOINT": "/a", "RESUME_FROM_CHECKPOINT": "/b"}, "are both set"),
        ({"INIT_FROM_CHECKPOINT": "/a", "RESUME_FROM_CHECKPOINT": "auto"}, "are both set"),
        ({"RESUME_FROM_CHECKPOINT": "/a"}, "RESUME_FROM_CHECKPOINT is '/a' but STAGE is both"),
        ({"CHECKPOINT_DIR": "/dev/null/run"}, "cannot be written"),
    ],
)
@pytest.mark.parametrize("arguments", [("--dry-run",), ()])
def test_refusals_are_one_sentence(pod: Pod, changes: Mapping[str, str], says: str, arguments: tuple[str, ...]) -> None:
    if arguments and "CHECKPOINT_DIR" in changes and changes["CHECKPOINT_DIR"]:
        pytest.skip("a dry run writes nothing, so it cannot know")
    result = pod.start(*arguments, **changes)
    assert result.returncode == 78
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not pod.calls()


def test_unknown_argument(pod: Pod) -> None:
    assert pod.start("--resume").returncode == 2


@pytest.mark.parametrize(("resume", "init"), [("/other/run", None), (None, "/other/run")])
def test_explicit_start(pod: Pod, resume: str | None, init: str | None) -> None:
    (command,) = pod.planned(STAGE="2", RESUME_FROM_CHECKPOINT=resume, INIT_FROM_CHECKPOINT=init)
    if init:
        assert after(command, "--init-from") == init
        assert "--resume-from" not in command, "training takes one of them"
    else:
        assert after(command, "--resume-from") == resume
        assert "--init-from" not in command
    assert after(command, "--out") == pod.base["CHECKPOINT_DIR"]


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        (["78/1"], 78),
        (["75/1"], 75),
        (["33/1"], 33),
        (["34/1"], 34),
        (["70/1"], 70),
        (["-/33"], 33),
        (["-/1"], 1),
        (["-/137"], 137),
        (["0/0", "65/1"], 65),
        (["0/1", "0/0"], 0),
    ],
)
def test_exit_codes_are_kept(pod: Pod, codes: list[str], status: int) -> None:
    pod.codes(*codes)
    assert pod.start().returncode == status
    assert len(pod.calls()) == len(codes), "a stage that fails ends the job"


def test_a_stage_that_stopped_early_is_resumable_and_the_next_does_not_start(pod: Pod) -> None:
    pod.codes("-/0")
    result = pod.start()
    assert result.returncode == 75
    assert len(pod.calls()) == 1


def test_stop_after_ends_the_job_there_and_the_next_start_goes_on(pod: Pod) -> None:
    run = Path(pod.base["CHECKPOINT_DIR"])
    (run / "stage1").mkdir(parents=True)
    config = run / "stage1" / "config.json"
    config.write_text('{\n "stop_after": 5,\n "keep": 3\n}\n')
    assert pod.start().returncode == 0
    assert len(pod.calls()) == 1, "stage 2 would start from half of stage 1"
    config.write_text('{\n "stop_after": null,\n "keep": 3\n}\n')
    assert pod.start().returncode == 0
    assert ["stage1.py" in " ".join(call) for call in pod.calls()] == [True, False]


def test_second_start_goes_on_where_the_first_ended(pod: Pod) -> None:
    run = pod.base["CHECKPOINT_DIR"]
    pod.codes("0/0", "75/1")
    assert pod.start().returncode == 75
    (Path(run) / "stage2" / "checkpoints" / "step-00000005").mkdir(parents=True)
    assert pod.start().returncode == 0
    calls = pod.calls()
    assert ["stage1.py" in " ".join(call) for call in calls] == [True, False, False], "stage 1 was finished"
    assert after(calls[1], "--init-from") == f"{run}/stage1"
    assert after(calls[2], "--resume-from") == "auto"
    assert "--init-from" not in calls[2], "stage 2 goes on from its own checkpoint"
    assert pod.start().returncode == 0
    assert len(pod.calls()) == 3, "a finished job starts nothing"


def test_a_run_that_ended_before_its_first_checkpoint_starts_again(pod: Pod) -> None:
    run = Path(pod.base["CHECKPOINT_DIR"])
    finish(run / "stage1")
    (run / "stage2").mkdir()
    (run / "stage2" / "config.json").write_text("first")
    assert pod.start().returncode == 0
    (call,) = pod.calls()
    assert after(call, "--init-from") == f"{run}/stage1"
    (aside,) = run.glob("stage2.unsaved-*")
    assert (aside / "config.json").read_text() == "first"
    assert not (run / "stage2" / "config.json").exists()


def test_an_incomplete_policy_does_not_count_as_finished(pod: Pod) -> None:
    run = Path(pod.base["CHECKPOINT_DIR"])
    finish(run / "stage1")
    (run / "stage1" / "policy" / "action_expert.safetensors").unlink()
    assert len(pod.planned()) == 2
    (run / "stage1" / "policy" / "action_expert.safetensors").write_text("x")
    assert len(pod.planned()) == 1


def wait_for(path: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name} in {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def hanging(pod: Pod) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        ["bash", str(ENTRYPOINT)],
        env=pod.env(EXTRA_ARGS="--hang"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(pod.bin / "ready")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded_and_waited_for(
    pod: Pod, hanging: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    pod.codes("75/1")
    os.kill(hanging.pid, number)  # to the entry point alone, as a container runtime does
    output, _ = hanging.communicate(timeout=240)
    assert (pod.bin / "received").read_text() == number.name, output
    assert hanging.returncode == 75, output
    assert len(pod.calls()) == 1


def test_a_signal_keeps_the_next_stage_from_starting(pod: Pod, hanging: "subprocess.Popen[str]") -> None:
    pod.codes("0/0")
    os.kill(hanging.pid, signal.SIGTERM)
    hanging.communicate(timeout=240)
    assert hanging.returncode == 75
    assert len(pod.calls()) == 1


def test_no_secret_is_printed(pod: Pod) -> None:
    canary = "canary7f3a9c51"
    secrets = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "RUNPOD_API_KEY", "MY_SECRET_TOKEN"), canary)
    for arguments in (("--dry-run",), ()):
        result = pod.start(*arguments, EXTRA_ARGS=f"--key={canary} x{canary}", SHELLOPTS="xtrace", **secrets)
        assert result.returncode == 0
        assert canary not in result.stdout + result.stderr
    assert f"--key={canary}" in pod.calls()[0], "what is started is what was given"
    assert not any(canary in path.read_text() for path in pod.volume.rglob("*") if path.is_file())


def test_no_secret_is_printed_in_a_refusal(pod: Pod) -> None:
    canary = "canary7f3a9c51"
    for changes in (
        {"NUM_PROCESSES": canary},
        {"ACCELERATE_CONFIG": canary},
        {"STAGE": canary},
        {"CHECKPOINT_DIR": f"/dev/null/{canary}"},
        {"RESUME_FROM_CHECKPOINT": f"/runs/{canary}"},
    ):
        result = pod.start(MODEL_VARIANT="tiny", GITHUB_PAT=canary, **changes)
        assert result.returncode == 78, changes
        assert "HIDDEN" in result.stderr, changes
        assert canary not in result.stdout + result.stderr, changes


def test_values_that_are_no_secret_are_printed(pod: Pod) -> None:
    pod.base |= {"SSH_KEY": str(pod.volume), "A_TOKEN": "5", "TOKENIZERS_PARALLELISM": "tiny-words", "B_TOKEN": "~/.b"}
    (command,) = pod.planned(STAGE="1", EXTRA_ARGS="--a tiny-words ~/.b")
    assert command[-3:] == ["--a", "tiny-words", "~/.b"]
    assert after(command, "--out") == f"{pod.volume}/run"


def test_a_crash_leaves_no_core_file_with_the_environment(pod: Pod) -> None:
    pod.fake("accelerate", '#!/bin/bash\nulimit -c >"${0%/*}/core"\n')
    pod.start(STAGE="1")
    assert (pod.bin / "core").read_text() == "0\n"


def test_it_leaves_no_temporary_file(pod: Pod, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert pod.start(TMPDIR=str(temporary), EXTRA_ARGS="--a b").returncode == 0
    assert not list(temporary.iterdir())


def test_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent)
    assert shellcheck is not None, "shellcheck comes with the extra `test`"
    scripts = sorted(map(str, ENTRYPOINT.parent.glob("*.sh")))
    assert len(scripts) == 3
    result = subprocess.run([shellcheck, "-x", "-S", "style", *scripts], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.promise(21, "a job on a pod", "both stages: refused, stopped, finished, nothing left to do", deep=18)
def test_a_real_job_from_start_to_end(tmp_path: Path, needle: Path) -> None:
    """Both stages with the tiny backbone: refused data, a stop on the way, the rest, and nothing left to do."""
    run = tmp_path / "my run"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TRAIN_DATA_PATH": str(needle),
        "CHECKPOINT_DIR": str(run),
        "MODEL_VARIANT": "tiny",
        "ACCELERATE_CONFIG": "cpu",
        "NUM_PROCESSES": "1",
        "STEPS": "3",
        "BATCH_SIZE": "4",
        "MICRO_BATCH": "4",
        "SEED": "5",
        "TRACKER": "jsonl",
        "EXTRA_ARGS": "--data.workers 0 --validation-samples 1",
        "WORLD_SIZE": "16",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def start(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(ENTRYPOINT), *arguments],
            check=False,
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=900,
        )

    planned = start("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stderr.count("lerobot v3.0, 12 episodes") == 2, "both stages are checked"
    planned = start("--dry-run", BATCH_SIZE="5", NUM_PROCESSES="2")
    assert planned.returncode == 78
    assert "--batch-size 5 is not a multiple of --micro-batch 4 x 2 ranks" in planned.stderr
    assert not run.exists()
    refused = start(TRAIN_DATA_PATH=str(tmp_path))
    assert refused.returncode == 78, refused.stderr
    assert "Traceback" not in refused.stderr
    stopped = start(EXTRA_ARGS=environment["EXTRA_ARGS"] + " --stop-after 2")
    assert stopped.returncode == 0, stopped.stderr
    assert not (run / "stage2").exists()
    finished = start()
    assert finished.returncode == 0, finished.stderr
    for stage in ("stage1", "stage2"):
        lines = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert {line["stage"] for line in lines} == {stage}
    assert (run / "stage2" / "policy" / "adapter" / "adapter_model.safetensors").exists()
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file())
    again = start()
    assert again.returncode == 0
    assert "is finished" in again.stderr
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()) == before
