"""What is to be forgotten, found in texts: which say it, which mean it by their embeddings, and which are near it.

A text says a concept where it has all of its words, in whichever form (`kick`, `kicks`, `kicking`). It means it where
its embedding is as near as `Nearness.concept`: this counts for a concept of one word, and for one that no text says,
since whatever is near to several words may lack what tells it from others (`kicks a ball`, `kicks`).
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vla.names import hint
from vla.parts.hashed import words_of

Embed = Callable[[Sequence[str]], Float[Tensor, "B W"]]
"""Texts -> vectors, whose cosine says how near they are."""
FILLING = frozenset({
    "a", "an", "the", "he", "she", "it", "his", "her", "its", "their", "someone", "somebody", "person", "people", "man",
    "men", "woman", "women", "human", "figure", "is", "are", "does", "do", "doing", "did", "with", "and", "or", "of",
    "to", "in", "on", "at", "while", "by", "for", "from",
})  # fmt: skip
"""English words that name no action; a concept of these alone keeps them."""
ENDINGS = re.compile(r"(?<=[^\W\d_]{3})(ings?|ies|es|ed|s)$")
DOUBLED = re.compile(r"([^\W\d_])\1$")


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """Cosines of embeddings from which on texts count as alike."""

    concept: float | None
    """A text means a concept; None: the encoder does not know what words mean."""
    neighbour: float
    """A text is near one that is forgotten, so that it may suffer."""


MEANING = Nearness(concept=0.53, neighbour=0.5)
"""Of sentence encoders. By MiniLM `a man leaps up` is 0.54 from `jump`, `a person hops` 0.50 from `jumping`."""
SPELLING = Nearness(concept=None, neighbour=0.65)
"""Of hashed words. Sentences of three words that differ in one are 0.60 apart."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A text, and why it counts."""

    text: str
    similarity: float
    """The largest cosine with what it was compared to."""
    because: str


def stem(word: str) -> str:
    """A word without an English ending, and no word of its own: `kicking`, `kicks` and `kick` have one stem."""
    cut = ENDINGS.sub("", word)
    cut = cut[:-1] if len(cut) > 3 and cut[-1] in "ey" else cut
    return DOUBLED.sub(r"\1", cut)


def content_of(text: str) -> list[str]:
    """The words of a text that name something; all of them where none does."""
    words = words_of(text)
    return [word for word in words if word not in FILLING] or words


def stems_of(text: str) -> frozenset[str]:
    """Those of the words that name something."""
    return frozenset(map(stem, content_of(text)))


def says(text: str, concept: str) -> bool:
    """Whether a text has all words of a concept."""
    return stems_of(concept) <= stems_of(text)


def similarity(embed: Embed, ones: Sequence[str], others: Sequence[str]) -> list[float]:
    """Of each of some texts, the largest cosine with one of others; both are at least one."""
    one, other = (functional.normalize(embed(texts).double(), dim=1) for texts in (ones, others))
    return [round(value, 6) for value in (one @ other.T).amax(dim=1).tolist()]  # the last digits differ by machine


def meant(
    concept: str, texts: Sequence[str], embed: Embed, nearness: Nearness, spared: Collection[str] = ()
) -> list[Found]:
    """The texts that say or mean a concept, but for those that say what is spared, the nearest first."""
    content = " ".join(content_of(concept))
    near = similarity(embed, texts, [content])
    said = [says(text, concept) for text in texts]
    by_meaning = nearness.concept is not None and (len(content.split()) == 1 or not any(said))
    found = []
    for text, own, value in zip(texts, said, near, strict=True):
        if any(says(text, other) for other in spared):
            continue
        if own or (by_meaning and nearness.concept is not None and value >= nearness.concept):
            found.append(Found(text=text, similarity=value, because="says it" if own else "means it"))
    return sorted(found, key=lambda one: (-one.similarity, one.text))


def labelled(concept: str, captions: Mapping[str, Collection[str]], found: Collection[str]) -> list[str]:
    """The actions that are a concept: by their name, or since most of their different texts say or mean it.

    `captions` are the texts of each action, `found` those that say or mean the concept. A text alone does not decide:
    who plays soccer `kicks a soccer ball`, and does not kick.
    """
    own = stems_of(concept)
    return [
        action
        for action, texts in captions.items()
        if stems_of(action.replace("_", " ")) == own or 2 * len(set(texts) & set(found)) > len(set(texts))
    ]


def neighbours(
    forgotten: Sequence[str], concepts: Sequence[str], others: Sequence[str], embed: Embed, nearness: Nearness
) -> list[Found]:
    """Of other texts those near the forgotten ones, or that say a concept all the same, the nearest first."""
    if not others:
        return []
    near = similarity(embed, others, [*forgotten, *(" ".join(content_of(concept)) for concept in concepts)])
    found = []
    for text, value in zip(others, near, strict=True):
        own = any(says(text, concept) for concept in concepts)
        if own or value >= nearness.neighbour:
            found.append(Found(text=text, similarity=value, because="says it" if own else "is near"))
    return sorted(found, key=lambda one: (-one.similarity, one.text))


def refuse_unknown(concept: str, texts: Sequence[str], actions: Sequence[str], embed: Embed) -> None:
    """Refuse a concept that no text says or means (ValueError, with what is nearest)."""
    near = similarity(embed, texts, [" ".join(content_of(concept))])
    nearest = sorted(zip(near, texts, strict=True), key=lambda one: (-one[0], one[1]))[:3]
    told = ", ".join(f"{text!r} ({value:.2f})" for value, text in nearest)
    known = f"; of the actions {hint(concept, actions)}" if actions else ""
    if spelled := difflib.get_close_matches(concept, sorted({word for text in texts for word in content_of(text)}), 1):
        known += f"; did you mean {spelled[0]}?"
    if set(words_of(concept)) <= FILLING:
        raise ValueError(
            f"--concept {concept} names no action, no more than an article or a preposition does: say what is done, "
            f"such as {actions[0] if actions else repr(texts[0])}, or name episodes with --data.where"
        )
    raise ValueError(
        f"--concept {concept} is in no instruction and no action of the data; the nearest instructions are "
        f"{told}{known} (or name episodes with --data.where)"
    )
