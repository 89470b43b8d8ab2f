"""All figures of some samples, each beside what held-out real motions have, and what copies have."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Float64

from vla.evaluation.motion import feet, smoothness
from vla.evaluation.motion.clips import Clip, Windows, floor_height, prepare, stack
from vla.evaluation.motion.counterexamples import NOT_HUMAN, UNSEEN, counterexamples
from vla.evaluation.motion.figure import NOTHING, Figure, mean, means, share
from vla.evaluation.motion.frechet import compare
from vla.evaluation.motion.gait import gait_amplitude, steps
from vla.evaluation.motion.heading import Scale
from vla.evaluation.motion.judge import Judge
from vla.evaluation.motion.landmarks import Landmarks
from vla.evaluation.motion.nearest import COPIED, memorised, nearest
from vla.evaluation.motion.resampling import CUTOFF_HZ, RATE_HZ
from vla.evaluation.motion.table import Row, Table
from vla.randomness import derive

BLOCK = 256
"""Training motions whose features are in memory at once."""
STEPPING_M = 0.15
"""Mean gait amplitude of real motions from which on an action is one of steps."""

Sets = tuple[Sequence[Clip], Sequence[Clip], Sequence[Clip]]
"""Samples, held-out real motions, and training motions that stand in for the samples."""
MEASURES: dict[tuple[str, str], Callable[[Float[np.ndarray, "T J 3"], Landmarks, float], float]] = {
    ("foot skating ratio", ""): feet.skating_ratio,
    ("foot speed below 5 cm", "m/s"): feet.contact_speed,
    ("foot speed below 12 cm", "m/s"): feet.ground_speed,
    ("penetration", "m"): lambda positions, _body, _rate_hz: feet.penetration(positions),
    ("floating", "m"): lambda positions, _body, _rate_hz: feet.floating(positions),
    ("physical foot contact", ""): feet.contact_score,
    ("acceleration", "m/s2"): lambda positions, _body, rate_hz: smoothness.acceleration(positions, rate_hz),
    ("jerk", "m/s3"): lambda positions, _body, rate_hz: smoothness.jerk(positions, rate_hz),
}
"""Of prepared positions, by name and unit."""


def measure(
    samples: Sequence[Clip],
    real: Sequence[Clip],
    training: Sequence[Clip],
    body: Landmarks,
    judge: Judge,
    *,
    rate_hz: float = RATE_HZ,
    cutoff_hz: float = CUTOFF_HZ,
    floor_m: float | None = None,
    seed: int = 0,
) -> Table:
    """All figures of samples, of held-out real motions and of training motions, as they came, cut to one length.

    Figures of no action in particular are of as many samples as real motions of each action, and what that leaves out
    is said. The rate is that of the judge. Each clip has a floor of its own, into which it hardly sinks, unless the
    height of one floor for all is known.

    Raises:
        ValueError: a set is empty, or a clip cannot be prepared.
    """
    for clips, what in ((samples, "samples"), (real, "held-out real motions"), (training, "training motions")):
        if not clips:
            raise ValueError(f"there are no {what} to measure; give some")

    def ready(clips: Sequence[Clip]) -> list[Clip]:
        return [prepare(clip, rate_hz=rate_hz, cutoff_hz=cutoff_hz, floor_m=floor_m) for clip in clips]

    copies, remarks = _copies(samples, training, seed)
    came: Sets = (samples, real, copies)
    sets: Sets = (ready(samples), ready(real), ready(copies))
    places, left_out = _alike(came)
    alike = _chosen(sets, places)
    rows = [*_clip_rows(_chosen(came, places), alike, body, seed), *_judged_rows(sets, body, judge, seed)]
    for more, said in (_frechet_rows(alike, judge, seed), _distance_rows(sets, ready(training), body, seed)):
        rows, remarks = rows + more, remarks + said
    remarks = left_out + remarks
    return Table(rows=tuple(rows), rate_hz=rate_hz, cutoff_hz=cutoff_hz, remarks=tuple(remarks))


def _chosen(sets: Sets, places: Sequence[Sequence[int]]) -> Sets:
    samples, real, copies = ([clips[place] for place in some] for clips, some in zip(sets, places, strict=True))
    return samples, real, copies


def _alike(sets: Sets) -> tuple[list[list[int]], list[str]]:
    """Of each set the places of as many motions of each action as both samples and real ones have, and what is left.

    Otherwise a share of runs among walks would be taken for what a policy does differently. All places where samples
    and real motions show no action in common.
    """
    by_label = [
        {label: [place for place, clip in enumerate(clips) if clip.label == label] for label in _labels(clips)}
        for clips in sets
    ]
    common = sorted(by_label[0].keys() & by_label[1].keys())
    if not common:
        return [list(range(len(clips))) for clips in sets], ["Samples and real motions show no action in common."]
    counts = {label: min(len(by_label[0][label]), len(by_label[1][label])) for label in common}
    places = []
    for of_set in by_label:
        evenly = [
            np.linspace(0, len(of_set[label]) - 1, min(count, len(of_set[label]))).round().astype(int)
            for label, count in counts.items()
            if label in of_set
        ]
        own = [of_set[label] for label in counts if label in of_set]
        places.append(sorted(some[place] for some, rows in zip(own, evenly, strict=True) for place in rows))
    missing = sorted(by_label[0].keys() - by_label[1].keys())
    said = [f"{label} {count}" for label, count in counts.items()]
    return places, [
        f"Figures of no action in particular are of {', '.join(said)} samples and as many real motions"
        + (f"; no real motion shows {', '.join(missing)}." if missing else ".")
    ]


def _labels(clips: Sequence[Clip]) -> set[str]:
    return {clip.label for clip in clips}


def _copies(samples: Sequence[Clip], training: Sequence[Clip], seed: int) -> tuple[list[Clip], list[str]]:
    """For each sample a training motion of its label, where there is one; and of which labels there is none."""
    known = {label: [clip for clip in training if clip.label == label] for label in {clip.label for clip in training}}
    draw = derive(seed, "motion/replay")
    copies = [known[clip.label][draw.integers(len(known[clip.label]))] for clip in samples if clip.label in known]
    missing = sorted({clip.label for clip in samples} - known.keys())
    return copies, [f"No training motion shows {', '.join(missing)}: replay has none."] if missing else []


def _clip_rows(came: Sets, sets: Sets, body: Landmarks, seed: int) -> list[Row]:
    """What is measured of each clip alone, in the mean."""
    columns = []
    for raw, prepared in zip(came, sets, strict=True):
        values = [
            [
                *(of(clip.positions, body, clip.rate_hz) for of in MEASURES.values()),
                100 * smoothness.bone_variation(before.positions, body),
                floor_height(before.positions),
            ]
            for before, clip in zip(raw, prepared, strict=True)
        ]
        columns.append(means(np.array(values), [clip.source for clip in prepared], seed=seed))
    names = [*MEASURES, ("bone length variation", "%"), ("floor height", "m")]
    return [_row(name, unit, *figures) for (name, unit), *figures in zip(names, *columns, strict=True)]


def _row(name: str, unit: str, samples: Figure, real: Figure, replay: Figure) -> Row:
    return Row(name=name, unit=unit, samples=samples, real=real, replay=replay)


def _judged_rows(sets: Sets, body: Landmarks, judge: Judge, seed: int) -> list[Row]:
    """What a judge says, and what each action has of its own; of actions that are among the samples."""
    windows = [stack(clips) for clips in sets]
    named = [judge.classify(some) for some in windows]
    sources = [[clip.source for clip in clips] for clips in sets]
    rejected = [np.array([said == NOT_HUMAN for said in names]) for names in named]
    shares = [share(some, of, seed=seed) for some, of in zip(rejected, sources, strict=True)]
    rows = [_row("judged not human", "", *shares), _examined(sets, body, judge, seed)]
    for label in sorted({clip.label for clip in sets[0]}):
        rows += _label_rows(label, sets, named, body, seed)
    return rows


def _frechet_rows(sets: Sets, judge: Judge, seed: int) -> tuple[list[Row], list[str]]:
    """How far apart a judge sees two sets; nothing where they are too small to say."""
    described = [judge.features(stack(clips)) if clips else np.zeros((0, 0)) for clips in sets]
    count, features = min(len(described[0]), len(described[1]) // 2, len(described[2])), described[0].shape[1]
    if count < features:
        return [], [f"No Frechet distance: {features} features take {features} motions a side, and there are {count}."]
    own, copied = (compare(described[1], described[place], seed=seed) for place in (0, 2))
    row = _row("Frechet distance", "", own.distance, own.floor, copied.distance)
    return [row], [own.remark] if own.remark else []


def _examined(sets: Sets, body: Landmarks, judge: Judge, seed: int) -> Row:
    """How many counter-examples the judge rejects that are made of real motions by settings it was not trained with."""
    figures = []
    for clips in sets[1:]:
        made = [clip for some in counterexamples(clips, body, UNSEEN, seed=seed).values() for clip in some]
        rejected = np.array([said == NOT_HUMAN for said in judge.classify(stack(made))] if made else [], dtype=bool)
        figures.append(share(rejected, [clip.source for clip in made], seed=seed))
    return _row("counter-examples rejected", "", NOTHING, *figures)


def _label_rows(label: str, sets: Sets, named: Sequence[Sequence[str]], body: Landmarks, seed: int) -> list[Row]:
    """Recall, gait amplitude, airborne share, and steps where the real motions take any."""
    chosen = [
        [(clip, said) for clip, said in zip(clips, names, strict=True) if clip.label == label]
        for clips, names in zip(sets, named, strict=True)
    ]
    amplitudes = [np.array([gait_amplitude(clip.positions, body) for clip, _ in some]) for some in chosen]
    airborne = [np.array([feet.airborne_share(clip.positions, body) for clip, _ in some]) for some in chosen]
    sources = [[clip.source for clip, _ in some] for some in chosen]
    recalled = [np.array([said == label for _, said in some], dtype=bool) for some in chosen]

    def of_each(name: str, unit: str, figure: Callable[..., Figure], values: Sequence[np.ndarray]) -> Row:
        return _row(f"{name}, {label}", unit, *(figure(v, s, seed=seed) for v, s in zip(values, sources, strict=True)))

    rows = [
        of_each("recall", "", share, recalled),
        of_each("gait amplitude", "m", mean, amplitudes),
        of_each("airborne share", "", mean, airborne),
    ]
    if len(amplitudes[1]) and amplitudes[1].mean() >= STEPPING_M:
        rows.append(of_each("steps", "", share, [steps(some, amplitudes[1]) for some in amplitudes]))
    return rows


def _distance_rows(sets: Sets, training: Sequence[Clip], body: Landmarks, seed: int) -> tuple[list[Row], list[str]]:
    """How far the nearest training motion is, and how many motions are copies; of motions of full length."""
    everything = [*sets, training]
    frames = max(len(clip.positions) for clips in everything for clip in clips)
    full = [[clip for clip in clips if len(clip.positions) == frames] for clips in everything]
    left = sum(map(len, everything)) - sum(map(len, full))
    remarks = [f"{left} motions are shorter than {frames} frames and have no nearest one."] if left else []
    if not all(full):
        return [], [*remarks, "No nearest motions: one set has none of full length."]
    scale = Scale.of(_blocks(full[3]), body)

    def flat(windows: Windows) -> Float64[np.ndarray, "N F"]:
        return scale.normalised(windows, body).reshape(len(windows.positions), -1)

    distances = [
        nearest(flat(stack(clips)), (flat(block) for block in _blocks(full[3]))).distances for clips in full[:3]
    ]
    sources = [[clip.source for clip in clips] for clips in full[:3]]
    rows = [
        _row("nearest training motion", "", *(mean(d, of, seed=seed) for d, of in zip(distances, sources, strict=True)))
    ]
    copied = memorised(distances[0], distances[1], sources[0], seed=seed)
    rows.append(_nearer_row("nearer than real ones", distances, sources, seed))
    for label in sorted({clip.label for clip in full[0]}):
        own = [[place for place, clip in enumerate(clips) if clip.label == label] for clips in full[:3]]
        if len(own[1]) >= 1 / COPIED:
            chosen = [values[places] for values, places in zip(distances, own, strict=True)]
            names = [[some[place] for place in places] for some, places in zip(sources, own, strict=True)]
            rows.append(_nearer_row(f"nearer than real ones, {label}", chosen, names, seed))
    if copied.copies:
        remarks.append("More samples are near to a training motion than real ones are: some are copies.")
    return rows, remarks


def _nearer_row(
    name: str, distances: Sequence[Float64[np.ndarray, " _"]], sources: Sequence[Sequence[str]], seed: int
) -> Row:
    """How many are nearer than 5 % of the real motions are; of these, one half beside the other."""
    samples, copies = (
        memorised(distances[place], distances[1], sources[place], seed=seed).share if len(distances[place]) else NOTHING
        for place in (0, 2)
    )
    order = derive(seed, "motion/halves").permutation(len(distances[1]))
    first, second = order[::2], order[1::2]
    half = NOTHING
    if len(second):
        of_half = [sources[1][place] for place in first]
        half = memorised(distances[1][first], distances[1][second], of_half, seed=seed).share
    return _row(name, "", samples, half, copies)


def _blocks(clips: Sequence[Clip]) -> Iterator[Windows]:
    """Clips side by side, some at a time."""
    for start in range(0, len(clips), BLOCK):
        yield stack(clips[start : start + BLOCK])
