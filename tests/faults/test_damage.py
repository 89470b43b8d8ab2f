"""Rows 13-18: what else may have happened to files of a checkpoint since they were written."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.faults import runs
from tests.forkserver import ForkServer
from training.checkpoints import checkpoint
from vla.errors import CorruptData
from vla.parts.backbone import load_backbone
from vla.run_folder import SCHEMA
from vla.settings import BackboneConfig

CORRUPT, REFUSED = 65, 78
LAST, BEFORE = runs.STEPS, runs.STEPS - runs.SAVE_EVERY


@pytest.fixture
def run(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden run with its last three checkpoints, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(golden, folder)
    for step in runs.steps(folder)[:-3]:
        shutil.rmtree(runs.at(folder, step))
    return folder


def shards(run: Path, step: int = LAST) -> list[Path]:
    return sorted(runs.at(run, step).glob("*.safetensors"))


def newest(run: Path, accelerator: Accelerator) -> int:
    found = checkpoint.newest(run, accelerator)
    assert found is not None
    assert found.state().weight
    return found.manifest.step


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file, and where a manifest has its digest, that too: as if it had been written like this."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def adopt(path: Path) -> None:
    """Enter a changed or new file into the manifest beside it, digest and all."""

    def enter(manifest: dict[str, Any]) -> None:
        content = path.read_bytes()
        entry = {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"] = [file for file in manifest["files"] if file["name"] != path.name] + [entry]

    edit(path.parent / "manifest.json", enter)


@pytest.mark.fault(13, "truncated shard", "found, told, set aside; the one before is resumed, bit-exact")
def test_truncated(
    server: ForkServer, flags: list[str], golden: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shards(run)
    os.truncate(first, first.stat().st_size - 1)
    assert newest(run, Accelerator(cpu=True)) == BEFORE
    said = capsys.readouterr().out
    assert first.name in said and f"{first.stat().st_size} bytes" in said
    os.truncate(second, 0)
    life = server.start([*flags, "--out", run, "--resume-from", "auto"], ranks=2)
    assert life.wait() == [0, 0]
    assert f"at step {BEFORE} of" in life.output()
    assert f"step-{LAST:08d}" in life.output(), "the log names the damaged one"
    runs.assert_same(run, golden)
    [aside] = [name for name in runs.leftovers(run) if name.startswith(".bad-")]
    assert (run / "checkpoints" / aside / second.name).stat().st_size == 0, "kept as it was found"


@pytest.mark.fault(14, "one flipped bit in a shard", "found by its digest; the one before is resumed")
def test_flipped_bit(run: Path, accelerator: Accelerator, capsys: pytest.CaptureFixture[str]) -> None:
    for step, place in ((LAST, 0.999), (BEFORE, 0.1)):
        shard = shards(run, step)[1]
        content = bytearray(shard.read_bytes())
        content[int(place * len(content))] ^= 0b00001000
        shard.write_bytes(content)
    assert newest(run, accelerator) == BEFORE - runs.SAVE_EVERY
    said = capsys.readouterr().out
    assert said.count("does not match its digest") == 2
    with pytest.raises(CorruptData, match="digest"):
        checkpoint.find(str(runs.at(run, LAST)), accelerator)


@pytest.mark.fault(15, "missing shard of a rank", "refused by name (exit 65), or the one before is resumed", deep=13)
def test_missing_shard(
    server: ForkServer, flags: list[str], run: Path, accelerator: Accelerator, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = shards(run)[1]
    gone.unlink()
    assert newest(run, accelerator) == BEFORE
    assert gone.name in capsys.readouterr().out
    for step in runs.steps(run):
        shards(run, step)[0].unlink(missing_ok=True)
    argv = [*flags, "--out", run, "--resume-from"]
    for place in ("auto", runs.at(run, LAST)):  # none is valid; this one is not
        life = server.start([*argv, place], ranks=1)
        assert life.wait() == [CORRUPT]
        assert "shard-0000" in life.output()
        assert "Traceback" not in life.output()


@pytest.mark.fault(16, "LATEST missing, empty, dangling, ../../etc", "a hint only: the scan finds the newest")
def test_pointer(run: Path, accelerator: Accelerator) -> None:
    pointer = run / "checkpoints" / "LATEST"
    outside = run.parent / "outside"
    shutil.copytree(runs.at(run, LAST), outside)
    edit(outside / "manifest.json", lambda manifest: manifest.update(step=999))
    pointer.unlink()
    assert newest(run, accelerator) == LAST
    for content in ("", "step-99999999", "step-00000005", "../../etc", "../../outside", str(outside), "\0", "\udcff"):
        pointer.write_bytes(content.encode(errors="surrogateescape"))
        assert newest(run, accelerator) == LAST, content
    pointer.unlink()
    pointer.mkdir()
    assert newest(run, accelerator) == LAST


@pytest.mark.fault(
    17, "manifest of a newer schema, or with unknown fields", "newer: exit 65; unknown field: read", deep=13
)
def test_schema(server: ForkServer, flags: list[str], run: Path, accelerator: Accelerator) -> None:
    manifest = runs.at(run, LAST) / "manifest.json"
    edit(manifest, lambda content: content.update(added_later={"a": 1}))
    assert newest(run, accelerator) == LAST
    edit(manifest, lambda content: content.update(schema=SCHEMA + 1))
    assert newest(run, accelerator) == BEFORE
    life = server.start([*flags, "--out", run.parent / "other", "--resume-from", runs.at(run, LAST)])
    assert life.wait() == [CORRUPT]
    assert f"schema {SCHEMA + 1}" in life.output()
    assert not (run.parent / "other").exists(), "refused before anything is written"
    for schema in (0, "1", None, 1.5):
        edit(manifest, lambda content, schema=schema: content.update(schema=schema))
        with pytest.raises(CorruptData):
            checkpoint.read(manifest.parent)


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.fault(
    18, "malicious pickle in a torch or DeepSpeed file", "never unpickled: not read, or refused", deep=14
)
def test_pickle(server: ForkServer, flags: list[str], run: Path, accelerator: Accelerator, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(Canary(canary), tmp_path / "control")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "control", weights_only=True)
    torch.load(tmp_path / "control", weights_only=False)
    assert canary.is_dir(), "the file does what it should"
    canary.rmdir()
    content = (tmp_path / "control").read_bytes()

    # Beside the shards, with and without an entry in the manifest.
    folder = runs.at(run, LAST)
    names = ("mp_rank_00_model_states.pt", "random_states_0.pkl", "optimizer.bin", "pytorch_model.bin", "scheduler.bin")
    for name in names:
        (folder / name).write_bytes(content)
        (run / "checkpoints" / name).write_bytes(content)
    adopt(folder / names[0])
    assert newest(run, accelerator) == LAST
    # In the place of a shard, with a manifest to match.
    shard = shards(run)[0]
    shard.write_bytes(content)
    with pytest.raises(CorruptData, match="digest|bytes"):
        checkpoint.find(str(folder), accelerator)
    adopt(shard)
    argv = [*flags, "--out", tmp_path / "other", "--resume-from", folder]
    life = server.start(argv)
    assert life.wait() == [CORRUPT], life.report()
    assert shard.name in life.output()
    # In the place of the backbone's weights.
    tiny = load_backbone(BackboneConfig(path="tiny"), torch.float32).folder
    backbone = tmp_path / "backbone"
    shutil.copytree(tiny, backbone)
    for weights in backbone.glob("*.safetensors*"):
        weights.unlink()
    (backbone / "pytorch_model.bin").write_bytes(content)
    life = server.start([*flags, "--out", tmp_path / "other", "--backbone.path", backbone])
    assert life.wait() == [REFUSED], life.report()
    assert not canary.exists()
