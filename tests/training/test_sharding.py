"""Trainable state in and out of every topology, on 2 and 3 ranks, against one rank without DeepSpeed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training import launch

RANKS = (1, 2, 3)
MOVES = ("0->0", "1->1", "2->2", "3->3", "0->2", "2->3", "3->0", "1->3")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("sharding")
    for ranks in RANKS:
        launch.worker("sharding_worker.py", folder / f"{ranks}.json", ranks=ranks)
    return {ranks: json.loads((folder / f"{ranks}.json").read_text()) for ranks in RANKS}


@pytest.mark.ranks
@pytest.mark.slow
def test_every_topology_trains_the_same(results: dict[int, dict[str, Any]]) -> None:
    reference = results[1]["zero0"]
    for ranks in RANKS:
        for zero in range(4):
            seen = results[ranks][f"zero{zero}"]
            assert seen["stage"] == zero
            assert seen["losses"] == pytest.approx(reference["losses"], rel=1e-6)
            for ours, theirs in zip(seen["norms"], reference["norms"], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.ranks
@pytest.mark.slow
def test_averages_swap_in_and_out_bitwise(results: dict[int, dict[str, Any]]) -> None:
    for ranks in RANKS:
        for zero in range(4):
            seen = results[ranks][f"zero{zero}"]
            assert seen["averaged_is_ema"]
            assert seen["restored"]
            assert seen["ema_moved"]
            assert seen["frozen"]


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES)
def test_state_moves_between_topologies(results: dict[int, dict[str, Any]], move: str) -> None:
    source, target = move.split("->")
    for ranks in RANKS:
        seen = results[ranks][move]
        assert seen["loaded"] == 0, "every weight and moment comes back bit for bit"
        straight = results[ranks][f"zero{target}"]["losses"]
        if source == target and ranks <= 2:
            assert seen["losses"] == straight
            assert seen["final"] == 0
        else:
            assert seen["losses"] == pytest.approx(straight, rel=1e-6)
            assert seen["final"] < 1e-4
