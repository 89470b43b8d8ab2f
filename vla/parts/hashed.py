"""A hashed bag of words as a sentence encoder: no weights, nothing to download, the same in every process.

Words in lower case, and pairs of neighbours, each add 1 or -1 to one of the embedding's numbers (Weinberger et al.,
"Feature hashing for large scale multitask learning", 2009). Texts are near each other where they share words; what
the words mean it does not know.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from vla import cache
from vla.parts.pretrained import read_config

MODEL_TYPE = "hashed_words"
WIDTH = 256
RECIPE = 1
"""Raised whenever the same text would get another embedding: it stands in config.json, and so in the fingerprint."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case; the whole text where it has none."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return WORD.findall(plain) or [plain]


@dataclass(frozen=True, kw_only=True)
class HashedWords:
    """Text -> vector of length 1."""

    width: int
    num_parameters: int = 0

    def __call__(self, text: str, _: torch.device) -> Float32[Tensor, " W"]:
        """The embedding of a text, never zero: n words and n - 1 pairs are an odd number of ones and minus ones."""
        words = words_of(text)
        vector = torch.zeros(self.width)
        for feature in (*words, *map(" ".join, pairwise(words))):
            number = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
            vector[(number >> 1) % self.width] += 1 - 2 * (number & 1)
        return functional.normalize(vector, dim=0)


def write(folder: Path) -> None:
    """Write the encoder's only file into an existing folder."""
    config = {"model_type": MODEL_TYPE, "recipe": RECIPE, "width": WIDTH}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build() -> Path:
    """The folder of the encoder, written at the first call. ValueError where the cache cannot be written."""
    return cache.built(f"hash-{RECIPE}-{WIDTH}", write)


def check(folder: Path) -> None:
    """Refuse a config.json of another recipe, or of a width that nothing can be hashed into (ValueError)."""
    config = read_config(folder)
    if config.get("recipe") != RECIPE:
        raise ValueError(
            f"backbone {folder} hashes words by recipe {config.get('recipe')}, this version by {RECIPE}; "
            "use the version that wrote it, or --backbone.path hash"
        )
    width = config.get("width")
    if not isinstance(width, int) or width < 2:
        raise ValueError(f"backbone {folder} hashes words into {width} numbers; give at least 2, e.g. {WIDTH}")


def width_of(folder: Path) -> int:
    """Numbers of an embedding."""
    return int(read_config(folder)["width"])
