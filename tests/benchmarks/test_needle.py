"""What the needle's benchmark makes of its records."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from tests.benchmarks.needle import (
    ARMS,
    ELSEWHERE,
    REPOSITORY,
    SCRIPTED,
    Bench,
    Outcomes,
    Plan,
    evaluate,
    failures,
    options,
    record,
    result,
    rows_of,
    spell,
    summary,
)


def bench(folder: Path, episodes: int = 4) -> Bench:
    return Bench(Plan(10, (3, 2), episodes), folder / "work", folder / "records", ranks=1)


def put(folder: Path, name: str, outcomes: Outcomes, minutes: float = 1.0) -> None:
    record(bench(folder), name, list(outcomes), lambda: (outcomes, minutes))


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
    record(bench(tmp_path), "with_sensor-0", ["with_sensor"], lambda: pytest.fail("it is there"))
    assert (tmp_path / "records" / "with_sensor-0.json").read_text() == before
    with pytest.raises(ValueError, match=r"with_sensor-0.json was measured by another plan"):
        record(bench(tmp_path, episodes=5), "with_sensor-0", ["with_sensor"], lambda: pytest.fail("it is there"))


def test_rows_that_a_record_lacks_are_measured(tmp_path: Path) -> None:
    short = dataclasses.replace(bench(tmp_path), elsewhere=False)
    assert rows_of(short, "with_sensor") == ("with_sensor", "stage1_only")
    put(tmp_path, "with_sensor-0", {row: [20, None, 20, 50] for row in rows_of(short, "with_sensor")})
    rows = rows_of(bench(tmp_path), "with_sensor")
    assert rows[2:] == tuple(ELSEWHERE)
    put(tmp_path, "with_sensor-0", {row: [20, None, 20, 50] for row in rows}, minutes=9.0)
    content = json.loads((tmp_path / "records" / "with_sensor-0.json").read_text())
    assert (list(content["episodes"]), content["minutes"]) == (list(rows), 9.0)
    record(short, "with_sensor-0", rows_of(short, "with_sensor"), lambda: pytest.fail("they are there"))
    assert json.loads((tmp_path / "records" / "with_sensor-0.json").read_text()) == content


def test_nothing_is_computed_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(words: list[str], *, env: dict[str, str], **_: object) -> None:
        calls.append((words, env))
        results = Path(words[words.index("--out") + 1]) / "closed_loop.json"
        results.parent.mkdir()
        results.write_text('{"rollouts": [{"failure": null, "steps": 3}]}')

    monkeypatch.setattr("tests.benchmarks.needle.subprocess.run", run)
    assert evaluate(bench(tmp_path), tmp_path / "policy", ["error-mm=0"], "error_0mm") == [3]
    ((words, environment),) = calls
    assert words[words.index("--device") + 1] == "cpu"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_the_command_names_what_is_not_the_benchmarks_own(tmp_path: Path) -> None:
    words = ["--steps", "1000", "100", "--episodes", "50", "--no-elsewhere", "--arms", "ascan", "--seeds", "1", "0"]
    records = ["--records", str(tmp_path / "my records")]
    unnamed = ["--json", "x", "--ranks", "7", "--work", "y", "--demonstrations", "2000"]
    assert spell(options().parse_args(unnamed)) == "python -m tests.benchmarks.needle"
    told = shlex.split(spell(options().parse_args([*words, *records, *unnamed])))
    assert told[:3] == ["python", "-m", "tests.benchmarks.needle"]
    assert vars(options().parse_args(told[3:])) == vars(options().parse_args([*words, *records]))


@pytest.mark.parametrize("name", ["needle", "needle_short"])
def test_the_documented_command_gives_the_documented_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one in docs/needle.md, and finds the records that the result was put together from."""
    monkeypatch.chdir(REPOSITORY)
    told = json.loads((REPOSITORY / "docs" / "benchmarks" / f"{name}.json").read_text())
    text = (REPOSITORY / "docs" / "needle.md").read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("python -m tests.benchmarks.needle")]
    assert told["command"] in [spell(options().parse_args(command[3:])) for command in commands]
    given = options().parse_args(shlex.split(told["command"])[3:])
    plan = Plan(given.demonstrations, tuple(given.steps), given.episodes)
    bench = Bench(plan, REPOSITORY / "no such folder", given.records.resolve(), 1, given.elsewhere)
    record(bench, "scripts", SCRIPTED, lambda: pytest.fail("they are there"))
    for seed in given.seeds:
        for arm in given.arms:
            if (bench.records / f"{arm}-{seed}.json").exists() or name == "needle_short":
                record(bench, f"{arm}-{seed}", rows_of(bench, arm), lambda: pytest.fail("it is there"))
    assert summary(bench.records, told["command"]) == told


def test_the_arms_are_those_of_the_benchmark() -> None:
    assert set(ARMS) == {"with_sensor", "without_sensor", "shuffled_instruction"}
