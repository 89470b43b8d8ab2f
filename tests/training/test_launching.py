"""A launch is what its launcher and its cluster ask for, or is refused."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.faults import runs
from tests.forkserver import free_port
from tests.training.launch import ROOT
from training import launching, loop, recipes
from training.ending import launcher
from training.flags import parse
from training.launching import ASKED, PID, Launch, asked_of, check
from vla.errors import REFUSED

CONFIGS = ROOT / "accelerate_configs"
ZERO2 = ["--config_file", str(CONFIGS / "zero2.yaml")]
TWO = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--num_processes", "4"]
SCRIPT = ["training/stage1.py", "--out", "run"]
TORCHRUN = {"GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "4", "GROUP_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
SECRETS = {
    "CANARY_TOKEN": "canary-of-a-token",
    "WANDB_API_KEY": "canary-of-a-key",
    "DB_PASSWORD": "canary-of-a-password",
}


@pytest.mark.parametrize(
    "start",
    [
        ["/venv/bin/accelerate", "launch"],
        ["/venv/bin/python", "/venv/bin/accelerate", "launch"],
        ["/venv/bin/python", "-X", "dev", "-m", "accelerate.commands.launch"],
        ["/venv/lib/python3.11/site-packages/accelerate/commands/launch.py"],
        ["accelerate-launch"],
    ],
)
def test_what_a_launcher_is_asked_for_is_read_as_accelerate_reads_it(start: list[str]) -> None:
    assert asked_of([*start, *ZERO2, *TWO, *SCRIPT]) == Launch(machines=2, processes=4, machine=1)
    assert asked_of([*start, *ZERO2, *SCRIPT]) == Launch(machines=1, processes=1, machine=0)


def test_other_commands_ask_for_nothing() -> None:
    for command in ([], ["/venv/bin/torchrun", "--nnodes", "2", *SCRIPT], ["python", *SCRIPT, "accelerate", "launch"]):
        assert asked_of(command) is None


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_configuration_of_ours_starts_several_machines_through_torchrun(name: str) -> None:
    asked = asked_of(["accelerate-launch", "--config_file", str(CONFIGS / f"{name}.yaml"), *TWO, *SCRIPT])
    assert asked == Launch(machines=2, processes=4, machine=1)


def test_a_launcher_that_drops_machines_is_never_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "conclude", sys.exit)
    monkeypatch.setattr(
        sys, "argv", ["accelerate-launch", *ZERO2, "--deepspeed_multinode_launcher", "pdsh", *TWO, *SCRIPT]
    )
    with pytest.raises(SystemExit) as left:
        launcher.note_what_is_asked()
    assert left.value.code == REFUSED
    assert "give accelerate launch --deepspeed_multinode_launcher standard" in capsys.readouterr().err


def environment(asked: str, there: Mapping[str, str]) -> dict[str, str]:
    return {ASKED: asked, PID: str(os.getppid())} | there


def test_a_launch_as_asked_for_passes() -> None:
    check({}, ignore_cluster=False)
    check({"WORLD_SIZE": "2"}, ignore_cluster=False)
    check(environment("2 4 1", TORCHRUN), ignore_cluster=False)
    check(environment("9 9 9", {}) | {PID: "1"}, ignore_cluster=False)  # what another launcher was asked for


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            environment("1 2 0", {}),
            r"asked for 2 processes on 1 machine, but started 1 process on 1 machine: give --config",
        ),
        (environment("2 4 0", {"WORLD_SIZE": "2"}), "4 processes on 2 machines, but started 2 processes on 1 machine"),
        (environment("2 5 0", TORCHRUN), "give a multiple of 2, such as 6"),
        (environment("1 1 1", {"WORLD_SIZE": "1"}), "--machine_rank 1 is of no use with one machine"),
        ({"CROSS_SIZE": "2", "WORLD_SIZE": "4"}, "--deepspeed_multinode_launcher standard"),
        (
            {"CROSS_SIZE": "1", "WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"},
            "--deepspeed_multinode_launcher standard",
        ),
    ],
)
def test_a_launch_of_other_processes_is_refused(seen: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(seen, ignore_cluster=True)


RUNPOD = {"NUM_NODES": "2", "NODE_RANK": "1", "NUM_TRAINERS": "2", "PRIMARY_ADDR": "10.0.0.1", "PRIMARY_PORT": "29400"}


@pytest.mark.parametrize(
    "cluster",
    [RUNPOD, {"SLURM_NNODES": "2", "SLURM_NODEID": "1"}, {"NUM_NODES": ""}],
)
def test_a_cluster_that_the_launch_obeys_passes(cluster: dict[str, str]) -> None:
    check(TORCHRUN | {"MASTER_PORT": "29400"} | cluster, ignore_cluster=False)


def test_a_cluster_of_one_machine_has_no_other_to_meet() -> None:
    alone = {"NUM_NODES": "1", "NODE_RANK": "0", "NUM_TRAINERS": "1", "PRIMARY_ADDR": "10.0.0.1", "PRIMARY_PORT": "1"}
    check(alone, ignore_cluster=False)


@pytest.mark.parametrize(
    ("cluster", "there", "said"),
    [
        (
            {"NUM_NODES": "2"},
            {},
            "NUM_NODES is 2, but this launch has 1 machine: give accelerate launch --num_machines 2,",
        ),
        ({"SLURM_NNODES": "2", "SLURM_NODEID": "0"}, {}, "SLURM_NNODES is 2, .* --num_machines 2 --machine_rank 0, or"),
        ({"NODE_RANK": "1"}, {}, "NODE_RANK is 1, but this launch has machine rank 0: .* --machine_rank 1,"),
        ({"SLURM_NODEID": "1"}, {}, "SLURM_NODEID is 1"),
        (
            {"NUM_TRAINERS": "8"},
            {},
            "NUM_TRAINERS is 8, but this launch has 1 process a machine: .* --num_processes 8,",
        ),
        ({"PRIMARY_ADDR": "10.0.0.1"}, {}, "has no other machine: give accelerate launch --main_process_ip 10.0.0.1,"),
        ({"PRIMARY_PORT": "29400"}, {}, "PRIMARY_PORT is 29400"),
        (RUNPOD | {"NUM_NODES": "3"}, TORCHRUN, "NUM_NODES is 3, but this launch has 2 machines: .*--num_processes 6 "),
        (RUNPOD | {"NODE_RANK": "0"}, TORCHRUN, "NODE_RANK is 0, but this launch has machine rank 1"),
        (RUNPOD | {"PRIMARY_ADDR": "10.0.0.9"}, TORCHRUN, "has 10.0.0.1: .*--main_process_ip 10.0.0.9 "),
        ({"NUM_NODES": "two"}, {}, "NUM_NODES is 'two', which is no whole number"),
    ],
)
def test_a_cluster_that_the_launch_does_not_obey_is_refused(
    cluster: dict[str, str], there: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        check(there | cluster, ignore_cluster=False)
    assert "--ignore-cluster" in str(refusal.value)
    check(there | cluster, ignore_cluster=True)
    assert launching.ignored(there | cluster) == [
        f"{name}={cluster[name]}" for name in launching.CLUSTER if name in cluster
    ]


def test_a_training_asks(needle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUM_NODES", "2")
    flags = runs.flags(needle, out=tmp_path / "run")
    with pytest.raises(ValueError, match="NUM_NODES is 2"):
        loop.train(parse(recipes.stage1(), flags))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fresh_accelerator() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


@pytest.mark.deep
@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize(("name", "ranks"), [("ddp", 4), ("zero2", 2), ("zero3", 2)])
def test_two_machines_train_on_both_and_write_no_secret(needle: Path, tmp_path: Path, name: str, ranks: int) -> None:
    """On loopback, and without the environment's programs on PATH; one machine is the reference."""
    small = {"batch_size": 4, "micro_batch": 1, "stage.steps": 3, "save_every": 3}
    loop.train(parse(recipes.stage1(), runs.flags(needle, out=tmp_path / "one", **small)))

    work = tmp_path / "work"
    (work / "tmp").mkdir(parents=True)
    (work / "ds_configs").symlink_to(ROOT / "ds_configs")
    port, seen = free_port(), {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    seen |= {"PATH": "/usr/bin:/bin", "HOME": str(work), "TMPDIR": str(work / "tmp"), "PYTHONPATH": str(ROOT)}
    seen |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | SECRETS
    machines = []
    for machine in (0, 1):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{name}.yaml")]
        command += ["--num_machines", "2", "--num_processes", str(ranks), "--machine_rank", str(machine)]
        command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
        command += [str(ROOT / "training" / "stage1.py"), *runs.flags(needle, out=work / "run", **small)]
        with (work / f"log-{machine}").open("w") as log:
            machines.append(
                subprocess.Popen(command, cwd=work, env=seen, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
    try:
        codes = [machine.wait(timeout=240) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert codes == [0, 0], "\n".join((work / f"log-{machine}").read_text()[-3000:] for machine in (0, 1))
    assert runs.losses(work / "run") == pytest.approx(runs.losses(tmp_path / "one"), rel=1e-5)
    assert len(runs.losses(work / "run")) == 3
    manifest = next((work / "run").glob("checkpoints/step-*/manifest.json")).read_text()
    assert f'"ranks": {ranks}' in manifest
    written = {path: path.read_bytes() for path in runs.files(work) if path.is_file()}
    assert work / "run" / "config.json" in written
    assert not [path for path, content in written.items() if b"canary-of-" in content]
