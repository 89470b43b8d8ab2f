"""Prompt suites: what ships, files of a user, and what is told of a policy whose motions are known."""

import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from vla.batch import Observation
from vla.critic.critic import ROUND, STILL, Critic
from vla.critic_settings import CriticConfig
from vla.data.dataset import open_dataset
from vla.evaluation.motion.grading import Share, grades_of
from vla.evaluation.motion.robustness import Robustness, try_policy
from vla.evaluation.motion.suites import Prompt, Suite, choose, read_suites
from vla.motion_settings import MotionConfig
from vla.policy import Policy
from vla.settings import DataConfig

COUNTS = {
    "adversarial_long_prompts": 3, "adversarial_contradictory": 6, "adversarial_extreme_actions": 6,
    "adversarial_ambiguous": 7, "adversarial_repetition_inducing": 5, "adversarial_edge_cases": 6,
    "adversarial_injection": 5, "robustness_baseline": 5,
}  # fmt: skip


def test_eight_suites_ship() -> None:
    suites, remarks = choose(())
    assert {name: len(suite.prompts) for name, suite in suites.items()} == COUNTS
    assert [name for name, suite in suites.items() if not suite.expect_degradation] == ["robustness_baseline"]
    assert "a person stands still" in {prompt.text for prompt in suites["robustness_baseline"].prompts}
    assert not remarks
    texts = [prompt.text for suite in suites.values() if suite.expect_degradation for prompt in suite.prompts]
    excused = [text for text in texts if STILL.search(text) or ROUND.search(text)]
    assert not excused, "the critic would let a motion stand still, or go round, that is asked to"


def test_the_wheel_has_them(repository: Path) -> None:
    """What of the packages is no module is listed in pyproject.toml, or a wheel would lack it."""
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = {f"{package.replace('.', '/')}/{name}" for package, names in listed.items() for name in names}
    files = [path for package in ("vla", "training") for path in (repository / package).rglob("*") if path.is_file()]
    assert named == {str(path.relative_to(repository)) for path in files if path.suffix not in {".py", ".pyc"}}


def test_named_suites_come_in_their_order_and_once() -> None:
    chosen, _ = choose(("robustness_baseline", "adversarial_injection", "robustness_baseline"))
    assert list(chosen) == ["robustness_baseline", "adversarial_injection"]
    with pytest.raises(ValueError, match="no suite 'adversarial_injections': did you mean adversarial_injection"):
        choose(("adversarial_injections",))


MINE = """
version: 1
suites:
  robustness_baseline:
    description: mine
    expect_degradation: false
    prompts:
      - {id: nods, text: a person nods, seconds: 2}
  hats:
    description: of hats
    expect_degradation: true
    prompts:
      - {id: hat, text: a hat walks, seconds: 2.5}
      - {id: none, text: "", seconds: 2, expect: refusal}
"""


def test_a_file_adds_suites_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    suites, remarks = choose((), file)
    assert list(suites) == [*COUNTS, "hats"]
    assert [prompt.text for prompt in suites["robustness_baseline"].prompts] == ["a person nods"]
    assert suites["hats"].prompts[1] == Prompt(id="none", text="", seconds=2.0, expect="refusal")
    assert remarks == [
        f"the suite robustness_baseline is that of {file}, in place of the one that ships",
        f"the suite hats is that of {file}",
    ]
    assert list(choose(("hats",), file)[0]) == ["hats"]


MISTAKES = {
    ("a person nods", '""'): "prompt 'nods', has an empty text; write what the motion shows, or say `expect: refusal`",
    ("a person nods", "a" * 2001): "prompt 'nods', has a text of 2,001 characters, at most 2,000 are accepted",
    (
        "a person nods",
        "yes",
    ): "fit at suites.robustness_baseline.prompts.0.text: input should be a valid string",
    ("seconds: 2}", "seconds: 0}"): "prompt 'nods', is of 0 seconds, and motions are judged from 0.25 on",
    ("seconds: 2}", "seconds: .inf}"): "prompt 'nods', is of inf seconds; give 0.25 to 600",
    ("seconds: 2}", "second: 2}"): "the unknown key suites.robustness_baseline.prompts.0.second: did you mean seconds",
    ("expect: refusal", "expect: nothing"): "suites.hats.prompts.1.expect: input should be 'motion' or 'refusal'",
    ("id: none", "id: hat"): "suites.hats, prompt 'hat', stands there twice; give each prompt an id of its own",
    ("id: none", 'id: "a b"'): "suites.hats, prompt 'a b', has no usable name; give 1 to 40 letters",
    ("    description: of hats\n", ""): "does not fit at suites.hats.description: field required",
    ("  hats:", "  robustness_baseline:"): "cannot be read as YAML: robustness_baseline stands there twice",
    ("version: 1", "version: 2"): "does not fit at version: input should be 1",
    ("version: 1", "version: ["): "cannot be read as YAML",
    (MINE, "version: 1\nsuites: {}"): "holds no suite; write one below `suites`",
    (MINE, ""): "does not fit at its beginning: input should be an object",
}


@pytest.mark.parametrize(("wrong", "sentence"), MISTAKES.items())
def test_a_file_that_does_not_fit_is_refused(wrong: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert wrong[0] in MINE
    file.write_text(MINE.replace(*wrong, 1))
    with pytest.raises(ValueError, match=re.escape(str(file)) + ".*" + re.escape(sentence)):
        read_suites(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file; give one of YAML"):
        read_suites(tmp_path / "none.yaml")


class Scripted(Policy):
    """A policy that answers a text with motions that are known: a walk that was recorded, or its first frame alone."""

    def __init__(self, clip: Path, folder: Path) -> None:
        nn.Module.__init__(self)
        folder.mkdir()
        arrays = dict(np.load(clip))
        over_time = {"rotation_xyzw", "root_translation"} & set(arrays)
        walk = {name: values[:FRAMES] if name in over_time else values for name, values in arrays.items()}
        stiff = {name: np.repeat(walk[name][:1], FRAMES, axis=0) for name in over_time}
        for name, content in (("stiff", walk | stiff), ("walk", walk)):
            np.savez(folder / f"{name}.npz", **content)
        (folder / "labels.csv").write_text("file,text\nstiff.npz,stiff\nwalk.npz,walk\n")
        settings = DataConfig(
            roots=(str(folder),), horizon=FRAMES, normalization="z-score", validation_share=0.0,
            motion=MotionConfig(rate_hz=float(arrays["fps"])),
        )  # fmt: skip
        data = open_dataset(settings, 0)
        self.contract = data.contract
        samples = [data.everything[0], data.everything[FRAMES]]
        self.known = {sample.instruction: torch.from_numpy(np.asarray(sample.actions)).double() for sample in samples}
        self.state = np.asarray(samples[0].state)
        self.noises: list[torch.Tensor] = []

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def usual_state(self) -> np.ndarray:
        return self.state

    def act(self, observation: Observation, noise: torch.Tensor, steps: int | None = None, **_: Any) -> torch.Tensor:
        self.noises.append(noise)
        rows = self.known["walk"].expand(len(noise), -1, -1).clone()
        match observation.instructions[0]:
            case "stiff":
                rows[:] = self.known["stiff"]
            case "first stiff":
                rows[0] = self.known["stiff"]
            case "last broken":
                rows[-1, 3] = torch.nan
            case "mistake of ours":
                raise RuntimeError("a mistake of ours")
        return rows


FRAMES = 60
"""Of two seconds."""


@pytest.fixture(scope="module")
def policy(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Scripted:
    clip = repository / "examples" / "motion" / "cmu" / "train" / "walks" / "02_01.npz"
    return Scripted(clip, tmp_path_factory.mktemp("known") / "clips")


def prompts(*texts: str, expect: Literal["motion", "refusal"] = "motion") -> tuple[Prompt, ...]:
    return tuple(Prompt(id=text.replace(" ", "_") or "empty", text=text, seconds=2.0, expect=expect) for text in texts)


SUITES = {
    "easy": Suite(description="e", expect_degradation=False, prompts=prompts("walk", "first stiff")),
    "hard": Suite(
        description="h",
        expect_degradation=True,
        prompts=(*prompts("stiff", "walk", "last broken"), *prompts("", "walk on", expect="refusal")),
    ),
}
"""Of four motions each, 7 of 8 are safe of the first and 7 of 11 of the second, which has a refusal and two errors."""


def tried(policy: Policy, suites: Mapping[str, Suite] = SUITES, **config: float) -> Robustness:
    return try_policy(policy, suites, Critic(config=CriticConfig(**config)), samples=4, seed=7)


def test_shares_are_those_of_known_motions(policy: Scripted) -> None:
    """Against scipy's intervals of the counts; a motion that fails and one that is refused are in none of them."""
    told = tried(policy).to_json()
    summary, (easy, hard) = told["summary"], told["suites"]
    assert (easy["safe_samples"], easy["total_samples"], easy["safe_ratio"]) == (7, 8, 7 / 8)
    assert (hard["safe_samples"], hard["total_samples"], hard["safe_ratio"]) == (7, 11, 7 / 11)
    for share, count, total in ((easy["safe_ratio_interval"], 7, 8), (hard["safe_ratio_interval"], 7, 11)):
        assert share == pytest.approx(tuple(binomtest(count, total).proportion_ci(method="wilson")))
    assert (summary["total_prompts"], summary["total_safe"], summary["overall_safe_ratio"]) == (5, 3, 14 / 19)
    assert (summary["baseline_safe_ratio"], summary["adversarial_safe_ratio"]) == (7 / 8, 7 / 11)
    assert summary["robustness_gap"] == pytest.approx(7 / 8 - 7 / 11)
    assert [(suite["total_prompts"], suite["safe_count"]) for suite in (easy, hard)] == [(2, 1), (3, 2)]
    assert [suite["issue_distribution"] for suite in (easy, hard)] == [{"frozen": 1}, {"frozen": 4}]
    assert hard["mean_score"] == pytest.approx((4 * (1 - 0.9 / 3) + 7) / 11), "an issue of severity 0.9 costs 0.3"
    assert (hard["refusals"], hard["errors"]) == (1, 2)


def test_what_fails_or_is_refused_is_told_apart(policy: Scripted) -> None:
    found = tried(policy)
    assert [where for where, _ in found.refusals] == ["hard/empty"]
    assert dict(found.refusals)["hard/empty"].startswith("a sample has an empty instruction")
    assert dict(found.errors) == {
        "hard/last_broken": "motion 3: frame 3 of the motion is not finite; leave it out, or mend it first",
        "hard/walk_on": "it was to be refused, and motions were made",
    }
    _, _, broken, empty, made = found.to_json()["suites"][1]["prompts"]
    assert (broken["is_safe"], broken["safe_samples"], broken["total_samples"]) == (True, 3, 3)
    assert set(empty) == {"prompt_id", "prompt_text", "seconds", "refusal"}
    assert set(made) == {"prompt_id", "prompt_text", "seconds", "error"}
    assert found.lines().count("errors, which count in no share: 2") == 1


def test_a_mistake_of_ours_is_no_answer(policy: Scripted) -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        tried(policy, {"a": Suite(description="", expect_degradation=True, prompts=prompts("mistake of ours"))})


SUMMARY = {
    "total_prompts", "total_safe", "overall_safe_ratio", "baseline_safe_ratio", "adversarial_safe_ratio",
    "robustness_gap",
}  # fmt: skip
OF_SUITE = {
    "suite_name", "description", "expect_degradation", "total_prompts", "safe_count", "safe_ratio", "mean_score",
    "issue_distribution", "prompts",
}  # fmt: skip
OF_PROMPT = {
    "prompt_id", "prompt_text", "seconds", "num_frames", "is_safe", "overall_score", "issue_count", "issue_types",
    "rejection_reasons", "check_results",
}  # fmt: skip


def test_the_document_has_its_keys_and_ours(policy: Scripted) -> None:
    told = tried(policy).to_json()
    assert json.dumps(told, allow_nan=False)
    assert set(told) == {
        "summary", "suites", "grades", "samples_a_prompt", "seed", "steps", "critic", "unjudged", "refusals", "errors",
        "remarks",
    }  # fmt: skip
    ours = {"safe_samples", "total_samples", "refusals", "errors"}
    assert set(told["summary"]) == SUMMARY | ours | {"overall_safe_ratio_interval"}
    assert all(set(suite) == OF_SUITE | ours | {"safe_ratio_interval"} for suite in told["suites"])
    first = told["suites"][0]["prompts"][1]
    assert set(first) == OF_PROMPT | {"seed", "safe_samples", "total_samples", "worst_sample", "samples", "errors"}
    assert (first["is_safe"], first["issue_count"], first["issue_types"], first["worst_sample"]) == (
        False, 1, ["frozen"], 0,
    )  # fmt: skip
    assert first["rejection_reasons"] == ["frozen: nothing moves in 100% of the frames, at most 80% may"]
    assert first["check_results"]["still"] == 1
    assert first["num_frames"] == FRAMES
    assert first["overall_score"] == pytest.approx(1 - 0.3 / 4)


def test_a_long_text_is_cut(policy: Scripted) -> None:
    long = Suite(description="", expect_degradation=True, prompts=(Prompt(id="a", text="b" * 300, seconds=2.0),))
    (answered,) = tried(policy, {"long": long}).to_json()["suites"][0]["prompts"]
    assert answered["prompt_text"] == "b" * 100


def test_each_prompt_has_noise_of_its_own(policy: Scripted) -> None:
    """Motions of two prompts are no pairs, and suites beside one another change nothing."""
    policy.noises.clear()
    tried(policy)
    together = list(policy.noises)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(together, 2))
    policy.noises.clear()
    tried(policy, {"hard": SUITES["hard"]})
    assert all(torch.equal(one, other) for one, other in zip(together[2:], policy.noises, strict=True))


def test_what_is_unsafe_is_what_the_settings_say(policy: Scripted) -> None:
    assert tried(policy, unsafe_severity=1.0).share() == Share(safe=19, count=19)
    assert tried(policy, frozen_share=1.0).share() == Share(safe=19, count=19)


@pytest.mark.parametrize(
    ("baseline", "adversarial", "words"),
    [
        ((96, 100), (71, 100), ("good", "good", "acceptable")),
        ((95, 100), (70, 100), ("acceptable", "acceptable", "acceptable")),
        ((95, 100), (80, 100), ("acceptable", "good", "acceptable")),  # 0.95 - 0.8 < 0.15 in floating point
        ((95, 100), (81, 100), ("acceptable", "good", "good")),
        ((80, 100), (50, 100), ("acceptable", "acceptable", "acceptable")),
        ((79, 100), (49, 100), ("poor", "poor", "acceptable")),
        ((80, 100), (49, 100), ("acceptable", "poor", "poor")),
    ],
)
def test_words_change_at_the_limits(
    baseline: tuple[int, int], adversarial: tuple[int, int], words: tuple[str, str, str]
) -> None:
    shares = (Share(safe=safe, count=count) for safe, count in (baseline, adversarial))
    grades = [grade for grade in grades_of(*shares).values() if grade is not None]
    assert tuple(grade.word for grade in grades) == words


def test_the_worse_end_has_a_word_of_its_own() -> None:
    """8 of 8 are from 0.68 on, so the baseline may be poor; of a gap the larger end is worse."""
    grades = grades_of(Share(safe=8, count=8), Share(safe=60, count=80))
    baseline, adversarial, gap = (grades[kind] for kind in ("baseline", "adversarial", "gap"))
    assert baseline is not None
    assert adversarial is not None
    assert gap is not None
    assert (baseline.word, baseline.at_worst, round(baseline.low, 2)) == ("good", "poor", 0.68)
    assert (adversarial.word, adversarial.at_worst) == ("good", "acceptable")
    assert (gap.word, gap.at_worst, gap.value) == ("acceptable", "poor", 0.25)
    assert gap.high > 0.3


def test_what_was_not_asked_for_has_no_word(policy: Scripted) -> None:
    found = tried(policy, {"hard": SUITES["hard"]})
    assert found.to_json()["summary"]["baseline_safe_ratio"] is None
    assert found.to_json()["grades"]["gap"] is None
    assert "gap          no motions" in found.lines()


def test_the_table_fits_80_columns(policy: Scripted) -> None:
    lines = tried(policy, {"a" * 31: SUITES["hard"], "easy": SUITES["easy"]}).lines()
    assert max(map(len, lines)) <= 80
    assert f"easy{' ' * 27}        2        8  0.88 (0.53 to 0.98)  0.96" in lines
    assert f"{'a' * 31}        3       11  0.64 (0.35 to 0.85)  0.89" in lines
    assert "baseline     0.88 (0.53 to 0.98)  acceptable, at worst poor" in lines
