"""The command line: recipe < file < flag, refusals with the nearest name, batch arithmetic, a run's identity."""

import json
import re
from pathlib import Path

import pytest
import torch

from training import recipes
from training.config import RunConfig, flatten
from training.distributed import dtype_of
from training.flags import parse
from vla.documents import to_json
from vla.errors import UsageError
from vla.parts import FRESH
from vla.settings import renamed

DATA = ["--data.roots", "somewhere"]


def test_flags_change_leaves_of_the_recipe() -> None:
    config = parse(recipes.stage2(), [*DATA, "--stage.lr.lora", "2e-5", "--batch-size", "64", "--lora.rank", "8"])
    assert config.stages["stage2"].lr.lora == 2e-5
    assert config.stages["stage2"].lr.expert == recipes.STAGE2.lr.expert
    assert (config.batch_size, config.lora.rank, config.data.roots) == (64, 8, ("somewhere",))


def test_a_run_is_replayed_from_its_file(tmp_path: Path) -> None:
    config = parse(recipes.stage1(), [*DATA, "--seed", "5", "--data.episodes", "3", "1", "--stage.lr.sensor", "None"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    assert parse(recipes.stage1(), ["--config", str(file)]) == config
    assert parse(recipes.stage1(), ["--config", str(file), "--seed", "6"]).seed == 6
    file.write_text(
        json.dumps({"stages": {"stage1": {"lr": {"expert": 3e-4}}}, "backbone": {"gradient_checkpointing": True}})
    )
    partial = parse(recipes.stage1(), ["--config", str(file), *DATA])
    assert partial.stages["stage1"].lr.expert == 3e-4
    assert partial.stages["stage1"].lr.sensor == recipes.STAGE1.lr.sensor
    assert partial.backbone.gradient_checkpointing
    assert not parse(recipes.stage1(), ["--config", str(file), "--backbone.no-gradient-checkpointing"]).data.roots


def test_a_file_that_names_inputs_to_withhold_as_it_was_done_before(tmp_path: Path) -> None:
    """And the settings of a checkpoint of that time, which are flat."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"data": {"roots": ["somewhere"], "without": ["state"]}}))
    config = parse(recipes.stage1(), ["--config", str(file)])
    assert (config.data.without, config.data.withhold) == ((), ("state",))
    identity = config.identity()
    older = {key: value for key, value in identity.items() if key != "data.withhold"} | {"data.without": ["state"]}
    assert renamed(older, "data.") == identity
    for words in (["state"], ["3", "instruction"]):
        with pytest.raises(UsageError, match=f"--data.without {words[-1]} is --data.withhold {words[-1]} now"):
            parse(recipes.stage1(), [*DATA, "--data.without", *words])
    assert parse(recipes.stage1(), [*DATA, "--data.without", "3", "7"]).data.without == (3, 7)


def test_steps_on_the_command_line_take_the_place_of_a_file_s_epochs(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(parse(recipes.stage1(), [*DATA, "--stage.epochs", "2"]))))
    for argv in (["--stage.steps", "5"], ["--stage.steps=5"]):
        assert parse(recipes.stage1(), ["--config", str(file), *argv]).stages["stage1"].total(1000, 10) == 5
    assert (
        parse(recipes.stage1(), ["--config", str(file), "--stage.epochs", "3"]).stages["stage1"].total(1000, 10) == 300
    )
    assert parse(recipes.stage1(), ["--config", str(file)]).stages["stage1"].total(1000, 10) == 200


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"batchsize": 4}, r"unknown flag --batchsize; did you mean --batch-size\?"),
        ({"batch_size": "four"}, "--batch-size does not fit"),
        ({"tracker": "tensorboard"}, "give one of 'auto', 'jsonl', 'wandb'"),
        ([1], "holds no JSON object"),
    ],
)
def test_a_file_is_checked_like_the_command_line(tmp_path: Path, content: object, words: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        parse(recipes.stage1(), ["--config", str(file)])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch-sizes", "4"], "unknown flag --batch-sizes; did you mean --batch-size"),
        (["--stage.lr.expret", "1e-4"], r"did you mean --stage\.lr\.expert"),
        (["--batch-size", "four"], "--batch-size does not fit"),
        (["--tracker", "tensorboard"], "'auto', 'jsonl', 'wandb'"),
        (["--dropout", "1.5"], r"^--dropout is 1\.5; it must lie in \[0, 1\)"),
        (["--stage.steps", "0"], r"^--stage\.steps is 0; a stage has at least 1 step"),
        (["--stage.steps", "5", "--stage.epochs", "1"], "both say how long"),
        (["--stage.steps=5", "--stage.epochs=1"], "both say how long"),
        (["--stage.lr.expert", "-1"], "learning rate of group 'expert'"),
        (["--micro-batch", "0"], "--micro-batch is 0; it must be at least 1"),
        (["--validation-samples", "0"], "--validation-samples is 0; it must be at least 1"),
        (["--stop-after", "0"], "--stop-after is 0; it must be at least 1"),
        (["--clip", "-1"], r"--clip is -1\.0; it must be greater than 0"),
        (["--clip", "nan"], "--clip is nan; it must be greater than 0"),
        (["--ema-decay", "1"], r"--ema-decay is 1\.0; it must lie in \[0, 1\)"),
        (["--betas", "0.9", "1.2"], r"--betas is 1\.2; it must lie in \[0, 1\)"),
        (["--seed", "-1"], r"--seed is -1; it must lie in \[0, 2\^63\)"),
        (["--stage.weight-decay", "-0.1"], r"--stage\.weight-decay is -0\.1; give a number of at least 0"),
        (["--stage.warmup", "0.9", "--stage.hold", "0.2"], "warmup, hold and floor are shares"),
        (["--config", "nowhere.json"], "nowhere.json cannot be read"),
        (["--stage.steps"], "Missing value for argument '--stage.steps'"),
    ],
)
def test_mistakes_are_one_sentence(argv: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as mistake:
        parse(recipes.stage1(), [*DATA, *argv])
    assert "\n" not in str(mistake.value)
    unknown_or_incomplete = "unknown flag" in words or "did you mean" in words or "Missing value" in words
    assert isinstance(mistake.value, UsageError) == unknown_or_incomplete, "exit 2 is for usage, 78 for the rest"


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(recipes.stage1(), ["--help-all"])
    shown = capsys.readouterr().out
    for flag in ("--data.roots", "--stage.lr.sensor", "--resume-from", "--lora.rank"):
        assert flag in shown


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "accumulation"), [(32, 4, 1, 8), (32, 4, 2, 4), (12, 1, 3, 4), (8, 8, 1, 1)]
)
def test_accumulation_follows(batch: int, micro: int, ranks: int, accumulation: int) -> None:
    config = parse(recipes.stage1(), [*DATA, "--batch-size", str(batch), "--micro-batch", str(micro)])
    assert config.accumulation(ranks) == accumulation


def test_what_does_not_divide_is_refused_with_numbers_that_do() -> None:
    config = parse(recipes.stage1(), [*DATA, "--batch-size", "30", "--micro-batch", "4"])
    with pytest.raises(
        ValueError, match=r"30 is not a multiple of --micro-batch 4 x 2 ranks; use --micro-batch 3, or .*32"
    ):
        config.accumulation(2)


def test_stage_flags_of_a_run_of_two_stages() -> None:
    argv = ["--stage.steps", "6", "--stage.lr.lora", "1e-4", "--out", "x", "--stage2.steps", "9"]
    stages = parse(recipes.two_stage(), [*DATA, *argv]).stages
    assert [stage.steps for stage in stages.values()] == [6, 9]
    assert [stage.lr.lora for stage in stages.values()] == [None, 1e-4]
    opened = parse(recipes.two_stage(), [*DATA, "--stage1.lr.lora", "1e-5"]).stages
    assert opened["stage1"].lr.by_group().keys() == {*FRESH, "lora"}, "the rates alone say what trains"


def test_finetune_vl_edits_the_rates() -> None:
    def opened(*argv: str, recipe: RunConfig | None = None) -> dict[str, float]:
        stages = parse(recipe or recipes.stage2(), [*DATA, *argv]).stages
        return {group: rate for group, rate in [*stages.values()][-1].lr.by_group().items() if group not in FRESH}

    assert opened() == {"lora": 1e-5}
    assert opened("--finetune-vl", "full") == {"backbone": 1e-5}
    assert opened("--finetune-vl", "none") == opened("--stage.lr.lora", "None") == {}
    assert opened("--finetune-vl", "full", "--stage.lr.backbone", "1e-3") == {"backbone": 1e-3}
    assert opened("--stage.lr.lora", "None", "--stage.lr.backbone", "1e-3") == {"backbone": 1e-3}
    assert opened("--finetune-vl", "lora", recipe=recipes.stage1()) == {"lora": 1e-5}
    both = parse(recipes.two_stage(), [*DATA, "--finetune-vl", "full", "--stage.lr.backbone", "1e-4"]).stages
    assert [stage.lr.backbone for stage in both.values()] == [None, 1e-4]
    for mode, group, other in (("none", "lora", "lora"), ("full", "lora", "lora"), ("lora", "backbone", "full")):
        said = rf"--stage\.lr\.{group} has no effect with --finetune-vl {mode}: .* give --finetune-vl {other}"
        with pytest.raises(ValueError, match=said):
            opened("--finetune-vl", mode, f"--stage.lr.{group}", "1e-4")
    with pytest.raises(ValueError, match=r"--stage2\.lr\.lora has no effect with --finetune-vl none"):
        opened("--finetune-vl", "none", "--stage.lr.lora", "1e-4", recipe=recipes.two_stage())


def test_what_finetune_vl_decided_is_replayed_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for recipe in (recipes.stage2(), recipes.two_stage()):
        config = parse(recipe, [*DATA, "--finetune-vl", "full", "--stage.blocks", "1", "--stage.warmup", "0.1"])
        file.write_text(json.dumps(to_json(config)))
        assert parse(recipe, ["--config", str(file)]) == config
    with pytest.raises(ValueError, match=r"is of training/two_stage\.py; start that"):
        parse(recipes.stage1(), ["--config", str(file)])


def test_dropout_sets_every_rate() -> None:
    config = parse(recipes.stage2(), [*DATA, "--dropout", "0.3"])
    policy = config.policy(config.stages["stage2"])
    assert policy.lora is not None
    assert {policy.encoders.sensor.dropout, policy.expert.dropout, policy.lora.dropout} == {0.3}


def test_identity_leaves_out_where_and_how_it_runs() -> None:
    first = parse(recipes.stage1(), DATA)
    moved = parse(
        recipes.stage1(),
        [
            "--data.roots",
            "elsewhere",
            "--out",
            "other",
            "--micro-batch",
            "1",
            "--save-every",
            "7",
            "--data.workers",
            "0",
        ],
    )
    assert first.identity() == moved.identity()
    for change in (["--seed", "1"], ["--batch-size", "64"], ["--stage.lr.expert", "1e-3"], ["--data.horizon", "4"]):
        assert parse(recipes.stage1(), [*DATA, *change]).identity() != first.identity()
    assert "data.roots" not in first.identity()


def test_older_checkpoints_go_on_without_guidance_and_motion_and_no_further() -> None:
    """They do not know them."""
    plain = parse(recipes.stage1(), DATA).identity()
    assert not {key for key in plain if "unconditional" in key or "guidance" in key or "motion" in key}
    moving = parse(recipes.stage1(), [*DATA, "--data.motion.joints", "all", "--stage.objective.motion.feet", "0.5"])
    assert moving.identity() == plain | {"data.motion.joints": ["all"], "stages.stage1.objective.motion.feet": 0.5}
    assert plain == parse(recipes.stage1(), [*DATA, "--diffusion.guidance", "1"]).identity()
    guided = parse(
        recipes.stage1(), [*DATA, "--diffusion.unconditional", "0.1", "--diffusion.guidance", "2"]
    ).identity()
    assert guided == plain | {"diffusion.unconditional": 0.1, "diffusion.guidance": 2.0}
    with pytest.raises(ValueError, match="guidance is 2.0, but training shows every sample its instruction"):
        parse(recipes.stage1(), [*DATA, "--diffusion.guidance", "2"])


def test_older_checkpoints_go_on_without_roles_of_episodes_and_no_further() -> None:
    plain = parse(recipes.stage1(), DATA).identity()
    roles = ("where", "preserve", "near", "near_share", "text", "split_by", "sampling")
    assert plain.keys().isdisjoint(f"data.{role}" for role in roles)
    words = ["--data.where", "condition=crouch", "instruction=walk, slowly", "--data.preserve", "0.5"]
    assert parse(recipes.stage1(), [*DATA, *words, "--data.sampling", "trials"]).identity() == plain | {
        "data.where": ["condition=crouch", "instruction=walk, slowly"], "data.preserve": 0.5, "data.sampling": "trials",
    }  # fmt: skip


def test_flat_names_have_dots() -> None:
    assert flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}


def test_precision_is_fp32_without_a_gpu() -> None:
    config = parse(recipes.stage1(), DATA)
    assert dtype_of(config.precision) == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert dtype_of(parse(recipes.stage1(), [*DATA, "--precision", "bf16"]).precision) == torch.bfloat16


def test_a_file_may_be_yaml(tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text(
        "# as a person writes it\n"
        "data: {roots: [a, b], horizon: 4, verify: yes}\n"
        "backbone: {path: tiny}\n"
        "stages:\n  stage1: {steps: 3, lr: {expert: 1e-3, sensor: null}}\n"
    )
    asked = ["--data.roots", "a", "b", "--data.horizon", "4", "--data.verify", "--backbone.path", "tiny"]
    asked += ["--stage.steps", "3", "--stage.lr.expert", "1e-3", "--stage.lr.sensor", "None"]
    assert parse(recipes.stage1(), ["--config", str(file)]) == parse(recipes.stage1(), asked)
    written = json.dumps(to_json(parse(recipes.stage1(), asked)))
    file.write_text(written)  # JSON is YAML
    assert parse(recipes.stage1(), ["--config", str(file)]) == parse(recipes.stage1(), asked)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "seed: 1\nbatch_size: 8\nseed: 2\n", "as YAML: seed stands there twice"),
        ("a.yaml", "data:\n- {seed: 1, seed: 2}\n", "as YAML: seed stands there twice"),
        ("a.yaml", "data: [", "as YAML: "),
        ("a.yaml", "", "holds no YAML object"),
        ("a.yaml", "!!python/object/apply:os.getcwd []", "as YAML: could not determine a constructor"),
        ("a.json", '{"data": {"seed": 1, "seed": 2}}', "as JSON: seed stands there twice"),
        ("a.yaml", "nonsense: 3", "unknown flag --nonsense"),
        ("a.yaml", "batch_size: many", "--batch-size does not fit"),
        ("a.yaml", "entry: stage2", "is of training/stage2.py"),
    ],
)
def test_a_file_is_checked_whatever_its_kind(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        parse(recipes.stage1(), ["--config", str(tmp_path / name)])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("recipe", [recipes.stage1(), recipes.stage2(), recipes.two_stage()])
def test_the_shipped_configuration_is_one_of_every_entry_point(recipe: RunConfig, repository: Path) -> None:
    """A file may say of `stage` what holds for each of several stages."""
    config = parse(recipe, ["--config", str(repository / "examples" / "needle.json"), *DATA])
    assert {stage.objective.draws for stage in config.stages.values()} == {4}
    assert config.encoders.camera.width == 64
