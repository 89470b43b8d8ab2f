"""What style adapters do, alone and blended: whether the style is recognised, what else changes, and if two fit."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from vla.adapters.curves import MONOTONE, spearman
from vla.adapters.host import Adapters
from vla.evaluation.adapted.bench import Answers, Bench, Told, each, questions_of
from vla.evaluation.adapted.quantities import QUANTITIES, curve
from vla.evaluation.motion.figure import NOTHING, Figure, change, mean, share
from vla.evaluation.motion.gait import gait_amplitude, steps
from vla.evaluation.motion.table import WIDTH
from vla.motion.moves import Moves
from vla.policy import Policy

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of one adapter, or of the second of two, whose first has the rest."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One blend."""

    weight: float
    blend: Mapping[str, float]
    styles: Mapping[str, Figure]
    """Share of motions that is called by each style."""
    kept: Figure
    """Share that is called by the action of the prompt, or by a style of it."""
    stepping: Figure
    """Share whose gait amplitude is above half of that of real clips of the styles."""
    quantities: Mapping[str, Figure]

    def on(self) -> str:
        """Which adapters are on, and how much."""
        return ", ".join(f"{name} {weight:g}" for name, weight in self.blend.items()) or "base"


@dataclass(frozen=True, kw_only=True)
class Other:
    """An action that the adapters were not trained for."""

    action: str
    texts: tuple[str, ...]
    """By which it is asked for in turn."""
    base: Told
    adapter: Told
    change: Figure


@dataclass(frozen=True, kw_only=True)
class Layer:
    """How two adapters' updates of a layer lie to one another."""

    name: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Blended:
    """What was found of some style adapters."""

    adapters: tuple[str, ...]
    styles: tuple[str, ...]
    judged: Mapping[str, Figure]
    """Of each style, windows of its training clips that the judge names right: what limits all shares."""
    unseen: Mapping[str, Figure]
    """The same of held-out clips: whether the judge knows a style, or the clips that it was shown."""
    prompt: str
    action: str
    motions: int
    seed: int
    points: tuple[Point, ...]
    correlations: Mapping[str, float]
    """Rank correlation of each quantity's means with the weight."""
    curves: Mapping[str, tuple[tuple[float, float], ...]]
    """Of each quantity that goes with the weight, values in equal steps, and the weight of each."""
    others: tuple[Other, ...]
    """At the last weight."""
    layers: tuple[Layer, ...]
    """Of two adapters, where both change a layer."""
    cosine: float | None
    """Of the updates of all layers together; None of one adapter."""
    off: float
    """Largest difference of any number of any motion from the base, once adapters are off again."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dump; what does not vary has no correlation."""
        content = asdict(self)
        content["correlations"] = {
            name: value if np.isfinite(value) else None for name, value in self.correlations.items()
        }
        return content

    def lines(self) -> list[str]:
        """The table in 80 columns."""
        told = f"{self.motions} motions of {self.prompt!r} at each weight, seed {self.seed}; 95 % intervals."
        found = textwrap.wrap(told, WIDTH)
        for style, figure in self.judged.items():
            unseen = self.unseen[style]
            found += textwrap.wrap(
                f"the judge names {figure} of the {figure.n} training windows of {style} right, and {unseen} of the "
                f"{unseen.n} held-out ones",
                WIDTH,
            )
        for point in self.points:
            found += ["", f"weight {point.weight:g}: {point.on()}"]
            rows = {f"called {style}": figure for style, figure in point.styles.items()}
            rows |= {"action kept": point.kept, "stepping": point.stepping}
            rows |= {f"{name} [{QUANTITIES[name][0]}]": figure for name, figure in point.quantities.items()}
            found += [f"  {name:<28}{figure!s:>30}  n {figure.n}" for name, figure in rows.items()]
        found += ["", "with the weight goes (rank correlation of the means):"]
        found += [
            f"  {name:<28}{value:>8.2f}  {'monotone' if abs(value) >= MONOTONE else 'not monotone'}"
            for name, value in self.correlations.items()
        ]
        for name, steps_ in self.curves.items():
            pairs = ", ".join(f"{value:.3g} at {weight:.2f}" for value, weight in steps_)
            found += textwrap.wrap(f"equal steps of {name} [{QUANTITIES[name][0]}]: {pairs}", WIDTH)
        found += ["", f"other actions at weight {self.points[-1].weight:g}: recall of the base, with adapters, change"]
        found += [
            f"  {other.action[:20]:<20}{other.base.recall.value:>6.2f}{other.adapter.recall.value:>6.2f}"
            f"  {other.change!s}"[:WIDTH]
            for other in self.others
        ]
        if self.cosine is not None:
            worst = max(self.layers, key=lambda layer: abs(layer.cosine))
            found += textwrap.wrap(
                f"the two updates have a cosine of {self.cosine:.2f}, at most {worst.cosine:.2f} ({worst.name}): "
                "near 1 they do the same, near -1 they undo one another, near 0 they do not meet",
                WIDTH,
            )
        return [*found, f"off: differs from the base by {self.off:g}"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how much of it."""

    adapters: Sequence[str]
    """Names of one or two that are loaded."""
    styles: Sequence[str]
    """The judge's names of what they do."""
    prompt: str
    action: str
    """The judge's name of what the prompt asks for."""
    texts: Mapping[str, tuple[str, ...]]
    """Of each other action, captions to ask with in turn."""
    motions: int
    seed: int
    progress: Callable[[int], object] = field(default=lambda _: None)


def measure(bench: Bench, policy: Policy, plan: Plan) -> tuple[Blended, dict[float, Sequence[Moves]]]:
    """All figures, and the motions of each weight. `policy` has the adapters loaded, and comes with none on."""
    asked = questions_of([plan.prompt], plan.action, plan.motions, plan.seed)
    others = {
        action: questions_of(texts, action, plan.motions, plan.seed)
        for action, texts in plan.texts.items()
        if action not in (*plan.styles, plan.action)
    }
    before = bench.ask(policy, asked)
    base = {action: bench.ask(policy, questions) for action, questions in others.items()}
    points: list[Point] = []
    made: dict[float, Sequence[Moves]] = {}
    for weight in WEIGHTS:
        policy.adapters.set(blend_of(plan.adapters, weight))
        policy.adapters.fold()
        answers = bench.ask(policy, asked)
        points.append(point(bench, answers, weight, dict(policy.blend.weights), plan))
        made[weight] = answers.motions
        plan.progress(1)
    changed = []
    for action, questions in others.items():
        answers = bench.ask(policy, questions)
        changed.append(
            Other(
                action=action,
                texts=plan.texts[action],
                base=base[action].told(plan.seed),
                adapter=answers.told(plan.seed),
                change=change(base[action].hits, answers.hits, seed=plan.seed),
            )
        )
        plan.progress(1)
    policy.adapters.set({})
    after = bench.ask(policy, asked)
    layers, cosine = conflict(policy.adapters, *plan.adapters) if len(plan.adapters) == 2 else ((), None)
    means = {name: [mean_of(some.quantities[name]) for some in points] for name in QUANTITIES}
    correlations = {name: spearman(WEIGHTS, values) for name, values in means.items()}
    return Blended(
        adapters=tuple(plan.adapters),
        styles=tuple(plan.styles),
        judged={style: bench.recall_of(bench.taught, style, plan.seed) for style in plan.styles},
        unseen={style: bench.recall_of(bench.real, style, plan.seed) for style in plan.styles},
        prompt=plan.prompt,
        action=plan.action,
        motions=plan.motions,
        seed=plan.seed,
        points=tuple(points),
        correlations=correlations,
        curves={name: curve(WEIGHTS, means[name]) for name, value in correlations.items() if abs(value) >= MONOTONE},
        others=tuple(changed),
        layers=layers,
        cosine=cosine,
        off=max(
            float(np.abs(one.rows.astype(np.float64) - other.rows).max())
            for one, other in zip(before.motions, after.motions, strict=True)
        ),
    ), made


def mean_of(figure: Figure) -> float:
    """Its value, NaN where there is none."""
    return float("nan") if figure.value is None else figure.value


def blend_of(adapters: Sequence[str], weight: float) -> dict[str, float]:
    """One adapter at a weight, or two that share 1."""
    return {adapters[0]: weight} if len(adapters) == 1 else {adapters[0]: 1 - weight, adapters[1]: weight}


def point(bench: Bench, answers: Answers, weight: float, blend: Mapping[str, float], plan: Plan) -> Point:
    """What is measured of one blend."""
    seed, names = plan.seed, each(len(answers.said))
    amplitudes = np.array([gait_amplitude(clip.positions, bench.landmarks) for clip in answers.clips])
    real = np.array(
        [gait_amplitude(clip.positions, bench.landmarks) for clip in bench.taught if clip.label in plan.styles]
    )
    return Point(
        weight=weight,
        blend=blend,
        styles={style: answers.called(style, seed) for style in plan.styles},
        kept=share(np.isin(np.array(answers.said), [plan.action, *plan.styles]), names, seed=seed),
        stepping=share(steps(amplitudes, real), names, seed=seed) if len(real) else NOTHING,
        quantities={
            name: mean(np.array([of(clip, bench.landmarks) for clip in answers.clips]), names, seed=seed)
            for name, (_, of) in QUANTITIES.items()
        },
    )


@torch.no_grad()
def conflict(adapters: Adapters, first: str, second: str) -> tuple[tuple[Layer, ...], float]:
    """The cosine of two adapters' updates of the weight of each layer, and of all of them together.

    Layers that one of them leaves alone count for its size alone, and have no cosine of their own.
    """
    one, other = ({path: u.delta() for path, u in adapters.updates(name).items()} for name in (first, second))
    products = {path: float((one[path] * other[path]).sum()) for path in one if path in other}
    sizes = [{path: float(delta.norm()) for path, delta in some.items()} for some in (one, other)]
    layers = tuple(
        Layer(name=path, cosine=product / (sizes[0][path] * sizes[1][path]) if sizes[0][path] * sizes[1][path] else 0.0)
        for path, product in products.items()
    )
    whole = [float(np.sqrt(sum(size**2 for size in some.values()))) for some in sizes]
    return layers, sum(products.values()) / (whole[0] * whole[1]) if whole[0] * whole[1] else 0.0
