"""What an adapter took away, or put on: its name, the captions that say so, and others that nobody trained with."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from vla.adapters.file import Description
from vla.data.episode import Episode, Layout, Reader
from vla.evaluation.motion.policies import action_of
from vla.names import hint
from vla.parts.text import TextBackbone
from vla.policy import Policy

SHIPPED = Path(__file__).with_name("paraphrases.yaml")
ASKED = 5
"""Captions of another action that are asked for in turn: one alone need not lose what the others do."""
NEAREST = 3
"""Neighbours of a concept whose adapter names none."""
WHERE = re.compile(r"\s*action\s*=+\s*(['\"]?)([\w -]+)\1\s*")
"""A condition that names an action of clips."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user says of a concept; what is None or empty is taken from the adapter and from what ships."""

    concept: str | None = None
    captions: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What is looked for in motions."""

    action: str
    """The judge's name of it."""
    captions: tuple[str, ...]
    """With which it was trained."""
    paraphrases: tuple[str, ...]
    """Of the same meaning, in no training caption."""
    left_out: tuple[str, ...]
    """Paraphrases that training captions are."""
    neighbours: Mapping[str, float]
    """Other actions near to it, and how near: the cosine of texts."""
    texts: Mapping[str, tuple[str, ...]]
    """Of each other action, the captions to ask with in turn: of a neighbour the nearest first."""
    method: str | None
    """How it was unlearned, as the adapter says."""
    remarks: tuple[str, ...] = ()
    """What was chosen by itself."""


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """Clips of a root, some of which show another action than their labels say."""

    layout: Layout
    episodes: Sequence[Episode]
    sources: Sequence[Path]


def told_apart(readers: Sequence[Reader], styles: Sequence[str]) -> list[Reader]:
    """The clips that have one of some styles among their captions show that, in place of the action of their labels."""
    found: list[Reader] = []
    for reader in readers:
        episodes = []
        for episode in reader.episodes:
            own = [style for style in styles if style in episode.instructions.different]
            episodes.append(replace(episode, facts={**episode.facts, "action": own[0]}) if own else episode)
        found.append(Renamed(layout=reader.layout, episodes=episodes, sources=reader.sources))
    return found


def captions_of(training: Sequence[Reader]) -> dict[str, Counter[str]]:
    """The captions of each action that clips show, with how many clips have each."""
    found: dict[str, Counter[str]] = {}
    for reader in training:
        for episode in reader.episodes:
            found.setdefault(action_of(episode), Counter()).update(episode.instructions.different)
    return found


def asked_by(captions: Counter[str]) -> tuple[str, ...]:
    """The captions that an action is asked for by in turn, the commonest first."""
    return tuple(text for text, _ in captions.most_common(ASKED))


def concept_of(
    policy: Policy, descriptions: Sequence[Description], training: Sequence[Reader], wanted: Wanted
) -> Concept:
    """The concept of some adapters: by their headers, or as it was asked for.

    Raises:
        ValueError: nothing names it, or several do, or no training clip shows it, or there is no paraphrase.
    """
    known = captions_of(training)
    entry, made = entry_of(descriptions, wanted)
    action = action_among(entry, known)
    rest = {other: some for other, some in known.items() if other != action}
    if not rest:
        raise ValueError(f"the clips of --training show {action} alone: give those that show other actions, too")
    remarks = []
    listed = tuple(map(str, entry.get("captions", ())))
    own = tuple(text for text in listed if text in known[action])  # of an adapter that has unlearned more than one
    captions = wanted.captions or own or listed or tuple(known[action])
    texts = {other: asked_by(some) for other, some in sorted(rest.items())}
    neighbours = listed_neighbours(policy, made.get("neighbours", ()), captions, rest, texts)
    if not neighbours:
        neighbours = nearest_actions(policy, captions, texts)
        remarks.append(
            f"No adapter lists neighbours of {action}: taken are the {len(neighbours)} actions whose captions are "
            "nearest to it."
            if neighbours
            else f"No adapter lists neighbours of {action}, and the backbone does not say which texts are near."
        )
    trained = {plain(text) for text in (*captions, *(text for some in known.values() for text in some))}
    given = wanted.paraphrases or shipped(action)
    return Concept(
        action=action,
        captions=captions,
        paraphrases=unseen(action, given, trained),
        left_out=tuple(text for text in given if plain(text) in trained),
        neighbours=neighbours,
        texts=texts,
        method=method_of(made),
        remarks=tuple(remarks),
    )


def entry_of(descriptions: Sequence[Description], wanted: Wanted) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What an adapter says of the concept, and all it says of how it was made; of a user's own word, as far as it does.

    ValueError where that is not one concept.
    """
    found = [
        (entry, made)
        for description in descriptions
        for made in (description.made, description.made.get("forgotten", {}))
        for entry in entries_of(made)
        if wanted.concept in (None, entry.get("name"))
    ]
    if wanted.concept is not None:
        return found[0] if found else ({"name": wanted.concept}, {})
    if not found:
        raise ValueError("no adapter says what it has unlearned: name it with --concept ACTION")
    if len(found) > 1:
        names = ", ".join(str(entry.get("name")) for entry, _ in found)
        raise ValueError(f"the adapters have unlearned {names}: name one of them with --concept")
    return found[0]


def entries_of(made: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The concepts that an adapter lists: each on its own, or by their names, with the captions of all."""
    named: list[Mapping[str, Any]] = [
        {"name": name, "captions": made.get("captions", ())} for name in made.get("concept", ())
    ]
    return named + [entry for entry in made.get("concepts", ()) if isinstance(entry, dict)]


def method_of(made: Mapping[str, Any]) -> str | None:
    """How an adapter says that it was made, and what it does instead."""
    if made.get("method") is None:
        return None
    anchor = f", towards {made['anchor']!r}" if made.get("anchor") else ""
    return f"{made['method']}{anchor}"


def action_among(entry: Mapping[str, Any], known: Mapping[str, Counter[str]]) -> str:
    """Which action of the clips a concept is (ValueError where it is none): by name, its condition, or its captions."""
    name = str(entry.get("name"))
    if name in known:
        return name
    condition = WHERE.fullmatch(str(entry.get("where") or ""))
    if condition is not None and condition[2] in known:
        return condition[2]
    own = {plain(str(text)) for text in entry.get("captions", ())}
    shown = [action for action, some in known.items() if own & {plain(text) for text in some}]
    if len(shown) == 1:
        return shown[0]
    raise ValueError(
        f"no clip of --training shows the action {name!r}, so no judge can tell it: {hint(name, sorted(known))}; "
        "give clips that show it, or name their action with --concept"
    )


def listed_neighbours(
    policy: Policy,
    listed: Sequence[Any],
    captions: Sequence[str],
    rest: Mapping[str, Counter[str]],
    texts: dict[str, tuple[str, ...]],
) -> dict[str, float]:
    """The neighbours that an adapter lists, by action; the nearest caption of each becomes the first of its texts.

    Of those that are listed without a number the text encoder says how near they are; 0 where there is none.
    """
    entries = [{"caption": entry} if isinstance(entry, str) else dict(entry) for entry in listed]
    unsaid = {str(entry["caption"]) for entry in entries if "similarity" not in entry and entry.get("caption")}
    nearness = similarities(policy, captions, sorted(unsaid))
    found: dict[str, float] = {}
    for entry in entries:
        caption = str(entry.get("caption") or "")
        similarity = float(entry.get("similarity", nearness.get(caption, 0.0)))
        actions = [entry["action"]] if entry.get("action") in rest else []
        actions = actions or [action for action, some in rest.items() if caption in some]
        for action in actions:
            if similarity > found.get(action, -2.0):
                found[action] = similarity
                first = (caption,) if caption in rest[action] else ()
                texts[action] = tuple(dict.fromkeys((*first, *texts[action])))[:ASKED]
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def similarities(policy: Policy, captions: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """How near some texts are to the nearest of some captions: the cosine of their embeddings; none of others."""
    if not isinstance(policy.backbone, TextBackbone) or not texts:
        return {}
    device = torch.device("cpu")
    own = functional.normalize(policy.backbone.embed(captions, device), dim=1)
    others = functional.normalize(policy.backbone.embed(texts, device), dim=1)
    return dict(zip(texts, (others @ own.T).amax(dim=1).tolist(), strict=True))


def nearest_actions(policy: Policy, captions: Sequence[str], texts: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """The actions whose captions are nearest to those of a concept, nearest first; none of other backbones."""
    said = similarities(policy, captions, [text for own in texts.values() for text in own])
    nearness = {action: max(said[text] for text in own) for action, own in texts.items() if said}
    return dict(sorted(nearness.items(), key=lambda item: -item[1])[:NEAREST])


def shipped(action: str) -> tuple[str, ...]:
    """The paraphrases that ship of an action; none of others."""
    import yaml

    return tuple(yaml.safe_load(SHIPPED.read_text(encoding="utf-8")).get(action, ()))


def unseen(action: str, given: Sequence[str], trained: set[str]) -> tuple[str, ...]:
    """The paraphrases that no training caption is, each once (ValueError where none is left)."""
    found = tuple(dict.fromkeys(text for text in given if plain(text) not in trained))
    if not found:
        raise ValueError(
            f"there is no paraphrase of {action} that is no training caption: give some with --paraphrases TEXT ..."
        )
    return found


def plain(text: str) -> str:
    """A text without what makes no difference."""
    return " ".join(re.findall(r"\w+", text.lower()))
