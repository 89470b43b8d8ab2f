"""What is to be forgotten, decided from the data before they are opened, as the roles of their episodes.

Whatever is decided stands in the settings: `--data.where` names what is erased, `--data.near` what is near it. So a run
that goes on, or one by its config.json, has the same roles, or is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from training import distributed
from training.config import RunConfig
from training.settings import ForgetConfig
from vla import concepts
from vla.adapter_settings import AdapterConfig
from vla.concepts import MEANING, SPELLING, Embed, Found, Nearness
from vla.data.dataset import Dataset, agree_on_readers, open_root
from vla.data.episode import Episode
from vla.data.facts import INSTRUCTION, chosen, parse_words, told
from vla.instruction import check_instruction
from vla.parts.backbone import check_checkpoint, load_backbone, resolve
from vla.parts.hashed import WIDTH, HashedWords
from vla.parts.text import TextBackbone
from vla.role_settings import Roles
from vla.settings import BackboneConfig
from vla.teaching import guidance_of

ENTRY = "unlearn"
ACTION = "action"
"""The fact of an episode that decides what it is, where all have it."""
MOST_NEIGHBOURS = 64
"""Instructions that are looked for."""
RENAMED = 0.5
"""Share of what is learned that is of preserved episodes under a forgotten instruction, where there is an anchor."""
MOST_SHOWN = 24
"""Instructions that are printed of a list."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Roles of the episodes, and what is said of them."""

    where: tuple[str, ...]
    near: tuple[str, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Texts as the policy hears them, where it hears each as one vector."""

    embed: Embed
    nearness: Nearness
    name: str


def decide(config: RunConfig, accelerator: Accelerator) -> RunConfig:
    """The configuration with the roles of the episodes in it, which are printed; others than of unlearning as they are.

    Raises:
        ValueError: nothing is named, or nothing in the data is that.
    """
    if config.entry != ENTRY:
        return config
    check(config)
    found = distributed.one_first(accelerator, lambda: decided(config))
    accelerator.print(*found.lines, sep="\n")
    # The ranks may be of several kinds: what is near by the last digit is so for all.
    where, near = distributed.share(accelerator, [list(found.where), list(found.near)])
    return settled(config, tuple(where), tuple(near))


def rehearsed(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The same before a run is begun, and what is said. ValueError as `decide`."""
    if config.entry != ENTRY:
        return config, []
    check(config)
    found = decided(config)
    return settled(config, found.where, found.near), [*found.lines]


def check(config: RunConfig) -> None:
    """Refuse to forget nothing, or with nothing to preserve, or of a base that reads nothing (ValueError)."""
    if not config.forget.concept and not config.data.where:
        raise ValueError("nothing to forget is named: give --concept kick, or episodes with --data.where action=kick")
    if "instruction" in config.data.withhold:
        raise ValueError(
            "the base reads no instruction (--data.withhold instruction), so it can be asked for nothing that could be "
            "forgotten: train a base that reads them, or start training/adapter.py"
        )
    if not config.data.preserve:
        raise ValueError(
            "--data.preserve 0 would let everything else change with what is forgotten: give a share of the samples, "
            "e.g. 0.5"
        )
    if config.data.renamed and config.forget.method == "uce":
        raise ValueError("--data.renamed is of samples, and --method uce looks at instructions alone: leave it out")


def settled(config: RunConfig, where: tuple[str, ...], near: tuple[str, ...]) -> RunConfig:
    """The configuration with what was decided; an adapter without a name of its own is called by what it forgets."""
    name = config.adapter.name
    if name == AdapterConfig().name:
        said = config.forget.concept or (value for word in where for value in word.partition("=")[2].split(","))
        name = "-".join(["no", *re.findall(r"[A-Za-z0-9]+", " ".join(said))])[:40]
    usual = RENAMED if config.forget.anchor and config.forget.method == "esd" else 0.0
    renamed = usual if config.data.renamed is None else config.data.renamed
    return replace(
        config,
        data=replace(config.data, where=where, near=near, renamed=renamed),
        adapter=replace(config.adapter, name=name),
    )


def decided(config: RunConfig) -> Decided:
    """What is forgotten, and what is near it. Errors as `decide`."""
    forget, data = config.forget, config.data
    roles = ("where", "preserve", "near", "near_share", "renamed")
    open_ = replace(data, **{name: getattr(Roles(), name) for name in roles})
    agreed = agree_on_readers(replace(open_, validation_share=0.0), config.seed, open_root)
    episodes = [episode for reader in agreed.readers for episode in reader.episodes]
    encoder = encoder_of(config.backbone, forget)
    where, lines = (data.where, list[str]()) if data.where else searched(forget, episodes, encoder)
    learned = chosen(parse_words(where, "--data.where"), episodes, "--data.where", all)
    erased = texts_of([episode for episode, own in zip(episodes, learned, strict=True) if own])
    others = [episode for episode, own in zip(episodes, learned, strict=True) if not own]
    if not others:
        raise ValueError(
            f"all {len(episodes)} episodes are forgotten, so there is none to preserve: give --data.roots with others "
            "too, or name less"
        )
    if data.where:
        lines = [f"--data.where {' '.join(where)}: {sum(learned)} of {len(episodes)} episodes are forgotten"]
        lines += listed([Found(text=text, similarity=1.0, because="") for text in erased], similarity=False)
    if shared := [text for text in texts_of(others) if text in set(erased)]:
        lines.append(
            f"{len(shared)} instructions are forgotten and preserved, since episodes of both have them, such as "
            f"{shared[0]!r}: the labels may be wrong"
        )
    if forget.anchor:
        lines.append(anchored(forget, erased, texts_of(others)))
    near = data.near
    if not near and forget.neighbours:
        near, more = nearby(forget, erased, others, encoder)
        lines += more
    return Decided(where=where, near=near, lines=tuple(lines))


def anchored(forget: ForgetConfig, erased: Sequence[str], preserved: Sequence[str]) -> str:
    """What is said of the instruction whose answer the forgotten ones get. ValueError where it is to be forgotten."""
    check_instruction(forget.anchor, "--anchor", "it")
    if forget.anchor in set(erased) or any(concepts.says(forget.anchor, concept) for concept in forget.concept):
        raise ValueError(
            f"--anchor {forget.anchor!r} is itself forgotten: name an instruction that stays, e.g. {preserved[0]!r}"
        )
    known = "" if forget.anchor in set(preserved) else ", which no episode has: the base may not know what it is"
    return f"what is forgotten gets the answer to {forget.anchor!r}{known}"


def searched(forget: ForgetConfig, episodes: Sequence[Episode], encoder: Encoder) -> tuple[tuple[str, ...], list[str]]:
    """The words of --data.where that name the concepts, and what is said of them."""
    texts = texts_of(episodes)
    by_action: dict[str, list[str]] = {}
    for episode in episodes:
        by_action.setdefault(told(episode, ACTION), []).extend(episode.instructions.different)
    known = "" not in by_action and all("," not in action for action in by_action)
    actions: dict[str, None] = {}
    captions: dict[str, Found] = {}
    lines = []
    for concept in forget.concept:
        found = concepts.meant(concept, texts, encoder.embed, encoder.nearness, forget.spare)
        own = concepts.labelled(concept, by_action, [one.text for one in found]) if known else []
        if not found and not own:
            concepts.refuse_unknown(concept, texts, sorted(filter(None, by_action)), encoder.embed)
        actions |= dict.fromkeys(own)
        if own:
            labelled = {text: None for action in own for text in by_action[action]}
            check_spared(concept, own, [*labelled], forget.spare)
            because = {one.text: one.because for one in found}
            near = concepts.similarity(encoder.embed, [*labelled], [" ".join(concepts.content_of(concept))])
            found = [
                Found(text=text, similarity=value, because=because.get(text, "is labelled so"))
                for text, value in sorted(zip(labelled, near, strict=True), key=lambda one: (-one[1], one[0]))
            ]
        else:
            captions |= {one.text: one for one in found}
        how = f"{ACTION}={','.join(own)}" if own else "by instructions"
        lines += [f"--concept {concept}: {how}; of {encoder.name} the cosine and the instruction:", *listed(found)]
    if not captions:
        return (f"{ACTION}={','.join(actions)}",), lines
    texts = [text for action in actions for text in by_action[action]]
    return tuple(f"{INSTRUCTION}={text}" for text in dict.fromkeys([*captions, *texts])), lines


def check_spared(concept: str, actions: Sequence[str], texts: Sequence[str], spared: Sequence[str]) -> None:
    """Refuse to spare what labels call the concept (ValueError): they decide, whatever the instructions say."""
    for word in spared:
        if said := next((text for text in texts if concepts.says(text, word)), None):
            raise ValueError(
                f"--spare {word} spares nothing of --concept {concept}, which the labels say ({ACTION}="
                f"{','.join(actions)}), such as {said!r}: name what is forgotten with --data.where"
            )


def nearby(
    forget: ForgetConfig, erased: Sequence[str], others: Sequence[Episode], encoder: Encoder
) -> tuple[tuple[str, ...], list[str]]:
    """The words of --data.near for what is near the forgotten instructions, and what is said of it."""
    rest = [text for text in texts_of(others) if text not in set(erased)]
    every = concepts.neighbours(erased, forget.concept, rest, encoder.embed, encoder.nearness)
    found = every[:MOST_NEIGHBOURS]
    if not found:
        return (), [f"neighbours: none, no other instruction is {encoder.nearness.neighbour:g} near"]
    chosen_ = {one.text for one in found}
    if all(chosen_ & set(episode.instructions.different) for episode in others):
        return (), [f"neighbours: all {len(others)} other episodes, so all are preserved alike"]
    of_all = f" (the nearest of {len(every)})" if len(every) > len(found) else ""
    lines = [f"neighbours: {len(found)} instructions{of_all}, with half of what is preserved (--data.near-share):"]
    return tuple(f"{INSTRUCTION}={one.text}" for one in found), [*lines, *listed(found)]


def encoder_of(config: BackboneConfig, forget: ForgetConfig) -> Encoder:
    """The policy's own text encoder; words hashed here where it has none that hears a text as one vector."""
    backbone = None if check_checkpoint(resolve(config.path)).sees else load_backbone(config, torch.float32)
    if isinstance(backbone, TextBackbone):
        hashes = isinstance(backbone.encoder, HashedWords)
        name, of_text = backbone.name.id, backbone.embed
    else:
        hashes, name, hashed = True, "hashed words", HashedWords(width=WIDTH)

        def of_text(texts: Sequence[str], device: torch.device) -> Float[Tensor, "B W"]:
            return torch.stack([hashed(text, device) for text in texts])

    usual = SPELLING if hashes else MEANING
    given = {"concept": forget.concept_similarity, "neighbour": forget.near_similarity}
    nearness = replace(usual, **{key: value for key, value in given.items() if value is not None})
    return Encoder(embed=lambda texts: of_text(texts, torch.device("cpu")), nearness=nearness, name=name)


def texts_of(episodes: Sequence[Episode]) -> list[str]:
    """Their different instructions, in order."""
    return list(dict.fromkeys(text for episode in episodes for text in episode.instructions.different))


def listed(found: Sequence[Found], *, similarity: bool = True) -> list[str]:
    """A line an instruction, the first of them."""
    lines = [
        f"  {one.similarity:5.2f}  {one.text} ({one.because})" if similarity else f"  {one.text}"
        for one in found[:MOST_SHOWN]
    ]
    more = len(found) - MOST_SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines


def forgotten(config: RunConfig, data: Dataset, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter makes forget, for its file; empty of others."""
    if config.entry != ENTRY:
        return {}
    episodes = [own for samples in (data.everything, data.validation) for root in samples.episodes() for own in root]
    words, near = parse_words(config.data.where, "--data.where"), parse_words(config.data.near, "--data.near")
    erased = [episode for episode in episodes if all(word.holds(episode) for word in words)]
    others = [episode for episode in episodes if not all(word.holds(episode) for word in words)]
    (stage,) = config.stages.values()
    return {
        "forgotten": {
            "concept": list(config.forget.concept),
            "method": config.forget.method,
            "anchor": config.forget.anchor,
            "negative_guidance": guidance_of(stage.objective, config.forget.anchor),
            "captions": sorted(texts_of(erased)),
            "neighbours": sorted(texts_of([own for own in others if any(word.holds(own) for word in near)])),
            "preserved": sorted(texts_of(others)),
            "data": {
                key: identity[key] for key in ("places of the training samples", "statistics of the training episodes")
            },
        }
    }
