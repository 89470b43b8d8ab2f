"""The report: what it reads, what it keeps of long curves, what it shows, and how a browser sees it."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests import browser
from tests.fabricated import (
    CAMERAS,
    CONFIG,
    CONTRACT,
    HOSTILE,
    SCHEDULE,
    TOKEN,
    metrics_line,
    rollout,
    write_evaluation,
    write_lines,
    write_run,
)  # fmt: skip
from vla import documents
from vla.__main__ import main
from vla.batch import Reading, Sample
from vla.contract import DataContract, StreamContract
from vla.errors import CorruptData
from vla.evaluation.open_loop import Predictions
from vla.report import markup, reproduce, words
from vla.report.ablation import ablation_section
from vla.report.curves import smooth, thin
from vla.report.episodes import episode_arrays, measured
from vla.report.folder import read_metrics, read_run
from vla.report.open_loop import open_loop_section
from vla.report.page import interface, page, trained, write_report
from vla.report.plots import Frame, decorate, panel
from vla.report.traces import episode_block, strongest, trace_section
from vla.report.training import curve, training_section
from vla.run_folder import Planned

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two stages with every kind of evaluation, and its report."""
    run = write_run(tmp_path_factory.mktemp("runs") / "made")
    write_evaluation(run)
    write_report(run, run / "report.html")
    return run


class Reader(HTMLParser):
    """Tags, ids and texts of a page; every element must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href"} and value]
        if tag not in markup.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def texts(*content: str) -> str:
    """The texts of some markup."""
    reader = Reader()
    reader.feed("".join(content))
    return " ".join(reader.texts)


def shown(run: Path) -> str:
    """The texts of a run's report."""
    return texts(page(read_run(run), NOW))


@pytest.mark.parametrize("count", [1, 599, 600, 601, 100_000])
def test_a_thinned_curve_keeps_the_extremes_of_every_piece(count: int) -> None:
    random = np.random.default_rng(count)
    x, y = np.arange(1.0, count + 1), random.normal(size=count)
    y[random.integers(count)] = 1e6
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) <= 600
    assert (np.diff(kept_x) > 0).all()
    assert np.array_equal(kept_y, y[kept_x.astype(int) - 1]), "points of the curve itself"
    if count <= 600:
        assert np.array_equal(kept_y, y)
        return
    for piece in np.array_split(np.arange(count), 300):
        inside = kept_y[(kept_x >= x[piece[0]]) & (kept_x <= x[piece[-1]])]
        assert (inside.min(), inside.max()) == (y[piece].min(), y[piece].max())


def test_what_is_not_finite_is_left_out() -> None:
    x, y = np.arange(5.0), np.array([1, np.nan, 3, np.inf, 5])
    assert [part.tolist() for part in thin(x, y)] == [[0, 2, 4], [1, 3, 5]]
    assert smooth(x, np.full(5, np.nan))[1].size == 0


def test_smoothing_averages_the_neighbours_that_are_there() -> None:
    x, y = np.arange(1000.0), np.random.default_rng(0).normal(size=1000)
    places, averages = smooth(x, y)
    expected = [y[max(0, int(place) - 12) : int(place) + 13].mean() for place in places]
    assert np.allclose(averages, expected)
    assert len(places) == 300
    assert (places[0], places[-1]) == (0, 999)


def test_a_spike_of_a_long_run_is_drawn() -> None:
    losses = np.full(50_000, 0.1)
    losses[31_415] = 9.0
    every, average = curve(np.arange(50_000.0), losses, 0)
    assert every.y.max() == 9.0
    assert average.y.max() < 0.2


def test_a_map_keeps_the_largest_magnitudes() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 7))
    values[500, 3] = -50
    cells = strongest(values, 40)
    assert cells.shape == (40, 7)
    for cell, piece in zip(cells, np.array_split(values, 40), strict=True):
        assert np.array_equal(np.abs(cell), np.abs(piece).max(axis=0))
    assert cells.min() == -50


def test_metrics_become_columns(tmp_path: Path) -> None:
    lines = [metrics_line(1, "one", 0.5), metrics_line(2, "one", None), metrics_line(3, "stage2", 0.25)]
    write_lines(tmp_path / "metrics.jsonl", lines)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.starts == (("one", 1), ("stage2", 3))
    assert metrics.groups("lr") == ["expert", "sensor", "lora"]
    for key, values in metrics.columns.items():
        name, _, inner = key.partition(".")
        expected = [line[name].get(inner) if inner else line[name] for line in lines]
        assert np.array_equal(values, np.array(expected, float), equal_nan=True), key
    assert metrics.last("loss") == 0.25
    assert metrics.last("mfu") is None


def test_a_line_being_written_is_left_out_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = json.dumps(metrics_line(1, "stage1", 0.5)) + "\n"
    path.write_text(whole + whole[:30])
    assert len(read_metrics(path)) == 1
    for bad in ("{\n", "[]\n", '{"step": 2}\n', '{"step": "two", "loss": 1}\n', "\xff\n"):
        path.write_bytes((whole + bad + whole).encode("latin-1"))
        with pytest.raises(CorruptData, match=r"metrics.jsonl is damaged: line 2 "):
            read_metrics(path)


def test_what_was_planned_stands_beside_what_was_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "samples/s planned" not in shown(run), "no GPU was known"
    planned = Planned(gpu="H200", samples_per_s=150.0, slowest=117.0, fastest=181.0, memory_mb=640.0)
    first, second = SCHEDULE.stages
    schedule = replace(SCHEDULE, stages=(first, replace(second, planned=planned)))
    (run / "schedule.json").write_bytes(documents.to_bytes(schedule))
    lines = [metrics_line(step, "stage1", 0.5, rate=900.0) for step in range(1, 121)]
    lines += [metrics_line(step, "stage2", 0.5, rate=130.0 + step) | {"padding": 0.07} for step in range(121, 131)]
    write_lines(run / "metrics.jsonl", lines)
    text = re.sub(r"\s+", " ", shown(run))
    assert "stage2 H200 150 (117 to 181) 256 640 812" in text
    assert "Part of the tokens read that is none, median 7 %" in text


def report(*arguments: str | Path) -> int:
    return main(["report", *map(str, arguments)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"init_from": "runs/stage 1", "resume_from": None}, ["--init-from", "runs/stage 1"]),
        ({"resume_from": "auto"}, ["--resume-from", "None"]),
        ({"init_from": "runs/a", "resume_from": "b"}, ["--resume-from", "None", "--init-from", "runs/a"]),
        ({"init_from": f"runs/{TOKEN}"}, ["--init-from", "runs/HIDDEN"]),
    ],
)
def test_the_same_training_starts_from_where_it_started(
    changes: dict[str, str | None], words: list[str], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    (run / "config.json").write_text(json.dumps(CONFIG | changes))
    said = shlex.split(reproduce.command(read_run(run)).replace("\\\n", ""))
    assert said[:7] == [
        *("accelerate", "launch", "--config_file", "accelerate_configs/zero2.yaml", "--num_processes", "2"),
        "training/two_stage.py",
    ]
    assert said[7:] == ["--config", str(run / "config.json"), *words, "--out", f"{run}-again"]


def test_exit_codes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(made, "--out", tmp_path / "out.html") == 0
    assert str(tmp_path / "out.html") in capsys.readouterr().out
    same, again = ((file.read_text().split("<footer>")[0]) for file in (made / "report.html", tmp_path / "out.html"))
    assert same == again, "the same run gives the same page"
    assert len(again) < 2_000_000
    foreign = tmp_path / "foreign"
    for make, sentence in (
        (lambda: None, "is not a folder"),
        (foreign.mkdir, "holds no config.json"),
        (lambda: (foreign / "config.json").write_text('{"model": 1}'), "is not that of a training"),
    ):
        make()
        assert report(foreign) == 78
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
    assert report(made / "policy") == 78
    assert f"give the run it belongs to, e.g. {made}" in capsys.readouterr().err
    assert report(made, "--out", tmp_path / "nowhere" / "out.html") == 78
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "validation.jsonl", "config.json", "policy-evaluation/closed_loop.json",
     "checkpoints/step-00000100/manifest.json", "schedule.json",
     "policy-evaluation/rollouts/episode-00000.npz"],
)  # fmt: skip
def test_damage_ends_with_65(made: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:100] + b"\n" + content[130:])
    assert report(run, "--out", tmp_path / "out.html") == 65
    assert f"{name} is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_a_run_of_an_older_version_is_told_from_a_damaged_one(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    schedule = json.loads((run / "schedule.json").read_text())
    del schedule["contract"]["streams"]
    (run / "schedule.json").write_text(json.dumps(schedule))
    for file in run.glob("checkpoints/*/manifest.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 3}))
    assert report(run, "--out", tmp_path / "out.html") == 78
    assert "is of schema 3, this version reads schema 5: check out commit" in capsys.readouterr().err


def test_denoising_of_other_actions_ends_with_65(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    (run / "policy-evaluation" / "denoising.json").write_text('{"samples": [], "predicted": [[0]], "recorded": [[0]]}')
    assert report(run, "--out", tmp_path / "out.html") == 65
    assert "denoising.json is damaged: its chunks are not those of report.json" in capsys.readouterr().err


def test_objects_of_python_are_not_read(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    np.savez(run / "policy-evaluation" / "episode.npz", times_s=np.array([{}], dtype=object))
    with pytest.raises(CorruptData, match=r"episode.npz is damaged"):
        read_run(run)


def test_every_section_of_a_finished_run(made: Path) -> None:
    told = " ".join(read(made / "report.html").texts)
    for words_of in (
        "Finished after 200 steps", "88 %", "81 to 91 %, 100 episodes", "stage2 begins (step 121)", "1 step skipped",
        "observation.images.front", "lost in search", "Trained without it", "6 channels at 1,000 Hz", "wrist",
        "In 3 of 3 dimensions", "The policy is better than the mean action (0.31).",
        "The policy is no better than repeating the last action (1.02).", "y [m]", "push_N", "From noise to actions",
        "trained without it, success falls from 93% to 13%",
        "1,158,400 trained parameters", "Samples left out", "zero2.yaml --num_processes 2",
        "61e901c999934372263a9cb6ff5c6c8097330d99d1ae8c25a2ba6399fc798560", "training/two_stage.py",
    ):  # fmt: skip
        assert words_of in told, words_of
    assert told.index("Episode 0, success") < told.index("Episode 1, "), "a failure beside a success"
    assert "lora at 1e-05" in told
    assert "backbone at" not in told, "with --finetune-vl lora the backbone itself does not train"
    assert "A call of the policy took 41 ms for 10 at once, the median: vision 2.5, expert 30.2." in told


def test_changes_of_the_error_are_in_percent_of_it(made: Path, tmp_path: Path) -> None:
    ablation = read_run(made).evaluation.ablation
    told = texts(*ablation_section(ablation))
    assert "With every input the error is 0.4 of the error of always answering the mean action, and 93 %" in told
    assert "change of the error [%]" in told
    assert "data units" not in told
    assert "those of an input hold together with 95 %" in told
    # Shuffled, it is 0.2 +- 0.03 more than 0.4; in the search 0.4 +- 0.03 more than 0.35, frozen 0.6 times that.
    assert "sensor shuffled all 50 42.5 to 57.5 75 % " in told
    assert "sensor shuffled search 114 106 to 123 -" in told
    assert "sensor frozen search 68.6 60 to 77.1 -" in told
    assert ablation is not None
    still = dict(ablation) | {"baseline": {"error": 0.0, "by_phase": {}, "success": None}}
    assert "Change of the action error" not in texts(*ablation_section(still)), "a share of nothing"


def test_texts_of_others_are_shown_and_do_nothing(made: Path) -> None:
    reader = read(made / "report.html")
    assert not {"script", "iframe", "object", "form", "base"} & set(reader.tags)
    seen = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    assert sum(seen in text for text in reader.texts) > 10
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert len(reader.ids) == len(set(reader.ids))


def test_secrets_are_hidden(made: Path) -> None:
    content = (made / "report.html").read_text()
    assert TOKEN not in content
    assert CONFIG["backbone"]["api_key"] not in content
    assert content.count("HIDDEN") >= 4


@pytest.mark.parametrize(("low", "high"), [(0.90466, 0.90473), (4.506, 4.5103), (0.0, 1.0), (1e5, 1.0002e5)])
def test_the_numbers_at_an_axis_differ(low: float, high: float) -> None:
    """Of four digits, 0.9047 stood at two ticks of an axis, one above the other."""
    _, axes = panel()
    axes.plot([0, 1], [low, high])
    decorate(axes, Frame(label="a line", x="weight", y="m"))
    said = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())
    assert len(said) > 2 and len(set(said)) == len(said)


def test_plots_take_their_colours_from_the_page(made: Path) -> None:
    content = (made / "report.html").read_text()
    assert not re.search(r"#010[23]0\d", content)
    assert content.count("<svg") > 18


def test_a_run_under_way(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "schedule.json"):
        shutil.copy(made / name, run)
    assert "Has not made a step yet" in shown(run)
    assert "There is no checkpoint" in shown(run)
    write_lines(run / "metrics.jsonl", [metrics_line(step, "stage1", 1 / step) for step in range(1, 41)])
    told = shown(run)
    assert "Under way or stopped, at step 40 of 200" in told
    assert "Closed loop" not in told
    assert "Open loop" not in told
    # --stop-after exports a policy, and it stays while the run goes on.
    shutil.copytree(made / "policy", run / "policy")
    assert "Under way or stopped, at step 40 of 200" in shown(run)


def test_stages_are_told_as_they_were_decided(made: Path) -> None:
    told = [row for name, row in trained(read_run(made)) if name.startswith("stage")]
    assert told == [
        "120 steps: sensor at 0.0001, expert at 0.0001",
        "80 steps: sensor at 0.0001, expert at 0.0001, lora at 1e-05",
    ]


def test_each_part_of_a_loss_of_several_has_a_plot(made: Path, tmp_path: Path) -> None:
    """With the held-out episodes' where they were measured; a loss of one part is that of the first plot."""

    def curves(run: Path) -> str:
        return texts(training_section(read_run(run)))

    assert "Part of the loss" not in curves(made)
    run = shutil.copytree(made, tmp_path / "run")
    for name, factor in (("metrics.jsonl", 1.0), ("validation.jsonl", 3.0)):
        lines = list(map(json.loads, (run / name).read_text().splitlines()))
        for place, line in enumerate(lines):
            line["losses"] = {"diffusion": factor * (1 + place), "feet": factor / (1 + place)}
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    last, checks = len((run / "metrics.jsonl").read_text().splitlines()), len(lines)
    said = curves(run)
    assert f"From 1 to {last} in training. On held-out episodes: from 3 to {3 * checks}." in said
    assert "Part of the loss: feet" in said and "On held-out episodes: from 3 to " in said
    (run / "validation.jsonl").write_text("")
    assert f"From 1 to {last} in training. " in curves(run) and "On held-out episodes: from 3" not in curves(run)


def test_an_instruction_that_is_withheld_is_no_input() -> None:
    assert "camera wrist; instruction; state of 3 numbers" in interface(CONTRACT)
    assert "camera wrist; state of 3 numbers" in interface(replace(CONTRACT, instructed=False))


def test_a_long_run_gives_a_small_file(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run", ignore=shutil.ignore_patterns("policy-evaluation", "*.html")))
    random = np.random.default_rng(0).uniform(size=20_000)
    write_lines(run / "metrics.jsonl", [metrics_line(step, "stage1", float(y)) for step, y in enumerate(random, 1)])
    assert write_report(run, tmp_path / "out.html") < 500_000


def test_channels_too_many_for_curves_become_a_map(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    np.savez(run / "policy-evaluation" / "rollouts" / "episode-00000.npz", **rollout(0, 40))  # type: ignore[arg-type]
    told = texts(*trace_section(read_run(run)))
    assert "40 channels at 1,000 Hz" in told
    assert "Red is positive" in told


class Recording:
    """Four frames a second of a sensor of 40 Hz; windows of 15 samples overlap."""

    def __init__(self) -> None:
        self.sensor = np.random.default_rng(0).normal(size=(41, 2)).astype(np.float32)

    def __len__(self) -> int:
        return 5

    def locate(self, index: int, /) -> tuple[str, int]:
        return "one", index

    def instruction(self, index: int, /) -> str:
        return ""

    def __getitem__(self, index: int, /) -> Sample:
        last = 10 * index
        rows = np.arange(last - 14, last + 1)
        reading = Reading(values=self.sensor[np.maximum(rows, 0)], valid=rows >= 0)
        return Sample(
            images=tuple(np.full((3, 4, 6), 50 * index + view, np.uint8) for view in range(2)),
            image_valid=np.ones(2, bool), instruction="", state=np.zeros(0, np.float32),
            streams={"sensor": reading},
            actions=np.zeros((3, 1), np.float32),
            action_valid=np.ones(3, bool), weight=1.0, position=index,
        )  # fmt: skip


def test_windows_of_an_episode_are_put_together_again() -> None:
    contract = DataContract(
        cameras=CAMERAS, state_dim=0, action_dim=1, horizon=3, fps=4.0,
        streams={"sensor": StreamContract(key="s", channels=2, samples=15, rate_hz=40.0)},
        state_names=(), action_names=(),
        action_periods=(0.0,),
    )  # fmt: skip
    chunks = np.arange(15.0, dtype=np.float32).reshape(5, 3, 1)
    predictions = Predictions(
        contract=contract, episodes=["one"] * 5, frames=list(range(5)), predicted=chunks, recorded=chunks + 1,
        valid=np.ones((5, 3), bool), losses=np.zeros(5, np.float32),
    )  # fmt: skip
    recording = Recording()
    arrays = episode_arrays(predictions, recording, range(5))
    assert np.array_equal(arrays["sensor"], recording.sensor)
    assert np.allclose(arrays["sensor_times_s"], np.arange(41) / 40)
    assert np.array_equal(arrays["recorded"], chunks[:, 0] + 1)
    assert arrays[f"frames.{CAMERAS[1]}"].shape == (5, 4, 6, 3)
    assert arrays[f"frames.{CAMERAS[1]}"][2, 0, 0].tolist() == [101] * 3
    blind = replace(predictions, contract=replace(contract, streams={}))
    assert "sensor" not in episode_arrays(blind, recording, range(5))


def test_a_sensor_slower_than_the_frames_is_put_together_too() -> None:
    slow = StreamContract(key="s", channels=1, samples=1, rate_hz=2.0)
    windows = [Reading(values=np.full((1, 1), place, np.float32), valid=np.ones(1, bool)) for place in range(5)]
    values, times = measured(windows, np.arange(5) / 4, slow)
    assert (values[:, 0].tolist(), times.tolist()) == ([0.0, 2.0, 4.0], [0.0, 0.5, 1.0])


def test_streams_that_end_apart_share_the_time_axis_of_the_pictures() -> None:
    streams = {f"sensor/{name}": StreamContract(key=name, channels=1, samples=1, rate_hz=10.0) for name in "ab"}
    arrays: dict[str, np.ndarray] = {"frame_times_s": np.arange(5) / 5}
    for name, count in (("sensor/a", 11), ("sensor/b", 6)):
        arrays |= {name: np.ones((count, 1)), f"{name}_times_s": np.arange(count) / 10}
    drawn = str(episode_block("one", arrays, streams)).split("<figure")[1:]
    marks = [re.findall(r'd="M ([0-9.]+) [^"]+"[^>]*dasharray', figure) for figure in drawn]
    assert len(marks) == 2 and len(marks[0]) == 10, "five a drawing, for a desk and for a phone"
    assert marks[0] == marks[1]


def test_an_episode_of_the_open_loop_is_drawn(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.rmtree(run / "policy-evaluation" / "rollouts")
    random, arrays = np.random.default_rng(0), rollout(0)
    times = arrays["times_s"]
    arrays |= {"recorded": random.normal(size=(len(times), 4)), "valid": np.ones((len(times), 8), bool)}
    arrays["predicted"] = random.normal(size=(len(times), 8, 4))
    np.savez(run / "policy-evaluation" / "episode.npz", **arrays)  # type: ignore[arg-type]
    read_again = read_run(run)
    assert "An episode: predicted and recorded actions" in texts(*open_loop_section(read_again))
    assert "A recorded episode" in texts(*trace_section(read_again))


def test_numbers_read_well() -> None:
    assert [words.short(value) for value in (0.0, 9999.0, 12e3, 2.5e6, 1e-5)] == ["0", "9999", "12k", "2.5M", "1e-05"]
    assert [words.duration(value) for value in (59.6, 600.0, 9e3)] == ["60 s", "10 min", "2 h 30 min"]
    assert words.number(None) == words.number(float("nan")) == words.percent("x") == "-"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    if browser.CHROMIUM is None:
        pytest.skip("no Chromium on the path (chromium, chromium-browser, google-chrome)")
    with browser.started(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


CONTRASTS = """(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = node => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = [...document.querySelectorAll('body *')].filter(node => node.checkVisibility()
    && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
  const drawn = [...document.querySelectorAll('.swatch')].filter(node => node.checkVisibility());
  return {
    texts: Math.min(...texts.map(node => {
      const style = getComputedStyle(node);
      return ratio(numbers(node instanceof SVGElement ? style.fill : style.color), paper(node));
    })),
    curves: Math.min(...drawn.map(node => ratio(numbers(getComputedStyle(node).borderTopColor), paper(node)))),
    count: texts.length, paper: paper(document.body), ink: numbers(getComputedStyle(document.body).color),
  };
})()"""
PLOTS = """[...document.querySelectorAll('svg')].filter(plot => plot.checkVisibility()).map(plot => {
  const box = plot.getBoundingClientRect();
  const paths = [...plot.querySelectorAll('path')].filter(path => path.getAttribute('d').length > 10);
  const texts = [...plot.querySelectorAll('text')].map(text => text.getBoundingClientRect().height);
  return {
    width: box.width, height: box.height, paths: paths.length, label: plot.getAttribute('aria-label'),
    axes: plot.querySelectorAll('.axis, [id*=axis]').length, text: Math.min(...texts),
    inside: [...plot.querySelectorAll('text')].every(text => text.getBoundingClientRect().right <= innerWidth),
  };
})"""


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_browser(made: Path, tab: browser.Browser, width: int, theme: Literal["light", "dark"]) -> None:
    tab.open(made / "report.html", width=width, theme=theme)
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") <= width
    plots = tab.value(PLOTS)
    assert len(plots) >= 16
    for plot in plots:
        assert plot["width"] > 250, plot
        assert plot["height"] > 100, plot
        assert plot["paths"] > 5, plot
        assert plot["label"], plot
        assert plot["text"] >= 9, plot
        assert plot["inside"], plot
    seen = tab.value(CONTRASTS)
    assert seen["count"] > 300
    assert seen["texts"] >= 4.5
    assert seen["curves"] >= 3
    assert (sum(seen["paper"][:3]) > sum(seen["ink"][:3])) == (theme == "light")
    assert tab.value("document.querySelectorAll('img').length") == 24
    assert tab.value("[...document.images].every(image => image.complete && image.naturalWidth > 0 && image.alt)")
    assert tab.complaints() == []
    assert tab.requests() == []


def test_the_browser_tells_what_a_page_does(tab: browser.Browser, tmp_path: Path) -> None:
    """The checks above would notice."""
    (tmp_path / "bad.html").write_text('<script>console.error("x")</script><img src="http://localhost:1/x.png">')
    tab.open(tmp_path / "bad.html", width=360, theme="light")
    assert any("console" in complaint or '"x"' in complaint for complaint in tab.complaints())
    assert tab.requests() == ["http://localhost:1/x.png"]
