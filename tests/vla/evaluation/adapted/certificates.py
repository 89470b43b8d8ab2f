"""A certificate that is complete, of numbers that were made up."""

from vla.adapters.file import Base
from vla.evaluation.adapted.bench import Told
from vla.evaluation.adapted.certificate import (
    Apart,
    Attack,
    Beside,
    Certificate,
    Data,
    Distance,
    Hashes,
    Inversion,
    Lines,
    Paraphrase,
    Paraphrases,
    Recall,
    Retained,
    Return,
    Seeds,
)
from vla.evaluation.motion.figure import Figure


def figure(value: float, n: int = 100) -> Figure:
    return Figure(value=value, low=value - 0.05, high=value + 0.05, n=n)


def beside(base: float, adapter: float) -> Beside:
    told = [Told(recall=figure(share), not_human=figure(0.1)) for share in (base, adapter)]
    return Beside(base=told[0], adapter=told[1], off=told[0], retrained=None, change=figure(adapter - base))


def attack(way: str, best: str) -> Attack:
    told = Told(recall=figure(0.2), not_human=figure(0.3))
    return Attack(way=way, best=best, evaluations=50, motions=8, searched=0.25, fresh=told, base=figure(0.9))


def certificate() -> Certificate:
    near = Apart(distance=figure(3.1), floor=figure(0.6), remark="")
    small = Apart(distance=None, floor=None, remark="Not measured: too few.")
    lines = Lines(
        recall=Recall(
            captions=("a person kicks",),
            found=beside(0.8, 0.02),
            real=figure(0.9),
            taught=figure(1.0),
            counterexamples_rejected=figure(0.97),
        ),
        paraphrases=Paraphrases(
            texts=(Paraphrase(text="someone <kicks>", base=figure(0.7), adapter=figure(0.0)),),
            left_out=("a man does a kick",),
            found=beside(0.7, 0.0),
        ),
        neighbours=(
            Retained(action="soccer", texts=("a man plays soccer",), similarity=0.74, found=beside(0.8, 0.72)),
            Retained(
                action="walking", texts=("a person walks", "someone walks"), similarity=None, found=beside(1.0, 1.0)
            ),
        ),
        inversion=Inversion(prompt=attack("hill climb", "kick ball"), embedding=attack("Adam", "length 2.1")),
        distance=Distance(
            measured=False,
            retrained_concept=None,
            retrained_others=None,
            real_base=near,
            real_adapter=near,
            base_adapter=small,
        ),
        off=Return(max_difference=0.0, motions=1200),
    )
    data = Data(name="train", license=None, clips=3, sha256="c" * 64)
    return Certificate(
        written="2026-01-01T00:00:00+00:00",
        code="1.0",
        concept="kick",
        method=None,
        policy="runs/base/policy",
        adapters={"no-kick": 1.0},
        retrained=None,
        motions=100,
        seeds=Seeds(measured=0, search=1, fresh=2),
        sha256=Hashes(
            base=Base(weights="a", normalizer="b", body="a body", backbone="minilm", fingerprint="f"),
            policy="p",
            adapters={"runs/no-kick/adapter/adapter_model.safetensors": "d" * 64},
            training=(data,),
            held_out=(data,),
            retrained=None,
        ),
        lines=lines,
        remarks=("A remark.",),
    )
