"""Facts of whole episodes, such as their action or subject, as words of the command line name them."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vla.data.episode import Episode

INSTRUCTION = "instruction"
"""What is asked for in an episode: by this name, beside its facts."""
MOST_VALUES = 20
"""Values of a fact that are listed."""


def value_of(episode: Episode, fact: str, flag: str) -> str:
    """What an episode has there. ValueError, which names the flag, where it has nothing, or several instructions."""
    if fact == INSTRUCTION:
        said = episode.instructions.different
        if len(said) > 1:
            raise ValueError(
                f"{episode.name} has {len(said)} instructions, so {flag} instruction cannot count it to one: name "
                f"another fact ({_known(episode) or 'it has none'})"
            )
        return said[0]
    if not (value := told(episode, fact)):
        near = difflib.get_close_matches(fact, facts_of([episode]), 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ValueError(
            f"{episode.name} has no {fact}{hint}: let {flag} name one of {INSTRUCTION}, {_known(episode)}"
            if _known(episode)
            else f"{episode.name} has no {fact}, as it has no facts: let {flag} name its {INSTRUCTION}"
        )
    return value


def told(episode: Episode, fact: str) -> str:
    """A fact as a text; empty where it is not known."""
    return str(episode.facts.get(fact, ""))


def facts_of(episodes: Iterable[Episode]) -> list[str]:
    """The facts that some of the episodes have, by name."""
    return sorted({key for episode in episodes for key in episode.facts if told(episode, key)})


def _known(episode: Episode) -> str:
    return ", ".join(facts_of([episode]))


@dataclass(frozen=True, kw_only=True)
class Word:
    """What a word of the command line demands of an episode: a fact, and one of its values."""

    fact: str
    values: tuple[str, ...]

    def values_of(self, episode: Episode) -> tuple[str, ...]:
        """What an episode has of the fact: all of its instructions, or one value, which may be empty."""
        return episode.instructions.different if self.fact == INSTRUCTION else (told(episode, self.fact),)

    def holds(self, episode: Episode) -> bool:
        """Whether an episode has one of the values."""
        return not set(self.values).isdisjoint(self.values_of(episode))


def parse_words(words: Sequence[str], flag: str) -> tuple[Word, ...]:
    """The words `FACT=VALUE[,VALUE...]` of a flag; an instruction may have commas, so each has a word of its own.

    ValueError where one is none, or a fact is named twice.
    """
    parsed: dict[str, tuple[str, ...]] = {}
    for word in words:
        fact, _, rest = word.partition("=")
        values = (rest,) if fact == INSTRUCTION else tuple(rest.split(","))
        if not fact or not all(values):
            raise ValueError(f"{flag} has {word!r}, expected FACT=VALUE or FACT=VALUE,VALUE, such as action=kick")
        if fact != INSTRUCTION and fact in parsed:
            raise ValueError(f"{flag} names {fact} twice: give its values in one word, {fact}=VALUE,VALUE")
        parsed[fact] = parsed.get(fact, ()) + values
    return tuple(Word(fact=fact, values=values) for fact, values in parsed.items())


def chosen(
    words: Sequence[Word],
    episodes: Sequence[Episode],
    flag: str,
    together: Callable[[Iterable[bool]], bool],
    kind: str = "episode",
) -> list[bool]:
    """Of each episode, whether the words hold: all or any of them, as `together` says; errors call one a `kind`.

    ValueError where no episode has a fact or a value, or none has all that is asked for.
    """
    for word in words:
        _check_known(word, episodes, flag, kind)
    found = [together(word.holds(episode) for word in words) for episode in episodes]
    if not any(found):
        asked = " and ".join(f"{word.fact}={','.join(word.values)}" for word in words)
        raise ValueError(f"no {kind} has {asked} together: leave one of them out of {flag}")
    return found


def _check_known(word: Word, episodes: Sequence[Episode], flag: str, kind: str) -> None:
    """Refuse a fact or a value that no episode has (ValueError)."""
    known = facts_of(episodes)
    if word.fact != INSTRUCTION and word.fact not in known:
        raise ValueError(
            f"no {kind} has the fact {word.fact} of {flag}{nearest(word.fact, known)}: name one of "
            f"{', '.join([INSTRUCTION, *known])}"
        )
    there = sorted({value for episode in episodes for value in word.values_of(episode) if value})
    if strange := [value for value in word.values if value not in there]:
        shown = [repr(value) if word.fact == INSTRUCTION else value for value in there]
        raise ValueError(
            f"no {kind} has {word.fact}={strange[0]} of {flag}{nearest(strange[0], there)}: there is {some(shown)}"
        )


def nearest(word: str, known: Sequence[str]) -> str:
    """The nearest spelling, in brackets; nothing where none is near."""
    near = difflib.get_close_matches(word, known, 1)
    return f" (nearest: {near[0]})" if near else ""


def some(values: Sequence[str]) -> str:
    """The first of some values, and how many more there are."""
    more = len(values) - MOST_VALUES
    return ", ".join(values[:MOST_VALUES]) + (f" and {more:,} more" if more > 0 else "")
