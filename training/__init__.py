"""How it is trained: recipes, and what carries them through."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.config import RunConfig


def train(config: "RunConfig") -> None:
    """Train by a configuration, e.g. `recipes.pretrain(...)`, in this process; see training/loop.py."""
    from training import loop  # it loads torch, which recipes do not need

    loop.train(config)
