"""Embeddings in a file: they come back bit for bit, spare the encoder, and are refused with another one."""

import json
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.encoders import look, write_encoder
from vla.errors import CorruptData
from vla.parts.backbone import load_backbone, remember_texts
from vla.parts.embeddings import Embeddings, EncoderName, read_embeddings, write_embeddings
from vla.parts.text import TextBackbone
from vla.settings import BackboneConfig

NAME = EncoderName(id="hash", fingerprint="ab" * 32, pooling="mean", width=3)
CPU = torch.device("cpu")


def load(path: Path | str, **settings: str) -> TextBackbone:
    found = load_backbone(BackboneConfig(path=str(path), **settings), torch.float32)
    assert isinstance(found, TextBackbone)
    return found


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(scope="module")
def file(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the encoder with the mean knows of two texts."""
    place = tmp_path_factory.mktemp("texts") / "texts.safetensors"
    backbone = load(bert, pooling="mean")
    backbone.embed(["walk", "走る"], CPU)
    backbone.save(place)
    return place


numbers = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)


@given(texts=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), numbers, min_size=1))
def test_texts_and_vectors_come_back(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, list[float]]) -> None:
    file = tmp_path_factory.mktemp("file") / "texts.safetensors"
    vectors = {text: torch.tensor(vector) for text, vector in texts.items()}
    write_embeddings(Embeddings(encoder=NAME, vectors=vectors), file)
    found = read_embeddings(file)
    assert found.encoder == NAME
    assert list(found.vectors) == list(texts)
    assert all(torch.equal(found.vectors[text], vectors[text]) for text in texts)
    assert [path.name for path in file.parent.iterdir()] == ["texts.safetensors"]


def test_the_header_says_what_encoder_they_are_of(file: Path, bert: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        said = json.loads(opened.metadata()["encoder"])
    fingerprint = load(bert, pooling="mean").name.fingerprint
    assert said == {"id": "bert", "fingerprint": fingerprint, "pooling": "mean", "width": 32}


def test_texts_in_the_file_are_not_read_again(file: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = load(bert, pooling="mean").embed(["run", "走る", "walk"], CPU)
    backbone, calls = load(bert, pooling="mean", embeddings=str(file)), list[str]()
    encode = backbone.encoder
    monkeypatch.setattr(backbone, "encoder", lambda text, device: calls.append(text) or encode(text, device))
    assert torch.equal(backbone(look("run", "走る", "walk"))[0][:, 0], fresh)
    assert calls == ["run"]


def test_embeddings_of_another_encoder_or_pooling_are_refused(file: Path, bert: Path, tmp_path: Path) -> None:
    other = write_encoder(tmp_path / "other", seed=1)
    for path, settings in ((other, {"pooling": "mean"}), (bert, {"pooling": "cls"}), ("hash", {})):
        with pytest.raises(
            ValueError, match=r"holds embeddings of bert \(mean, 32 wide, \w{12}\), the backbone is "
        ) as no:
            load(path, embeddings=str(file), **settings)
        assert str(load(path, **settings).name) in str(no.value)


def test_what_is_no_such_file_is_refused(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there; write it with `vla embed`"):
        read_embeddings(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="holds no embeddings of texts"):
        read_embeddings(bert / "model.safetensors")


def test_no_other_backbone_takes_them(file: Path) -> None:
    tiny = load_backbone(BackboneConfig(path="tiny"), torch.float32)
    remember_texts(tiny, None)
    with pytest.raises(ValueError, match="would have no effect: tiny is no sentence encoder"):
        remember_texts(tiny, str(file))


def damage(file: Path, place: Path, **tensors: torch.Tensor) -> Path:
    """A copy with other tensors under the same header."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file) | tensors, place, metadata)
    return place


def test_a_damaged_file_is_named(file: Path, tmp_path: Path) -> None:
    place = tmp_path / "texts.safetensors"
    place.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptData, match="cannot be read"):
        read_embeddings(place)
    vectors = load_file(file)["embeddings"]
    for tensors, words in (
        ({"embeddings": vectors[:1]}, r"holds 2 texts and embeddings of shape \(1, 32\)"),
        ({"embeddings": vectors[:, :9].contiguous()}, r"of shape \(2, 9\), not 32 finite numbers"),
        ({"embeddings": vectors / 0}, "finite numbers"),
        ({"texts": torch.tensor([91, 34], dtype=torch.uint8)}, "cannot be read"),
    ):
        with pytest.raises(CorruptData, match=words):
            read_embeddings(damage(file, place, **tensors))


def test_an_interrupted_writer_leaves_the_older_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "texts.safetensors"
    place.write_bytes(file.read_bytes())

    def fail(*_: object) -> NoReturn:
        raise OSError("no space left on device")

    monkeypatch.setattr("vla.parts.embeddings.hashlib.file_digest", fail)
    with pytest.raises(OSError, match="no space"):
        write_embeddings(read_embeddings(file), place)
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
    assert place.read_bytes() == file.read_bytes()
