"""What each episode is for: learned, preserved as it is, or not read at all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vla.data.checks import SPECIAL_TOKEN
from vla.data.episode import Episode, Reader
from vla.data.facts import MOST_VALUES, chosen, parse_words, told
from vla.instruction import check_instruction
from vla.settings import DataConfig

COUNTED = ("subject", "condition")
"""Facts whose values are counted among the learned episodes."""
Places = tuple[frozenset[int], ...]
"""Of each reader, places of episodes."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The places of the episodes of each role, of each reader; what is in none is not read."""

    learned: Places
    preserved: Places
    """Those that are to stay as they are."""
    near: Places
    """Those of them that are seen more often."""
    remarks: tuple[str, ...] = ()
    """What became of the settings, a sentence each."""

    def read(self) -> list[tuple[int, ...]]:
        """Of each reader, the places of the episodes that are read, in order."""
        return [tuple(sorted(learned | kept)) for learned, kept in zip(self.learned, self.preserved, strict=True)]


def check_text(config: DataConfig) -> None:
    """Refuse a --data.text that cannot be asked for (ValueError)."""
    if not config.text:
        return
    if "instruction" in config.withhold:
        raise ValueError(
            "--data.text is an instruction, and --data.withhold instruction shows none: leave one of them out"
        )
    check_instruction(config.text, "--data.text", "it")
    if special := SPECIAL_TOKEN.search(config.text):
        raise ValueError(f"--data.text has the control token {special[0]}: take it out")


def cast(readers: Sequence[Reader], config: DataConfig) -> Cast:
    """What the episodes are for.

    ValueError where words name what there is not, or where nothing would be preserved that is to be.
    """
    places = [(root, place) for root, reader in enumerate(readers) for place in range(len(reader.episodes))]
    episodes = [episode for reader in readers for episode in reader.episodes]
    words = parse_words(config.where, "--data.where")
    learned = chosen(words, episodes, "--data.where", all) if words else [True] * len(episodes)
    others = [number for number, own in enumerate(learned) if not own] if config.preserve else []
    asked = {number for number in others if config.text and config.text in episodes[number].instructions.different}
    preserved = [number for number in others if number not in asked]
    if config.preserve and not preserved:
        said = f" but {len(asked)} that --data.text asks for itself" if asked else ""
        raise ValueError(
            f"--data.where leaves no episode out{said}, so there is none to preserve: give --data.roots with others, "
            "or --data.preserve 0"
        )
    near = nearby([episodes[number] for number in preserved], config)

    def by_root(numbers: Sequence[int]) -> Places:
        found = [places[number] for number in numbers]
        return tuple(frozenset(place for own, place in found if own == root) for root in range(len(readers)))

    mine = [number for number, own in enumerate(learned) if own]
    return Cast(
        learned=by_root(mine),
        preserved=by_root(preserved),
        near=by_root([number for number, own in zip(preserved, near, strict=True) if own]),
        remarks=on_learned([episodes[number] for number in mine], len(episodes), config)
        + on_preserved(len(preserved), sum(near), len(asked), config),
    )


def nearby(preserved: Sequence[Episode], config: DataConfig) -> list[bool]:
    """Of each preserved episode, whether it is one of --data.near. ValueError where it names none, or all of them."""
    words = parse_words(config.near, "--data.near")
    if not words:
        return [False] * len(preserved)
    near = chosen(words, preserved, "--data.near", any, "preserved episode")
    if all(near):
        raise ValueError(
            f"each of the {len(near)} preserved episodes is one of --data.near, so none has the rest of their samples: "
            "leave it out, or let it name fewer"
        )
    return near


def on_learned(learned: Sequence[Episode], of_all: int, config: DataConfig) -> tuple[str, ...]:
    """How many episodes are learned, by subject and condition where they have them, and what they are asked."""
    found = []
    if config.where:
        counts = [f"; {fact}: {counted}" for fact in COUNTED if (counted := count(learned, fact))]
        words = " ".join(config.where)
        found.append(f"--data.where {words}: {len(learned):,} of {of_all:,} episodes are learned{''.join(counts)}")
    if config.text:
        found.append(f"--data.text {config.text!r} is shown for what is learned in place of its own instructions")
    return tuple(found)


def count(episodes: Sequence[Episode], fact: str) -> str:
    """How many episodes have each value of a fact; empty where none has it."""
    counts = Counter(told(episode, fact) for episode in episodes)
    unknown = counts.pop("", 0)
    if not counts:
        return ""
    first = [f"{value} {number:,}" for value, number in sorted(counts.items())]
    more = [f"{len(first) - MOST_VALUES:,} more values"] if len(first) > MOST_VALUES else []
    return ", ".join([*first[:MOST_VALUES], *more, *([f"unknown {unknown:,}"] if unknown else [])])


def on_preserved(preserved: int, near: int, asked: int, config: DataConfig) -> tuple[str, ...]:
    """How many episodes are preserved, and how many are not because they are asked for by what is learned."""
    if not preserved:
        return ()
    share = f", {near:,} of them near (--data.near)" if config.near else ""
    found = [f"--data.preserve {config.preserve:g}: {preserved:,} episodes are preserved{share}"]
    if config.renamed:
        found.append(
            f"--data.renamed {config.renamed:g}: so much of what is learned is of preserved episodes, under an "
            "instruction of the learned ones"
        )
    if asked:
        found.append(f"not preserved, since --data.text is an instruction of theirs: {asked:,} episodes")
    return tuple(found)


def check_trained(
    cast: Cast, kept: Sequence[tuple[int, ...]], held_out: Sequence[tuple[int, ...]], config: DataConfig
) -> tuple[str, ...]:
    """How many episodes of each role are held out.

    ValueError where all of one are, so that it has nothing to train on.
    """
    roles = {"--data.where": cast.learned}
    if config.preserve:
        roles["--data.preserve"] = cast.preserved
    if config.near:
        rest = tuple(all_of - near for all_of, near in zip(cast.preserved, cast.near, strict=True))
        roles |= {"--data.near": cast.near, "the other preserved episodes": rest}
    for name, role in roles.items():
        if not any(own.intersection(places) for own, places in zip(role, kept, strict=True)):
            raise ValueError(
                f"all episodes of {name} are held out for validation, so none is trained on: give another --seed, or "
                "a smaller --data.validation-share"
            )
    if not config.preserve or not any(held_out):
        return ()
    learned, preserved = (
        sum(len(own.intersection(places)) for own, places in zip(role, held_out, strict=True))
        for role in (cast.learned, cast.preserved)
    )
    warning = "" if learned else ", so the validation loss says nothing of what is learned; another --seed may"
    return (f"held out for validation: {learned:,} learned and {preserved:,} preserved episodes{warning}",)
