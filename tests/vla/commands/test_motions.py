"""A policy of motion beside the clips that ship: figures, pictures, page."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.policies import build_policy
from vla.__main__ import main
from vla.commands.motions import open_clips
from vla.commands.recordings import as_body_of
from vla.contract import DataContract
from vla.data.dataset import open_dataset
from vla.motion_settings import MotionConfig, NamedMotionFiles
from vla.policy_folder import save_policy
from vla.policy_settings import PolicyConfig
from vla.report.motions import motion_section
from vla.settings import BackboneConfig, DataConfig, ExpertConfig

CLIPS = {"train": ("walks/02_01.npz", "walks/07_01.npz", "actions/jumping_1.npz"), "test": ("walks/16_15.npz",)}


@pytest.fixture(scope="module")
def clips(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the clips that ship."""
    folder = tmp_path_factory.mktemp("clips")
    for part, names in CLIPS.items():
        source = repository / "examples" / "motion" / "cmu" / part
        for name in names:
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, folder / part / name)
        with (source / "labels.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["file"] in names]
        with (folder / part / "labels.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return folder


def untrained(clips: Path, folder: Path, rate_hz: float = 20.0) -> DataContract:
    """A policy of what these clips offer."""
    settings = DataConfig(roots=(str(clips / "train"),), horizon=24, normalization="z-score", validation_share=0.0)
    data = open_dataset(replace(settings, motion=MotionConfig(rate_hz=rate_hz)), 0)
    config = PolicyConfig(backbone=BackboneConfig(path="hash"), expert=ExpertConfig(width=32, depth=1, heads=2))
    policy = build_policy(config, data.contract, data.statistics, torch.float32, 0)
    save_policy(policy, folder)
    return data.contract


@pytest.mark.deep
def test_motions_are_judged_beside_real_ones(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained policy moves like no human, held-out walks are walks, and the page shows both."""
    untrained(clips, tmp_path / "policy")
    words = ["evaluate", str(tmp_path / "policy"), "--data.roots", str(clips / "test"), "--json", "--steps", "2"]
    out = tmp_path / "found"
    assert main([*words, "--training", str(clips / "train"), "--motions", "8", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in told["rows"]}
    assert rows["judged not human"]["samples"]["value"] > 0.5
    assert rows["recall, walking"]["samples"]["value"] < 0.5
    assert rows["recall, walking"]["real"]["value"] == 1
    assert rows["nearer than real ones"]["replay"]["value"] == 1, "a replay of training windows is a copy"
    assert {"motions.json", "walking.png", "jumping.png"} <= {file.name for file in out.iterdir()}
    (section,) = motion_section(json.loads((out / "motions.json").read_text()), out)
    assert section.count("<img") == 2
    assert "recall, walking" in section


def test_clips_of_any_format_become_the_body_of_a_policy(clips: Path, tmp_path: Path) -> None:
    """BVH says neither its unit nor its axis: both are told to vla evaluate as to any other command."""
    contract = untrained(clips, tmp_path / "policy")
    assert main(["export", str(clips / "test"), str(tmp_path / "bvh")]) == 0
    with pytest.raises(ValueError, match=r"--data.motion.unit"):
        open_clips(str(tmp_path / "bvh"), contract, as_body_of(contract, NamedMotionFiles()))
    told = as_body_of(contract, NamedMotionFiles(unit="cm", up="y"))
    given, exported = (open_clips(str(root), contract, told) for root in (clips / "test", tmp_path / "bvh"))
    for own, other in zip(given.episodes, exported.episodes, strict=True):
        assert other.actions.values == pytest.approx(own.actions.values, abs=1e-3)


def test_a_policy_of_another_rate_is_measured_at_its_own(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(clips, tmp_path / "policy", rate_hz=25.0)
    words = ["evaluate", str(tmp_path / "policy"), "--data.roots", str(clips / "test"), "--data.workers", "0", "--json"]
    assert main([*words, "--samples", "4", "--steps", "2", "--data.validation-share", "0"]) == 0, (
        capsys.readouterr().err
    )
    assert json.loads(capsys.readouterr().out)["samples"] == 4


REFUSED = {
    "give held-out ones with --data.roots": (["--training", "TRAIN"], 2),
    "--motions has no effect without --training": (["--data.roots", "TEST", "--motions", "3"], 78),
    "--motions is 0; give 1 or more": (["--data.roots", "TEST", "--training", "TEST", "--motions", "0"], 78),
    "--data.episodes would have no effect with --training": (
        ["--data.roots", "TEST", "--training", "TRAIN", "--data.episodes", "0"],
        78,
    ),
    "--samples would have no effect with --training": (
        ["--data.roots", "TEST", "--training", "TRAIN", "--samples", "9"],
        78,
    ),
    "holds no data that can be read": (["--data.roots", "EMPTY", "--training", "TRAIN"], 78),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_judged_is_refused(
    sentence: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, code = REFUSED[sentence]
    untrained(clips, tmp_path / "policy")
    (tmp_path / "empty").mkdir()
    places = {"TRAIN": clips / "train", "TEST": clips / "test", "EMPTY": tmp_path / "empty"}
    given = [str(places.get(word, word)) for word in words]
    assert main(["evaluate", str(tmp_path / "policy"), *given, "--out", str(tmp_path / "out")]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
