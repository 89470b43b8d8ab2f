"""The control of an ablation: which runs led to a policy, how they start again without an input, and a real one."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fabricated import SCHEDULE
from tests.forkserver import ForkServer
from tests.policies import manifest
from tests.training import launch
from tests.vla.evaluation.standins import CONTRACT, FRONT
from training import recipes
from training.flags import parse
from vla import documents
from vla.__main__ import COMMANDS, main
from vla.commands import control
from vla.commands.control import Training, commands, removal, trainings
from vla.contract import DepthRange
from vla.data.dataset import open_dataset
from vla.errors import CorruptData, ProgramFailed, Terminated
from vla.processes import answer_sigterm

CONFIG: dict[str, Any] = {"data": {}, "backbone": {}, "seed": 0, "stage": {"name": "stage1"}, "init_from": None}
STAGE2 = {"name": "stage2"}


def make_run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    config = CONFIG | changes
    (folder / "config.json").write_text(json.dumps(config))
    entry = config["stage"]["name"]
    (folder / "schedule.json").write_bytes(documents.to_bytes(dataclasses.replace(SCHEDULE, entry=entry)))
    return folder


def test_the_runs_that_led_to_a_policy_are_found_oldest_first(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first")
    second = make_run(tmp_path / "second", init_from=str(first / "checkpoints" / "step-00000010"))
    third = make_run(tmp_path / "third", init_from=str(second / "policy"), stage=STAGE2)
    found = trainings(third / "policy")
    assert [training.run for training in found] == [first, second, third]
    assert [training.entry for training in found] == ["stage1", "stage1", "stage2"]


def save(run: Path, step: int) -> Path:
    """A checkpoint of a run, as far as a control looks at it."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(documents.to_bytes(manifest(step)))
    return folder


def export(run: Path) -> None:
    """A policy, as far as a control looks at it."""
    (run / "policy").mkdir()
    (run / "policy" / "config.json").write_text("{}")


def test_a_control_takes_as_many_steps_as_what_it_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_run(tmp_path / "first", stop_after=90)
    kept = save(first, 40).rename(first / "best")
    save(first, 90)
    export(first)
    unfinished = make_run(tmp_path / "unfinished")
    save(unfinished, 20)
    save(unfinished, 70)
    origins = {kept: 40, first / "checkpoints" / "step-00000060": 60, first: 90, first / "policy": 90, unfinished: 70}
    monkeypatch.chdir(launch.ROOT)
    for place, (origin, step) in enumerate(origins.items()):
        last = make_run(tmp_path / f"last-{place}", init_from=str(origin), stage=STAGE2, stop_after=5)
        launches = commands(trainings(last / "policy"), "sensor", CONTRACT, tmp_path / "out")
        assert [words[words.index("--stop-after") + 1] for words in launches] == [str(step), "5"], origin


def test_a_policy_of_no_run_has_no_control(tmp_path: Path) -> None:
    (tmp_path / "copied").mkdir()
    with pytest.raises(ValueError, match=r"is not a run folder, it holds no config.json"):
        trainings(tmp_path / "copied" / "policy")
    stray = make_run(tmp_path / "stray", init_from=str(tmp_path / "copied" / "policy"))
    with pytest.raises(ValueError, match="lies in no run: it cannot be trained again"):
        trainings(stray / "policy")
    circle = make_run(tmp_path / "circle", init_from=str(tmp_path / "circle"))
    with pytest.raises(ValueError, match="started from itself"):
        trainings(circle / "policy")


@pytest.mark.parametrize(
    ("name", "data", "flags"),
    [
        ("sensor", {}, "--data.sensor none"),
        ("sensor", {"compand": ["actions", "sensor"]}, "--data.sensor none --data.compand actions"),
        ("sensor", {"compand": ["sensor"]}, "--data.sensor none --data.compand"),
        (
            "sensor",
            {"sensor_samples": ["32"], "sensor_rate_hz": ["500"]},
            "--data.sensor none --data.sensor-samples --data.sensor-rate-hz",
        ),
        ("state", {"without": ["instruction"]}, "--data.withhold instruction state"),  # as older runs name it
        ("state", {"without": [3], "withhold": ["instruction"]}, "--data.withhold instruction state"),
        ("instruction", {"compand": ["actions"]}, "--data.withhold instruction"),
        (FRONT, {}, "--data.cameras observation.images.wrist"),
    ],
)
def test_an_input_is_left_out_and_nothing_else(name: str, data: dict[str, Any], flags: str) -> None:
    assert removal(name, CONTRACT, CONFIG | {"data": data}) == flags.split()


def test_a_training_without_its_sensor_is_accepted(needle: Path) -> None:
    """Whatever window of it the run was told to read."""
    given = ["--data.roots", str(needle), "--data.sensor-samples", "5", "--data.sensor-rate-hz", "500"]
    data = documents.to_json(parse(recipes.stage1(), given))["data"]
    flags = removal("sensor", CONTRACT, {"data": data})
    config = parse(recipes.stage1(), [*given, *flags])
    assert open_dataset(config.data, 0).contract.streams == {}


def test_a_depth_camera_is_left_out_with_its_range() -> None:
    wrist = CONTRACT.cameras[1]
    shown = {FRONT: DepthRange(near_m=0.2, far_m=1.5), wrist: DepthRange(near_m=0.1, far_m=1 / 3)}
    both = dataclasses.replace(CONTRACT, depth=shown)
    flags = removal(FRONT, both, CONFIG)
    assert flags == ["--data.cameras", wrist, "--data.depth", f"{wrist}=0.1:{1 / 3!r}"]
    given = ["--data.depth", *(of.flag(camera) for camera, of in shown.items())]
    assert parse(recipes.stage1(), [*given, *flags]).data.depth == (f"{wrist}=0.1:{1 / 3!r}",)
    one = dataclasses.replace(CONTRACT, depth={FRONT: shown[FRONT]})
    assert parse(recipes.stage1(), [*given, *removal(FRONT, one, CONFIG)]).data.depth == ()


def test_the_only_camera_stays() -> None:
    blind = dataclasses.replace(CONTRACT, cameras=(FRONT,))
    with pytest.raises(ValueError, match="the only camera of the policy"):
        removal(FRONT, blind, CONFIG)


def chain(folder: Path) -> list[Training]:
    configs = [CONFIG, CONFIG | {"stage": STAGE2, "init_from": str(folder / "a")}]
    return [
        Training(run=folder / name, entry=config["stage"]["name"], config=config, ranks=2, zero_stage=2)
        for name, config in zip("ab", configs, strict=True)
    ]


def test_a_chain_of_runs_is_trained_again_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(launch.ROOT)
    called: list[list[str]] = []

    def call(words: list[str]) -> int:
        called.append(words)
        run = Path(words[words.index("--out") + 1])
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "config.json").touch()
        if len(called) == 2:  # killed before its first checkpoint
            return 33
        if len(called) == 3:
            save(run, 7)
            return 75
        export(run)
        return 0

    monkeypatch.setattr(control, "call", call)
    out = tmp_path / "controls" / "sensor"
    for code in (33, 75):
        with pytest.raises(ProgramFailed, match=f"without sensor ended with code {code}") as failure:
            control.train(chain(tmp_path), "sensor", CONTRACT, out)
        assert failure.value.code == code
    assert control.train(chain(tmp_path), "sensor", CONTRACT, out) == out / "2-stage2" / "policy"
    entries = [next(word for word in words if word.startswith("training/")) for words in called]
    assert entries == ["training/stage1.py", "training/stage2.py", "training/stage2.py", "training/stage2.py"]
    starts = [words[words.index("--resume-from") + 1 :] for words in called]
    assert starts == [
        ["None", "--init-from", "None"],
        ["None", "--init-from", str(out / "1-stage1")],
        ["auto", "--init-from", "None"],
        ["auto", "--init-from", "None"],
    ]
    assert all(words[words.index("--num_processes") + 1] == "2" for words in called)
    # What is there is used again; what was trained otherwise is not.
    assert control.train(chain(tmp_path), "sensor", CONTRACT, out) == out / "2-stage2" / "policy"
    assert len(called) == 4
    with pytest.raises(ValueError, match="holds a control that was trained otherwise"):
        control.train(chain(tmp_path), "state", CONTRACT, out)
    (out / "commands.json").write_text("[")
    with pytest.raises(CorruptData, match="commands.json is damaged"):
        control.train(chain(tmp_path), "sensor", CONTRACT, out)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("pass", 0),
        ("import sys; sys.exit(78)", 78),
        (
            "import os, pathlib, sys; pathlib.Path(os.environ['TOUCHSTONE_EXIT_CODE_FILE']).write_text('75'); exit(1)",
            75,
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_the_exit_code_is_the_one_that_the_training_had_a_reason_for(script: str, code: int) -> None:
    assert control.call([sys.executable, "-c", script]) == code


SAVING = """
import os, pathlib, signal, sys, time
begun, saved = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), saved.touch(), os._exit(75)))
begun.touch()
time.sleep(600)
"""


def test_sigterm_is_passed_on_to_the_training_which_may_save(tmp_path: Path) -> None:
    begun, saved = tmp_path / "begun", tmp_path / "saved"

    def terminate() -> None:
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    earlier = signal.getsignal(signal.SIGTERM)
    answer_sigterm()
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        with pytest.raises(Terminated):
            control.call([sys.executable, "-c", SAVING, str(begun), str(saved)])
    finally:
        signal.signal(signal.SIGTERM, earlier)
    thread.join()
    assert saved.exists()


def test_the_command_ends_with_the_code_of_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ProgramFailed("the training was pre-empted", 75)

    settings, _ = COMMANDS["ablate"]
    monkeypatch.setitem(COMMANDS, "ablate", (settings, fail))
    assert main(["ablate", "policy", "--data.roots", "data"]) == 75
    assert capsys.readouterr().err == "error: the training was pre-empted\n"


def test_training_starts_from_the_root_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="in the project's root"):
        commands(chain(tmp_path), "sensor", CONTRACT, tmp_path)


@pytest.mark.promise(20, "a control of an ablation", "is trained by the command itself, and measured", deep=18)
def test_a_control_is_trained_and_measured(server: ForkServer, needle: Path, tmp_path: Path) -> None:
    flags = ["--data.roots", needle, "--backbone.path", "tiny", "--tracker", "jsonl", "--data.workers", "0"]
    flags += ["--batch-size", "4", "--micro-batch", "4", "--stage.steps", "2", "--data.validation-share", "0.5"]
    assert server.run([*flags, "--data.compand", "sensor", "--out", tmp_path / "run"]) == [0]
    words = [sys.executable, "-m", "vla", "ablate", str(tmp_path / "run" / "policy"), "--data.roots", str(needle)]
    words += ["--inputs", "sensor", "--control", "sensor", "--samples", "12", "--data.workers", "0", "--json"]
    environment = os.environ | {"PYTHONPATH": str(launch.ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        words, cwd=launch.ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    kept = tmp_path / "run" / "policy-evaluation"
    assert printed == json.loads((kept / "ablation.json").read_text())
    (found,) = printed["control"].values()
    folder = kept / "controls" / "sensor" / "1-stage1"
    assert found["policy"] == str(folder / "policy")
    config = json.loads((folder / "config.json").read_text())
    original = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["data"].pop("sensor"), config["data"].pop("compand")) == (["none"], [])
    del original["data"]["sensor"], original["data"]["compand"]
    different = {key for key in config if config[key] != original[key]}
    assert different == {"out"}
    described = json.loads((folder / "policy" / "config.json").read_text())
    assert described["contract"]["streams"] == {}
    held_out = json.loads((tmp_path / "run" / "policy" / "config.json").read_text())["held_out"]
    assert described["held_out"] == held_out
    assert printed["episodes"] == len(held_out["episodes"]) == 6
    assert found["change"] == pytest.approx(found["error"] - printed["baseline"]["error"])
