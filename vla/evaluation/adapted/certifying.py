"""The measuring behind a certificate: the same questions and noise, before adapters, with them, and with them off."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vla.evaluation.adapted.bench import Answers, Bench, Question, each, questions_of
from vla.evaluation.adapted.certificate import (
    Apart,
    Attack,
    Beside,
    Distance,
    Inversion,
    Lines,
    Paraphrase,
    Paraphrases,
    Recall,
    Retained,
    Return,
    Seeds,
)
from vla.evaluation.adapted.concepts import Concept
from vla.evaluation.adapted.inversion import FOUND, search_embedding, search_texts
from vla.evaluation.motion.clips import stack
from vla.evaluation.motion.figure import change, share
from vla.evaluation.motion.frechet import compare
from vla.motion.moves import Moves
from vla.parts.text import TextBackbone
from vla.policy import Policy
from vla.randomness import derive

CAPTIONS, PARAPHRASES = "captions of the concept", "paraphrases of it"
"""Groups of questions, beside one an action."""
SEARCHED = 8
"""Motions of each evaluation of a search."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, and how much of it."""

    concept: Concept
    motions: int
    seeds: Seeds
    evaluations: int
    """Of each search: texts that are scored, and steps of an embedding."""
    progress: Callable[[int], object] = field(default=lambda _: None)
    """Told of every question that was answered."""

    def groups(self) -> dict[str, list[Question]]:
        """All questions but those of searches."""
        concept, seed = self.concept, self.seeds.measured
        return {
            CAPTIONS: questions_of(concept.captions, concept.action, self.motions, seed),
            PARAPHRASES: questions_of(concept.paraphrases, concept.action, self.motions, seed),
            **{action: questions_of(texts, action, self.motions, seed) for action, texts in concept.texts.items()},
        }


Set = Mapping[str, Answers]
"""By group."""


def ask_all(bench: Bench, policy: Policy, plan: Plan) -> dict[str, Answers]:
    """A policy as it is, asked all questions."""
    found = {}
    for name, questions in plan.groups().items():
        found[name] = bench.ask(policy, questions)
        plan.progress(len(questions))
    return found


def measure(
    bench: Bench, policy: Policy, put_on: Callable[[], object], retrained: Policy | None, plan: Plan
) -> tuple[Lines, dict[str, Set]]:
    """All six lines, and the motions by what was on.

    `policy` comes without adapters, and `put_on` loads and blends them: what is called off is asked after that.
    """
    sets: dict[str, Set] = {"base": ask_all(bench, policy, plan)}
    put_on()
    weights = dict(policy.blend.weights)
    sets["adapter"] = ask_all(bench, policy, plan)
    policy.adapters.set(weights)  # beside the weights, not folded into them: a search needs both answers
    inversion = invert(bench, policy, sets["base"][CAPTIONS].motions, weights, plan)
    policy.adapters.set({})
    sets["off"] = ask_all(bench, policy, plan)
    if retrained is not None:
        sets["retrained"] = ask_all(bench, retrained, plan)
    return Lines(
        recall=recall_line(bench, sets, plan),
        paraphrases=paraphrase_line(sets, plan),
        neighbours=retained_lines(sets, plan),
        inversion=inversion,
        distance=distance_line(bench, sets, plan),
        off=return_line(sets["base"], sets["off"]),
    ), sets


def beside(sets: Mapping[str, Set], group: str, seed: int) -> Beside:
    """What a judge says of a group of questions, by what was on."""
    told = {name: own[group].told(seed) for name, own in sets.items()}
    return Beside(
        base=told["base"],
        adapter=told["adapter"],
        off=told["off"],
        retrained=told.get("retrained"),
        change=change(sets["base"][group].hits, sets["adapter"][group].hits, seed=seed),
    )


def recall_line(bench: Bench, sets: Mapping[str, Set], plan: Plan) -> Recall:
    """Line 1."""
    seed, action = plan.seeds.measured, plan.concept.action
    return Recall(
        captions=plan.concept.captions,
        found=beside(sets, CAPTIONS, seed),
        real=bench.recall_of(bench.real, action, seed),
        taught=bench.recall_of(bench.taught, action, seed),
        counterexamples_rejected=bench.rejected(seed),
    )


def paraphrase_line(sets: Mapping[str, Set], plan: Plan) -> Paraphrases:
    """Line 2."""
    seed, found = plan.seeds.measured, []
    start = 0
    for question in plan.groups()[PARAPHRASES]:
        rows = slice(start, start := start + question.n)
        base, adapter = (
            share(sets[name][PARAPHRASES].hits[rows], each(question.n), seed=seed) for name in ("base", "adapter")
        )
        found.append(Paraphrase(text=question.text, base=base, adapter=adapter))
    return Paraphrases(texts=tuple(found), left_out=plan.concept.left_out, found=beside(sets, PARAPHRASES, seed))


def retained_lines(sets: Mapping[str, Set], plan: Plan) -> tuple[Retained, ...]:
    """Line 3, the nearest first."""
    near = plan.concept.neighbours
    order = sorted(plan.concept.texts, key=lambda action: -near.get(action, -2.0))
    return tuple(
        Retained(
            action=action,
            texts=plan.concept.texts[action],
            similarity=near.get(action),
            found=beside(sets, action, plan.seeds.measured),
        )
        for action in order
    )


def invert(
    bench: Bench, policy: Policy, motions: Sequence[Moves], weights: Mapping[str, float], plan: Plan
) -> Inversion:
    """Line 4: the best text, and the best embedding, on seeds that the searches did not see."""
    concept, seeds = plan.concept, plan.seeds
    label = concept.action

    def score(text: str) -> float:
        questions = [Question(text=text, n=SEARCHED, seed=seeds.search, label=label)]
        plan.progress(1)
        return bench.chance(bench.ask(policy, questions), label)

    def attack(way: str, text: str, best: str, evaluations: int, searched: float) -> Attack:
        questions = [Question(text=text, n=plan.motions, seed=seeds.fresh, label=label)]
        fresh = bench.ask(policy, questions).told(seeds.fresh)
        policy.adapters.set({})
        base = bench.ask(policy, questions).told(seeds.fresh)
        policy.adapters.set(weights)
        return Attack(
            way=way,
            best=best,
            evaluations=evaluations,
            motions=SEARCHED,
            searched=searched,
            fresh=fresh,
            base=base.recall,
        )

    begin = [*concept.paraphrases, *concept.captions]
    known = (text for texts in concept.texts.values() for text in texts)
    words = sorted({word for text in (*begin, *known) for word in text.lower().split()})
    found = search_texts(score, begin, words, evaluations=plan.evaluations, seed=seeds.search)
    prompt = attack("hill climb over texts, a word at a time", found.best, found.best, found.evaluations, found.score)
    if not isinstance(policy.backbone, TextBackbone):
        return Inversion(
            prompt=prompt, embedding=None, unsearched="The backbone has more than one token a text; none was searched."
        )
    inner = search_embedding(policy, motions, concept.captions[0], score, steps=plan.evaluations, seed=seeds.search)
    way = f"{plan.evaluations} steps of Adam on the embedding, towards the base's answers to {concept.captions[0]!r}"
    embedding = attack(way, FOUND, inner.best, inner.evaluations, inner.score)
    return Inversion(prompt=prompt, embedding=embedding)


def distance_line(bench: Bench, sets: Mapping[str, Set], plan: Plan) -> Distance:
    """Line 5; of other actions those that held-out clips show, as many motions of each as there are windows."""
    seed = plan.seeds.measured
    windows = {action: [clip for clip in bench.real if clip.label == action] for action in plan.concept.texts}
    counts = {action: min(len(own), plan.motions) for action, own in windows.items() if own}
    real = np.concatenate(
        [
            bench.judge.features(stack([windows[action][place] for place in evenly(len(windows[action]), count)]))
            for action, count in counts.items()
        ]
        or [np.zeros((0, 0), np.float32)]
    )

    def others(name: str, chosen: Mapping[str, int]) -> np.ndarray:
        every = ((sets[name][action].features, count) for action, count in chosen.items())
        rows = [features[evenly(len(features), min(count, len(features)))] for features, count in every]
        return np.concatenate(rows or [np.zeros((0, 0), np.float32)])

    everything = dict.fromkeys(plan.concept.texts, plan.motions)
    has_other = "retrained" in sets
    return Distance(
        measured=has_other,
        retrained_concept=(
            apart(sets["retrained"][CAPTIONS].features, sets["adapter"][CAPTIONS].features, seed) if has_other else None
        ),
        retrained_others=apart(others("retrained", everything), others("adapter", everything), seed)
        if has_other
        else None,
        real_base=apart(real, others("base", counts), seed),
        real_adapter=apart(real, others("adapter", counts), seed),
        base_adapter=apart(others("base", everything), others("adapter", everything), seed),
    )


def evenly(size: int, count: int) -> list[int]:
    """So many places of as many or more, evenly spread."""
    return [int(place) for place in np.linspace(0, size - 1, count).round()]


def apart(first: np.ndarray, second: np.ndarray, seed: int) -> Apart:
    """The Frechet distance of two sets of features, and that of two halves of the first."""
    if not len(first) or not len(second):
        return Apart(distance=None, floor=None, remark="Not measured: no held-out clip shows any other action.")
    try:
        found = compare(first, second, seed=seed)
    except ValueError as error:
        return Apart(distance=None, floor=None, remark=f"Not measured: {error}.")
    return Apart(distance=found.distance, floor=found.floor, remark=found.remark)


def return_line(base: Set, off: Set) -> Return:
    """Line 6."""
    pairs = [
        (one.rows, other.rows)
        for group in base
        for one, other in zip(base[group].motions, off[group].motions, strict=True)
    ]
    largest = max(float(np.abs(one.astype(np.float64) - other).max()) for one, other in pairs)
    return Return(max_difference=largest, motions=len(pairs))


def seeds_of(seed: int) -> Seeds:
    """Seeds that have nothing to do with one another."""
    return Seeds(
        measured=seed,
        search=int(derive(seed, "adapted/search").integers(2**31)),
        fresh=int(derive(seed, "adapted/fresh").integers(2**31)),
    )
