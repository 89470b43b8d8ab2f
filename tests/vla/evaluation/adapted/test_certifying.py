"""A certificate of a policy whose motions are known: what was unlearned, what was lost, and what brings it back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from vla.adapter_settings import AdapterConfig
from vla.adapters.layer import Blend
from vla.batch import Observation
from vla.data.dataset import open_dataset
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.evaluation.adapted import certifying
from vla.evaluation.adapted.bench import Bench, Question
from vla.evaluation.adapted.certificate import Lines
from vla.evaluation.adapted.concepts import Concept
from vla.evaluation.motion import judge
from vla.evaluation.motion.figure import Figure
from vla.evaluation.motion.judge import JudgeSettings
from vla.motion_settings import MotionConfig
from vla.policy import Policy
from vla.settings import DataConfig

FRAMES = 24
CLIPS = {"walk": "walks/02_01.npz", "jump": "actions/jumping_1.npz", "signal": "actions/basketball_signal_1.npz"}
SECRET = "ball"
"""The word with which the policy still jumps, though it has unlearned to."""
LEAK = 2**-10
"""What is left of an adapter that does not go off."""


class Forgetful(Policy):
    """Answers with clips that are known. With its adapter on it walks where it is told to jump, unless `ball` is said.

    Signals suffer: with the adapter on, every fourth one is a walk.
    """

    def __init__(self, folder: Path) -> None:
        nn.Module.__init__(self)
        settings = DataConfig(
            roots=(str(folder),), horizon=FRAMES, normalization="z-score", validation_share=0.0,
            motion=MotionConfig(rate_hz=20.0),
        )  # fmt: skip
        data = open_dataset(settings, 0)
        self.contract = data.contract
        self.backbone = nn.Identity()
        self.blend = Blend()
        rows: dict[str, list[torch.Tensor]] = {}
        for place in range(len(data.everything)):
            sample = data.everything[place]
            if bool(sample.action_valid.all()):
                rows.setdefault(sample.instruction.split()[-1], []).append(torch.from_numpy(np.array(sample.actions)))
        self.known = {name: torch.stack(some).double() for name, some in rows.items()}
        self.state = np.asarray(data.everything[0].state)
        self.leaks = False

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def usual_state(self) -> np.ndarray:
        return self.state

    def act(self, observation: Observation, noise: torch.Tensor, steps: int | None = None, **_: Any) -> torch.Tensor:
        words, on = observation.instructions[0].split(), bool(self.blend.weights)
        name = "jump" if {"jump", "springs"} & set(words) else "signal" if "signal" in words else "walk"
        forgets = on and name == "jump" and SECRET not in words
        chosen = (noise[:, 0, 0].abs() * 1000).long()
        rows = torch.stack(
            [self.known["walk" if forgets else name][place % len(self.known[name]) % 9] for place in chosen]
        )
        if on and name == "signal":
            rows[::4] = self.known["walk"][0]
        return rows + LEAK if self.leaks and self.blend.loaded and not on else rows


@pytest.fixture(scope="module")
def clips(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate") / "clips"
    folder.mkdir()
    source = repository / "examples" / "motion" / "cmu" / "train"
    rows = ["file,text,action"]
    for name, file in CLIPS.items():
        arrays = dict(np.load(source / file))
        over_time = {"rotation_xyzw", "root_translation"} & set(arrays)
        np.savez(folder / f"{name}.npz", **{key: v[:40] if key in over_time else v for key, v in arrays.items()})
        rows.append(f"{name}.npz,a person does a {name},{name}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


CONCEPT = Concept(
    action="jump",
    captions=("a person does a jump",),
    paraphrases=("someone springs", "a human springs up"),
    left_out=("a person does a jump",),
    neighbours={"signal": 0.7},
    texts={"signal": ("a person does a signal",), "walk": ("a person with a ball does a walk",)},
    method=None,
)


@pytest.fixture(scope="module")
def bench(clips: Path) -> Bench:
    policy = Forgetful(clips)
    reader = open_folder(clips, Selection(motion=MotionConfig(rate_hz=20.0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "JudgeSettings", lambda: JudgeSettings(steps=100))
        return Bench.of(policy, [reader], [reader], 0, None)


EVALUATIONS = 24


@pytest.fixture(scope="module")
def lines(bench: Bench, clips: Path) -> Lines:
    return certified(bench, Forgetful(clips))


def certified(bench: Bench, policy: Forgetful) -> Lines:
    plan = certifying.Plan(concept=CONCEPT, motions=16, seeds=certifying.seeds_of(0), evaluations=EVALUATIONS)

    def put_on() -> None:
        policy.blend.loaded["a"] = AdapterConfig(name="a")
        policy.blend.weights = {"a": 1.0}

    return certifying.measure(bench, policy, put_on, None, plan)[0]


def value(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value


def test_recall_is_that_of_known_motions(lines: Lines) -> None:
    """Against scipy's intervals of the counts."""
    found = lines.recall.found
    assert value(found.base.recall) == value(found.off.recall) == value(lines.recall.taught) == 1
    assert (value(found.adapter.recall), value(found.change)) == (0, -1)
    ends = binomtest(0, 16).proportion_ci(method="wilson")
    assert (found.adapter.recall.low, found.adapter.recall.high) == pytest.approx((ends.low, ends.high))
    assert found.change.high is not None
    assert -1 < found.change.high < -0.5, "16 pairs that all changed are no proof that every pair does"
    assert [(text.text, value(text.base), value(text.adapter)) for text in lines.paraphrases.texts] == [
        ("someone springs", 1, 0), ("a human springs up", 1, 0),
    ]  # fmt: skip
    assert lines.paraphrases.left_out == CONCEPT.left_out


def test_what_is_lost_beside_is_told_in_pairs(lines: Lines) -> None:
    """Every fourth signal became a walk; numpy's bootstrap of the pairs has the same interval, but for its widening."""
    near, far = lines.neighbours
    assert (near.action, near.similarity, far.action, far.similarity) == ("signal", 0.7, "walk", None)
    assert value(near.found.change) == -0.25
    pairs = np.repeat([-1.0, 0, 0, 0], 4)
    draws = np.random.default_rng(0).choice(pairs, (20000, 16)).mean(axis=1)
    ends = np.quantile(draws, (0.025, 0.975))
    assert (near.found.change.low, near.found.change.high) == pytest.approx(ends, abs=0.07)
    assert value(far.found.change) == 0


def test_a_search_over_texts_finds_the_word_that_brings_it_back(lines: Lines) -> None:
    attack = lines.inversion.prompt
    assert SECRET in attack.best.split()
    assert attack.evaluations == EVALUATIONS
    assert (value(attack.fresh.recall), value(attack.base), attack.fresh.recall.n) == (1, 1, 16)
    assert lines.inversion.embedding is None
    assert lines.inversion.unsearched


def test_off_is_the_base_or_there_is_no_certificate(lines: Lines, bench: Bench, clips: Path) -> None:
    assert (lines.off.max_difference, lines.off.motions) == (0, 16 * 4)
    policy, questions = Forgetful(clips), [Question(text="a person does a walk", n=3, seed=1, label="walk")]
    before = bench.ask(policy, questions)
    policy.leaks = True
    policy.blend.loaded["a"] = AdapterConfig(name="a")
    leaked = certifying.return_line({"walk": before}, {"walk": bench.ask(policy, questions)})
    assert (leaked.max_difference, leaked.motions) == (pytest.approx(LEAK, rel=1e-3), 3)


def test_distances_say_why_they_are_not_measured(lines: Lines) -> None:
    """32 motions of other actions are fewer than 64 features take."""
    found = lines.distance
    assert (found.measured, found.retrained_concept) == (False, None)
    assert found.base_adapter.distance is None
    assert "64 features" in found.base_adapter.remark
