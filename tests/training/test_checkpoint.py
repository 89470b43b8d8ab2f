"""Checkpoint directories: lying manifests are refused, the newest valid one is found, old ones are deleted."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from tests.policies import manifest
from training.checkpoints import checkpoint, storage
from vla import documents
from vla.errors import CorruptData
from vla.run_folder import READERS, SCHEMA


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def fake(run: Path, step: int, **changes: Any) -> Path:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    entry = storage.write(folder / "shard-00000-of-00001.safetensors", [b"content of a shard"])
    content = documents.to_json(manifest(step, files=(entry,)))
    (folder / "manifest.json").write_text(json.dumps(content | changes))
    return folder


def test_the_newest_valid_one_is_found(tmp_path: Path, accelerator: Accelerator) -> None:
    assert checkpoint.newest(tmp_path, accelerator) is None
    for step in (9, 10, 100):
        fake(tmp_path, step)
    (tmp_path / "checkpoints" / "LATEST").write_text("../../etc")  # a hint, never followed
    found = checkpoint.newest(tmp_path, accelerator)
    assert found is not None
    assert found.manifest.step == 100
    (found.path / "manifest.json").unlink()
    (tmp_path / "checkpoints" / ".staging-step-00000200-x").mkdir()
    found = checkpoint.newest(tmp_path, accelerator)
    assert found is not None
    assert found.manifest.step == 10


def test_a_file_outside_the_directory_is_refused(tmp_path: Path) -> None:
    folder = fake(tmp_path, 1, files=[{"name": "../../secret", "bytes": 1, "sha256": ""}])
    with pytest.raises(CorruptData, match="outside its directory"):
        checkpoint.read(folder)


def test_a_newer_schema_is_refused_and_unknown_fields_are_not(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=f"schema {SCHEMA + 1}"):
        checkpoint.read(fake(tmp_path, 1, schema=SCHEMA + 1))
    assert checkpoint.read(fake(tmp_path, 2, added_later=True)).manifest.step == 2


def test_an_older_schema_is_refused_with_the_commit_that_reads_it(tmp_path: Path, accelerator: Accelerator) -> None:
    """It is no damage: nothing older is looked for, and nothing begins anew in its place."""
    fake(tmp_path, 1)
    for schema in range(1, SCHEMA):
        fake(tmp_path / str(schema), 2, schema=schema)
        with pytest.raises(ValueError, match=f"schema {schema}.*check out commit {READERS[schema]}") as refused:
            checkpoint.newest(tmp_path / str(schema), accelerator)
        assert not isinstance(refused.value, CorruptData)


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", 3.5), ("ranks", "1"), ("guard", {"average": None}), ("files", [{"name": "a"}]), ("seed", True)],
)
def test_a_value_of_another_type_is_damage(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(CorruptData, match=key):
        checkpoint.read(fake(tmp_path, 1, **{key: value}))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        fake(tmp_path, step)
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    checkpoint.prune(tmp_path, 5)
    assert len(checkpoint.steps(tmp_path)) == 2


def test_leftovers_of_killed_runs_are_deleted(tmp_path: Path) -> None:
    kept = fake(tmp_path, 1)
    for name in (".staging-step-00000002-abc", ".old-step-00000000"):
        (kept.parent / name).mkdir()
        (kept.parent / name / "shard").write_bytes(b"torn")
    checkpoint.clean(tmp_path)
    assert list(kept.parent.iterdir()) == [kept]


def test_a_place_without_checkpoint_is_named(tmp_path: Path, accelerator: Accelerator) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoint.find(str(tmp_path), accelerator)
    assert checkpoint.find(str(fake(tmp_path, 3)), accelerator).manifest.step == 3
    assert checkpoint.find(str(tmp_path), accelerator).manifest.step == 3
