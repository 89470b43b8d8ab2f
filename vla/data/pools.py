"""What the training stream draws from, and how often: whole roots, some frames of them, or the values of a fact."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.data.emphasis import Condition, parse_condition
from vla.data.episode import Episode, Reader
from vla.data.order import BLOCK, apportion
from vla.data.samples import Part
from vla.settings import DataConfig

INSTRUCTION = "instruction"
"""What is asked for in an episode: by this name, beside its facts."""
MOST_NAMED = 20
"""Pools of a root that are listed one by one."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Samples of one root that are drawn equally often."""

    part: Part
    root: int
    """Its place among the roots."""
    name: str = ""
    """What they have in common; empty for a whole root, and for what else is in it."""
    weight: float


def pools_of(train: Sequence[Part], whole: Sequence[Reader], config: DataConfig) -> tuple[list[Pool], list[float]]:
    """The pools, and their weights: none where all samples of all roots are drawn equally often.

    Facts and conditions are on what the roots record (`whole`), what is withheld from the policy too.
    ValueError where a pool would be empty or never drawn.
    """
    if config.balance:
        pools = balanced(train, config.balance)
    elif config.emphasis:
        pools = emphasised(train, whole, config)
    else:
        weights = config.weights or [1.0] * len(train)
        pools = [Pool(part=part, root=root, weight=weights[root]) for root, part in enumerate(train)]
        return pools, list(config.weights)
    return pools, [pool.weight for pool in pools]


def balanced(train: Sequence[Part], fact: str) -> list[Pool]:
    """A pool for each value of a fact in each root: each value has one share, in proportion to its samples by root.

    ValueError where an episode lacks the fact, or a block has no position for a pool.
    """
    parts: dict[tuple[str, int], Part] = {}
    for root, part in enumerate(train):
        names: dict[str, set[str]] = {}
        for place in part.places:
            episode = part.reader.episodes[place]
            names.setdefault(value_of(episode, fact), set()).add(episode.name)
        parts |= {(value, root): part.only(own) for value, own in names.items()}
    samples: Counter[str] = Counter()
    for (value, _), part in parts.items():
        samples[value] += len(part)
    order = sorted(parts, key=lambda key: (key[1], key[0]))
    weights = [len(parts[key]) / samples[key[0]] for key in order]
    for (value, root), count in zip(order, apportion(weights, BLOCK), strict=True):
        if count == 0:
            raise ValueError(
                f"--data.balance {fact} leaves {value!r} of {train[root].reader.layout.root} less than one of "
                f"{BLOCK:,} samples, among {len(samples):,} values: leave --data.balance out, or balance another fact"
            )
    return [
        Pool(part=parts[value, root], root=root, name=f"{fact} {value}", weight=weight)
        for (value, root), weight in zip(order, weights, strict=True)
    ]


def value_of(episode: Episode, fact: str) -> str:
    """What an episode has there. ValueError where it has nothing, or several instructions."""
    if fact == INSTRUCTION:
        said = episode.instructions.different
        if len(said) > 1:
            raise ValueError(
                f"{episode.name} has {len(said)} instructions, so --data.balance instruction cannot count it to one: "
                f"balance another fact ({_known(episode)})"
            )
        return said[0]
    if not (value := str(episode.facts.get(fact, ""))):
        near = difflib.get_close_matches(fact, [key for key, own in episode.facts.items() if own != ""], 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ValueError(
            f"{episode.name} has no {fact}{hint}: let --data.balance name one of {INSTRUCTION}, {_known(episode)}"
            if _known(episode)
            else f"{episode.name} has no {fact}, as it has no facts: let --data.balance name its {INSTRUCTION}"
        )
    return value


def _known(episode: Episode) -> str:
    return ", ".join(key for key, value in sorted(episode.facts.items()) if value != "")


def emphasised(train: Sequence[Part], whole: Sequence[Reader], config: DataConfig) -> list[Pool]:
    """Two pools a root, the frames of --data.emphasis and the others, and the positions of each in a block.

    ValueError where a root has no frame of the one or the other, or a block no position for it.
    """
    condition, share = parse_condition(config.emphasis), config.emphasis_share
    pools = []
    totals = apportion(config.weights or [float(len(part)) for part in train], BLOCK)
    for place, (part, reader, total) in enumerate(zip(train, whole, totals, strict=True)):
        both, counts = part.divide(condition.holds, reader.episodes), apportion((share, 1 - share), total)
        root = part.reader.layout.root
        if not all(map(len, both)):
            raise ValueError(
                f"--data.emphasis '{condition.sentence}' holds in {len(both[0]):,} of {len(part):,} training frames of "
                f"{root}, expected some but not all ({_extent(part, reader, condition)}): correct the condition"
            )
        if 0 in counts:
            raise ValueError(
                f"--data.emphasis-share {share:g} of {root}, which has {total} of {BLOCK:,} positions, leaves no "
                f"position to {'emphasised' if counts[0] == 0 else 'other'} frames: give a share nearer to 0.5, or the "
                "root a larger --data.weights"
            )
        names = (config.emphasis, "")
        pools += [
            Pool(part=frames, root=place, name=name, weight=float(count))
            for frames, name, count in zip(both, names, counts, strict=True)
        ]
    return pools


def _extent(part: Part, whole: Reader, condition: Condition) -> str:
    """Of the values that a condition compares."""
    values = np.concatenate([condition.values(whole.episodes[place]) for place in part.places])
    found = values[~np.isnan(values)]
    return f"the values are {found.min():g} to {found.max():g}" if len(found) else "no value is a number"


def rows_of_pools(
    train: Sequence[Part], validation: Sequence[Part], pools: Sequence[Pool], shares: Sequence[float]
) -> tuple[tuple[str, ...], ...]:
    """A table with its head: a row a root, and below it one a pool that has a name, or their number where many have."""
    rows: list[tuple[str, ...]] = [("root", "format", "episodes", "held out", "samples", "held out", "share")]
    for root, (kept, held_out) in enumerate(zip(train, validation, strict=True)):
        layout = kept.reader.layout
        counts = (len(kept.places), len(held_out.places), len(kept), len(held_out))
        own = [(pool, share) for pool, share in zip(pools, shares, strict=True) if pool.root == root]
        rows.append((layout.root, layout.format, *map(number, counts), percent(sum(share for _, share in own))))
        named = [(pool, share) for pool, share in own if pool.name]
        if len(named) > MOST_NAMED:
            least, most = min(share for _, share in named), max(share for _, share in named)
            rows.append(("", f"  {len(named)} values", "", "", "", "", f"{percent(least)} to {percent(most)}"))
            continue
        rows += [("", f"  {pool.name}", "", "", number(len(pool.part)), "", percent(share)) for pool, share in named]
    return tuple(rows)


def number(count: int) -> str:
    """A number of things as it is printed."""
    return f"{count:,}"


def percent(share: float) -> str:
    """A share as it is printed."""
    return f"{100 * share:.1f} %"
