"""What a plan says of a rank, against ranks that train."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from tests.forkserver import ForkServer, free_port
from tests.training import planning_worker
from tests.vla.planning.models import SMALL_TEXT, SMALL_VISION, write_backbone
from training import recipes
from training.checkpoints.saving import safetensors
from training.engine.stages import enter, without
from training.engine.state import KEYS
from vla.commands.plan import RECIPES, PlanOf, policy_of
from vla.planning.census import PERSISTENT, Census, census
from vla.planning.memory import BUCKET, LIVE, fixed, wire
from vla.planning.outline import outlined
from vla.planning.plan import opened
from vla.policy_folder import save_policy

REPOSITORY = Path(__file__).resolve().parents[2]
RANKS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of tensors on both sides of what ZeRO-3 partitions."""
    return write_backbone(tmp_path_factory.mktemp("backbone") / "small", SMALL_TEXT, SMALL_VISION)


@pytest.fixture(scope="module")
def counts(folder: Path) -> Census:
    policy = planning_worker.policy_at(str(folder))
    enter("toy", planning_worker.STAGE, policy)
    return census(policy)


@pytest.fixture(scope="module")
def seen(server: ForkServer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks held and sent."""
    file = tmp_path_factory.mktemp("seen") / "seen.json"
    port = {"MASTER_PORT": str(free_port())}
    life = server.call(planning_worker.watch, file, folder, ranks=RANKS, environment=port)
    assert life.wait() == [0] * RANKS, life.report()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("topology", planning_worker.TOPOLOGIES)
def test_a_rank_holds_what_was_planned(topology: Any, seen: dict[str, Any], counts: Census) -> None:
    planned = {name: size for name, size in fixed(counts, topology, RANKS).parts.items() if name != "buffers"}
    assert planned == pytest.approx(seen[topology]["held"], rel=0.05)


@pytest.mark.parametrize("topology", planning_worker.TOPOLOGIES)
def test_a_step_sends_what_was_planned(topology: Any, seen: dict[str, Any], counts: Census) -> None:
    planned = wire(counts, topology, RANKS, planning_worker.ACCUMULATION)
    norms = 100  # bytes that agree on a gradient's norm
    seen_here = {kind: size for kind, size in seen[topology]["sent"].items() if size > norms}
    assert {kind: size for kind, size in vars(planned).items() if size} == pytest.approx(seen_here, rel=0.01)


def test_a_checkpoint_is_as_large_as_was_planned(folder: Path, counts: Census) -> None:
    policy = planning_worker.policy_at(str(folder))
    groups = enter("toy", planning_worker.STAGE, policy)
    parameters = dict(policy.named_parameters())
    stored = {
        f"{key}/{name}": parameters[name].detach() for group in groups for name in group.parameters for key in KEYS
    }
    assert counts.checkpoint == pytest.approx(sum(memoryview(part).nbytes for part in safetensors(stored)), rel=1e-4)


def test_a_policy_folder_is_as_large_as_was_planned(folder: Path, counts: Census, tmp_path: Path) -> None:
    policy = planning_worker.policy_at(str(folder))
    save_policy(policy, tmp_path / "policy")
    weights = (tmp_path / "policy").rglob("*.safetensors")
    assert counts.policy == pytest.approx(sum(file.stat().st_size for file in weights), rel=0.02)


def test_an_outline_has_the_parameters_of_the_policy(folder: Path, counts: Census) -> None:
    policy = planning_worker.policy_at(str(folder))
    drawn = outlined(policy.config, policy.contract, torch.float32)
    assert {name: own.shape for name, own in drawn.named_parameters()} == {
        name: own.shape for name, own in policy.named_parameters()
    }
    assert census(opened(drawn, ("sensor", "expert", "lora"), 1)) == counts


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_those_of_training(recipe: str) -> None:
    """What a plan takes for granted, and which groups it lets learn."""
    config, own = recipes.RECIPES[recipe](), RECIPES[recipe]
    (stage,) = config.stages.values()
    assert (own.steps, own.batch_size, own.horizon) == (stage.steps, config.batch_size, config.data.horizon)
    command = PlanOf(backbone=own.backbone, recipe=recipe)
    policy = policy_of(command)
    planned = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    for group in ("camera", *(("sensor",) if recipe == "pretrain" else ())):
        stage = without(stage, group)
    entered = {name for group in enter(recipe, stage, policy) for name in group.parameters}
    assert planned == entered


def test_the_limits_of_deepspeed_are_its_own() -> None:
    """But for the buckets, which ours say."""
    defaults = DeepSpeedZeroConfig()
    assert defaults.param_persistence_threshold == PERSISTENT
    assert LIVE == defaults.max_live_parameters == defaults.max_reuse_distance
    for file in (REPOSITORY / "ds_configs").glob("*.json"):
        settings = json.loads(file.read_text())["zero_optimization"]
        assert settings["reduce_bucket_size"] == BUCKET
        assert not any("stage3_" in key for key in settings), f"{file}: say so in vla/planning"
        assert settings["overlap_comm"] is False
