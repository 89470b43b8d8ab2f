"""By how much the errors of a policy change: in all frames and within each phase, with intervals that hold together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from vla.evaluation.findings import Change
from vla.evaluation.intervals import LEVEL, bootstrap
from vla.evaluation.open_loop import Predictions
from vla.evaluation.phases import Phases

FEWEST_EPISODES = 5
"""A phase that comes in fewer is left out."""


def sample_errors(predictions: Predictions, scale: Float64[np.ndarray, " A"]) -> Float64[np.ndarray, " N"]:
    """The mean over valid steps and dimensions of the absolute error in units of a scale; those of scale 0 left out."""
    error = np.abs(predictions.differences(predictions.predicted).astype(np.float64))
    shares = (error[..., scale > 0] / scale[scale > 0]).mean(axis=-1)
    valid = predictions.valid
    errors: Float64[np.ndarray, " N"] = np.where(valid, shares, 0.0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    return errors


def constant_error(predictions: Predictions) -> Float64[np.ndarray, " A"]:
    """Of each dimension, the mean absolute error of always answering the mean action.

    Raises:
        ValueError: no dimension varies.
    """
    error = np.abs(predictions.constant_differences()[predictions.valid]).astype(np.float64)
    scale: Float64[np.ndarray, " A"] = error.mean(axis=0)
    if not scale.any():
        raise ValueError("all recorded actions are the same, so no input can matter; evaluate on other episodes")
    return scale


def scoped(plain: Predictions, phases: Phases | None) -> tuple[tuple[str, ...], Bool[np.ndarray, "N K"]]:
    """The phases of enough episodes, and which samples are looked at: all that are valid, and those of each phase."""
    labels = [None] * len(plain.frames) if phases is None else phases.of(plain.episodes, plain.frames)
    names = () if phases is None else frequent(phases.names, labels, plain.episodes)
    scopes = np.stack([plain.valid.any(axis=1), *([label == name for label in labels] for name in names)], axis=1)
    return names, scopes


def frequent(names: Sequence[str], labels: Sequence[str | None], episodes: Sequence[str]) -> tuple[str, ...]:
    """The phases of enough episodes to say something of each."""
    seen = set(zip(labels, episodes, strict=True))
    return tuple(name for name in names if sum(label == name for label, _ in seen) >= FEWEST_EPISODES)


def level_of(kinds: int, phases: Phases | None) -> float:
    """The level at which the intervals of some kinds hold together, in all frames and in each phase there is."""
    places = 1 + (0 if phases is None else len(phases.names))
    return 1 - (1 - LEVEL) / (max(1, kinds) * places)


def episodes_of(
    names: Sequence[str], scopes: Bool[np.ndarray, "N K"], episodes: Sequence[str]
) -> dict[str | None, int]:
    """The number of episodes with frames in each scope."""
    seen = [{name for name, inside in zip(episodes, scope, strict=True) if inside} for scope in scopes.T]
    return dict(zip((None, *names), map(len, seen), strict=True))


def changes(
    difference: Float64[np.ndarray, " N"],
    scopes: Bool[np.ndarray, "N K"],
    episodes: Sequence[str],
    level: float,
    seed: int,
) -> list[Change]:
    """The mean difference in each scope, with its interval."""
    values = np.broadcast_to(difference[:, None], scopes.shape)
    intervals = bootstrap(values, scopes, episodes, level=level, seed=seed)
    return [
        Change(change=float(difference[scope].mean()), low=float(low), high=float(high))
        for scope, (low, high) in zip(scopes.T, intervals, strict=True)
    ]
