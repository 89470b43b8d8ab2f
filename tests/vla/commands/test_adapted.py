"""`vla evaluate --adapter`, and what it certifies: files, figures of adapted policies, refusals."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.clips import poses
from tests.vla.commands.test_motions import untrained
from vla.__main__ import main
from vla.adapter_settings import AdapterConfig
from vla.adapters.file import WEIGHTS_FILE
from vla.adapting import base_of, save_adapter
from vla.evaluation.adapted.certificate import read
from vla.evaluation.motion import judge
from vla.evaluation.motion.judge import JudgeSettings
from vla.policy_folder import load_policy, save_policy

ACTIONS = {"kick": 1.5, "walking": 0.8, "dance": 1.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of three actions, a policy of them without a training, another one, and an adapter of the first."""
    folder = tmp_path_factory.mktemp("adapted")
    (folder / "train").mkdir()
    rows = ["file,text,action"]
    for action, pace_hz in ACTIONS.items():
        np.savez(folder / "train" / f"{action}.npz", **poses(40, 20.0, pace_hz))  # type: ignore[arg-type]
        rows.append(f"{action}.npz,a person does a {action},{action}")
    (folder / "train" / "labels.csv").write_text("\n".join(rows) + "\n")
    untrained(folder, folder / "policy")
    policy = load_policy(folder / "policy")
    generator = torch.Generator().manual_seed(0)
    policy.adapters.add(AdapterConfig(name="no-kick", rank=2))
    for parameter in policy.adapters.parameters("no-kick").values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    made = {"concepts": [{"name": "kick", "captions": ["a person does a kick"]}], "method": "by chance"}
    save_adapter(policy, "no-kick", folder / "no-kick", base=base_of(policy), made=made)
    with torch.no_grad():
        policy.expert.out.bias.add_(1)
    policy.adapters.remove("no-kick")
    save_policy(policy, folder / "other")
    return folder


def words(folder: Path, *more: str) -> list[str]:
    places = {"TRAIN": folder / "train", "ADAPTER": folder / "no-kick", "POLICY": folder / "policy"}
    return [str(places.get(word, word)) for word in more]


CERTIFY = ("--suites", "unlearning", "--data.roots", "TRAIN", "--training", "TRAIN", "--adapter", "ADAPTER")


def test_a_certificate_is_written_and_the_one_before_it_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "JudgeSettings", lambda: JudgeSettings(steps=20))
    asked = words(folder, "evaluate", "POLICY", *CERTIFY, "--motions", "3", "--search", "4", "--steps", "2")
    out = tmp_path / "out"
    for _ in range(2):
        assert main([*asked, "--retrained", str(folder / "other"), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.rpartition("\n{\n")[2].join(["{", ""]))
    found = read(out / "certificate.json")
    assert printed["lines"] == json.loads((out / "certificate.json").read_text())["lines"]
    assert (found.concept, found.method, found.adapters) == ("kick", "by chance", {"no-kick": 1.0})
    file = folder / "no-kick" / WEIGHTS_FILE
    assert found.sha256.adapters == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert found.sha256.base == base_of(load_policy(folder / "policy"))
    assert found.lines.off.max_difference == 0
    assert found.lines.inversion.embedding is not None
    assert found.lines.distance.measured
    assert found.lines.recall.found.retrained is not None
    names = sorted(file.name.partition("_")[0] for file in out.iterdir())
    assert names.count("certificate") == 5, "three pictures, and the two files that were there"
    assert (out / "certificate.html").read_text().count("<img") == 3


def test_styles_are_blended(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two adapters, one of them twice: their updates are the same, and the blend of both is either."""
    monkeypatch.setattr(judge, "JudgeSettings", lambda: JudgeSettings(steps=20))
    asked = words(folder, "evaluate", "POLICY", "--suites", "style", "--data.roots", "TRAIN", "--training", "TRAIN")
    asked += ["--adapter", str(folder / "no-kick"), "--adapter", str(folder / "no-kick"), "--styles", "dance", "kick"]
    out = tmp_path / "out"
    assert main([*asked, "--motions", "3", "--steps", "2", "--out", str(out)]) == 0
    found = json.loads((out / "style.json").read_text())
    assert found["cosine"] == pytest.approx(1)
    assert all(layer["cosine"] == pytest.approx(1) for layer in found["layers"])
    assert found["adapters"] == ["no-kick", "no-kick-2"]
    assert (found["prompt"], found["action"], found["off"]) == ("a person does a walking", "walking", 0)
    heights = [point["quantities"]["pelvis height"]["value"] for point in found["points"]]
    assert heights == pytest.approx([heights[0]] * 5, rel=1e-4)
    assert [point["blend"] for point in found["points"]][1] == {"no-kick": 0.75, "no-kick-2": 0.25}
    assert not found["others"], "all three actions are styles, or asked for"
    page = (out / "style.html").read_text()
    assert page.count("<img") == 5
    most = max(found["points"], key=lambda point: point["styles"]["dance"]["value"])["weight"]
    assert f"most, at no-kick {1 - most:g}, no-kick-2 {most:g}" in page or most in (0, 1)
    assert "Weight 0.25: no-kick 0.75, no-kick-2 0.25" in page


@pytest.mark.deep
def test_figures_are_those_of_the_adapted_policy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Open loop: at weight 0 those of the base, at 1 others; which adapter was on is told."""
    asked = words(folder, "evaluate", "POLICY", "--data.roots", "TRAIN", "--data.validation-share", "0", "--json")
    asked += ["--data.workers", "0", "--steps", "2", "--samples", "6"]
    errors = []
    for place, weight in enumerate(("", ":0", ":1")):
        adapter = ["--adapter", f"{folder / 'no-kick'}{weight}"] if weight else []
        assert main([*asked, *adapter, "--out", str(tmp_path / str(place))]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told.get("adapters", []) == adapter[1:]
        errors.append(told["mae"])
    assert errors[0] == errors[1] != errors[2]


STYLE = ("--suites", "style", "--data.roots", "TRAIN", "--training", "TRAIN")
REFUSED = {
    "--suites unlearning measures an adapter: name it with --adapter FILE": CERTIFY[:-2],
    "--suites unlearning judges by real clips": ("--suites", "unlearning", "--adapter", "ADAPTER"),
    "--suites unlearning measures adapters, not prompts": (*CERTIFY, "--suites", "unlearning", "robustness_baseline"),
    "no clip of --training shows the action 'fly'": (*CERTIFY, "--concept", "fly"),
    "--adapter nowhere is no file or folder": (*CERTIFY[:-1], "nowhere"),
    "--concept would have no effect without --suites unlearning": ("--data.roots", "TRAIN", "--concept", "kick"),
    "--adapter has no effect in an environment": ("--env", "needle", "--adapter", "ADAPTER"),
    "what the 1 adapters do is not said of each": (*STYLE, "--adapter", "ADAPTER"),
    "no clip of --training shows fly": (*STYLE, "--adapter", "ADAPTER", "--styles", "fly"),
    "'fly' is no training caption": (*STYLE, "--adapter", "ADAPTER", "--styles", "kick", "--prompt", "fly"),
    "--suites style chooses the weights itself": (*STYLE, "--adapter", "no-kick:0.5"),
    "--styles would have no effect without --suites style": (*CERTIFY, "--styles", "kick"),
    "--search is 1; give 2 or more": (*CERTIFY, "--search", "1"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_certified_is_refused(
    sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(folder, "evaluate", "POLICY", *REFUSED[sentence])
    assert main([*asked, "--out", str(tmp_path / "out")]) == 78
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_policy_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(folder, "evaluate", str(folder / "other"), *CERTIFY)
    assert main([*asked, "--out", str(tmp_path / "out")]) == 78
    assert "was trained on a policy of other weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
