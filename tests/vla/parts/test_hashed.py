"""Hashed words: the same in every process, near where words are shared, and never zero."""

import hashlib
import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.encoders import look
from vla.parts import hashed
from vla.parts.backbone import base_of, fingerprint, load_backbone, resolve, width_of
from vla.parts.text import TextBackbone
from vla.settings import BackboneConfig

CPU = torch.device("cpu")


def embed(text: str, width: int = hashed.WIDTH) -> torch.Tensor:
    return hashed.HashedWords(width=width)(text, CPU)


def by_hand(words: list[str], width: int) -> list[float]:
    """The formula, without torch: buckets and signs of words and pairs."""
    features = words + [f"{one} {two}" for one, two in pairwise(words)]
    counts = [0] * width
    for feature in features:
        number = int(hashlib.blake2b(feature.encode("utf-8"), digest_size=8).hexdigest(), 16)
        number = int.from_bytes(number.to_bytes(8, "big"), "little")
        counts[number // 2 % width] += -1 if number % 2 else 1
    length = math.sqrt(sum(count * count for count in counts))
    return [count / length for count in counts]


@pytest.mark.parametrize("width", [2, 7, 256])
def test_words_and_pairs_are_hashed_into_signed_buckets(width: int) -> None:
    text = "A person KICKS the ball, then kicks the Ball; naïve! 走る"
    words = ["a", "person", "kicks", "the", "ball", "then", "kicks", "the", "ball", "naïve", "走る"]
    assert embed(text, width).tolist() == pytest.approx(by_hand(words, width), abs=1e-6)


@given(st.text(min_size=1).filter(str.strip), st.integers(2, 300))
def test_every_text_has_length_1(text: str, width: int) -> None:
    assert embed(text, width).norm().item() == pytest.approx(1, abs=1e-6)


@given(st.lists(st.text("abcXYZä走", min_size=1), min_size=1))
def test_case_and_marks_between_words_change_nothing(words: list[str]) -> None:
    plain = embed(" ".join(words))
    assert torch.equal(embed(", ".join(words) + "!"), plain)
    assert torch.equal(embed(" ".join(words).upper()), plain)


def test_written_in_two_ways_of_unicode_a_word_is_one() -> None:
    assert torch.equal(embed("cafe\u0301 \uff21\uff22"), embed("caf\u00e9 ab"))


def test_texts_are_near_where_they_share_words_and_the_order_counts() -> None:
    kick, kicks, walk = embed("a person kicks a ball"), embed("a person kicks the ball"), embed("robots walk forward")
    assert kick @ kicks > 0.5 > (kick @ walk).abs()
    assert not torch.equal(embed("left then right"), embed("right then left"))


@pytest.mark.deep  # the recipe's digest, below, is another process's already
def test_processes_agree_whatever_their_own_hash() -> None:
    code = (
        "import torch; from vla.parts.hashed import HashedWords; "
        "print(HashedWords(width=64)('kick the ball', torch.device('cpu')).tolist())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    assert json.loads(said) == embed("kick the ball", 64).tolist()


def test_the_recipe_is_the_one_of_its_number() -> None:
    """Whoever changes the numbers raises RECIPE; then this line is another."""
    digest = hashlib.sha256(embed("Kick the ball, then kick the wall").numpy().tobytes()).hexdigest()
    assert (hashed.RECIPE, digest[:16]) == (1, "033722290ac20713")


def test_it_is_a_folder_like_any_other() -> None:
    folder = resolve("hash")
    assert folder == hashed.build()
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    assert fingerprint("hash") == fingerprint(str(folder))
    assert width_of("hash") == 256
    assert str(base_of("hash")) == "hash (hashed words, no weights, built by Touchstone; licence not stated)"
    backbone = load_backbone(BackboneConfig(path="hash"), torch.float32)
    assert isinstance(backbone, TextBackbone)
    tokens, mask = backbone(look("kick the ball", "walk"))
    assert (tokens.shape, mask.tolist()) == ((2, 1, 256), [[True], [True]])
    assert torch.equal(tokens[0, 0], embed("kick the ball"))


def test_a_folder_may_ask_for_another_width(tmp_path: Path) -> None:
    hashed.write(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"width": 32}))
    wide = load_backbone(BackboneConfig(path=str(tmp_path)), torch.float32)
    assert wide(look("walk"))[0].shape == (1, 1, 32)
    assert fingerprint(str(tmp_path)) != fingerprint("hash")
    for change, words in (({"recipe": 0}, "by recipe 0, this version by 1"), ({"width": 1}, "into 1 numbers")):
        file.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=words):
            load_backbone(BackboneConfig(path=str(tmp_path)), torch.float32)
