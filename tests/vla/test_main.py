"""`vla` on the command line: results, pictures, exit codes, one sentence for a mistake."""

import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import vla.__main__
import vla.commands.ablate
import vla.commands.evaluate
from tests.policies import build_policy
from tests.vla.test_policy import CONFIG
from tests.vla.test_policy_folder import opened
from vla.__main__ import COMMANDS, main
from vla.commands.evaluate import Evaluate
from vla.data.dataset import open_dataset
from vla.data.episode import mark_of
from vla.errors import StorageFault
from vla.policy import Policy
from vla.policy_folder import HeldOut, load_policy, save_policy
from vla.policy_settings import Sampling
from vla.settings import DataConfig, DiffusionConfig


@pytest.fixture(scope="module")
def written(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy for the demonstration data."""
    dataset = open_dataset(DataConfig(roots=(str(needle),)), seed=0)
    folder = tmp_path_factory.mktemp("run") / "policy"
    save_policy(opened(build_policy(CONFIG, dataset.contract, dataset.statistics, torch.float32, seed=0)), folder)
    return folder


def evaluate(policy: Path, data: Path, *more: str) -> int:
    return main(["evaluate", str(policy), "--data.roots", str(data), "--data.workers", "0", "--samples", "4", *more])


def test_evaluate_writes_a_report_and_pictures(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Path(shutil.copytree(written, tmp_path / "policy"))
    assert evaluate(policy, needle, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    out = tmp_path / "policy-evaluation"
    assert printed == json.loads((out / "report.json").read_text())
    assert printed["samples"] == 4
    assert {path.name for path in out.iterdir()} == {
        *("report.json", "denoising.json", "episode.npz"),
        *("actions.png", "horizon.png", "denoising.png"),
    }
    assert evaluate(policy, needle, "--out", str(tmp_path / "elsewhere"), "--steps", "3") == 0
    captured = capsys.readouterr()
    assert "4 samples of 4 episodes" in captured.out, "none of them was held out"
    assert printed["verdict"].startswith("The policy is no better than the mean action (")
    assert "\nThe policy is no better than the mean action (" in captured.out
    assert str(tmp_path / "elsewhere") in captured.err


def test_evaluate_finds_the_episodes_that_training_held_out(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy"
    dataset = open_dataset(DataConfig(roots=(str(needle),), validation_share=0.25), seed=5)
    marks = tuple(mark_of(episode) for root in dataset.validation.episodes() for episode in root)
    save_policy(load_policy(written), policy, held_out=HeldOut(seed=5, episodes=marks))
    unseen = {dataset.validation.locate(index)[0] for index in range(len(dataset.validation))}
    assert evaluate(policy, needle, "--json", "--steps", "1", "--samples", "0") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["episodes"], printed["samples"]) == (len(unseen), len(dataset.validation))
    assert evaluate(policy, needle, "--json", "--steps", "1", "--samples", "60", "--data.validation-share", "0") == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 12


def test_ablate_writes_a_table_and_a_picture(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ablate", str(written), "--data.roots", str(needle), "--data.workers", "0", "--samples", "6"]
    asked += ["--data.validation-share", "0.2", "--steps", "1", "--out", str(tmp_path)]
    assert main([*asked, "--inputs", "sensor", "front", "--phase", "task_index"]) == 0
    captured = capsys.readouterr()
    assert max(map(len, captured.out.splitlines())) <= 80
    assert "episodes are too few" in captured.out
    assert {path.name for path in tmp_path.iterdir()} == {"ablation.json", "ablation.png"}
    content = json.loads((tmp_path / "ablation.json").read_text())
    assert [entry["input"] for entry in content["inputs"]] == ["sensor", "observation.images.front"]
    assert content["phases"] == []  # no phase comes in five episodes
    assert content["verdict"].startswith("The policy is no better than the mean action (")
    assert "The policy is no better than the mean action (" in captured.out
    assert main([*asked, "--inputs", "frnt"]) == 78
    assert "did you mean front?" in capsys.readouterr().err
    assert main([*asked, "--phase", "frame_index"]) == 78
    assert "phases are at most 12" in capsys.readouterr().err


def test_ablate_in_an_environment_keeps_what_became_of_each_episode(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ablate", str(written), "--data.roots", str(needle), "--data.workers", "0", "--samples", "6", "--json"]
    asked += ["--data.validation-share", "0.2", "--steps", "1", "--out", str(tmp_path), "--inputs", "state"]
    asked += ["--env", "tests.vla.evaluation.world:timed", "--env-settings", "goal=0.5", "--within", "2"]
    assert main([*asked, "--episodes", "4", "--workers", "1", "--fall", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fall"] == 0.2
    rates = [found["baseline"]["success"], *(kind["success"] for kind in found["inputs"][0]["kinds"])]
    assert len(rates) == 5
    for rate in rates:
        assert rate["episodes"] == len(rate["outcomes"]) == 4
        assert rate["rate"] == rate["outcomes"].count("1") / 4
    assert "success goes from" in found["inputs"][0]["sentence"]


def test_a_policy_is_measured_with_another_sampler_and_guidance(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(DataConfig(roots=(str(needle),)), seed=0)
    config = dataclasses.replace(CONFIG, diffusion=DiffusionConfig(unconditional=0.1))
    save_policy(
        opened(build_policy(config, dataset.contract, dataset.statistics, torch.float32, seed=0)), tmp_path / "policy"
    )
    asked: list[Sampling] = []
    sample_by = Policy.sample_by
    monkeypatch.setattr(Policy, "sample_by", lambda self, sampling: (asked.append(sampling), sample_by(self, sampling)))
    arena = ["--env", "tests.vla.evaluation.world:timed", "--episodes", "1", "--within", "1", "--workers", "1"]
    both = [*arena, "--steps", "1", "--guidance", "2", "--sampler", "euler"]
    assert evaluate(tmp_path / "policy", needle, *both) == 0
    assert asked == [Sampling(sampler="euler", guidance=2.0)] * 2, "for the recordings and for the environment"
    for command in (["evaluate", str(written), *arena], ["ablate", str(written), "--data.roots", str(needle)]):
        assert main([*command, "--guidance", "2"]) == 78
        assert "guidance is 2.0, but training shows every sample its instruction" in capsys.readouterr().err
    assert len(asked) == 2, "it is refused before a policy is loaded"


def test_merge_then_evaluate(written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(written), str(tmp_path / "merged")]) == 0
    assert "merged" in capsys.readouterr().out
    assert evaluate(tmp_path / "merged", needle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 4
    assert load_policy(tmp_path / "merged").config.lora is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a command"),
        (["evalute"], 2, "did you mean evaluate?"),
        (["evaluate"], 2, "POLICY must be given"),
        (["evaluate", "x"], 2, "--data.roots DIR"),
        (["import", "lerobot"], 2, "SRC and DST"),
        (["import", "hdf5", "a", "b"], 78, "give one of 'lerobot', 'insertion'"),
        (["doctor"], 2, "dataset folder"),
        (["needle", "demos"], 2, "--out must be given"),
        (["needle", "demo", "--out", "x"], 78, "give one of 'demos'"),
        (["needle", "demos", "--out", "x", "--error", "2"], 2, "did you mean --error-mm?"),
        (["evaluate", "x", "--data.roots", "y", "--data.root", "z"], 2, "did you mean --data.roots?"),
        (["evaluate", "x", "--data.roots", "y", "--seed", "three"], 78, "--seed cannot be 'three'; give None or INT"),
        (["evaluate", "x", "--data.roots", "y", "--device", "tpu"], 78, "give one of 'auto', 'cpu', 'cuda'"),
        (["evaluate", "x", "--data.roots", "y", "--batch-size", "0"], 78, "give 1 or more"),
        (["evaluate", "no/such", "--data.roots", "y"], 78, "no policy folder"),
        (["merge", "no/such", "out"], 78, "no policy folder"),
        (["ablate", "x"], 2, "--data.roots DIR"),
        (["ablate", "x", "--data.roots", "y", "--margin", "0"], 78, "--margin is 0"),
        (["ablate", "x", "--data.roots", "y", "--fall", "10"], 78, "--fall is 10"),
        (["ablate", "no/such", "--data.roots", "y"], 78, "no policy folder"),
        (["ablate", "x", "--data.roots", "y", "--within", "9", "--workers", "1"], 78, "--workers and --within would"),
        (["evaluate", "x", "--data.roots", "y", "--env-settings", "a=1"], 78, "--env-settings would have no effect"),
        (["evaluate", "x", "--data.roots", "y", "--record", "0"], 78, "name one with --env needle"),
        (["evaluate", "x", "--env", "y", "--phase", "z"], 78, "--phase would have no effect without recordings"),
        (["evaluate", "x", "--env", "y", "--data.episodes", "3"], 78, "--data.episodes would have no effect"),
        (["evaluate", "x", "--env", "y", "--samples", "1000"], 78, "x is no policy folder"),  # the default
        (["needle", "demos", "--out", f"{__file__}/x"], 78, f"{__file__} cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
    assert captured.err.count("\n") == 1


def test_mistakes_with_data(written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(written, needle.parent / "needles") == 78
    assert "did you mean" in capsys.readouterr().err
    broken = Path(shutil.copytree(written, tmp_path / "policy"))
    content = json.loads((broken / "config.json").read_text())
    content["contract"]["state_dim"] += 1
    (broken / "config.json").write_text(json.dumps(content))
    assert evaluate(broken, needle) == 78
    assert "width of the state" in capsys.readouterr().err
    (broken / "config.json").write_text("{")
    assert evaluate(broken, needle) == 65
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "policy-evaluation").exists()


def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(
    written: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()

    def measure(*_: object) -> None:
        raise AssertionError("it is measured")

    monkeypatch.setattr(vla.commands.evaluate, "open_recordings", measure)
    monkeypatch.setattr(vla.commands.ablate, "open_recordings", measure)
    for out in (file, file / "below"):
        for command in ("evaluate", "ablate"):
            assert main([command, str(written), "--data.roots", str(needle), "--out", str(out)]) == 78
            said = capsys.readouterr().err
            assert f"{out} cannot be written to" in said
            assert said.count("\n") == 1
    assert main(["merge", str(written), str(file / "merged")]) == 78
    assert "cannot be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/report.json"), 34, "make room"),
        (OSError(errno.EIO, "Input/output error"), 34, "mend the storage"),
        (StorageFault(errno.EACCES, "front.mp4 could not be read"), 34, "error: front.mp4 could not be read\n"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), 78, "error: data cannot be used"),
        (OSError("the hub does not answer"), None, ""),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None, ""),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: OSError, code: int | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "evaluate", (Evaluate, fail))
    if code is None:  # a mistake of ours, or one that nothing here can explain
        with pytest.raises(OSError, match=re.escape(str(error))):
            main(["evaluate", "policy", "--data.roots", "data"])
        return
    assert main(["evaluate", "policy", "--data.roots", "data"]) == code
    assert said in (printed := capsys.readouterr().err)
    assert printed.count("\n") == 1


def test_doctor_and_import(needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "lerobot", str(needle), str(tmp_path / "copy")]) == 0
    assert "12 episodes" in capsys.readouterr().out
    assert main(["import", "lerobot", str(needle), str(tmp_path / "copy")]) == 78
    assert "exists" in capsys.readouterr().err
    assert main(["import", "insertion", str(needle), str(tmp_path / "other")]) == 78
    assert "vla import lerobot" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "copy"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["roots"]) == 1
    assert main(["doctor", str(tmp_path / "copy")]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_help_reads_well_in_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["--help"], ["evaluate", "--help"], ["import", "--help"], ["needle", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code in (0, None)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert (
            "Merge a policy's adapter" in text
            or "PATH" in text
            or "POLICY" in text
            or "SRC" in text
            or "--error-mm" in text
        )


def test_the_module_is_the_command() -> None:
    version = subprocess.run([sys.executable, "-m", "vla", "--version"], check=True, capture_output=True, text=True)
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    said = rf"{declared['name']} {re.escape(declared['version'])}, commit \S+(, modified)?, Python 3\.\d+\.\d+\n"
    assert re.fullmatch(said, version.stdout)
