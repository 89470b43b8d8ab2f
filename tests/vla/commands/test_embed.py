"""`vla embed`: every instruction of some data once, and what was written is told."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.encoders import write_encoder
from tests.vla.data.recordings import TASKS, write_v2
from vla.__main__ import main
from vla.parts.backbone import fingerprint, load_backbone
from vla.parts.embeddings import read_embeddings
from vla.settings import BackboneConfig


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of two tasks."""
    return write_v2(tmp_path_factory.mktemp("data") / "walks", camera="none")


def told(output: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines())


def test_every_different_text_of_the_data_is_written_once(
    walks: Path, needle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "texts.safetensors"
    assert main(["embed", str(walks), str(needle), "--backbone.path", "hash", "--out", str(out)]) == 0
    of_needle = pq.read_table(needle / "meta" / "tasks.parquet").to_pandas().index.tolist()
    found = read_embeddings(out)
    assert set(found.vectors) == {*TASKS, *of_needle}
    backbone = load_backbone(BackboneConfig(path="hash"), torch.float32)
    for text, vector in found.vectors.items():
        assert torch.equal(vector, backbone.embed([text], torch.device("cpu"))[0])
    assert told(capsys.readouterr().out) == {
        "file": str(out), "texts": str(2 + len(of_needle)), "width": "256",
        "pooling": "counts of words, L2-normalised", "encoder": "hash", "fingerprint": fingerprint("hash"),
        "digest": hashlib.sha256(out.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_an_encoder_that_says_nothing_is_told_how_to_pool(
    walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = write_encoder(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    words = ["embed", str(walks), "--backbone.path", "bert", "--json"]
    assert main(words) == 78
    assert "give --backbone.pooling mean or cls" in capsys.readouterr().err
    assert main([*words, "--backbone.pooling", "cls", "--data.without", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["texts"], said["width"], said["pooling"], said["encoder"]) == (1, 32, "cls", "bert")
    assert said["fingerprint"] == fingerprint(str(bert), "cls")
    assert list(read_embeddings(Path(said["file"])).vectors) == [TASKS[0]]
    assert said["file"] == "embeddings.safetensors"


def test_what_cannot_be_done_is_one_sentence(
    walks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.safetensors").touch()
    unwritten = write_v2(tmp_path / "unwritten", camera="none")
    tasks = unwritten / "meta" / "tasks.jsonl"
    tasks.write_text(tasks.read_text().replace(TASKS[0], ""))
    for words, code, said in (
        ([str(walks), "--backbone.path", "tiny"], 78, "tiny is a Qwen2.5-VL; give a sentence encoder: hash, minilm"),
        ([str(walks), "--backbone.path", "hush"], 78, "did you mean hash"),
        ([str(walks), "--backbone.path", "hash", "--out", "there.safetensors"], 78, "there.safetensors exists"),
        ([str(walks), "--backbone.path", "hash", "--backbone.pooling", "mean"], 78, "would have no effect"),
        ([str(walks), "--backbone.path", "hash", "--data.without", "9"], 78, "--data.without"),
        ([str(walks)], 2, "--backbone.path must be given"),
        (["--backbone.path", "hash"], 2, "give at least one dataset folder"),
        (["nowhere", "--backbone.path", "hash"], 78, "nowhere is not there"),
        ([str(unwritten), "--backbone.path", "hash"], 78, "unwritten/episode_000000 has an empty instruction"),
    ):
        assert main(["embed", *words]) == code, words
        assert said in capsys.readouterr().err
        assert not Path("embeddings.safetensors").exists()
