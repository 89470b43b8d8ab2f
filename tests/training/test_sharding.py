"""Trainable state in and out of every topology, on 2 and 3 ranks, against one rank without DeepSpeed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forkserver import ForkServer, free_port
from tests.training import lora_worker, resting_worker, sharding_worker
from tests.training.sharding_worker import MOVES, ZERO_STAGES

RANKS = [2, pytest.param(1, marks=pytest.mark.deep), pytest.param(3, marks=pytest.mark.deep)]
Results = dict[str, Any]


def results(server: ForkServer, folder: Path, ranks: int, stages: tuple[int, ...], moves: list[str]) -> Results:
    """What the ranks saw."""
    file = folder / "seen.json"
    port = {"MASTER_PORT": str(free_port())}
    life = server.call(sharding_worker.main, file, stages, moves, ranks=ranks, environment=port)
    assert life.wait() == [0] * ranks, life.report()
    seen: Results = json.loads(file.read_text())
    return seen


@pytest.fixture(scope="module")
def reference(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One rank without DeepSpeed."""
    found: Results = results(server, tmp_path_factory.mktemp("reference"), 1, (0,), [])["zero0"]
    return found


@pytest.fixture(scope="module", params=RANKS)
def seen(request: pytest.FixtureRequest, server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All topologies and moves on some ranks."""
    ranks: int = request.param
    return results(server, tmp_path_factory.mktemp("sharding"), ranks, ZERO_STAGES, MOVES) | {"ranks": ranks}


def test_every_topology_trains_the_same(reference: Results, seen: Results) -> None:
    for zero in ZERO_STAGES:
        ours = seen[f"zero{zero}"]
        assert ours["stage"] == zero
        assert ours["losses"] == pytest.approx(reference["losses"], rel=1e-6)
        for norms, theirs in zip(ours["norms"], reference["norms"], strict=True):
            assert norms == pytest.approx(theirs, rel=1e-3)


def test_averages_swap_in_and_out_bitwise(seen: Results) -> None:
    for zero in ZERO_STAGES:
        ours = seen[f"zero{zero}"]
        assert ours["averaged_is_ema"]
        assert ours["restored"]
        assert ours["ema_moved"]
        assert ours["frozen"]


@pytest.mark.promise(6, "state moves between topologies", "weights and moments bit for bit; the same losses after")
@pytest.mark.parametrize("move", MOVES)
def test_state_moves_between_topologies(seen: Results, move: str) -> None:
    source, target = move.split("->")
    ours = seen[move]
    assert ours["loaded"] == 0, "every weight and moment comes back bit for bit"
    straight = seen[f"zero{target}"]["losses"]
    if source == target and seen["ranks"] <= 2:
        assert ours["losses"] == straight
        assert ours["final"] == 0
    else:
        assert ours["losses"] == pytest.approx(straight, rel=1e-6)
        assert ours["final"] < 1e-4


def test_lora_trains_the_same_where_its_weights_are_partitioned(server: ForkServer, tmp_path: Path) -> None:
    """And as plain peft's layers do: the projections of one input read each other's factors."""
    file, port = tmp_path / "seen.json", {"MASTER_PORT": str(free_port())}
    life = server.call(lora_worker.main, file, ranks=2, environment=port)
    assert life.wait() == [0, 0], life.report()
    seen = json.loads(file.read_text())
    plain = seen.pop("peft")
    assert seen.keys() == {"0", "2", "3"}
    assert plain[1] != pytest.approx(plain[-2], rel=1e-2), "it learns"
    for losses in seen.values():
        assert losses == pytest.approx(plain, rel=1e-5)


def test_ddp_reduces_once_a_step_whatever_the_accumulation(server: ForkServer, tmp_path: Path) -> None:
    file, port = tmp_path / "seen.json", {"MASTER_PORT": str(free_port())}
    life = server.call(sharding_worker.count_reduced, file, ranks=2, environment=port)
    assert life.wait() == [0, 0], life.report()
    seen = json.loads(file.read_text())
    once = seen.pop("once")
    assert seen == {accumulation: [once, once] for accumulation in ("1", "2", "4")}


def test_a_parameter_without_a_gradient_is_named(server: ForkServer, tmp_path: Path) -> None:
    file, port = tmp_path / "said.json", {"MASTER_PORT": str(free_port())}
    life = server.call(sharding_worker.say_missing, file, ranks=2, environment=port)
    assert life.wait() == [0, 0], life.report()
    said = json.loads(file.read_text())
    assert said.keys() == {str(zero) for zero in ZERO_STAGES}
    for sentence in said.values():
        assert sentence.startswith("sensor.norm.bias, which this stage trains, got no gradient")
        assert sentence.endswith("--stage.lr.sensor None")


@pytest.mark.deep
def test_an_adapter_that_is_loaded_and_does_not_count_stays_bit_by_bit(server: ForkServer, tmp_path: Path) -> None:
    """Where both are trained until one no longer counts, as libraries do it, every ZeRO stage moves it all the same.

    1 and 2 by its momentum and decay, 3 by the gradient of an earlier step; DDP ends with an error.
    """
    file, port = tmp_path / "seen.json", {"MASTER_PORT": str(free_port())}
    life = server.call(resting_worker.watch, file, ranks=2, environment=port)
    assert life.wait() == [0, 0], life.report()
    seen = json.loads(file.read_text())
    assert seen.keys() == {str(zero) for zero in ZERO_STAGES}
    for zero, found in seen.items():
        assert found["weights"] == {"trained": 4, "other": 4}
        assert found["ours"] == {"trained": 4, "other": 0}
        assert zero == "0" or found["plain"] == {"trained": 4, "other": 4}
