"""What is refused before a weight is loaded, and what is planned of a run's stages."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from tests.training.test_size import CONTRACT
from training import distributed, planned, recipes
from training.config import RunConfig
from training.planned import Place, plan_stage, plan_stages, topology_of
from training.run.resuming import Row
from vla.__main__ import main
from vla.planning.gpus import GPUS
from vla.settings import BackboneConfig

LARGE = BackboneConfig(path="Qwen/Qwen2.5-VL-3B-Instruct")
FRAMES = [(224, 224)] * 2


@pytest.fixture(autouse=True)
def _on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "dtype_of", lambda _: torch.bfloat16)


def asked(**changes: Any) -> tuple[RunConfig, Row]:
    config = replace(recipes.stage2(), backbone=LARGE, **changes)
    stage = config.stages["stage2"]
    return config, Row(name="stage2", stage=replace(stage, lr=stage.lr.changed(camera=None)), start=0, end=100)


def place(gigabytes: float, **changes: Any) -> Place:
    whole: dict[str, Any] = {"gpu": GPUS["H200"], "topology": "ddp", "ranks": 8, "machines": 1} | changes
    return Place(memory=int(gigabytes * 1e9), **whole)


def test_what_is_too_large_by_far_is_refused_with_a_micro_batch_that_fits() -> None:
    config, row = asked(batch_size=512, micro_batch=64)
    with pytest.raises(ValueError, match=r"^stage2 needs about 5\d GB a GPU under ddp with --micro-batch 64, and this"):
        plan_stage(config, CONTRACT, row, FRAMES, place(40))
    with pytest.raises(ValueError, match=r"has 40 GB: give --micro-batch (3\d|4\d); `vla plan` says what fits"):
        plan_stage(config, CONTRACT, row, FRAMES, place(40))
    with pytest.raises(ValueError, match="take zero3, larger GPUs, or a smaller backbone"):
        plan_stage(config, CONTRACT, row, FRAMES, place(8))


def test_what_may_fit_and_what_is_told_to_try_is_not_refused() -> None:
    config, row = asked(batch_size=512, micro_batch=64)
    found = plan_stage(config, CONTRACT, row, FRAMES, place(50))
    assert found is not None
    assert found.memory_mb * 2**20 > 50e9, "an estimate that is a tenth above proves nothing"
    assert plan_stage(replace(config, ignore_memory=True), CONTRACT, row, FRAMES, place(8)) is not None


def test_a_gpu_of_a_kind_that_is_not_known_has_memory_and_no_plan() -> None:
    config, row = asked()
    assert plan_stage(config, CONTRACT, row, FRAMES, place(80, gpu=None)) is None
    with pytest.raises(ValueError, match="stage2 needs about"):
        plan_stage(config, CONTRACT, row, FRAMES, place(4, gpu=None))


def test_a_run_is_planned_as_vla_plan_does(capsys: pytest.CaptureFixture[str]) -> None:
    """3 images make 98 samples/s of an H200 and 256 tokens; 2 make 192 tokens."""
    config, row = asked(batch_size=256, micro_batch=32)
    found = plan_stage(config, CONTRACT, row, FRAMES, place(150))
    assert found is not None
    words = ["3B", "--gpus", "8", "--batch-size", "256", "--micro-batch", "32", "--cameras", "2"]
    assert main(["plan", *words, "--sensor", "650x1026", "--state-dim", "6", "--json"]) == 0
    (asked_for,) = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["topology"] == "ddp"]
    assert [found.slowest, found.fastest] == pytest.approx(asked_for["samples_per_s_range"])
    assert found.memory_mb * 2**20 == pytest.approx(asked_for["memory_bytes"])
    assert found.samples_per_s == pytest.approx(8 * 98 * 256 / 192, rel=0.05)


def test_on_a_cpu_nothing_is_planned_or_read() -> None:
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"))
    nothing: Any = None
    assert plan_stages(recipes.stage2(), nothing, [], accelerator) == {}


def test_on_a_gpu_every_stage_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    config, row = asked(batch_size=8, micro_batch=8)
    picture = torch.zeros(3, 224, 224, dtype=torch.uint8).numpy()
    data: Any = SimpleNamespace(contract=CONTRACT, train=[SimpleNamespace(images=(picture, picture))])
    accelerator: Any = SimpleNamespace(
        device=torch.device("cuda", 0), num_processes=1, distributed_type=DistributedType.NO
    )
    properties = SimpleNamespace(total_memory=150 * 10**9, name="NVIDIA H200")
    monkeypatch.setattr(planned.torch.cuda, "get_device_properties", lambda _: properties)
    found = plan_stages(config, data, [row], accelerator)
    assert found["stage2"].gpu == "H200"
    assert found["stage2"].memory_mb == pytest.approx(7.5e3 + 3.3e3 + 8 * 700, rel=0.2), "megabytes of any kind"


@pytest.mark.parametrize(
    ("stage", "offload", "name"),
    [(1, {}, "zero1"), (2, {}, "zero2"), (2, {"offload_optimizer": {}}, "zero2_offload"), (3, {}, "zero3")],
)
def test_the_topology_is_what_deepspeed_is_told(stage: int, offload: dict[str, Any], name: str) -> None:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": stage} | offload})
    accelerator: Any = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin), num_processes=2
    )
    assert topology_of(accelerator) == name


def test_a_run_goes_on_whatever_it_was_told_of_memory() -> None:
    config = recipes.stage2()
    assert replace(config, ignore_memory=True).identity() == config.identity()
