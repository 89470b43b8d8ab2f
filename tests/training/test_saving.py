"""Saving behind the training: what is stored is what was, a failure makes no checkpoint and changes no other."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load

from tests.fabricated import CONTRACT
from tests.policies import manifest
from training import faults
from training.checkpoints import checkpoint, saving, storage
from training.checkpoints.saving import Saver
from vla.run_folder import Meaning

MEANING = Meaning(identity={}, contract=CONTRACT, normalizer={})


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    (tmp_path / "checkpoints").mkdir()
    return Saver(Accelerator(cpu=True), tmp_path, keep=2, rate=1e6, objection=lambda: None)


def state(value: float) -> dict[str, torch.Tensor]:
    pieces = {f"{key}/expert.weight": torch.full((2, 3), value) for key in ("weight", "exp_avg", "exp_avg_sq")}
    return pieces | {"ema/expert.weight@0": torch.full((4,), value), "ema/expert.weight@4": torch.full((2,), value)}


def save(saver: Saver, pieces: dict[str, torch.Tensor], step: int, **more: Any) -> None:
    described = manifest(step, adam_steps={"expert": step}, shapes={"expert.weight": (2, 3)})
    saver.save(pieces, {}, manifest=described, meaning=MEANING, **more)


def test_the_bytes_are_those_the_library_reads() -> None:
    tensors = {
        "matrix": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(1.5),
        "transposed": torch.randn(4, 2).T,
        "empty": torch.zeros(0, 3),
    }
    content = b"".join(bytes(part) for part in saving.safetensors(tensors))
    read = load(content)
    assert read.keys() == tensors.keys()
    assert all(read[name].equal(tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)


def test_what_is_stored_is_what_was_when_the_save_began(saver: Saver, tmp_path: Path) -> None:
    held, going_on = threading.Event(), threading.Event()
    pieces = state(1.0)
    saver.reserve(pieces)
    saver._objection = lambda: (held.set(), going_on.wait(240), None)[-1]  # type: ignore[func-returns-value]
    save(saver, pieces, 1)
    for piece in pieces.values():
        piece.fill_(2.0)
    assert held.wait(240)
    assert saver.busy()
    assert saver.finish(0.01) is None
    assert not checkpoint.steps(tmp_path), "nothing is a checkpoint before it is whole"
    going_on.set()
    outcome = saver.finish()
    assert outcome is not None
    assert (outcome.step, outcome.error, saver.last) == (1, None, 1)
    stored = checkpoint.read(checkpoint.path_of(tmp_path, 1)).state()
    assert all(stored.moments[key]["expert.weight"].equal(torch.ones(2, 3)) for key in stored.moments)
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-00000001"


@pytest.mark.parametrize(
    "fault", ["storage.chunk:raise=ENOSPC", "storage.chunk:raise=EDQUOT", "rename.before:raise=EROFS"]
)
def test_a_failure_makes_no_checkpoint_and_keeps_the_others(saver: Saver, tmp_path: Path, fault: str) -> None:
    pieces = state(1.0)
    saver.reserve(pieces)
    save(saver, pieces, 1)
    assert saver.finish() is not None
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with faults.armed(fault):
        for count in (1, 2):
            save(saver, pieces, 2)
            outcome = saver.finish()
            assert outcome is not None
            assert outcome.error is not None
            assert saver.failures == count
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    save(saver, pieces, 3)
    outcome = saver.finish()
    assert outcome is not None
    assert (outcome.error, saver.failures) == (None, 0)


def test_a_pointer_that_cannot_be_written_loses_no_checkpoint(saver: Saver, tmp_path: Path) -> None:
    pieces = state(1.0)
    saver.reserve(pieces)
    with faults.armed("latest.before:raise=EDQUOT"):
        save(saver, pieces, 1)
        outcome = saver.finish()
    assert outcome is not None
    assert outcome.error is None
    assert "EDQUOT" in (outcome.remark or "") or "quota" in (outcome.remark or "")
    assert checkpoint.candidates(tmp_path) == [checkpoint.path_of(tmp_path, 1)]


def test_what_reads_back_differently_is_no_checkpoint(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(path: Path, parts: Any) -> dict[str, str | int]:
        entry = write(path, parts)
        if path.suffix == ".safetensors":
            path.write_bytes(path.read_bytes()[:-1])
        return entry

    write = storage.write
    monkeypatch.setattr(storage, "write", torn)
    pieces = state(1.0)
    saver.reserve(pieces)
    save(saver, pieces, 1)
    outcome = saver.finish()
    assert outcome is not None
    assert "reads back differently" in (outcome.error or "")
    assert not checkpoint.steps(tmp_path)


def test_a_run_that_lost_its_folder_makes_no_checkpoint(saver: Saver, tmp_path: Path) -> None:
    saver._objection = lambda: "another process writes it"
    pieces = state(1.0)
    saver.reserve(pieces)
    save(saver, pieces, 1)
    outcome = saver.finish()
    assert outcome is not None
    assert outcome.error == "another process writes it"
    assert not list((tmp_path / "checkpoints").iterdir())


def test_retention_counts_valid_checkpoints_only(saver: Saver, tmp_path: Path) -> None:
    pieces = state(1.0)
    saver.reserve(pieces)
    for step in (1, 2, 3):
        save(saver, pieces, step)
        saver.finish()
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000002", "step-00000003"]
    newest = checkpoint.path_of(tmp_path, 3) / "manifest.json"
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"schema": 99}))
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.path_of(tmp_path, 2).exists(), "the last valid one is never deleted"


def test_an_error_that_is_not_the_storages_is_raised(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(saving, "safetensors", broken)
    pieces = state(1.0)
    saver.reserve(pieces)
    save(saver, pieces, 1)
    with pytest.raises(KeyError, match="a mistake of ours"):
        saver.finish()


def test_pieces_that_overlap_or_are_missing_are_damage(saver: Saver, tmp_path: Path) -> None:
    pieces = state(1.0)
    del pieces["ema/expert.weight@4"]
    saver.reserve(pieces)
    save(saver, pieces, 1)
    saver.finish()
    with pytest.raises(checkpoint.CorruptData, match="lacks pieces of 'expert.weight'"):
        checkpoint.read(checkpoint.path_of(tmp_path, 1)).state()
