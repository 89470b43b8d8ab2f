"""What the training stream draws from, and how often: whole roots, some frames of them, or the values of a fact.

Where some episodes are preserved, each role has its share of the stream, and these rules hold within it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.data.emphasis import Condition, parse_condition
from vla.data.episode import Reader
from vla.data.facts import value_of
from vla.data.order import BLOCK, SampleOrder, apportion
from vla.data.roles import Cast
from vla.data.samples import Part
from vla.settings import DataConfig

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
    """Its share; or, of pools that are drawn as one, that of all."""


Stack = list[Pool]
"""Pools that are drawn as one, as often as the weight of the first says."""


def stream_of(
    train: Sequence[Part], whole: Sequence[Reader], cast: Cast, config: DataConfig, seed: int
) -> tuple[list[Pool], SampleOrder]:
    """The pools, and the order in which they are drawn; without shares all samples are drawn equally often.

    Facts and conditions are on what the roots record (`whole`), what is withheld from the policy too.
    ValueError where a pool would be empty or never drawn.
    """
    stacks = roles(train, whole, cast, config) if config.preserve else stacks_of(train, whole, config)
    pools = [pool for stack in stacks for pool in stack]
    parts = [pool.part for pool in pools]
    order = SampleOrder(
        [len(part) for part in parts],
        [stack[0].weight for stack in stacks] if len(stacks) > 1 else (),
        seed,
        [len(stack) for stack in stacks],
        [[len(frames) for frames in part.frames] for part in parts] if config.sampling == "trials" else (),
    )
    return pools, order


def stacks_of(train: Sequence[Part], whole: Sequence[Reader], config: DataConfig) -> list[Stack]:
    """The pools of one role; some roots may have nothing of it."""
    if config.balance:
        pools = balanced(train, config)
        check_drawn(pools, config)
        return [[pool] for pool in pools]
    if config.emphasis:
        return [[pool] for pool in emphasised(train, whole, config)]
    weights = config.weights or [1.0] * len(train)
    pools = [Pool(part=part, root=root, weight=weights[root]) for root, part in enumerate(train) if len(part)]
    return [[pool] for pool in pools] if config.weights else [pools]


def roles(train: Sequence[Part], whole: Sequence[Reader], cast: Cast, config: DataConfig) -> list[Stack]:
    """The pools of what is learned and of what is preserved, which have the positions of a block that were asked for.

    ValueError where a pool has no position.
    """
    given = config.renamed or 0.0
    learned, preserved, renamed = apportion(
        ((1 - config.preserve) * (1 - given), config.preserve, (1 - config.preserve) * given), BLOCK
    )
    near, others = apportion((config.near_share, 1 - config.near_share), preserved) if config.near else (0, preserved)
    rest = [all_of - own for all_of, own in zip(cast.preserved, cast.near, strict=True)]
    shares = {"learned": (cast.learned, learned), "near": (cast.near, near), "preserved": (rest, others)}
    found: list[Stack] = []
    for name, (places, positions) in shares.items():
        parts = [part.at(own) for part, own in zip(train, places, strict=True)]
        if not any(map(len, parts)):
            continue  # nothing is near: what is to have samples and has none was refused
        # A role has few positions, and what is rare in one root may have none there.
        stacks = together(balanced(parts, config)) if config.balance else stacks_of(parts, whole, config)
        found += divided(stacks, name, positions)
    if renamed:
        texts = asked_of(train, cast, config)
        parts = [
            replace(part.at(own), preserved=frozenset[int](), renamed=texts)
            for part, own in zip(train, cast.preserved, strict=True)
        ]
        # As often as there are of each: a role of so few positions has none for what is rare.
        alike = replace(config, balance="", emphasis="", weights=())
        found += divided(stacks_of(parts, whole, alike), "renamed", renamed)
    return found


def asked_of(train: Sequence[Part], cast: Cast, config: DataConfig) -> tuple[str, ...]:
    """The instructions of what is learned, in order."""
    if config.text:
        return (config.text,)
    learned = [
        part.reader.episodes[place]
        for part, own in zip(train, cast.learned, strict=True)
        for place in part.places
        if place in own
    ]
    return tuple(dict.fromkeys(text for episode in learned for text in episode.instructions.different))


def divided(stacks: Sequence[Stack], role: str, positions: int) -> Iterator[Stack]:
    """The stacks of a role with so many positions of a block among them. ValueError where one has none."""
    counts = apportion([stack[0].weight for stack in stacks], positions)
    for stack, count in zip(stacks, counts, strict=True):
        if not count:
            what = f"{stack[0].name or 'what is'} {role} of {stack[0].part.reader.layout.root}"
            raise ValueError(
                f"{what} has less than one of the {positions} positions that its role has in {BLOCK:,}: give a "
                "--data.preserve or --data.near-share nearer to 0.5, or leave --data.balance or --data.weights out"
            )
        yield [replace(pool, name=f"{role} {pool.name}".strip(), weight=float(count)) for pool in stack]


def balanced(train: Sequence[Part], config: DataConfig) -> list[Pool]:
    """A pool for each value of a fact in each root: each value has one share, in proportion to its samples by root.

    To its episodes where these are drawn equally often. ValueError where an episode lacks the fact.
    """
    fact = config.balance
    parts: dict[tuple[str, int], Part] = {}
    for root, part in enumerate(train):
        places: dict[str, set[int]] = {}
        for place in part.places:
            places.setdefault(value_of(part.reader.episodes[place], fact, "--data.balance"), set()).add(place)
        parts |= {(value, root): part.at(own) for value, own in places.items()}
    sizes = {key: len(part.places) if config.sampling == "trials" else len(part) for key, part in parts.items()}
    total: Counter[str] = Counter()
    for (value, _), size in sizes.items():
        total[value] += size
    order = sorted(parts, key=lambda key: (key[1], key[0]))
    return [
        Pool(part=parts[key], root=key[1], name=f"{fact} {key[0]}", weight=sizes[key] / total[key[0]]) for key in order
    ]


def check_drawn(pools: Sequence[Pool], config: DataConfig) -> None:
    """Refuse values of --data.balance for which a block has no position (ValueError)."""
    for pool, count in zip(pools, apportion([pool.weight for pool in pools], BLOCK), strict=True):
        if count == 0:
            raise ValueError(
                f"--data.balance {config.balance} leaves {pool.name.removeprefix(f'{config.balance} ')!r} of "
                f"{pool.part.reader.layout.root} less than one of {BLOCK:,} samples, among "
                f"{len({own.name for own in pools}):,} values: leave --data.balance out, or balance another fact"
            )


def together(pools: Sequence[Pool]) -> list[Stack]:
    """Pools of the same name as one, whichever roots they are of, each with the share of all."""
    stacks: dict[str, Stack] = {}
    for pool in pools:
        stacks.setdefault(pool.name, []).append(pool)
    return [[replace(pool, weight=sum(own.weight for own in stack)) for pool in stack] for stack in stacks.values()]


def emphasised(train: Sequence[Part], whole: Sequence[Reader], config: DataConfig) -> list[Pool]:
    """Two pools a root, the frames of --data.emphasis and the others, and the positions of each in a block.

    ValueError where a root has no frame of the one or the other, or a block no position for it.
    """
    condition, share = parse_condition(config.emphasis), config.emphasis_share
    pools = []
    there = [place for place, part in enumerate(train) if len(part)]
    totals = apportion(
        [config.weights[place] if config.weights else float(len(train[place])) for place in there], BLOCK
    )
    for place, total in zip(there, totals, strict=True):
        part, reader = train[place], whole[place]
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
