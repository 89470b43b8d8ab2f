"""What the needle is told: sentences in which the word for a colour picks the hole."""

from typing import Literal

COLOURS = ("red", "green", "blue")

PHRASINGS: dict[Literal["training", "held-out"], tuple[str, ...]] = {
    "training": (
        "insert the needle into the {} hole",
        "push the needle into the {} opening",
        "the {} hole is the target, insert the needle there",
        "guide the needle to the {} hole and insert it",
        "put the needle in the {} hole",
    ),
    "held-out": (
        "place the needle inside the {} hole",
        "please find the {} opening and push the needle in",
        "target: {} hole",
    ),
}
"""The held-out sentences are for evaluation: no demonstration has one, the words for the colours are the same."""


def instruct(colour: str, phrasings: Literal["training", "held-out"], number: int) -> str:
    """The sentence of this number, of any number, that names the colour."""
    sentences = PHRASINGS[phrasings]
    return sentences[number % len(sentences)].format(colour)
