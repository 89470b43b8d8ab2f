"""A policy of motion beside the clips that ship: figures, pictures, page."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.policies import build_policy
from vla.__main__ import main
from vla.contract import DataContract
from vla.data.dataset import open_dataset
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


def untrained(clips: Path, folder: Path) -> DataContract:
    """A policy of what these clips offer."""
    data = open_dataset(
        DataConfig(roots=(str(clips / "train"),), horizon=24, normalization="z-score", validation_share=0.0), 0
    )
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


REFUSED = {
    "give held-out ones with --data.roots": (["--training", "TRAIN"], 2),
    "--motions has no effect without --training": (["--data.roots", "TEST", "--motions", "3"], 78),
    "--motions is 0; give 1 or more": (["--data.roots", "TEST", "--training", "TEST", "--motions", "0"], 78),
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
