"""Both stages on real robot video and on needle insertions, under every topology; resume; two stages in one group.

Few launches, many runs in each: one of 1 rank, one of 2, one of 3, judged from the run folders they leave.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.training import launch
from training.checkpoints import checkpoint
from vla.batch import collate
from vla.data.dataset import open_dataset
from vla.parts.backbone import load_backbone
from vla.policy_folder import load_policy
from vla.settings import DataConfig

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

TINY = ["--backbone.path", "tiny", "--seed", "3", "--tracker", "jsonl", "--data.workers", "0"]
SMALL = ["--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32"]
STAGES = {"ddp": "ddp", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"}


def lines(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines(run)}


def tensors(folder: Path) -> dict[str, Any]:
    """Of a policy folder as they are stored, of a checkpoint put together from its pieces."""
    if (folder / "manifest.json").exists():
        state = checkpoint.read(folder).state()
        kinds = {"weight": state.weight, **state.moments}
        return {f"{kind}/{name}": value for kind, values in kinds.items() for name, value in values.items()}
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def train(folder: Path, jobs: list[tuple[str, str, list[str]]], ranks: int) -> None:
    """Run jobs (recipe, topology, flags) on a number of ranks."""
    file = folder / f"jobs-{ranks}-{len(list(folder.glob('jobs-*')))}.json"
    file.write_text(
        json.dumps([{"recipe": recipe, "topology": topology, "argv": argv} for recipe, topology, argv in jobs])
    )
    launch.worker("train_worker.py", file, ranks=ranks, timeout=1800)


G1_FLAGS = [
    *TINY,
    *SMALL,
    "--batch-size",
    "4",
    "--micro-batch",
    "1",
    "--dropout",
    "0",
    "--stage.steps",
    "20",
]
G1_FLAGS += ["--stage.lr.expert", "1e-3", "--save-every", "2", "--keep", "30", "--validation-samples", "8"]
NEEDLE_FLAGS = [*TINY, *SMALL, "--dropout", "0.1", "--stage.steps", "20", "--save-every", "50"]
NEEDLE_FLAGS += ["--validation-samples", "2"]
EMPHASIS = ["--data.emphasis", "abs(action[2]) > 0.5", "--data.emphasis-share", "0.7", "--data.compand", "actions"]


@pytest.fixture(scope="module")
def g1_runs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("g1")

    def both(topology: str, name: str) -> list[tuple[str, str, list[str]]]:
        flags = ["--data.roots", str(shared / "data" / "g1_pick_bottle_v30"), *G1_FLAGS]
        first, second = str(folder / f"{name}-1"), str(folder / f"{name}-2")
        return [
            ("stage1", topology, [*flags, "--out", first]),
            ("stage2", topology, [*flags, "--out", second, "--init-from", first, "--stage.lr.lora", "1e-4"]),
        ]

    train(folder, both("cpu", "cpu"), ranks=1)
    train(folder, [job for name, topology in STAGES.items() for job in both(topology, name)], ranks=2)
    return folder


@pytest.fixture(scope="module")
def needle_runs(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    data = ["--data.roots", str(needle)]
    jobs = []
    for topology in ("ddp", "zero2", "zero3"):
        flags = [*data, *NEEDLE_FLAGS, "--batch-size", "4", "--micro-batch", "1"]
        flags += EMPHASIS if topology == "zero2" else []
        stopped = [*flags, "--out", str(folder / f"{topology}-stopped")]
        jobs += [
            ("stage1", topology, [*flags, "--out", str(folder / f"{topology}-straight")]),
            ("stage1", topology, [*stopped, "--stop-after", "8"]),
            ("stage1", topology, [*stopped, "--resume-from", "auto"]),
        ]
    both = [*data, *TINY, *SMALL, "--batch-size", "4", "--micro-batch", "2", "--stage.steps", "4"]
    both += ["--stage.lr.lora", "1e-3", "--validation-samples", "2"]
    stopped = [*both, "--out", str(folder / "two-stopped")]
    jobs += [
        ("two_stage", "zero2", [*both, "--out", str(folder / "two-straight")]),
        ("two_stage", "zero2", [*stopped, "--stop-after", "6"]),
        ("two_stage", "zero2", [*stopped, "--resume-from", "auto"]),
    ]
    elastic = [*data, *NEEDLE_FLAGS, "--dropout", "0", "--batch-size", "12", "--micro-batch", "1"]
    moving = [*elastic, "--out", str(folder / "elastic"), "--resume-from", "auto"]
    jobs += [
        ("stage1", "zero2", [*elastic, "--out", str(folder / "elastic-straight")]),
        ("stage1", "zero2", [*moving, "--stop-after", "7"]),
    ]
    train(folder, jobs, ranks=2)
    train(folder, [("stage1", "cpu", [*moving, "--stop-after", "14", "--micro-batch", "3"])], ranks=1)
    train(folder, [("stage1", "zero3", [*moving, "--micro-batch", "2"])], ranks=3)
    return folder


@pytest.fixture(scope="module")
def variant_runs(needle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    flags = ["--data.roots", str(needle), *TINY, *SMALL, "--batch-size", "4", "--micro-batch", "1", "--dropout", "0"]
    flags += ["--stage.steps", "4", "--validation-samples", "2", "--keep", "9"]

    def stage2(name: str, topology: str, *more: str) -> tuple[str, str, list[str]]:
        out = ["--out", str(folder / f"{name}-{topology}")]
        origin = [] if "--resume-from" in more else ["--init-from", str(folder / "first")]
        return "stage2", topology, [*flags, *out, *origin, *more]

    full = ["--finetune-vl", "full", "--stage.blocks", "1", "--stage.lr.backbone", "1e-3"]
    alone = ["--stage.lr.sensor", "None", "--stage.lr.expert", "None", "--stage.lr.lora", "1e-3"]
    seeing = [*flags, "--camera.width", "32", "--camera.pixels", "32", "--stage.lr.camera", "1e-3"]
    jobs = [
        ("stage1", "zero2", [*flags, "--out", str(folder / "first")]),
        *(stage2("lora", topology) for topology in ("ddp", "zero2_offload", "zero3_offload")),
        *(stage2("full", topology, *full) for topology in ("ddp", "zero3")),
        stage2("alone", "ddp", *alone),
        stage2("alone", "zero3", *alone, "--stop-after", "2"),
        stage2("alone", "zero3", *alone, "--resume-from", "auto"),
        stage2("bf16", "zero2", "--precision", "bf16", "--backbone.gradient-checkpointing"),
        stage2("full-bf16", "zero3", "--precision", "bf16", *full),
        ("two_stage", "ddp", [*seeing, "--out", str(folder / "seeing-ddp")]),
        ("two_stage", "zero2", [*seeing, "--out", str(folder / "seeing-zero2"), "--stop-after", "5"]),
        ("two_stage", "zero2", [*seeing, "--out", str(folder / "seeing-zero2"), "--resume-from", "auto"]),
        ("two_stage", "zero3", [*seeing, "--out", str(folder / "seeing-zero3")]),
    ]
    train(folder, jobs, ranks=2)
    return folder


class TestVariants:
    """What else stage 2 may train, and where its state may lie."""

    @pytest.mark.parametrize("topology", ["zero2_offload", "zero3_offload"])
    def test_offload_trains_the_same(self, variant_runs: Path, topology: str) -> None:
        reference = losses(variant_runs / "lora-ddp")
        assert losses(variant_runs / f"lora-{topology}") == pytest.approx(reference, rel=1e-5)

    def test_full_fine_tuning_opens_the_last_block_and_exports_it(self, variant_runs: Path) -> None:
        assert losses(variant_runs / "full-zero3") == pytest.approx(losses(variant_runs / "full-ddp"), rel=1e-5)
        blocks = tensors(variant_runs / "full-zero3" / "policy")
        trained = {name for name in blocks if "language_model.layers" in name}
        assert trained
        assert all("layers.1." in name for name in trained), "the last of two blocks"
        policy = load_policy(variant_runs / "full-zero3" / "policy")
        assert {f"backbone.{name}" for name in trained} == policy.tuned
        original = dict(load_backbone(policy.config.backbone, torch.float32).named_parameters())
        assert all(not blocks[name].equal(original[name]) for name in trained)

    def test_lora_alone_keeps_the_weights_of_the_frozen_parts(self, variant_runs: Path) -> None:
        state = tensors(variant_runs / "alone-zero3" / "checkpoints" / "step-00000002")
        assert any(name.startswith("weight/expert.") for name in state)
        assert not any(name.startswith("exp_avg/expert.") for name in state)
        first = tensors(variant_runs / "first" / "policy")
        last = tensors(variant_runs / "alone-zero3" / "policy")
        assert first.keys() <= last.keys()
        assert all(first[name].equal(last[name]) for name in first)
        assert losses(variant_runs / "alone-zero3") == pytest.approx(losses(variant_runs / "alone-ddp"), rel=1e-5)

    def test_a_camera_encoder_trains_the_same_and_is_exported(self, variant_runs: Path) -> None:
        ours = lines(variant_runs / "seeing-zero2")
        for topology in ("zero2", "zero3"):
            reference = losses(variant_runs / "seeing-ddp")
            assert losses(variant_runs / f"seeing-{topology}") == pytest.approx(reference, rel=1e-5)
        assert [set(line["lr"]) >= {"camera"} for line in ours] == [True] * 8
        assert all(line["grad_norm"]["camera"] > 0 for line in ours)
        stored = tensors(variant_runs / "seeing-zero2" / "policy")
        policy = load_policy(variant_runs / "seeing-zero2" / "policy")
        assert {name for name, _ in policy.camera.named_parameters()} <= stored.keys()

    def test_bf16_arithmetic_keeps_fp32_state(self, variant_runs: Path) -> None:
        state = tensors(variant_runs / "bf16-zero2" / "checkpoints" / "step-00000004")
        assert {value.dtype for value in state.values()} == {torch.float32}
        reference = losses(variant_runs / "lora-ddp")
        assert losses(variant_runs / "bf16-zero2") == pytest.approx(reference, rel=2e-2)
        assert losses(variant_runs / "bf16-zero2") != reference
        state = tensors(variant_runs / "full-bf16-zero3" / "checkpoints" / "step-00000004")
        assert any("language_model.layers.1" in name for name in state)
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert losses(variant_runs / "full-bf16-zero3") == pytest.approx(losses(variant_runs / "full-ddp"), rel=2e-2)

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_plain_peft_reproduces_the_features_bitwise(self, variant_runs: Path, needle: Path) -> None:
        policy = load_policy(variant_runs / "lora-zero3_offload" / "policy")
        data = open_dataset(DataConfig(roots=(str(needle),)), seed=3)
        observation = collate([data.validation[0], data.validation[5]], 0, "validation").observation
        inputs, visible = policy.backbone.processor.observe(observation)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy.backbone.folder, dtype=torch.float32)
        plain = PeftModel.from_pretrained(model, variant_runs / "lora-zero3_offload" / "policy" / "adapter").eval()
        with torch.no_grad():
            ours = policy.backbone.encode(inputs, visible)
            theirs = plain.get_base_model().model(
                input_ids=inputs.input_ids,
                attention_mask=visible.long(),
                position_ids=inputs.position_ids,
                pixel_values=inputs.pixel_values,
                image_grid_thw=inputs.image_grid_thw,
                use_cache=False,
            )
            without = load_backbone(policy.config.backbone, torch.float32).encode(inputs, visible)
        assert ours.equal(theirs.last_hidden_state)
        assert not ours.equal(without), "the adapter does something"


class TestRealData:
    """Stage 1 then stage 2 for 20 steps each on g1_pick_bottle, on one rank and on two under every topology."""

    @pytest.mark.parametrize("topology", STAGES)
    @pytest.mark.parametrize("stage", [1, 2])
    def test_losses_of_all_topologies_agree(self, g1_runs: Path, topology: str, stage: int) -> None:
        reference, seen = losses(g1_runs / f"cpu-{stage}"), losses(g1_runs / f"{topology}-{stage}")
        assert seen.keys() == reference.keys() == set(range(1, 21))
        assert seen == pytest.approx(reference, rel=1e-5)

    @pytest.mark.parametrize("topology", ["cpu", *STAGES])
    def test_frozen_tensors_do_not_change(self, g1_runs: Path, topology: str) -> None:
        for stage in (1, 2):
            result = json.loads((g1_runs / f"{topology}-{stage}" / "FROZEN.json").read_text())
            assert result["tensors"] > 40
            assert result["changed"] == 0

    @pytest.mark.parametrize("topology", ["cpu", *STAGES])
    def test_every_lora_tensor_has_a_gradient_at_the_second_step(self, g1_runs: Path, topology: str) -> None:
        state = tensors(g1_runs / f"{topology}-2" / "checkpoints" / "step-00000002")
        adapters = {name: value for name, value in state.items() if name.startswith("exp_avg/") and "lora_" in name}
        assert len(adapters) == 2 * 4 * 2, "A and B of q, k, v, o in both layers"
        assert all(value.abs().max() > 0 for value in adapters.values())

    def test_validation_loss_falls(self, g1_runs: Path) -> None:
        first, last = (lines(g1_runs / "cpu-1", "validation.jsonl")[place] for place in (0, -1))
        assert (first["step"], last["step"]) == (0, 20)
        assert last["loss"] < 0.95 * first["loss"]

    def test_rates_keep_their_ratio(self, g1_runs: Path) -> None:
        for line in lines(g1_runs / "zero2-2"):
            assert line["lr"]["expert"] / line["lr"]["lora"] == pytest.approx(10, rel=1e-12)

    def test_a_checkpoint_holds_what_is_learned_and_nothing_frozen(self, g1_runs: Path) -> None:
        state = tensors(g1_runs / "zero3-1" / "checkpoints" / "step-00000020")
        assert {name.split("/")[0] for name in state} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
        assert {name.split("/")[1].split(".")[0] for name in state} == {"expert"}
        adapted = tensors(g1_runs / "zero3-2" / "checkpoints" / "step-00000020")
        extra = {name for name in adapted if name not in state}
        assert extra
        assert all("lora_" in name and "visual" not in name for name in extra)


class TestResume:
    """20 steps = 8, stop, 12, with dropout; and 2 ranks -> 1 -> 3."""

    @pytest.mark.parametrize("name", ["ddp", "zero2", "zero3", "two"])
    def test_a_stopped_run_ends_bitwise_equal(self, needle_runs: Path, name: str) -> None:
        assert losses(needle_runs / f"{name}-stopped") == losses(needle_runs / f"{name}-straight")
        last = max((needle_runs / f"{name}-straight" / "checkpoints").glob("step-*")).name
        straight = tensors(needle_runs / f"{name}-straight" / "checkpoints" / last)
        stopped = tensors(needle_runs / f"{name}-stopped" / "checkpoints" / last)
        assert straight.keys() == stopped.keys()
        assert all(straight[key].equal(stopped[key]) for key in straight)

    def test_dropout_was_on(self, needle_runs: Path) -> None:
        assert losses(needle_runs / "ddp-straight") != pytest.approx(losses(needle_runs / "elastic-straight"), rel=1e-3)

    def test_a_run_moves_from_two_ranks_to_one_to_three(self, needle_runs: Path) -> None:
        straight, moved = lines(needle_runs / "elastic-straight"), lines(needle_runs / "elastic")
        assert [line["positions"] for line in moved] == [line["positions"] for line in straight]
        assert losses(needle_runs / "elastic") == pytest.approx(losses(needle_runs / "elastic-straight"), rel=1e-5)

    def test_two_stages_carry_the_moments_of_what_stays_trainable(self, needle_runs: Path) -> None:
        manifest = json.loads(
            (needle_runs / "two-straight" / "checkpoints" / "step-00000008" / "manifest.json").read_text()
        )
        assert manifest["adam_steps"] == {"expert": 8, "sensor": 8, "lora": 4}
        assert manifest["stage"] == "stage2"
        assert [line["stage"] for line in lines(needle_runs / "two-straight")] == ["stage1"] * 4 + ["stage2"] * 4
        assert (needle_runs / "two-straight" / "policy" / "adapter" / "adapter_model.safetensors").exists()
