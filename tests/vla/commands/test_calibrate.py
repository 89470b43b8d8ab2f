"""A quantity over the weight of an adapter: measured, kept in its file, and asked for by its value."""

import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import bootstrap, spearmanr

from tests.clips import poses
from tests.vla.commands.test_motions import untrained
from vla.__main__ import main
from vla.adapter_settings import AdapterConfig
from vla.adapters import file
from vla.adapters.file import CONFIG_FILE, KEY, WEIGHTS_FILE
from vla.adapting import base_of, save_adapter
from vla.documents import to_json
from vla.evaluation.adapted.quantities import QUANTITIES
from vla.evaluation.motion.clips import prepare
from vla.evaluation.motion.policies import clip_of, landmarks_of
from vla.policy_folder import load_policy
from vla.sampling import body_of

TEXT = "a person does a walking"
NEAR = (-0.02, -0.01, 0.0, 0.01, 0.02)
"""So near to one another that a smooth quantity is a line."""
FAR = (-3.0, -1.0, 0.0, 1.0, 3.0)
"""Where any change, either way, is a faster motion."""
MOTIONS, STEPS = 8, 2
# peft 0.21 asks transformers 5.23 by a name that version 6 will drop; not ours to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of clips without a training, and an adapter of its last layer by chance."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "train").mkdir()
    rows = ["file,text,action"]
    for place, pace_hz in enumerate((0.4, 0.8, 1.2)):
        np.savez(folder / "train" / f"walk_{place}.npz", **poses(40, 20.0, pace_hz))  # type: ignore[arg-type]
        rows.append(f"walk_{place}.npz,{TEXT},walking")
    (folder / "train" / "labels.csv").write_text("\n".join(rows) + "\n")
    untrained(folder, folder / "policy")
    policy = load_policy(folder / "policy")
    base, generator = base_of(policy), torch.Generator().manual_seed(0)
    policy.adapters.add(AdapterConfig(name="slow", rank=2, alpha=6, dropout=0.0, targets=(r"expert\.out",)))
    for parameter in policy.adapters.parameters("slow").values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    save_adapter(policy, "slow", folder / "slow", base=base, made={"recipe": "by hand"})
    return folder


@pytest.fixture
def slow(made: Path, tmp_path: Path) -> Path:
    """The adapter, to be changed."""
    return Path(shutil.copytree(made / "slow", tmp_path / "slow"))


def asked(made: Path, adapter: Path, *more: object, weights: tuple[float, ...] = NEAR) -> list[str]:
    words = ["calibrate", made / "policy", adapter, "--quantity", "speed", "--text", TEXT, "--motions", MOTIONS]
    return [*map(str, words), "--steps", str(STEPS), "--weights", *map(str, weights), *map(str, more)]


def description_of(adapter: Path) -> dict[str, object]:
    with safe_open(adapter / WEIGHTS_FILE, framework="pt") as opened:
        found: dict[str, object] = json.loads(opened.metadata()[KEY])
    return found


def test_a_curve_is_that_of_a_policy_with_the_update_in_its_weights(made: Path, slow: Path) -> None:
    """Of which another copy has W + w (alpha / r) B A written into its last layer."""
    assert main(asked(made, slow, "--seed", 3)) == 0
    stored = file.read(slow)
    assert stored.description is not None
    curve = stored.description.curves["speed"]
    policy = load_policy(made / "policy")
    policy.set_mode(training=False)
    seen, landmarks = landmarks_of(body_of(policy))
    seconds = policy.contract.horizon / policy.contract.fps
    (a, b), plain = stored.tensors["expert.out"], policy.expert.out.weight.detach().clone()
    for place, weight in enumerate(NEAR):
        policy.expert.out.weight.data = plain + weight * 6 / 2 * b @ a
        motions = policy.sample(TEXT, seconds, n=MOTIONS, seed=3, steps=STEPS)
        speeds = np.array([QUANTITIES["speed"][1](prepare(clip_of(own, seen, "", "")), landmarks) for own in motions])
        assert curve.values[place] == pytest.approx(speeds.mean(), rel=1e-4)
        interval = bootstrap((speeds,), np.mean, method="percentile", rng=0, n_resamples=4000).confidence_interval
        width = interval.high - interval.low
        assert curve.low[place] == pytest.approx(interval.low, abs=0.2 * width)
        assert curve.high[place] == pytest.approx(interval.high, abs=0.2 * width)
    assert (curve.weights, curve.unit, curve.text, curve.seed, curve.motions) == (NEAR, "m/s", TEXT, 3, MOTIONS)
    assert curve.correlation == pytest.approx(spearmanr(NEAR, curve.values).statistic)
    assert (curve.base, curve.adapter) == (base_of(load_policy(made / "policy")).weights, stored.description.weights)


def test_a_value_is_the_weight_on_the_line_between_two_that_were_measured(
    made: Path, slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(made, slow)) == 0
    curve = description_of(slow)["curves"]["speed"]  # type: ignore[index]
    wanted = 0.3 * curve["values"][1] + 0.7 * curve["values"][2]
    expected = float(np.interp(0.7, [0, 1], NEAR[1:3]))
    capsys.readouterr()
    words = ["sample", str(made / "policy"), "--text", TEXT, "--seconds", "1", "--steps", "2", "--tries", "1", "--json"]
    for name in ("speed", "weight"):
        adapter = f"{slow}:speed={wanted!r}" if name == "speed" else f"{slow}:{told['adapters']['slow']!r}"
        assert main([*words, "--adapter", adapter, "--out", str(tmp_path / name)]) == 0
        printed = capsys.readouterr()
        told = json.loads(printed.out)
        assert told["adapters"]["slow"] == pytest.approx(expected)
        if name == "speed":
            assert f"weight {expected:.3g}" in printed.err
            assert f"for a speed of {wanted:g} m/s, by its curve of '{TEXT}'" in printed.err
    first, second = (np.load(tmp_path / name / "sample-0000.npz") for name in ("speed", "weight"))
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_the_rest_of_the_file_stays_bit_by_bit_and_peft_loads_it(
    made: Path, slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, header, original = load_file(slow / WEIGHTS_FILE), description_of(slow), (slow / WEIGHTS_FILE).read_bytes()
    assert main(asked(made, slow, "--out", tmp_path / "copy")) == 0
    assert (slow / WEIGHTS_FILE).read_bytes() == original
    assert main(asked(made, slow)) == 0
    assert "a certificate that names the first" in capsys.readouterr().err
    assert main(asked(made, slow)) == 0
    said = capsys.readouterr()
    assert "in place of an older one" in said.out
    assert "a certificate" not in said.err, "the same curve again leaves the file what it was"
    for folder in (slow, tmp_path / "copy"):
        after = load_file(folder / WEIGHTS_FILE)
        assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
        assert (folder / CONFIG_FILE).read_bytes() == (made / "slow" / CONFIG_FILE).read_bytes()
        assert {**description_of(folder), "curves": {}} == header
        assert sorted(own.name for own in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    policy = load_policy(made / "policy")
    theirs = copy.deepcopy(policy.expert.out.weight.detach())
    PeftModel.from_pretrained(policy, str(slow)).merge_and_unload()
    (a, b) = file.read(slow).tensors["expert.out"]
    torch.testing.assert_close(policy.expert.out.weight.detach(), theirs + 6 / 2 * b @ a)
    assert main(["info", str(slow), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["curves"]["speed"]
    assert (shown["weights"], shown["unit"], shown["text"]) == (list(NEAR), "m/s", TEXT)


def test_what_does_not_go_with_the_weight_is_refused_and_not_written(
    made: Path, slow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (slow / WEIGHTS_FILE).read_bytes()
    assert main(asked(made, slow, weights=FAR)) == 78
    printed = capsys.readouterr()
    assert "the speed does not go with the weight: their rank correlation is" in printed.err
    values = [float(line.split()[1]) for line in printed.out.splitlines() if "to" in line.split()]
    assert f"is {spearmanr(FAR, values).statistic:.2f}, and 0.9 is asked for" in printed.err
    assert (slow / WEIGHTS_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--quantity", "spede"), "--quantity spede is none: did you mean speed?"),
        (("--weights", "0", "0.5", "1"), "--weights 0 0.5 1 cannot tell whether a quantity goes with them: give 4"),
        (("--weights", "0", "0", "0.5", "1"), "give 4 or more numbers, each once"),
        (("--motions", "5"), "--motions is 5; give 6 or more"),
        (("--steps", "0"), "--steps is 0; give 1 or more"),
        (("--out", "."), ". exists; give a folder that does not"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    made: Path, slow: Path, more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (slow / WEIGHTS_FILE).read_bytes()
    assert main(asked(made, slow, *more)) == 78
    assert said in (error := capsys.readouterr().err)
    assert error.count("\n") == 1 + error.count("\r")
    assert (slow / WEIGHTS_FILE).read_bytes() == before


def test_what_the_curve_does_not_say_is_refused(
    made: Path, slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(adapter: str, said: str) -> None:
        words = ["sample", str(made / "policy"), "--text", TEXT, "--steps", "1", "--out", str(tmp_path / "out")]
        assert main([*words, "--adapter", adapter]) == 78
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    refused(f"{slow}:speed=1", "has no curve of its speed: measure one with `vla calibrate POLICY")
    refused(f"{slow}:speed=fast", f"has no number for speed; write {slow}:speed=0.9")
    refused(f"{slow}:speed=nan", f"give a number, such as {slow}:speed=0.9")
    assert main(asked(made, slow)) == 0
    capsys.readouterr()
    values = description_of(slow)["curves"]["speed"]["values"]  # type: ignore[index]
    low, high = math.ceil(1e4 * min(values)) / 1e4, math.floor(1e4 * max(values)) / 1e4
    refused(f"{slow}:speed=50", f"reaches a speed of {low:g} to {high:g} m/s at weights -0.02 to 0.02, not 50: ask for")
    refused(f"{slow}:trunk_lean=1", "has no curve of its trunk lean, but of its speed: measure one with")
    plain = Path(shutil.copytree(slow, tmp_path / "plain"))
    save_file(load_file(slow / WEIGHTS_FILE), plain / WEIGHTS_FILE, {"format": "pt"})
    refused(f"{plain}:speed=1", "is a file of plain peft, which has no curve of its speed: give a weight")
    assert main(asked(made, plain)) == 78
    assert "only adapters that training/adapter.py or training/unlearn.py wrote can be calibrated" in (
        capsys.readouterr().err
    )
    stored = file.read(slow)
    assert stored.description is not None
    curve = to_json(stored.description.curves["speed"])
    for part, reason in (
        ({"values": curve["values"][:-1]}, "a curve has not one value for each of its weights, which rise"),
        ({"weights": curve["weights"][::-1]}, "a curve has not one value for each of its weights, which rise"),
        (
            {key: [] for key in ("weights", "values", "low", "high")},
            "a curve has not one value for each of its weights",
        ),
        ({"low": [*curve["low"][:-1], math.nan]}, "a curve has a number that is not finite"),
    ):
        damaged(stored, {"speed": curve | part}, tmp_path / "damaged")
        words = ["sample", str(made / "policy"), "--text", TEXT, "--out", str(tmp_path / "out")]
        assert main([*words, "--adapter", f"{tmp_path / 'damaged'}:speed=1"]) == 65
        assert reason in capsys.readouterr().err
    damaged(stored, {"speed": curve | {"correlation": math.nan}}, tmp_path / "damaged")
    refused(f"{tmp_path / 'damaged'}:speed=1", "does not go with its weight (their rank correlation is nan): use `vla")
    other = dataclasses.replace(stored.description.curves["speed"], adapter="0" * 64)
    file.describe_anew(stored, dataclasses.replace(stored.description, curves={"speed": other}), slow / WEIGHTS_FILE)
    refused(f"{slow}:speed=1", "has a curve of its speed that is one of other weights: use `vla calibrate")


def damaged(stored: file.Stored, curves: dict[str, object], to: Path) -> None:
    """An adapter whose header has other curves than can have been written."""
    to.mkdir(exist_ok=True)
    with safe_open(stored.place / WEIGHTS_FILE, framework="pt") as opened:
        header = opened.metadata()
    header[KEY] = json.dumps(json.loads(header[KEY]) | {"curves": curves})
    save_file(load_file(stored.place / WEIGHTS_FILE), to / WEIGHTS_FILE, header)
