"""What a policy must beat to be of use: always answering the mean action, and repeating the last one."""

from dataclasses import replace

import numpy as np

from vla.evaluation.changes import changes, constant_error, episodes_of, level_of, sample_errors, scoped
from vla.evaluation.intervals import fewest
from vla.evaluation.open_loop import Predictions
from vla.evaluation.phases import Phases
from vla.evaluation.standing import Rival, Standing


def standings(plain: Predictions, phases: Phases | None = None, *, seed: int = 0) -> list[Standing]:
    """The policy beside each rival, in all frames and in each phase of enough episodes; nothing where nothing varies.

    Repeating the last action is measured where there is one before the frame; intervals hold together, with 95 %.
    """
    if not plain.constant_differences()[plain.valid].any():
        return []
    names, scopes = scoped(plain, phases)
    scale, level = constant_error(plain), level_of(2, phases)
    own = sample_errors(plain, scale)
    answers: dict[Rival, np.ndarray] = {"the mean action": np.broadcast_to(plain.mean(), plain.recorded.shape)}
    if plain.last is not None:
        answers["repeating the last action"] = np.broadcast_to(plain.last[:, None], plain.recorded.shape)
    found = []
    for rival, answer in answers.items():
        there = np.isfinite(answer).all(axis=(1, 2))
        error = sample_errors(replace(plain, predicted=np.where(there[:, None, None], answer, plain.recorded)), scale)
        inside = scopes & there[:, None]
        episodes = episodes_of(names, inside, plain.episodes)
        seen = [column for column in range(inside.shape[1]) if inside[:, column].any()]
        intervals = changes(own - error, inside[:, seen], plain.episodes, level, seed)
        for column, interval in zip(seen, intervals, strict=True):
            phase = (None, *names)[column]
            found.append(
                Standing(
                    rival=rival,
                    phase=phase,
                    error=float(own[inside[:, column]].mean()),
                    rival_error=float(error[inside[:, column]].mean()),
                    low=interval.low,
                    high=interval.high,
                    episodes=episodes[phase],
                    needed=fewest(level),
                )
            )
    return found
