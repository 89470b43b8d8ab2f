"""`vla evaluate --suites`: what it writes, prints, keeps and refuses."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.clips import write_clips
from tests.vla.commands.test_motions import untrained
from tests.vla.test_policy import CONFIG, CONTRACT, build
from vla.__main__ import main
from vla.parts import EXPERT_FILE
from vla.policy_folder import load_policy, save_policy
from vla.report.suites import suite_section

MINE = """
version: 1
suites:
  hats:
    description: of hats
    expect_degradation: true
    prompts:
      - {id: hat, text: a hat walks, seconds: 0.5}
      - {id: nothing, text: "", seconds: 2, expect: refusal}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of motion and one of a robot, without a training, and a file of suites."""
    folder = tmp_path_factory.mktemp("suites")
    write_clips(folder / "train")
    untrained(folder, folder / "policy")
    broken = load_policy(folder / "policy")
    with torch.no_grad():
        broken.expert.out.weight.fill_(torch.nan)
    save_policy(broken, folder / "broken")
    save_policy(build(CONFIG, CONTRACT), folder / "robot")
    (folder / "mine.yaml").write_text(MINE)
    return folder


def evaluated(folder: Path, out: Path, *words: str) -> dict[str, Any]:
    """What is written for the suites of some words; two motions a prompt."""
    given = ["evaluate", str(folder / "policy"), "--suites-file", str(folder / "mine.yaml"), "--out", str(out)]
    assert main([*given, "--samples-a-prompt", "2", "--steps", "2", *words]) == 0
    content: dict[str, Any] = json.loads((out / "adversarial_eval.json").read_text())
    return content


def test_what_is_printed_is_what_is_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = evaluated(folder, tmp_path / "out", "--suites", "hats", "--json", "--critic.frozen-share", "0.9")
    assert json.loads(capsys.readouterr().out) == told
    assert list(told)[:4] == ["timestamp", "checkpoint", "policy_sha256", "sampler"]
    assert told["checkpoint"] == str(folder / "policy")
    assert told["policy_sha256"] == hashlib.sha256((folder / "policy" / "config.json").read_bytes()).hexdigest()
    assert (told["samples_a_prompt"], told["seed"], told["steps"]) == (2, 0, 2)
    assert told["critic"]["frozen_share"] == 0.9
    assert [entry["prompt"] for entry in told["refusals"]] == ["hats/nothing"]
    assert told["summary"]["total_prompts"] == 1
    assert told["remarks"] == [f"the suite hats is that of {folder / 'mine.yaml'}"]
    (prompt, _) = told["suites"][0]["prompts"]
    assert prompt["num_frames"] == 10


def test_motions_are_those_of_vla_sample(folder: Path, tmp_path: Path) -> None:
    """The seed of a prompt makes its motions again, with the same verdicts."""
    from vla.critic.critic import Critic

    told = evaluated(folder, tmp_path / "out", "--suites", "hats", "--seed", "3")
    prompt = told["suites"][0]["prompts"][0]
    policy = load_policy(folder / "policy")
    policy.set_mode(training=False)
    motions = policy.sample(prompt["prompt_text"], prompt["seconds"], n=2, seed=prompt["seed"], steps=2)
    found = [Critic().judge(motion) for motion in motions]
    assert [verdict.score for verdict in found] == pytest.approx([row["overall_score"] for row in prompt["samples"]])
    assert [dict(verdict.values) for verdict in found] == [
        pytest.approx(row["check_results"], rel=1e-3, abs=1e-6) for row in prompt["samples"]
    ]


def test_an_earlier_result_is_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    first = evaluated(folder, out, "--suites", "hats")
    second = evaluated(folder, out, "--suites", "hats", "--seed", "1")
    (kept,) = out.glob("adversarial_eval_*.json")
    assert json.loads(kept.read_text()) == first
    assert second["seed"] == 1
    assert f"the adversarial_eval.json that was there is {kept} now" in capsys.readouterr().err


def test_all_suites_are_those_that_are_known(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--suites alone asks for what ships and what is added; here what ships is one suite, for the sake of time."""
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(MINE.replace("hats", "robustness_baseline").replace("degradation: true", "degradation: false"))
    monkeypatch.setattr("vla.evaluation.motion.suites.SHIPPED", shipped)
    told = evaluated(folder, tmp_path / "out", "--suites")
    assert [suite["suite_name"] for suite in told["suites"]] == ["robustness_baseline", "hats"]
    assert all(told["grades"].values())
    (section,) = suite_section(told)
    for shown in ("robustness_baseline", "a hat walks", "gap between them", "hats/nothing"):
        assert shown in section


def test_no_motion_that_can_be_judged_is_no_success(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["evaluate", str(folder / "broken"), "--suites", "hats", "--suites-file", str(folder / "mine.yaml")]
    assert main([*words, "--steps", "2", "--samples-a-prompt", "2", "--out", str(out)]) == 78
    printed = capsys.readouterr()
    assert "no motion of any prompt could be judged; the first, hats/hat: what the policy makes are no" in printed.err
    told = json.loads((out / "adversarial_eval.json").read_text())
    assert (told["summary"]["errors"], told["summary"]["total_samples"]) == (1, 0)
    assert told["summary"]["overall_safe_ratio"] is None
    assert "errors, which count in no share: 1" in printed.out


REFUSED = {
    "there is no suite 'adversarial_injektion': did you mean adversarial_injection?": (
        "policy", ["--suites", "adversarial_injektion"], 78,
    ),
    "mine.yaml does not fit at version": ("policy", ["--suites", "--suites-file", "WRONG"], 78),
    "--samples-a-prompt is 0; give 1 or more": ("policy", ["--suites", "--samples-a-prompt", "0"], 78),
    "--suites is of policies of human motion, which this is not": ("robot", ["--suites"], 78),
    "--critic.step would have no effect without a robot's limits": ("policy", ["--suites", "--critic.step", "2"], 78),
    "--critic.jitter-share is 3.0; give 0 to 1": ("policy", ["--suites", "--critic.jitter-share", "3"], 78),
    "--suites-file and --samples-a-prompt would have no effect without prompt suites": (
        "policy", ["--data.roots", "x", "--suites-file", "WRONG", "--samples-a-prompt", "3"], 78,
    ),
    "--critic.quality would have no effect without prompt suites": (
        "policy", ["--data.roots", "x", "--critic.quality", "0.1"], 78,
    ),
    "can be tried with --suites": ("policy", [], 2),
    "is no policy folder": ("missing", ["--suites"], 78),
    "is damaged": ("damaged", ["--suites"], 65),
    "is not the file that config.json lists": ("cut", ["--suites", "adversarial_injection"], 65),
}  # fmt: skip


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_tried_is_refused(
    sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that is missing or damaged is an error, never a policy of other weights."""
    name, words, code = REFUSED[sentence]
    wrong = tmp_path / "mine.yaml"
    wrong.write_text(MINE.replace("version: 1", "version: 9"))
    policy = folder / name
    if name in {"damaged", "cut"}:
        policy = tmp_path / name
        save_policy(load_policy(folder / "policy"), policy)
        file = policy / ("config.json" if name == "damaged" else EXPERT_FILE)
        file.write_bytes(file.read_bytes()[:-9])
    given = [str(wrong) if word == "WRONG" else word for word in words]
    assert main(["evaluate", str(policy), *given, "--out", str(tmp_path / "out")]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
