"""The recipes of human motion: what they are, presets by name, and a training from Python."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from tests import clips
from training import loop, presets, recipes, train
from training.config import RunConfig
from training.flags import parse
from training.run.sizes import with_suited_sizes
from vla.data.dataset import agree_on_readers, open_root
from vla.parts.expert import ActionExpert, Source
from vla.policy_folder import load_policy
from vla.settings import DataConfig

PUBLISHED = {"small": 7_248_122, "medium": 20_594_618, "large": 44_618_362}
"""Parameters of the models whose names the presets have, without what looks at pictures."""
SENTENCES = 384
"""Width of the tokens of a small sentence encoder."""


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def of(recipe: RunConfig, *argv: str, **environment: str) -> RunConfig:
    return parse(recipe, ["--data.roots", "somewhere", *argv], environment)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("recipe", [recipes.pretrain, recipes.sft])
def test_a_preset_has_about_as_many_parameters_as_the_model_of_its_name(
    tmp_path: Path, recipe: Callable[..., RunConfig], name: str
) -> None:
    config = of(recipe(), "--preset", name)
    data = DataConfig(roots=(str(clips.write_clips(tmp_path / "clips")),), horizon=config.data.horizon)
    contract = agree_on_readers(data, 0, open_root).contract
    assert contract.body is not None and contract.body.kind == "rotations"
    expert = with_suited_sizes(config, contract, SENTENCES).expert
    assert expert == config.expert, "nothing is left open"
    with torch.device("meta"):
        sources = {"backbone": Source(width=SENTENCES, normalize=True), "state": Source(width=expert.sizes.width)}
        built = ActionExpert(
            horizon=contract.horizon, action_dim=contract.action_dim, sources=sources, config=expert, seed=0
        )
    assert sum(parameter.numel() for parameter in built.parameters()) == pytest.approx(PUBLISHED[name], rel=0.05)


def test_presets_are_of_documented_lengths_and_rates() -> None:
    found = {name: of(recipes.sft(), "--preset", name).stages["sft"] for name in PUBLISHED}
    assert {name: (stage.epochs, stage.lr.expert) for name, stage in found.items()} == {
        "small": (15, 1e-4), "medium": (20, 1e-4), "large": (25, 5e-5),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "other", "name"),
    [(recipes.pretrain, "base", "medium"), (recipes.sft, "sft_base", "medium"), (recipes.sft, "sft_large", "large")],
)
def test_other_usual_names(recipe: Callable[..., RunConfig], other: str, name: str) -> None:
    assert of(recipe(), "--preset", other) == of(recipe(), f"--preset={name}") == of(recipe(), MODEL_VARIANT=other)


@pytest.mark.parametrize(
    ("argv", "environment", "said"),
    [
        (["--preset", "smal"], {}, "--preset smal is none: give small, medium, large; did you mean small?"),
        (["--preset", "huge"], {}, "give small, medium, large; base is medium"),
        (["--preset", "sft_small"], {}, "--preset sft_small is of training/sft.py"),
        ([], {"MODEL_VARIANT": "larg"}, "^MODEL_VARIANT larg is none: .* did you mean large"),
        (["--preset"], {}, "--preset needs a value"),
    ],
)
def test_a_name_that_is_none_lists_those_that_are(argv: list[str], environment: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        of(recipes.pretrain(), *argv, **environment)
    assert "\n" not in str(refused.value)


def test_flags_go_before_a_preset_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    """And steps, before its epochs."""
    argv = ["--expert.depth", "2", "--stage.steps", "7", "--preset", "large", "--stage.lr.expert", "2e-5"]
    config = of(recipes.sft(), *argv)
    stage = config.stages["sft"]
    assert (config.expert.width, config.expert.depth) == (576, 2)
    assert (stage.total(10_000, 10), stage.lr.expert) == (7, 2e-5)
    assert of(recipes.sft(), "--preset", "small", "--stage.epochs", "3").stages["sft"].epochs == 3
    assert "--preset large: --expert.width 576 --expert.depth 6" in capsys.readouterr().out


def test_a_preset_of_a_stronger_source_goes_before_sizes_of_a_weaker(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"expert": {"width": 96, "depth": 2, "heads": 3}, "stages": {"sft": {"steps": 9}}}))
    config = of(recipes.sft(), "--config", str(file))
    assert (config.expert.width, config.stages["sft"].total(10_000, 10)) == (96, 9)
    config = of(recipes.sft(), "--config", str(file), MODEL_VARIANT="medium")
    assert (config.expert.width, config.expert.heads, config.stages["sft"].epochs) == (384, 6, 20)


def test_what_the_recipes_are() -> None:
    """Of no group that a motion has no parameters of; sft is shorter, slower, and begins with other weights."""
    first, second = recipes.pretrain(), recipes.sft()
    (pretrained,), (tuned,) = first.stages.values(), second.stages.values()
    assert pretrained.lr.by_group().keys() == tuned.lr.by_group().keys() == {"expert"}
    assert tuned.lr.expert < pretrained.lr.expert
    assert (pretrained.begins, tuned.begins) == ("anew", "weights")
    for config, stage in ((first, pretrained), (second, tuned)):
        assert (config.diffusion.prediction, config.data.normalization, config.data.clamp) == ("data", "z-score", False)
        assert 1.9 < config.data.horizon / config.data.motion.rate_hz < 3.1, "seconds"
        weights = stage.objective.motion
        assert min(weights.joints, weights.velocity, weights.feet) > 0 == weights.bones, "rotations have exact bones"
        assert config.keep_best


def test_changes_from_python_are_checked_as_flags_are() -> None:
    stage = {"steps": 5, "lr": {"expert": 1e-3}}
    config = recipes.pretrain(preset="small", out="x", data={"roots": ["a", "b"], "horizon": 60}, stage=stage)
    words = ["--preset", "small", "--out", "x", "--data.roots", "a", "b", "--data.horizon", "60"]
    assert config == parse(recipes.pretrain(), [*words, "--stage.steps", "5", "--stage.lr.expert", "1e-3"], {})
    assert config.data.normalization == recipes.pretrain().data.normalization, "what is not named stays"
    assert recipes.stage1(seed=3) == parse(recipes.stage1(), ["--seed", "3"], {})
    with pytest.raises(ValueError, match=r"unknown flag --data\.horizn; did you mean --data\.horizon"):
        recipes.pretrain(data={"horizn": 3})
    with pytest.raises(ValueError, match="--batch-size does not fit"):
        recipes.pretrain(batch_size="many")


def test_a_training_from_python_leaves_a_policy_of_motion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = clips.write_clips(tmp_path / "clips"), tmp_path / "run"
    train(
        recipes.pretrain(
            out=str(out), data={"roots": [str(data)], "horizon": 8, "workers": 0, "validation_share": 0.34},
            expert={"width": 32, "depth": 1, "heads": 2}, diffusion={"sampling_steps": 2}, stage={"steps": 2},
            batch_size=4, micro_batch=4, validation_samples=2, tracker="jsonl",
        )
    )  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "weights: fresh, from seed 0", "before all else"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["losses"].keys() for line in lines] == [{"diffusion", "joints", "velocity", "feet"}] * 2
    body = load_policy(out / "policy").contract.body
    assert body is not None and "left_ankle" in body.joints


def test_the_lines_of_the_page_are_a_configuration(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (repository / "docs/motion.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "recipes" in block)
    seen: list[RunConfig] = []
    monkeypatch.setattr(loop, "train", seen.append)
    exec(block, {})
    stage = {"steps": 8000, "lr": {"expert": 2e-4}}
    data = {"roots": ["/data/walks"], "horizon": 60}
    assert seen == [recipes.pretrain(preset="small", data=data, stage=stage, out="runs/walks")]


def test_sft_wants_weights_to_begin_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = clips.write_clips(tmp_path / "clips")
    words = clips.flags(data, **{"stage.steps": 1})
    with pytest.raises(ValueError, match=r"sft goes on from the weights of another run: give --init-from RUN, or"):
        loop.train(parse(recipes.sft(), [*words, "--out", str(tmp_path / "none")], {}))
    assert not (tmp_path / "none").exists()
    AcceleratorState._reset_state(True)
    loop.train(parse(recipes.sft(), [*words, "--stage.begins", "anew", "--out", str(tmp_path / "anew")], {}))
    AcceleratorState._reset_state(True)
    capsys.readouterr()
    begin = ["--init-from", str(tmp_path / "anew")]
    loop.train(parse(recipes.sft(), [*words, *begin, "--out", str(tmp_path / "tuned")], {}))
    assert capsys.readouterr().out.splitlines()[0] == f"weights: the averaged ones of {tmp_path / 'anew'}"


def test_presets_are_of_entry_points_that_there_are() -> None:
    assert presets.PRESETS.keys() < recipes.RECIPES.keys()
    with pytest.raises(ValueError, match="unknown flag --preset"):
        parse(recipes.stage1(), ["--preset", "small"], {})
