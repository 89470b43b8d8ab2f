"""Both stages under every topology: what is trained, what stays frozen, what is stored and exported."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.book import Book
from tests.forkserver import ForkServer
from training.checkpoints import checkpoint
from vla.batch import collate
from vla.data.dataset import open_dataset
from vla.parts.backbone import load_backbone
from vla.policy_folder import load_policy
from vla.report import reproduce
from vla.report.folder import read_run
from vla.settings import DataConfig

TINY = ["--backbone.path", "tiny", "--seed", "3", "--tracker", "jsonl", "--data.workers", "0"]
SMALL = ["--expert.width", "32", "--expert.depth", "1", "--sensor.width", "32", "--batch-size", "4"]
FROZEN = "tests.training.frozen:compare"
RANKS = {"cpu": 1, "ddp": 2, "zero1": 2, "zero2": 2, "zero3": 2}
"""Of each topology; cpu is the one that the others are compared with."""
FIRST_TIER = ("ddp", "zero2", "zero3")
STEPS = 4
"""Of each of two stages."""


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


def at(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def flags(data: Path, *more: object, micro_batch: int = 1, steps: int = STEPS, dropout: float = 0) -> list[object]:
    """A small run; the last of two flags of a name counts."""
    sizes = ["--micro-batch", micro_batch, "--stage.steps", steps, "--validation-samples", 2, "--keep", 9]
    return ["--data.roots", data, *TINY, *SMALL, *sizes, "--dropout", dropout, *more]


class Runs:
    """Trainings of both stages on the needle insertions, by topology."""

    def __init__(self, book: Book, needle: Path) -> None:
        self.book, self.needle = book, needle

    def both(self, topology: str, *more: object) -> Path:
        """Stage 1, then stage 2 from its weights, in one run."""
        words = flags(self.needle, "--stage.lr.lora", "1e-3", "--save-every", 2, *more)
        return self.book.of(words, ranks=RANKS[topology], topology=topology, recipe="two_stage", prepare=FROZEN)

    def first(self) -> Path:
        """Stage 1 under ZeRO-2."""
        return self.book.of(flags(self.needle), ranks=2, topology="zero2")

    def second(self, topology: str, *more: object) -> Path:
        """Stage 2 on 2 ranks, from `first`."""
        words = flags(self.needle, "--init-from", self.first(), *more)
        return self.book.of(words, ranks=2, topology=topology, recipe="stage2")


@pytest.fixture
def trained(book: Book, needle: Path) -> Runs:
    """Each is trained by the first test that asks for it."""
    return Runs(book, needle)


class TestBothStages:
    """Four steps each, on one rank and on two."""

    @pytest.mark.promise(1, "topologies agree", "losses of both stages to 1e-5 of one rank's")
    @pytest.mark.parametrize("topology", FIRST_TIER)
    def test_losses_of_all_topologies_agree(self, trained: Runs, topology: str) -> None:
        reference = losses(trained.both("cpu"))
        assert reference.keys() == set(range(1, 2 * STEPS + 1))
        assert losses(trained.both(topology)) == pytest.approx(reference, rel=1e-5)

    @pytest.mark.promise(2, "frozen tensors do not change", "bit for bit those of the backbone's folder")
    @pytest.mark.parametrize("topology", ["cpu", *FIRST_TIER])
    def test_frozen_tensors_do_not_change(self, trained: Runs, topology: str) -> None:
        result = json.loads((trained.both(topology) / "FROZEN.json").read_text())
        assert result["tensors"] > 40
        assert result["changed"] == 0

    @pytest.mark.promise(3, "every adapter tensor learns", "A and B of each have moments at the second step")
    @pytest.mark.parametrize("topology", ["cpu", *FIRST_TIER])
    def test_every_lora_tensor_has_a_gradient_at_the_second_step(self, trained: Runs, topology: str) -> None:
        state = tensors(at(trained.both(topology), STEPS + 2))
        adapters = {name: value for name, value in state.items() if name.startswith("exp_avg/") and "lora_" in name}
        assert len(adapters) == 2 * 4 * 2, "A and B of q, k, v, o in both layers"
        assert all(value.abs().max() > 0 for value in adapters.values())

    @pytest.mark.promise(4, "a checkpoint holds what is learned", "and nothing frozen; moments of what stays go on")
    def test_a_checkpoint_holds_what_is_learned_and_nothing_frozen(self, trained: Runs) -> None:
        run = trained.both("zero3")
        state, adapted = tensors(at(run, STEPS)), tensors(at(run, 2 * STEPS))
        assert {name.split("/")[0] for name in state} == {"weight", "exp_avg", "exp_avg_sq", "ema"}
        assert not {name for name in state if name.split("/")[1].startswith("backbone")}
        extra = {name for name in adapted if name not in state}
        assert extra
        assert all("lora_" in name and "visual" not in name for name in extra)
        manifest = json.loads((at(run, 2 * STEPS) / "manifest.json").read_text())
        steps = manifest["adam_steps"]
        assert (steps["expert"], steps["sensor"], steps["lora"]) == (2 * STEPS, 2 * STEPS, STEPS)
        assert manifest["stage"] == "stage2"
        assert [line["stage"] for line in lines(run)] == ["stage1"] * STEPS + ["stage2"] * STEPS

    @pytest.mark.promise(5, "a stopped run of two stages", "under ZeRO-2, in the second stage: bit for bit")
    def test_a_stopped_run_ends_bitwise_equal(
        self, server: ForkServer, trained: Runs, needle: Path, tmp_path: Path
    ) -> None:
        straight, run = trained.both("zero2"), tmp_path / "run"
        words = flags(needle, "--stage.lr.lora", "1e-3", "--save-every", 2, "--out", run)
        options: dict[str, Any] = {"ranks": 2, "topology": "zero2", "recipe": "two_stage"}
        assert server.run([*words, "--stop-after", STEPS + 1], **options) == [0, 0]
        assert server.run([*words, "--resume-from", "auto"], **options) == [0, 0]
        assert losses(run) == losses(straight)
        ours, theirs = tensors(at(run, 2 * STEPS)), tensors(at(straight, 2 * STEPS))
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in theirs)

    @pytest.mark.promise(25, "the command of the report", "gives the same losses, bit for bit")
    def test_the_command_of_the_report_gives_the_same_losses(
        self, server: ForkServer, trained: Runs, tmp_path: Path
    ) -> None:
        run = trained.both("zero2")
        said = shlex.split(reproduce.command(read_run(run)).replace("\\\n", ""))
        assert said[:6] == [
            *("accelerate", "launch", "--config_file", "accelerate_configs/zero2.yaml"),
            *said[4:5],
            "2",
        ]
        assert (said[6], said[-2]) == ("training/two_stage.py", "--out")
        words = [*said[7:-1], str(tmp_path / "again")]
        assert server.run(words, ranks=2, topology="zero2", recipe="two_stage") == [0, 0]
        assert losses(tmp_path / "again") == losses(run)

    @pytest.mark.promise(7, "exported adapters load in PEFT", "the same features, bit for bit")
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_plain_peft_reproduces_the_features_bitwise(self, trained: Runs, needle: Path) -> None:
        folder = trained.both("zero3") / "policy"
        policy = load_policy(folder)
        data = open_dataset(DataConfig(roots=(str(needle),)), seed=3)
        observation = collate([data.validation[0], data.validation[5]], 0, "validation").observation
        inputs, visible = policy.backbone.processor.observe(observation)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy.backbone.folder, dtype=torch.float32)
        plain = PeftModel.from_pretrained(model, folder / "adapter").eval()
        with torch.no_grad():
            ours = policy.backbone.encode(inputs, visible)[0]
            theirs = plain.get_base_model().model(
                input_ids=inputs.input_ids,
                attention_mask=visible.long(),
                position_ids=inputs.position_ids,
                pixel_values=inputs.pixel_values,
                image_grid_thw=inputs.image_grid_thw,
                use_cache=False,
            )
            without = load_backbone(policy.config.backbone, torch.float32).encode(inputs, visible)[0]
        assert ours[visible].equal(theirs.last_hidden_state[visible])
        assert not ours.equal(without), "the adapter does something"


ALONE = ["--stage.lr.sensor", "None", "--stage.lr.expert", "None", "--stage.lr.lora", "1e-3"]
FULL = ["--finetune-vl", "full", "--stage.blocks", "1", "--stage.lr.backbone", "1e-3"]
BF16 = ["--precision", "bf16"]
GUIDED = ["--diffusion.unconditional", "0.5", "--diffusion.guidance", "1.5"]
SEEING = ["--camera.width", "32", "--camera.pixels", "32", "--stage.lr.camera", "1e-3"]


class TestVariants:
    """What else stage 2 may train, and where its state may lie."""

    @pytest.mark.promise(8, "offload trains the same", "losses to 1e-5", deep=1)
    @pytest.mark.parametrize("topology", ["zero2_offload", "zero3_offload"])
    def test_offload_trains_the_same(self, trained: Runs, topology: str) -> None:
        reference = losses(trained.second("ddp"))
        assert losses(trained.second(topology)) == pytest.approx(reference, rel=1e-5)

    @pytest.mark.promise(9, "full fine-tuning", "opens and exports the last block, and no other", deep=2)
    def test_full_fine_tuning_opens_the_last_block_and_exports_it(self, trained: Runs) -> None:
        run = trained.second("zero3", *FULL)
        assert losses(run) == pytest.approx(losses(trained.second("ddp", *FULL)), rel=1e-5)
        blocks = tensors(run / "policy")
        opened = {name for name in blocks if "language_model.layers" in name}
        assert opened
        assert all("layers.1." in name for name in opened), "the last of two blocks"
        policy = load_policy(run / "policy")
        assert {f"backbone.{name}" for name in opened} == policy.tuned
        original = dict(load_backbone(policy.config.backbone, torch.float32).named_parameters())
        assert all(not blocks[name].equal(original[name]) for name in opened)

    @pytest.mark.promise(10, "LoRA alone", "keeps the weights of frozen parts, stopped under ZeRO-3", deep=2)
    def test_lora_alone_keeps_the_weights_of_the_frozen_parts(
        self, server: ForkServer, trained: Runs, needle: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        options: dict[str, Any] = {"ranks": 2, "topology": "zero3", "recipe": "stage2"}
        words = flags(needle, "--out", run, *ALONE)
        assert server.run([*words, "--init-from", trained.first(), "--stop-after", 2], **options) == [0, 0]
        assert server.run([*words, "--resume-from", "auto"], **options) == [0, 0]
        state = tensors(at(run, 2))
        assert any(name.startswith("weight/expert.") for name in state)
        assert not any(name.startswith("exp_avg/expert.") for name in state)
        first, last = tensors(trained.first() / "policy"), tensors(run / "policy")
        assert first.keys() <= last.keys()
        assert all(first[name].equal(last[name]) for name in first)
        assert losses(run) == pytest.approx(losses(trained.second("ddp", *ALONE)), rel=1e-5)

    @pytest.mark.promise(11, "a camera encoder", "trains the same on every topology, resumes, is exported", deep=1)
    def test_a_camera_encoder_trains_the_same_and_is_exported(
        self, server: ForkServer, trained: Runs, needle: Path, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        options: dict[str, Any] = {"ranks": 2, "topology": "zero2", "recipe": "two_stage"}
        words = flags(needle, "--stage.lr.lora", "1e-3", *SEEING, "--out", run)
        assert server.run([*words, "--stop-after", STEPS + 1], **options) == [0, 0]
        assert server.run([*words, "--resume-from", "auto"], **options) == [0, 0]
        reference = losses(trained.both("ddp", *SEEING))
        assert losses(run) == pytest.approx(reference, rel=1e-5)
        assert losses(trained.both("zero3", *SEEING)) == pytest.approx(reference, rel=1e-5)
        assert [set(line["lr"]) >= {"camera"} for line in lines(run)] == [True] * 2 * STEPS
        assert all(line["grad_norm"]["camera"] > 0 for line in lines(run))
        policy = load_policy(run / "policy")
        assert {name for name, _ in policy.camera.named_parameters()} <= tensors(run / "policy").keys()

    @pytest.mark.deep
    def test_samples_without_their_instruction_are_the_same_on_every_topology(self, trained: Runs) -> None:
        """Validation answers with guidance, so that it asks the expert for twice as many rows."""
        reference = losses(trained.both("cpu", *GUIDED))
        assert reference != losses(trained.both("cpu"))
        for topology in FIRST_TIER:
            run = trained.both(topology, *GUIDED)
            assert losses(run) == pytest.approx(reference, rel=1e-5)
            assert tensors(at(run, 2 * STEPS))["exp_avg/expert.context.unconditional"].any()

    @pytest.mark.promise(12, "bf16 arithmetic", "keeps fp32 state; losses to 2e-2", deep=1)
    def test_bf16_arithmetic_keeps_fp32_state(self, trained: Runs) -> None:
        run = trained.second("zero2", *BF16, "--backbone.gradient-checkpointing")
        state = tensors(at(run, STEPS))
        assert {value.dtype for value in state.values()} == {torch.float32}
        reference = losses(trained.second("ddp"))
        assert losses(run) == pytest.approx(reference, rel=2e-2)
        assert losses(run) != reference
        full = trained.second("zero3", *BF16, *FULL)
        state = tensors(at(full, STEPS))
        assert any("language_model.layers.1" in name for name in state)
        assert {value.dtype for value in state.values()} == {torch.float32}
        assert losses(full) == pytest.approx(losses(trained.second("ddp", *FULL)), rel=2e-2)


class TestRealData:
    """Stage 1 then stage 2 for 20 steps each on a recording of a real robot, on one rank and on two."""

    STEPS = 20

    @pytest.fixture
    def run(self, book: Book, shared: Path, topology: str, stage: int) -> Path:
        """A run of a stage under a topology."""
        return self.of(book, shared, topology, stage)

    def of(self, book: Book, shared: Path, topology: str, stage: int) -> Path:
        sizes = ["--stage.lr.expert", "1e-3", "--save-every", 10, "--keep", 30, "--validation-samples", 8]
        words = flags(shared / "data" / "g1_pick_bottle_v30", *sizes, steps=self.STEPS, micro_batch=2)
        options: dict[str, Any] = {"ranks": RANKS[topology], "topology": topology, "prepare": FROZEN}
        first = book.of(words, **options)
        if stage == 1:
            return first
        return book.of([*words, "--init-from", first, "--stage.lr.lora", "1e-4"], recipe="stage2", **options)

    @pytest.mark.promise(13, "real robot video", "losses of all topologies to 1e-5; frozen tensors kept", deep=1)
    @pytest.mark.parametrize("topology", [name for name in RANKS if name != "cpu"])
    @pytest.mark.parametrize("stage", [1, 2])
    def test_losses_of_all_topologies_agree(
        self, book: Book, shared: Path, run: Path, topology: str, stage: int
    ) -> None:
        reference = losses(self.of(book, shared, "cpu", stage))
        assert losses(run).keys() == reference.keys() == set(range(1, self.STEPS + 1))
        assert losses(run) == pytest.approx(reference, rel=1e-5)
        assert json.loads((run / "FROZEN.json").read_text())["changed"] == 0

    @pytest.mark.promise(
        14, "training lowers the validation loss", "by 5 % in 20 steps; rates keep their ratio", deep=1
    )
    def test_validation_loss_falls(self, book: Book, shared: Path) -> None:
        first, last = (lines(self.of(book, shared, "cpu", 1), "validation.jsonl")[place] for place in (0, -1))
        assert (first["step"], last["step"]) == (0, self.STEPS)
        assert last["loss"] < 0.95 * first["loss"]
        for line in lines(self.of(book, shared, "zero2", 2)):
            assert line["lr"]["expert"] / line["lr"]["lora"] == pytest.approx(10, rel=1e-12)


@pytest.mark.promise(15, "emphasis and companding", "stopped under ZeRO-3 with dropout: bit for bit", deep=5)
def test_a_stopped_run_with_emphasis_ends_bitwise_equal(
    server: ForkServer, book: Book, needle: Path, tmp_path: Path
) -> None:
    emphasis = ["--data.emphasis", "abs(action[2]) > 0.5", "--data.emphasis-share", "0.7", "--data.compand", "actions"]
    words = flags(needle, *emphasis, steps=6, dropout=0.1, micro_batch=2)
    straight, run = book.of(words, ranks=2, topology="zero3"), tmp_path / "run"
    options: dict[str, Any] = {"ranks": 2, "topology": "zero3"}
    assert server.run([*words, "--out", run, "--stop-after", 3], **options) == [0, 0]
    assert server.run([*words, "--out", run, "--resume-from", "auto"], **options) == [0, 0]
    assert losses(run) == losses(straight)
    ours, theirs = tensors(at(run, 6)), tensors(at(straight, 6))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
