"""What the needle's benchmark makes of its records."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.needle import ARMS, Bench, Outcomes, Plan, failures, record, result, summary


def bench(folder: Path, episodes: int = 4) -> Bench:
    return Bench(Plan(10, (3, 2), episodes), folder / "work", folder / "records", ranks=1)


def put(folder: Path, name: str, outcomes: Outcomes, minutes: float = 1.0) -> None:
    record(bench(folder), name, lambda: (outcomes, minutes))


def test_success_is_counted_within_some_steps() -> None:
    found = result([[40, 41, None, 12], [100, 39, 60, "wrong hole"]])
    assert (found.success, found.episodes, found.seeds) == (3 / 8, 8, 2)
    assert found.low < found.success < found.high
    assert result([[40, 41, None, 12]], 60).success == 0.75


def test_kinds_of_failure_are_counted_where_they_were_recorded() -> None:
    episodes = [["wrong hole", 20, "timed out", "wrong hole"], [None, 20, 20, None], [20, "timed out", 20, 20]]
    assert failures(episodes) == {"timed out": 2, "wrong hole": 2}


def test_the_result_holds_all_records(tmp_path: Path) -> None:
    put(tmp_path, "scripts", {"random": ["timed out", 30, "timed out", "no contact"]})
    put(tmp_path, "with_sensor-0", {"with_sensor": [20, 20, 20, 50], "error_3mm": [None] * 4}, minutes=30.0)
    put(tmp_path, "with_sensor-1", {"with_sensor": [20, 20, 20, 20], "error_3mm": [20] * 4}, minutes=31.5)
    put(tmp_path, "ascan-0", {"ascan": [None] * 4})
    found = summary(tmp_path / "records", "the command")
    assert found["with_sensor"]["success"] == 7 / 8
    assert (found["with_sensor"]["episodes"], found["with_sensor"]["seeds"]) == (8, 2)
    assert found["random"]["success"] == 0.25
    assert (found["minutes"], found["command"]) == (31.5, "the command")
    assert {row: entry["success"] for row, entry in found["further"].items()} == {"ascan": 0.0, "error_3mm": 0.5}
    assert found["failures"]["random"] == {"no contact": 1, "timed out": 2}
    assert found["within_60"]["with_sensor"]["success"] == 1.0
    assert "without_sensor" not in found, "nothing was measured of it"
    json.dumps(found)


def test_a_record_is_not_measured_again_and_not_mixed_with_others(tmp_path: Path) -> None:
    put(tmp_path, "with_sensor-0", {"with_sensor": [20, None, 20, 50]})
    before = (tmp_path / "records" / "with_sensor-0.json").read_text()
    record(bench(tmp_path), "with_sensor-0", lambda: pytest.fail("it is there"))
    assert (tmp_path / "records" / "with_sensor-0.json").read_text() == before
    with pytest.raises(ValueError, match=r"with_sensor-0.json was measured by another plan"):
        record(bench(tmp_path, episodes=5), "with_sensor-0", lambda: pytest.fail("it is there"))


def test_the_command_names_what_is_not_the_benchmarks_own() -> None:
    assert Plan().command == "python -m tests.benchmarks.needle"
    assert Plan(steps=(1000, 100), episodes=50).command.endswith(".needle --steps 1000 100 --episodes 50")


def test_the_arms_are_those_of_the_benchmark() -> None:
    assert set(ARMS) == {"with_sensor", "without_sensor", "shuffled_instruction"}
