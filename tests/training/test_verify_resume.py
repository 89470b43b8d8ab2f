"""The verification of a user's own configuration: it holds where it should, and it can fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from tests.forkserver import ForkServer, Life
from training.checkpoints import checkpoint, storage
from training.ending import launcher
from training.settings import Verification
from training.verify import launches as legs
from training.verify.comparison import Tolerance, compare, compare_values
from training.verify.experiment import Experiment, draw_kills
from training.verify_resume import BROKEN, verify
from vla import errors

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--data.roots",
    "examples/needle",
    "--backbone.path",
    "tiny",
    "--data.workers",
    "0",
    "--validation-samples",
    "2",
]
FLAGS += ["--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32", "--batch-size", "6"]


def quiet() -> Console:
    return Console(width=80, quiet=True)


def start(*words: str) -> "subprocess.Popen[str]":
    """The command, as a user types it."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "training/verify_resume.py", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class TestRefusals:
    """What is refused with one sentence, before anything is launched."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("--recipe stage3", "cannot be 'stage3'"),
            ("--stepz 3", "did you mean --steps"),
            ("--topologies zero9:2", "accelerate_configs/zero9.yaml"),
            ("--topologies zero2", "NAME:RANKS"),
            ("--topologies cpu:0", "NAME:RANKS"),
            ("--kill-at 40", "outside the run"),
            ("--kills 99", "at most 20"),
            ("--kills 1 --topologies cpu:1 zero2:2 zero3:2", "--kills 2"),
            ("--topologies cpu:1:1 cpu:1:2", "other masks"),
            ("--topologies cpu:3 -- --batch-size 4 --micro-batch 1", "use --batch-size 6"),
            ("-- --out runs/mine", "--out is set by the verification"),
            ("-- --dry-run", "--dry-run is set by the verification"),
            ("-- --stage1.steps 3", "--stage1.steps is set by the verification"),
            ("-- --data.rots x", "did you mean --data.roots"),
            ("--compare runs/one", "two run folders"),
        ],
    )
    def test_a_mistake_is_one_sentence(self, words: str, said: str) -> None:
        with pytest.raises(ValueError, match=said) as found:
            verify(words.split(), quiet())
        assert "\n" not in str(found.value)

    def test_a_folder_with_something_in_it_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").touch()
        with pytest.raises(ValueError, match="is not empty"):
            verify(["--work", str(tmp_path)], quiet())
        assert (tmp_path / "thesis.txt").exists()


class TestPlan:
    """What is drawn and configured."""

    def test_a_trial_that_killed_nothing_has_shown_nothing(self, tmp_path: Path) -> None:
        trial = Experiment(
            Verification(kills=2, topologies=("cpu:1", "cpu:2")), [*FLAGS, "--micro-batch", "1"], tmp_path, print
        )
        assert [row.holds for row in trial.ends()] == [False, True]
        trial.struck = 1
        assert [row.holds for row in trial.ends()] == [True, True]
        trial.failures.append("exit code 1 after SIGTERM instead of 75")
        assert [row.holds for row in trial.ends()] == [True, False]

    def test_kills_follow_from_the_seed(self) -> None:
        first, again, other = (draw_kills(Verification(kills=5, seed=seed), 30) for seed in (1, 1, 2))
        assert first == again != other
        assert len({kill.step for kill in first}) == 5
        assert all(0 < kill.step < 30 for kill in first)

    def test_chosen_kills_are_kept(self) -> None:
        kills = draw_kills(Verification(kill_at=(9, 4), signal="term"), 24)
        assert [(kill.step, kill.signal) for kill in kills] == [(4, "SIGTERM"), (9, "SIGTERM")]

    def test_the_users_configuration_is_only_shortened(self, tmp_path: Path) -> None:
        wanted = Verification(steps=12, topologies=("cpu:1:3", "zero3:3:2"))
        trial = Experiment(wanted, [*FLAGS, "--dropout", "0", "--stage.lr.sensor", "3e-4"], tmp_path, print)
        assert trial.total == 24
        assert [(stage.steps, stage.lr.sensor) for stage in trial.config.stages.values()] == [(12, 3e-4)] * 2
        assert 1 < trial.config.save_every < 12, "a kill loses some steps, but not all"
        assert not trial.exact


class Forked:
    """A life of the fork server, in the place of a launcher and its ranks."""

    def __init__(self, life: Life) -> None:
        self.life = life

    def poll(self) -> int | None:
        codes = self.life.codes()
        if None in codes:
            return None
        told = (self.life.folder / "code").read_text() if (self.life.folder / "code").exists() else ""
        return launcher.choose(int(told) if told else None, [code for code in codes if code is not None])

    def wait(self) -> int:
        self.life.wait()
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        self.life.signal(number)

    def kill(self) -> None:
        self.life.kill()


def forked(server: ForkServer) -> legs.Start:
    """Starts legs as lives; those that are to be killed are slow from their 9th step, so that a kill meets them."""

    def start(
        recipe: str, flags: Sequence[str], *, topology: str, ranks: int, environment: Mapping[str, str], log: Path
    ) -> Forked:
        faults = "start:sleep=0.5@9-99" if log.stem in ("leg-1", "leg-2") else ""
        life = server.start(
            flags,
            recipe=recipe,
            topology=topology,
            ranks=ranks,
            environment={**environment, "TOUCHSTONE_FAULTS": faults},
        )
        log.symlink_to(life.logs[0])
        return Forked(life)

    return start


Verified = tuple[Path, str, dict[str, Any]]


@pytest.fixture(scope="module")
def verified(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """The runs of a verification with one SIGKILL and one SIGTERM, what it printed, and its result."""
    folder = tmp_path_factory.mktemp("verified")
    work, result, shown = folder / "runs", folder / "result.json", folder / "shown.txt"
    words = ["--recipe", "stage1", "--steps", "16", "--kill-at", "3", "6", "--topologies", "zero2:2", "--seed", "1"]
    words += ["--work", str(work), "--keep-runs", "--json", str(result), "--leg-seconds", "600", "--", *FLAGS]
    with shown.open("w") as file:
        code = verify([*words, "--micro-batch", "1", "--dropout", "0.1"], Console(width=80, file=file), forked(server))
    assert code == errors.DONE, shown.read_text()
    return work, shown.read_text(), json.loads(result.read_text())


class TestVerification:
    """Legs that train; `accelerate launch` is the fork server, but where a command is interrupted."""

    @pytest.mark.promise(16, "verify_resume", "holds where a run resumes, finds one changed bit", deep=5)
    def test_killed_runs_on_one_topology_end_bitwise_equal(self, verified: Verified, tmp_path: Path) -> None:
        work, printed, result = verified
        assert result["holds"]
        assert {row["name"] for row in result["rows"]} >= {"positions", "losses", "parameters", "averages (EMA)"}
        kills, *others = result["rows"]
        assert kills["count"] == "2 of 2"
        assert {row["verdict"] for row in others} <= {"bitwise equal", "each once, in order", "as they should"}
        assert "The promise holds." in printed
        assert max(map(len, printed.splitlines())) <= 80 + len(str(work))
        assert "SIGKILL at step" in printed or "exit code 75 at step" in printed

        tampered = tmp_path / "tampered"
        shutil.copytree(work / "interrupted", tampered)
        change(tampered, "exp_avg_sq/", lambda tensor: tensor.view(torch.int32)[..., -1].add_(1))
        shown = tmp_path / "table.txt"
        with shown.open("w") as file:
            code = verify(["--compare", str(work / "reference"), str(tampered)], Console(width=80, file=file))
        assert code == BROKEN
        wrong = [line for line in shown.read_text().splitlines() if "DIFFERS" in line]
        assert len(wrong) == 1
        assert wrong[0].startswith("second moments")
        assert verify(["--compare", str(work / "reference"), str(work / "interrupted")], quiet()) == errors.DONE

    @pytest.mark.deep
    def test_another_seed_is_another_run(self, server: ForkServer, verified: Verified, tmp_path: Path) -> None:
        work, _, _ = verified
        flags = [*FLAGS, "--micro-batch", "1", "--dropout", "0.1", "--stage.steps", "16", "--seed", "2"]
        with legs.Launch(
            "stage1",
            [*flags, "--out", str(tmp_path / "other")],
            topology="zero2",
            ranks=2,
            log=tmp_path / "log",
            limit_s=600,
            start=forked(server),
        ) as leg:
            assert leg.wait() == errors.DONE, leg.last_words()
        held = {row.name: row.holds for row in compare(work / "reference", tmp_path / "other", Tolerance())}
        assert not any(held[name] for name in ("losses", "parameters", "first moments", "second moments"))
        assert held["steps"] and held["positions"]

    def test_legs_take_the_topologies_in_turn(self, tmp_path: Path) -> None:
        """What comes of a change of ranks and ZeRO stages, row 19 of the fault matrix shows."""
        asked: list[tuple[str, int, str]] = []

        def start(
            recipe: str, flags: Sequence[str], *, topology: str, ranks: int, environment: Mapping[str, str], log: Path
        ) -> legs.Process:
            asked.append((topology, ranks, flags[flags.index("--micro-batch") + 1]))
            return subprocess.Popen(["true"])

        wanted = Verification(kill_at=(3, 6), steps=16, topologies=("zero2:2:1", "cpu:1:3", "zero3:3:2"))
        trial = Experiment(wanted, [*FLAGS, "--dropout", "0"], tmp_path, print, start)
        for number, chosen in enumerate(trial.topologies):
            with trial.leg(tmp_path / "run", chosen, f"leg-{number + 1}") as leg:
                assert leg.wait() == errors.DONE
        assert asked == [("zero2", 2, "1"), ("cpu", 1, "3"), ("zero3", 3, "2")]
        assert not trial.exact, "losses to 1e-5, tensors to 1e-3"

    @pytest.mark.deep
    def test_ctrl_c_leaves_no_process(self, tmp_path: Path) -> None:
        process = start("--work", str(tmp_path / "runs"), "--recipe", "stage1", "--", *FLAGS, "--micro-batch", "1")
        try:
            deadline = time.monotonic() + 600
            while not launched(process) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert launched(process)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=600)
        finally:
            process.kill()
        assert process.returncode == errors.INTERRUPTED, printed
        assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(arguments(p))]


def launched(process: "subprocess.Popen[str]") -> bool:
    """Whether a rank of the command's first leg runs."""
    return any("--config" in arguments(child) for child in psutil.Process(process.pid).children(recursive=True))


def arguments(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return words


def change(run: Path, prefix: str, edit: Callable[[torch.Tensor], object]) -> None:
    """Edit one tensor of a run's last checkpoint, and give its manifest the new digest."""
    folder = checkpoint.steps(run)[-1]
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(entry for entry in manifest["files"] if entry["name"].endswith(".safetensors"))
    path = folder / entry["name"]
    tensors = load_file(path)
    edit(tensors[next(name for name in sorted(tensors) if name.startswith(prefix))])
    save_file(tensors, path)
    entry |= {"bytes": path.stat().st_size, "sha256": storage.digest(path)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class TestLegs:
    """What launches and ends parts of a run."""

    def test_the_last_step_is_the_last_complete_line(self, tmp_path: Path) -> None:
        assert legs.last_step(tmp_path) == 0
        (tmp_path / "metrics.jsonl").write_text("")
        assert legs.last_step(tmp_path) == 0
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
        assert legs.last_step(tmp_path) == 2


class TestComparison:
    """Values by step."""

    def test_the_first_difference_is_named(self) -> None:
        ours = {1: {"loss": 1.0, "losses": {"a": 1.0}}, 2: {"loss": 2.0}, 3: {"loss": 3.0}}
        theirs = {1: {"loss": 1.0, "losses": {"a": 1.0}}, 2: {"loss": 2.5}, 3: {"loss": 9.0}}
        row = compare_values("losses", ours, theirs, 1e-5)
        assert not row.holds
        assert row.difference == 2.0
        assert "first at step 2" in row.verdict

    @pytest.mark.parametrize("other", [float("nan"), None, "1.0", float("inf")])
    def test_what_is_no_number_differs(self, other: object) -> None:
        assert not compare_values("losses", {1: 1.0}, {1: other}, 1e9).holds
