"""The keys of other trainers' files of human motion: each becomes a flag, or is refused by name with the reason."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from training import presets, recipes, variables
from training.config import RunConfig
from training.flags import parse, view_of
from training.foreign import OF_MOTION
from training.keys import KEYS, Became, File
from vla import commandline
from vla.errors import UsageError

FLAG = re.compile(r"--[\w.-]+\w")
BASE = """
metadata: {variant: base, display_name: Base}
model: {input_dim: 48, d_model: 384, nhead: 12, num_layers: 8, output_dim: 48, embedding_dim: 1024, dropout: 0.2,
        num_actions: 64, image_encoder_arch: cnn, fusion_strategy: gated}
training: {batch_size: 2, grad_accum_steps: 32, epochs: 50, learning_rate: 0.0005, warmup_epochs: 10,
           max_grad_norm: 2.0, resume_from: null}
loss_weights: {pose: 1.0, temporal: 0.3, action: 0, physics: 0.0, diff_physics: 0, diffusion: 0.0}
physics: {enabled: true, velocity_weight: 1.0}
diffusion: {enabled: false, learning_rate: 1.0e-4, timesteps: 1000}
lora: {enabled: false, rank: 8, alpha: 16, dropout: 0.05, target_modules: [transformer_encoder]}
data: {train_data: old.pt, curated_pretrain_data: chosen.pt, curated_sft_data: best.pt, checkpoint_dir: ckpts,
       log_dir: logs, use_parallax_augmentation: false, parallax_image_size: [256, 256], use_parallax_sequences: true}
data_curation: {merge: {min_frames: 25}, curation: {min_quality_sft: 0.8}}
device: {type: auto, num_workers: 3, pin_memory: false}
logging: {level: INFO, save_interval: 5}
optimization: {optimizer: AdamW, weight_decay: 0.02, betas: [0.9, 0.999], eps: 1.0e-8}
cpu: {num_threads: 8}
"""
"""Every section of such a file, with what cannot be had switched off."""
AS_FLAGS = """--expert.width 384 --expert.heads 12 --expert.depth 8 --dropout 0.2 --micro-batch 2 --batch-size 64
    --stage.epochs 50 --stage.lr.expert 5e-4 --stage.warmup 0.2 --stage.warmup-steps None --clip 2
    --stage.objective.motion.velocity 0.3 --out ckpts --data.workers 3 --stage.weight-decay 0.02 --betas 0.9 0.999"""


def read(tmp_path: Path, tree: Any, *argv: str, recipe: str = "pretrain") -> RunConfig:
    file = tmp_path / "configs" / "base.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False))
    return parse(recipes.RECIPES[recipe](), ["--config", str(file), *argv], {})


def nested(key: str, value: object) -> Any:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def merged(*trees: Any) -> Any:
    found: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            found[name] = merged(found.get(name, {}), value) if isinstance(value, dict) else value
    return found


@pytest.mark.parametrize(("recipe", "root"), [("pretrain", "chosen.pt"), ("sft", "best.pt")])
def test_a_whole_file_says_what_flags_say(
    tmp_path: Path, recipe: str, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read(tmp_path, BASE, recipe=recipe)
    assert config == parse(recipes.RECIPES[recipe](), [*AS_FLAGS.split(), "--data.roots", root], {})
    said = " ".join(capsys.readouterr().out.split())
    for remark in (
        "training.learning_rate: --stage.lr.expert 0.0005",
        "training.batch_size: --micro-batch 2 --batch-size 64",
        "training.grad_accum_steps: counted by --batch-size",
        "data_curation.*: of the preparation of data",
        "model.input_dim: follows from the data",
        "loss_weights.temporal: --stage.objective.motion.velocity 0.3, here the squared error of velocities",
        f"data.train_data: data.curated_{recipe}_data goes before it",
        "lora.enabled: off",
    ):
        assert remark in said
    assert said.count("data_curation.*") == 1, "a section once, however many keys it has"


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    config = read(tmp_path, BASE, "--stage.steps", "7", "--expert.width", "96", "--data.roots", "mine")
    assert config.stages["pretrain"].total(1000, 10) == 7
    assert (config.expert.width, config.data.roots) == (96, ("mine",))


REFUSED = {
    "loss_weights.pose": 0.5, "loss_weights.diff_physics": 0.1, "loss_weights.diffusion": 0.1,
    "diffusion.enabled": True, "lora.enabled": True, "optimization.optimizer": "SGD",
    "data.use_parallax_augmentation": True, "optimization.eps": 1e-6, "training.stage": "sft", "log_every": 50,
    "diffusion_steps": 1000, "training.warmup_epochs": "many",
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_had_is_refused_by_name(tmp_path: Path, key: str) -> None:
    tree = merged(nested("training.epochs", 3), nested(key, REFUSED[key]))
    with pytest.raises(ValueError, match=rf"base\.yaml asks for what cannot be had: {key} .* \(.*\w.*\)$") as refused:
        read(tmp_path, tree)
    assert "\n" not in str(refused.value)


def test_all_that_cannot_be_had_is_named_at_once(tmp_path: Path) -> None:
    trees = [nested(key, REFUSED[key]) for key in ("loss_weights.pose", "lora.enabled", "log_every")]
    with pytest.raises(ValueError, match=r"loss_weights\.pose .*; lora\.enabled .*; log_every "):
        read(tmp_path, merged(*trees))


def test_pictures_become_flags(tmp_path: Path) -> None:
    data = {"use_parallax_augmentation": True, "parallax_root": "seen", "parallax_image_size": [256, 256]}
    said = "--data.motion.pictures seen --camera.width 64 --camera.pixels 256 --stage.lr.camera"
    config = read(tmp_path, {"data": data})
    assert config == parse(recipes.pretrain(), [*said.split(), "1e-4"], {})
    config = read(tmp_path, {"data": data, "training": {"learning_rate": 2e-4}}, "--camera.width", "0")
    assert (config.data.motion.pictures, config.encoders.camera.width) == ("seen", 0)
    assert config.stages["pretrain"].lr.camera == 2e-4
    for size in ([256, 128], 250):
        with pytest.raises(ValueError, match="give one size for both sides|give a multiple of 8"):
            read(tmp_path, {"data": data | {"parallax_image_size": size}})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            {"training": {"epochs": 3, "learning_rte": 1}},
            r"unknown key training.learning_rte; did you mean training.lear",
        ),
        ({"lr": 1e-4, "velocity_wight": 1}, "unknown key velocity_wight; did you mean velocity_weight"),
        ({"lr": 1e-4, "data": {"horizn": 1}}, r"unknown key data\.horizn; did you mean data\.horizon"),
        ({"lr": 1e-4, "quux": 1}, "unknown key quux; no trainer that is known here has it"),
    ],
)
def test_an_unknown_key_has_a_hint(tmp_path: Path, tree: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(tmp_path, tree)


def test_our_own_names_may_stand_beside(tmp_path: Path) -> None:
    config = read(tmp_path, merged(yaml.safe_load(BASE), {"data": {"horizon": 60}, "seed": 5, "batch_size": 128}))
    assert (config.data.horizon, config.seed, config.expert.width) == (60, 5, 384)
    assert config.batch_size == 128, "what stands there by our name goes before what a key becomes"


def test_a_file_of_motion_is_no_robot_s(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is of human motion; give it to training/pretrain.py or training/sft.py"):
        read(tmp_path, BASE, recipe="stage1")


def test_the_configuration_of_a_run_is_ours_though_lora_has_keys_of_both(tmp_path: Path) -> None:
    from vla.documents import to_json

    config = parse(recipes.pretrain(), ["--preset", "small", "--data.roots", "x"], {})
    assert read(tmp_path, json.dumps(to_json(config))) == config


@pytest.mark.parametrize(
    ("tree", "velocity", "acceleration", "bones"),
    [
        ({"use_velocity_loss": True}, 0.1, None, None),
        ({"use_velocity_loss": True, "velocity_weight": 0.7}, 0.7, None, None),
        ({"use_velocity_loss": False, "velocity_weight": 0.7}, 0.0, None, None),
        ({"velocity_weight": 0.7}, 0.7, None, None),
        ({"use_acceleration_loss": True}, None, 0.05, None),
        ({"acceleration_weight": 0.2, "use_acceleration_loss": True}, None, 0.2, None),
        ({"use_acceleration_loss": False}, None, 0.0, None),
        ({"use_geometric_loss": True}, None, None, 0.01),
        ({"use_geometric_loss": True, "geometric_weight": 0.4}, None, None, 0.4),
        ({"use_geometric_loss": False, "geometric_weight": 0.4}, None, None, 0.0),
    ],
)
def test_terms_that_are_switched_on_have_their_weight(
    tmp_path: Path, tree: Any, velocity: float | None, acceleration: float | None, bones: float | None
) -> None:
    usual = recipes.PRETRAIN.objective.motion
    found = read(tmp_path, tree).stages["pretrain"].objective.motion
    assert found.velocity == (usual.velocity if velocity is None else velocity)
    assert found.acceleration == (usual.acceleration if acceleration is None else acceleration)
    assert found.bones == (usual.bones if bones is None else bones)


@pytest.mark.parametrize(
    ("weights", "labels"),
    [
        ({"action": 0.15, "physics": 0}, ("action",)),
        ({"action": 0.0, "physics": 0.2}, ("physics",)),
        ({"action": 0.15, "physics": 0.2}, ("action", "physics")),
        ({"action": 0}, ()),
    ],
)
def test_labels_that_weigh_something_are_asked_for(
    tmp_path: Path, weights: dict[str, float], labels: tuple[str, ...]
) -> None:
    config = read(tmp_path, {"loss_weights": weights})
    found = config.stages["pretrain"].objective.motion
    assert (found.action, found.physics) == (weights.get("action", 0), weights.get("physics", 0))
    assert config.data.labels == labels


def test_options_without_sections_change_what_they_name(tmp_path: Path) -> None:
    config = read(tmp_path, {"lr": 2e-4, "num_epochs": 7, "batch_size": 48, "max_grad_norm": 0.25})
    assert config.stages["pretrain"].lr.expert == 2e-4
    assert config.stages["pretrain"].total(480, 48) == 70
    assert (config.batch_size, config.clip) == (48, 0.25)


def test_lora_of_a_file_is_an_adapter_of_what_a_fine_tuning_begins_with(tmp_path: Path) -> None:
    lora = {"enabled": True, "rank": 8, "alpha": 16, "dropout": 0.1, "target_modules": ["q_proj", "linear1"]}
    tree = {"lora": lora, "training": {"learning_rate": 2e-4}, "save_every_e": 1}
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(tree))
    for recipe in (recipes.sft, recipes.adapter):
        config = parse(recipe(), ["--config", str(tmp_path / "lora.yaml")], {})
        (stage,) = config.stages.values()
        assert stage.lr.by_group() == {"adapter": 2e-4}
        assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (8, 16, 0.1)
        assert config.adapter.targets == (
            r"expert\.blocks\.\d+.*attention\.query", r"expert\.blocks\.\d+.*\.feed\..*",
        )  # fmt: skip
        assert config.save_every == "1epoch"
    lora["target_modules"] = ["transformer_encoder"]
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"no layer here is known as transformer_encoder: .*"):
        parse(recipes.sft(), ["--config", str(tmp_path / "lora.yaml")], {})


def test_the_flags_that_keys_become_are_there() -> None:
    """Each rule with a value that it takes, or with its reason."""
    known = {*commandline.flags(view_of(recipes.pretrain())), "--config_file", "--refine"}
    named = 0
    for key, rule in KEYS.items():
        values = {"training.stage": "pretrain", "loss_weights.pose": 1, "optimization.optimizer": "AdamW"}
        file = File(entry="pretrain", given={"training.epochs": 3, "training.batch_size": 2})
        try:
            became = rule(values.get(key, 1e-8 if key.endswith("eps") else 0), file)
        except ValueError as reason:
            became = Became(because=str(reason))
        flags = {*FLAG.findall(" ".join(became.words)), *FLAG.findall(became.because)}
        named += len(flags)
        assert flags <= known, key
        assert became.words or became.because, key
    assert named > 25


def test_flags_of_those_trainers_are_refused_with_ours() -> None:
    for flag, instead in OF_MOTION.items():
        for spelled in {flag, flag.replace("_", "-")}:
            with pytest.raises(UsageError, match=f"there is no flag {spelled} here; give {re.escape(instead)}"):
                parse(recipes.pretrain(), [spelled, "3"], {})
        assert {*FLAG.findall(instead)} <= {*commandline.flags(view_of(recipes.pretrain()))}
    assert parse(recipes.pretrain(), ["--init_from", "x"], {}).init_from == "x"


def test_the_page_names_every_key_preset_and_variable() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "motion.md").read_text()
    quoted = set(re.findall(r"`([\w.*]+)`", page))
    assert KEYS.keys() <= quoted
    assert {row.name for row in variables.TABLE if row.read} | {variables.USE} <= quoted
    for name, sizes in presets.SIZES.items():
        tuned = presets.PRESETS["sft"][name]
        width, depth, heads = sizes.values()
        rate = f"{tuned['--stage.lr.expert']:.0e}".replace("e-0", "e-")
        row = rf"\| `{name}` \| {width}, {depth}, {heads} \| [\d.]+ million \| {tuned['--stage.epochs']}, {rate} \|"
        assert re.search(row, page), row
