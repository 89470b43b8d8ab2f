"""How a quantity of what a policy makes goes with the weight of one of its adapters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla.adapters.curves import MONOTONE, Curve, spearman, words_of
from vla.adapting import base_of
from vla.evaluation.adapted.bench import each
from vla.evaluation.adapted.quantities import QUANTITIES
from vla.evaluation.intervals import LEVEL, fewest
from vla.evaluation.motion.clips import prepare
from vla.evaluation.motion.figure import Figure, mean
from vla.evaluation.motion.policies import clip_of, landmarks_of
from vla.names import hint
from vla.policy import Policy
from vla.sampling import body_of, check_asked

FEWEST_WEIGHTS = 4
"""Of four values 1 order in 12 has such a rank correlation by chance, of three 1 in 3."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is measured."""

    quantity: str
    """Of QUANTITIES."""
    text: str
    weights: tuple[float, ...]
    """Rising."""
    motions: int
    """At each weight."""
    seed: int
    steps: int | None = None
    """Network calls for a chunk; None: the policy's."""
    progress: Callable[[int], object] = field(default=lambda _: None)


def quantity_of(word: str) -> str:
    """A quantity by what a command line calls it (ValueError where it is none)."""
    names = {words_of(name): name for name in QUANTITIES}
    if (called := words_of(word)) not in names:
        raise ValueError(f"--quantity {word} is none: {hint(called, list(names))}, of {', '.join(names)}")
    return names[called]


def weights_of(asked: Sequence[float]) -> tuple[float, ...]:
    """Weights in rising order (ValueError where they cannot tell whether a quantity goes with them)."""
    weights = sorted(asked)
    if not all(map(math.isfinite, weights)) or len(set(weights)) < max(len(weights), FEWEST_WEIGHTS):
        raise ValueError(
            f"--weights {' '.join(f'{weight:g}' for weight in asked)} cannot tell whether a quantity goes with them: "
            f"give {FEWEST_WEIGHTS} or more numbers, each once"
        )
    return tuple(weights)


def check_plan(plan: Calibration) -> None:
    """Refuse what has no interval, or cannot be asked for (ValueError)."""
    check_asked(plan.text, plan.seed)
    if plan.motions < fewest(LEVEL):
        raise ValueError(f"--motions is {plan.motions}; give {fewest(LEVEL)} or more, of which an interval can be told")
    if plan.steps is not None and plan.steps < 1:
        raise ValueError(f"--steps is {plan.steps}; give 1 or more")


def calibrate(policy: Policy, name: str, digest: str, plan: Calibration) -> Curve:
    """The curve of a loaded adapter, whose weights have that digest; no other adapter counts, and none does afterwards.

    Motions are as long as a chunk and begin with the same noise at every weight.

    Raises:
        ValueError: the policy is none of motion, or its body lacks what is measured.
    """
    seen, landmarks = landmarks_of(body_of(policy))
    contract, (unit, measure) = policy.contract, QUANTITIES[plan.quantity]
    base, figures = base_of(policy).weights, []
    for weight in plan.weights:
        policy.adapters.set({name: weight})
        policy.adapters.fold()
        made = policy.sample(
            plan.text, contract.horizon / contract.fps, n=plan.motions, seed=plan.seed, steps=plan.steps
        )
        clips = [prepare(clip_of(motion, seen, str(place), "")) for place, motion in enumerate(made)]
        found = np.array([measure(clip, landmarks) for clip in clips])
        if np.isnan(found).any():
            raise ValueError(
                f"the {plan.quantity} of this body cannot be measured, which lacks the joints: take another"
            )
        figures.append(mean(found, each(len(found)), seed=plan.seed))
        plan.progress(1)
    policy.adapters.set({})
    values, low, high = (tuple(map(number, ends)) for ends in zip(*map(parts, figures), strict=True))
    return Curve(
        unit=unit,
        text=plan.text,
        weights=plan.weights,
        values=values,
        low=low,
        high=high,
        correlation=spearman(plan.weights, values),
        motions=plan.motions,
        seed=plan.seed,
        steps=policy.config.diffusion.sampling_steps if plan.steps is None else plan.steps,
        base=base,
        adapter=digest,
    )


def parts(figure: Figure) -> tuple[float | None, float | None, float | None]:
    """Value and ends of its interval."""
    return figure.value, figure.low, figure.high


def number(value: float | None) -> float:
    """That is there, of as many motions as `check_plan` asks for."""
    assert value is not None
    return value


def check_monotone(curve: Curve, quantity: str) -> None:
    """Refuse a quantity that does not go with the weight (ValueError)."""
    if not abs(curve.correlation) >= MONOTONE:
        raise ValueError(
            f"the {quantity} does not go with the weight: their rank correlation is {curve.correlation:.2f}, and "
            f"{MONOTONE:g} is asked for, either way; take another --quantity, a smaller range of --weights, or more "
            "--motions"
        )


def lines(curve: Curve, quantity: str) -> list[str]:
    """The table in 80 columns."""
    told = [f"{'weight':>8}  {f'{quantity} [{curve.unit}]':<24}95 % interval"]
    rows = zip(curve.weights, curve.values, curve.low, curve.high, strict=True)
    told += [f"{weight:>8g}  {value:<24.4g}{low:.4g} to {high:.4g}" for weight, value, low, high in rows]
    return [*told, f"rank correlation {curve.correlation:.2f}, of {curve.motions} motions at each weight"]
