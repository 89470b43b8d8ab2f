"""What clips say of their style, which a policy hears where it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from vla.batch import Sample
from vla.data.episode import Episode, Layout
from vla.motion.style import style_row
from vla.motion_settings import StyleName
from vla.randomness import derive

GROUPS = ("motion_style", "emotion")
"""Facts that hold some of it, in lists of clips within `enhanced_meta`; labels.csv has columns of the names alone."""


def style_of(episode: Episode, names: Sequence[str]) -> Float32[np.ndarray, "K 2"]:
    """The style of a clip, as far as its facts tell it: `style_row`.

    Raises:
        ValueError: a value is no number, or beyond its range.
    """
    enhanced = episode.facts.get("enhanced_meta")
    holders: list[Any] = [episode.facts]
    for facts in (episode.facts, enhanced if isinstance(enhanced, Mapping) else {}):
        holders += [facts[group] for group in GROUPS if isinstance(facts.get(group), Mapping)]
    told: dict[str, float] = {}
    for name in names:
        values = [holder[name] for holder in holders if holder.get(name) not in (None, "")]
        if values:
            told[name] = number_of(values[0], name, episode)
    return style_row(names, told, episode.name)


def number_of(value: Any, name: str, episode: Episode) -> float:
    """A fact as a number. ValueError where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{episode.name} has the {name} {value!r}, expected a number: correct it") from error


def check_style(
    layouts: Sequence[Layout], episodes: Sequence[Episode], names: Sequence[StyleName], dropout: float
) -> None:
    """Refuse a style of what is no motion, one that is named twice, and what cannot be (ValueError)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"--data.style-dropout is {dropout:g}, expected 0 <= share < 1")
    if strange := [layout.root for layout in layouts if names and layout.body is None]:
        raise ValueError(f"--data.style is of human motion, which {strange[0]} does not hold: leave it out")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--data.style names {twice[0]} twice: name it once")
    for episode in episodes if names else ():
        style_of(episode, names)


def on_style(episodes: Sequence[Episode], names: Sequence[str]) -> tuple[str, ...]:
    """How many clips tell each number of their style."""
    if not names:
        return ()
    known = np.stack([style_of(episode, names)[:, 1] for episode in episodes]).sum(axis=0)
    told = ", ".join(f"{name} of {int(count):,}" for name, count in zip(names, known, strict=True))
    return (f"style is told, of {len(episodes):,} clips: {told}; the others are heard without",)


@dataclass(frozen=True, kw_only=True)
class Untold:
    """Each number of a sample's style is withheld by chance, which follows from the seed and its position alone."""

    share: float
    seed: int

    def __call__(self, sample: Sample) -> Sample:
        """The sample with what is left of its style."""
        draws = derive(self.seed, "data/style", sample.position).random(len(sample.style))
        return replace(sample, style=np.where(draws[:, None] < self.share, np.float32(0), sample.style))
