"""A short soak: nine kills, and the run ends as if nothing had happened. `make soak` makes it two hundred."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.soak import KINDS, differences, soak
from tests.forkserver import ForkServer
from training.checkpoints import checkpoint

pytestmark = pytest.mark.deep

SEED = 377
"""One that draws every kind, a life with loader processes, and one that ends before its first step."""


@pytest.fixture(scope="module")
def soaked(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], list[str]]:
    folder = tmp_path_factory.mktemp("soak")
    report, found = soak(server, folder, steps=60, kills=9, topology="zero2", seed=SEED)
    return folder, report, found


@pytest.mark.promise(22, "nine kills at any moment", "both stages end bit for bit as if left alone", deep=5)
def test_nine_kills_change_no_bit(soaked: tuple[Path, dict[str, object], list[str]]) -> None:
    folder, report, found = soaked
    assert not found, f"{found}\n{json.dumps(report)}\nlives: {(folder / 'lives.jsonl').read_text()}"
    assert report["kills"] >= 8, "a life may end before it is killed, but not often"  # type: ignore[operator]
    assert len(report["kills_by_kind"]) >= len(KINDS) - 1  # type: ignore[arg-type]
    assert report["kills_that_cut_off_a_save"]
    assert report["steps_repeated"], "nothing was lost that had to be trained again: the kills came too late"


def test_nothing_is_left_over(soaked: tuple[Path, dict[str, object], list[str]]) -> None:
    _, report, _ = soaked
    assert report["left_over"] == [], "unfinished saves, or valid checkpoints that were set aside"


def test_one_changed_bit_is_found(soaked: tuple[Path, dict[str, object], list[str]], tmp_path: Path) -> None:
    folder, _, _ = soaked
    shutil.copytree(folder / "run", tmp_path / "run")
    path = next(iter(sorted(checkpoint.steps(tmp_path / "run")[-1].glob("*.safetensors"))))
    tensors = load_file(path)
    average = next(tensor for name, tensor in sorted(tensors.items()) if name.startswith("ema/"))
    average.view(torch.int32).view(-1)[0] ^= 1
    save_file(tensors, path)
    (found,) = differences(folder / "golden", tmp_path / "run")
    assert found.startswith("averages (EMA): DIFFERS")
