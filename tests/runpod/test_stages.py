"""The stages before a training on a pod: one contract from prep to train, markers, variables, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.pods import ENTRYPOINT, Pod, after
from training import collecting, markers, variables

CHAIN = "prep curate embed pretrain"


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    """A pod whose volume holds one clip."""
    pod = Pod(tmp_path)
    pod.base |= {"DATA_PATH": str(pod.volume / "my data"), "MODEL_VARIANT": "small", "STAGE": CHAIN}
    del pod.base["TRAIN_DATA_PATH"]
    raw = pod.volume / "my data" / "raw"
    raw.mkdir(parents=True)
    (raw / "walk.npz").write_text("walk")
    return pod


def data(pod: Pod) -> Path:
    return pod.volume / "my data"


def marker(pod: Pod, stage: str) -> dict[str, object]:
    found = json.loads((data(pod) / ".stages" / f"{stage}.json").read_text())
    assert isinstance(found, dict)
    return found


def test_each_stage_reads_what_the_one_before_it_writes(pod: Pod) -> None:
    """In a dry run, in the real start after it, and on the pods of a fine-tuning after that."""
    planned = pod.planned()
    raw, curated, texts = (str(data(pod) / name) for name in ("raw", "curated", "embeddings.safetensors"))
    doctor, curate, embed, train = planned
    assert doctor == ["vla", "doctor", raw]
    assert curate == ["vla", "curate", raw, curated]
    assert embed == ["vla", "embed", f"{curated}/pretrain", "--backbone.path", "hash", "--out", texts]
    assert after(train, "--data.roots") == f"{curated}/pretrain"
    assert after(train, "--backbone.embeddings") == texts
    assert not pod.stages() and not (data(pod) / ".stages").exists(), "a dry run writes nothing"
    result = pod.start()
    assert result.returncode == 0, result.stderr
    assert [["vla", *call] for call in pod.stages()] == planned[:3]
    assert [["accelerate", *call] for call in pod.calls()] == planned[3:]
    assert Path(curated, "pretrain").is_dir() and Path(texts).is_file(), "what training reads is there"
    pod.script = ENTRYPOINT.with_name("sft_entrypoint.sh")
    tune = {"CHECKPOINT_DIR": str(pod.volume / "sft"), "STAGE": "", "INIT_FROM_CHECKPOINT": "/runs/base/best"}
    assert pod.start(**tune, MODEL_VARIANT="sft_large").returncode == 0
    tuned = pod.calls()[-1]
    assert "training/sft.py" in tuned
    assert [after(tuned, flag) for flag in ("--data.roots", "--backbone.embeddings", "--init-from", "--preset")] == [
        f"{curated}/sft", texts, "/runs/base/best", "sft_large",
    ]  # fmt: skip
    left = sum(path.stat().st_size for path in Path(curated).rglob("*.npz"))
    (Path(curated) / "sft" / "walk.npz").unlink()
    (refusal,) = pod.start(**{**tune, "CHECKPOINT_DIR": str(pod.volume / "other")}).stderr.splitlines()
    assert f"curated is not what STAGE=curate left (1 files for 2, {left - 5} bytes for {left})" in refusal


def test_a_stage_is_done_once(pod: Pod) -> None:
    """Of the same data, settings and code; each change is said, and what was there lies beside."""
    pod.base["STAGE"] = "prep curate embed"

    def again(**changes: str) -> tuple[list[str], str]:
        before = len(pod.stages())
        result = pod.start(**changes)
        assert result.returncode == 0, result.stderr
        return [call[0] for call in pod.stages()[before:]], result.stderr

    assert again()[0] == ["doctor", "curate", "embed"]
    done, said = again()
    assert not done
    assert said.count("is done, of the same data, settings and code") == 3
    (data(pod) / "embeddings.safetensors").unlink()
    done, said = again()
    assert done == ["embed"]
    assert "embed: " in said and "is not what it left; it is done again" in said
    done, said = again(CURATION_MIN_QUALITY_SFT="0.9")
    assert done == ["curate", "embed"], "prep has no such setting"
    assert "curate: its settings are not those of then; it is done again" in said
    [aside] = data(pod).glob("curated.earlier-*")
    assert (aside / "sft" / "walk.npz").read_text() == "clip\n", "nothing is deleted"
    (data(pod) / "raw" / "run.npz").write_text("run")
    done, said = again(CURATION_MIN_QUALITY_SFT="0.9")
    assert done[:2] == ["doctor", "curate"]
    assert "prep: its data are not those of then; it is done again" in said
    assert again(CURATION_MIN_QUALITY_SFT="0.9", FORCE_REGENERATE="true")[0] == ["doctor", "curate", "embed"]


def test_a_stage_that_fails_ends_the_job_with_its_code(pod: Pod) -> None:
    before = ""
    for name, command, code in (("prep", "doctor", 65), ("curate", "curate", 78), ("embed", "embed", 34)):
        (pod.bin / f"fails-{command}").write_text(str(code))
        result = pod.start()
        assert result.returncode == code, result.stderr
        assert before in result.stderr, "the next start says why it does a stage again"
        assert result.stderr.endswith(f"{name} ended with exit code {code}\n")
        assert (marker(pod, name)["state"], marker(pod, name)["exit_code"]) == ("failed", code)
        assert pod.stages()[-1][0] == command and not pod.calls(), "nothing is started on what is not there"
        (pod.bin / f"fails-{command}").unlink()
        before = f"{name}: it ended with exit code {code}"


def test_a_signal_in_a_stage_is_a_pre_emption(pod: Pod) -> None:
    (pod.bin / "hang").touch()
    process = subprocess.Popen(
        ["bash", str(ENTRYPOINT)], env=pod.env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not (pod.bin / "ready").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    assert marker(pod, "prep")["state"] == "started"
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert len(pod.stages()) == 1
    assert marker(pod, "prep") | {"state": "failed", "exit_code": 75} == marker(pod, "prep")


CURATION = {
    "CURATION_MIN_SECONDS": ("--min-seconds", "2"),
    "CURATION_MAX_SECONDS": ("--max-seconds", "15"),
    "CURATION_MAX_ARTIFACT": ("--max-artifact", "0.4"),
    "CURATION_MIN_REALISM_PRETRAIN": ("--min-realism-pretrain", "0.2"),
    "CURATION_MIN_REALISM_SFT": ("--min-realism-sft", "0.5"),
    "CURATION_MIN_QUALITY_PRETRAIN": ("--min-quality-pretrain", "0.45"),
    "CURATION_MIN_QUALITY_SFT": ("--min-quality-sft", "0.75"),
    "CURATION_MIN_CAMERA_STABILITY_SFT": ("--min-camera-stability-sft", "0.55"),
    "CURATION_BALANCE_MAX_FRACTION": ("--balance-max-fraction", "0.25"),
    "CURATION_SOURCE_MAX_FRACTION": ("--source-max-fraction", "0.35"),
    "CURATION_HELD_OUT": ("--held-out", "0.2"),
    "CURATION_SEED": ("--seed", "7"),
}


def test_every_variable_reaches_its_command(pod: Pod) -> None:
    assert {row.name for row in variables.TABLE if row.entries == variables.CURATE} == {*CURATION}
    settings = {name: value for name, (_, value) in CURATION.items()}
    others = {"CURATION_ARGS": "--critic.a 'b c'", "TEXT_ENCODER": "minilm", "DATA_ARGS": "--data.motion.up z"}
    doctor, curate, embed, train = pod.planned(**settings, **others, RAW_DATA_PATH="elsewhere/clips.pt")
    assert all(after(curate, flag) == value for flag, value in CURATION.values())
    assert after(curate, "--critic.a") == "b c"
    assert doctor[2] == curate[2] == f"{pod.volume}/elsewhere/clips.pt"
    assert after(embed, "--backbone.path") == after(train, "--backbone.path") == "minilm"
    assert all(after(command, "--data.motion.up") == "z" for command in (doctor, curate, embed, train))


def test_a_copy_is_read_where_prep_writes_one(pod: Pod) -> None:
    copy = str(data(pod) / "prepared")
    planned = pod.planned(PREP_IMPORT="motion", DATA_ARGS="--data.motion.up z", USE_CURATED_DATA="false")
    doctor, convert, curate, embed, train = planned
    assert convert[:5] == ["vla", "import", "motion", doctor[2], copy]
    assert curate[2] == embed[2] == after(train, "--data.roots") == copy
    said = ["--data.motion.up" in command for command in planned]
    assert said == [True, True, False, False, False], "the copy says it itself"
    collect, doctor, curate, *_ = pod.planned(PREP_IMPORT="clips", DATA_ARGS="--data.motion.up z")
    assert collect[-2:] == [str(data(pod) / "raw"), copy]
    assert doctor[2] == curate[2] == copy
    assert after(curate, "--data.motion.up") == "z", "clips are what they were"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CURATION_MIN_QUALTY_SFT": "1"}, "no variable of curation; the nearest is CURATION_MIN_QUALITY_SFT"),
        ({"USE_LORA": "true"}, "USE_LORA is set, but LoRA of fresh weights is of no use: adapt a trained model"),
        ({"STAGE": "curate prep"}, "the order is prep, curate, embed"),
        ({"STAGE": "prep pretrain curate"}, "nothing comes after a training"),
        ({"STAGE": "prep prep"}, "each once"),
        ({"USE_CURATED_DATA": "perhaps"}, "USE_CURATED_DATA is 'perhaps'; give true or false"),
        ({"STAGE": "1", "USE_CURATED_DATA": "true"}, "STAGE is 1, which has no split of its own"),
        ({"PREP_IMPORT": "csv"}, "PREP_IMPORT is 'csv'; give clips, lerobot, insertion or motion"),
        ({"CURATION_ARGS": "'"}, "CURATION_ARGS has a quotation mark"),
        ({"STAGE": "curate"}, "prep.json is not there; start STAGE=prep first"),
        ({"STAGE": "pretrain", "USE_CURATED_DATA": "1"}, "curate.json is not there; start STAGE=curate first"),
        ({"STAGE": "pretrain", "TRAIN_DATA_PATH": "/train_data_final.pt"}, "which reads {data}/curated/pretrain"),
        ({"RAW_DATA_PATH": "my data"}, "would write into"),
        ({"RAW_DATA_PATH": "none"}, "none, which STAGE=prep reads, is not there"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(pod: Pod, changes: Mapping[str, str], says: str) -> None:
    result = pod.start(**changes)
    assert result.returncode == 78
    *_, last = result.stderr.splitlines()
    assert last.startswith("error: ") and says.format(data=data(pod)) in last
    assert not pod.stages() and not pod.calls()


@pytest.mark.parametrize("name", variables.INSTEAD)
def test_what_a_job_cannot_obey_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} is set, but .*; (.* and unset it|set \w+ .*in its place)$"
    ) as refused:
        variables.refuse_of_jobs({name: "true"})
    named = {word.strip("(),") for word in str(refused.value).split() if word.startswith("CURATION_")} - {name}
    assert named <= {*CURATION}, "what is named instead is there"
    if name in variables.SWITCHES:
        assert variables.refuse_of_jobs({name: "false"}) == []


def test_what_changes_nothing_is_said(pod: Pod) -> None:
    no = dict.fromkeys(variables.SWITCHES, "false")
    result = pod.start("--dry-run", **dict.fromkeys(variables.IDLE, "true"), **no, USE_LORA="false")
    assert result.returncode == 0, result.stderr
    for name, why in variables.IDLE.items():
        assert result.stderr.count(f"{name} changes nothing: {why}\n") == 1
    named = {*variables.INSTEAD, *variables.IDLE, *CURATION, "CURATION_ARGS", "TEXT_ENCODER"}
    page = (ENTRYPOINT.parent / "README.md").read_text()
    assert not {name for name in named if f"`{name}`" not in page}


def test_the_command_of_the_documents(pod: Pod) -> None:
    """Without a path of data or of the run: where they are on the volume."""
    pod.script = ENTRYPOINT.with_name("sft_entrypoint.sh")
    init = f"{pod.volume}/checkpoints/pretrain/best"
    changes = {"MODEL_VARIANT": "sft_base", "INIT_FROM_CHECKPOINT": init, "DATA_ROOT": str(pod.volume)}
    (command,) = pod.planned(CHECKPOINT_DIR=None, DATA_PATH=None, STAGE=None, **changes)
    assert [after(command, flag) for flag in ("--data.roots", "--preset", "--out", "--init-from")] == [
        f"{pod.volume}/data/curated/sft", "sft_base", f"{pod.volume}/checkpoints/sft", init,
    ]  # fmt: skip
    said = pod.start("--dry-run", **changes).stderr
    assert "curate.json is not there; start STAGE=curate first" in said, "a dry run says it and goes on"
    assert "STAGE=embed has left no embeddings of texts" in said


def test_data_that_are_named_go_before_those_of_stages(pod: Pod) -> None:
    result = pod.start("--dry-run", TRAIN_DATA_PATH="/mine")
    assert "TRAIN_DATA_PATH goes before" in result.stderr
    assert "--data.roots /mine --preset small" in result.stdout
    assert "--backbone.embeddings" not in result.stdout, "those are of other texts"


def test_no_secret_is_printed_or_kept(pod: Pod) -> None:
    canary = "canary7f3a9c51"
    result = pod.start(STAGE="prep curate", HF_TOKEN=canary, CURATION_ARGS=f"--a {canary}")
    assert result.returncode == 0
    assert canary not in result.stdout + result.stderr
    assert canary in pod.stages()[1], "what is started is what was given"
    assert not any(canary in path.read_text() for path in data(pod).rglob("*") if path.is_file())
    assert not {"CURATION_MIN_QUALITY_SFT", "TEXT_ENCODER"} & set((pod.bin / "stage-env").read_text().split())


def test_what_counts_as_the_same_data(tmp_path: Path) -> None:
    raw, out, mark = tmp_path / "data" / "raw", tmp_path / "data" / "out", tmp_path / "data" / ".stages" / "curate.json"
    (raw / "below").mkdir(parents=True)
    (raw / "below" / "a.npz").write_text("a")
    os.utime(raw / "below" / "a.npz", (1_000_000, 1_000_000.25))

    def begin(words: Sequence[str] = ("curate",)) -> str:
        return markers.begin(mark, raw, out, words, force=False, dry_run=False)

    assert begin([str(raw)]) == "run"
    out.mkdir()
    (out / "b").write_text("b")
    markers.end(mark, out, 0)
    (raw / ".DS_Store").write_text("of a Mac")
    os.utime(raw / "below" / "a.npz", (1_000_000, 1_000_000.75))
    os.utime(out / "b", (5, 5))
    assert begin([str(raw)]) == "done", "hidden files, fractions of seconds and times of outputs are no difference"
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    words = [str(moved / "raw")]
    there = moved / ".stages" / "curate.json"
    assert markers.begin(there, moved / "raw", moved / "out", words, force=False, dry_run=False) == "done", "as mounted"
    os.utime(moved / "raw" / "below" / "a.npz", (2_000_000, 2_000_000))
    assert markers.begin(there, moved / "raw", moved / "out", words, force=False, dry_run=True) == "run"
    there.write_text("{")
    with pytest.raises(ValueError, match=r"curate\.json is damaged .*; remove it"):
        markers.vouch(there, moved / "out")


def test_folders_of_clips_become_one(pod: Pod) -> None:
    """With the captions of each, which nothing would read where they lie, and the folder as their source."""
    raw = data(pod) / "raw"
    for folder, row in (("amp", 'walk.npz,"a walk, slow",3'), ("cmu", "walk.npz,a figure walks,")):
        (raw / folder).mkdir()
        (raw / folder / "walk.npz").write_text(folder)
        (raw / folder / "labels.csv").write_text(f"\ufefffile,text,subject\n{row}\n")
    (raw / "labels.csv").write_text("file,text,source\nwalk.npz,someone walks,mine\n")
    refused = pod.start(STAGE="prep")
    assert refused.returncode == 78
    assert "has 2 labels.csv in folders of its own" in refused.stderr and "set PREP_IMPORT=clips" in refused.stderr
    result = pod.start(STAGE="prep curate", PREP_IMPORT="clips")
    assert result.returncode == 0, result.stderr
    assert "3 files linked, 0 copied, 3 labels" in result.stderr
    from vla.data.formats.motion.files import read_labels

    whole = data(pod) / "prepared"
    assert pod.stages()[-1][1] == str(whole)
    assert read_labels(whole) == {
        "walk.npz": [{"file": "walk.npz", "text": "someone walks", "source": "mine", "subject": ""}],
        "amp/walk.npz": [{"file": "amp/walk.npz", "text": "a walk, slow", "source": "amp", "subject": "3"}],
        "cmu/walk.npz": [{"file": "cmu/walk.npz", "text": "a figure walks", "source": "cmu", "subject": ""}],
    }
    assert [(whole / place).read_text() for place in ("walk.npz", "amp/walk.npz", "cmu/walk.npz")] == [
        "walk",
        "amp",
        "cmu",
    ]
    (raw / "amp" / "labels.csv").write_text('file,text\nwalk.npz,"never closed\n')
    with pytest.raises(collecting.Damaged, match=r"amp/labels\.csv is no table"):
        collecting.collect(raw, data(pod) / "other")
    assert not (data(pod) / "other").exists()


def test_any_python_runs_the_scripts() -> None:
    for module in (markers, collecting):
        script = str(module.__file__)
        result = subprocess.run([sys.executable, "-I", script], check=False, capture_output=True, text=True)
        assert "ImportError" not in result.stderr and "ModuleNotFoundError" not in result.stderr
