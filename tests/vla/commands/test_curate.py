"""`vla curate`: what is kept is kept as it was, what is dropped has its reason, and a kill changes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.clips import write_clips
from tests.pictures import colour, write_pictures
from tests.vla.data.recordings import write_v2
from vla.__main__ import main
from vla.curation import curating
from vla.data.dataset import open_dataset
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.motion_settings import MotionConfig
from vla.settings import DataConfig

ALL = ("--balance-max-fraction", "1", "--source-max-fraction", "1", "--min-quality-sft", "0.5")
"""Caps and qualities that made-up clips keep."""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Walks of two seconds, one of which does not move, one that is too short and one that is cut off."""
    root = write_clips(tmp_path / "clips", 6)
    rows = ["file,text,subject", *(f"walk_{number}.npz,a person repeats a walk,s{number % 3}" for number in range(6))]
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    with np.load(root / "walk_1.npz") as whole:
        arrays = dict(whole)
    still = {name: arrays[name][[0] * 40] for name in ("rotation_xyzw", "root_translation")}
    short = {name: arrays[name][:15] for name in ("rotation_xyzw", "root_translation")}
    np.savez(root / "walk_2.npz", **arrays | still)
    np.savez(root / "walk_3.npz", **arrays | short)
    (root / "walk_4.npz").write_bytes((root / "walk_0.npz").read_bytes()[:2000])
    np.savez(root / "other.npz", numbers=np.zeros(3))
    return root


def curate(*words: "str | Path") -> int:
    return main(["curate", *map(str, words)])


def stats_of(out: Path) -> Any:
    return json.loads((out / "curation_stats.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]


def test_clips_are_kept_as_they_are_and_drops_have_reasons(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert curate(clips, out, *ALL, "--held-out", "0.4") == 0
    printed = capsys.readouterr()
    assert "not read, since no clip is in them: other.npz" in printed.err
    assert "walk_4.npz cannot be read" in printed.err and "6 in: 2 for pre-training" in printed.out
    checks = {line["name"]: [reason["check"] for reason in line["dropped"]] for line in lines_of(out)}
    assert checks["clips/walk_2"][0] == "unsafe" and "clips/walk_3" in checks and checks[None] == ["corrupt"]
    assert checks["clips/walk_3"][0] == "length"
    stats = stats_of(out)
    found = {key: stats[f"dropped_{key}"] for key in ("corrupt", "length", "unsafe", "balance", "source")}
    assert found == {"corrupt": 1, "length": 1, "unsafe": 1, "balance": 0, "source": 0}
    assert {"num_samples", "mean_quality", "action_distribution", "source_distribution"} == set(stats["sft"])
    assert stats["held_out"]["num_samples"] == 1 and len(stats["held_out_subjects"]) == 1

    kept = [file for split in ("pretrain", "held_out") for file in (out / split).glob("*.npz")]
    assert {file.name for file in kept} == {"walk_0.npz", "walk_1.npz", "walk_5.npz"}
    assert all(file.read_bytes() == (clips / file.name).read_bytes() for file in kept)
    data = open_dataset(DataConfig(roots=(str(out / "pretrain"),), horizon=8, validation_share=0.0), 0)
    (episodes,) = data.everything.episodes()
    assert {episode.facts["subject"] for episode in episodes}.isdisjoint({stats["held_out_subjects"][0][-2:]})
    assert episodes[0].instructions.different == ("a person repeats a walk",)

    page = (out / "index.html").read_text()
    assert "cannot be read" in page and page.count("data:image/png") == 4, "two that are kept, two that are dropped"
    before = content(out)
    assert curate(clips, out, *ALL, "--held-out", "0.4") == 0
    assert "nothing is to do" in capsys.readouterr().err
    assert curate(clips, out, *ALL) == 78
    assert "holds a curation of other settings" in capsys.readouterr().err
    assert content(out) == before
    kept[0].unlink()
    assert curate(clips, out, *ALL, "--held-out", "0.4") == 78
    assert "files of it are gone or are not those that were written" in capsys.readouterr().err


def test_a_kill_changes_nothing(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two scores, and in the midst of a line: what follows has the bytes of a run left alone."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert curate(clips, tmp_path / "a" / "out", *ALL) == 0
    real, scored = curating.score, []

    def stopped(*arguments: Any) -> Any:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(arguments[0].name)
        return real(*arguments)

    monkeypatch.setattr(curating, "score", stopped)
    out = tmp_path / "b" / "out"
    assert curate(clips, out, *ALL) == 130
    assert not out.exists()
    with (tmp_path / "b" / ".out.scores").open("ab") as journal:
        journal.write(b'{"digest": "7f')
    monkeypatch.setattr(curating, "score", lambda *arguments: scored.append(arguments[0].name) or real(*arguments))
    assert curate(clips, out, *ALL) == 0
    assert scored == [f"clips/walk_{number}" for number in (0, 1, 2, 3, 5)], "each once"
    assert content(out) == content(tmp_path / "a" / "out")
    assert not [*out.parent.glob(".out*")]


def test_nothing_is_overwritten(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for out, sentence in (
        (clips, "which is IN itself"),
        (clips / "out", "would be read with it next time"),
        (tmp_path, "give a folder that does not exist"),
        (other, "exists and holds no curation"),
    ):
        assert curate(clips, out) == 78
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error:") and sentence in said
    assert curate(clips, tmp_path / "new", "--min-quality-sft", "1.5") == 78
    assert "--min-quality-sft is 1.5; give 0 to 1" in capsys.readouterr().err
    assert content(tmp_path) == before


def figure(frames: int, seed: int, actors: int | None = None) -> dict[str, Any]:
    """A drawing whose ends swing smoothly."""
    draw = np.random.default_rng(seed)
    among = () if actors is None else (actors,)
    times = np.arange(frames).reshape(-1, *[1] * (len(among) + 1)) / 25
    rest = draw.normal(size=(1, *among, 48))
    swing = 0.2 * np.sin(2 * np.pi * (0.4 + 0.6 * draw.random((1, *among, 48))) * times + 6 * draw.random(48))
    return {
        "motion": torch.tensor(rest + swing, dtype=torch.float32),
        "description": f"figure {seed}",
        "camera": torch.zeros(frames, 3),
        "embedding": torch.randn(8, generator=torch.Generator().manual_seed(seed)),
        "source": f"source {seed % 2}",
    }


def test_of_a_list_the_sound_samples_are_kept_with_all_their_actors(tmp_path: Path) -> None:
    shared = torch.randn(100, 48)
    samples = [
        figure(50, 0),
        figure(50, 1) | {"motion": torch.zeros(50, 47)},
        figure(50, 2, actors=2),
        figure(20, 3),
        figure(50, 4) | {"camera": 3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(4))},
        figure(50, 5) | {"motion": 20 * shared[:50]},
        figure(50, 6, actors=2),
        figure(50, 7),
    ]
    samples[6]["motion"][:, 1] = torch.nan
    torch.save(samples, tmp_path / "all.pt")
    for number in (0, 1, 7):
        write_pictures(tmp_path / "pictures", number, 0, (0,), frames=50)
    out, shown = tmp_path / "out", ("--data.motion.pictures", tmp_path / "pictures")
    assert curate(tmp_path / "all.pt", out, *ALL, "--held-out", "0", "--min-realism-sft", "0.3", *shown) == 0
    kept = torch.load(out / "pretrain" / "pretrain_data.pt", weights_only=True)
    finest = torch.load(out / "sft" / "sft_data.pt", weights_only=True)
    for found, expected in ((kept, (0, 2, 4, 7)), (finest, (0, 2, 7))):
        assert [sample["description"] for sample in found] == [f"figure {number}" for number in expected]
        for sample, number in zip(found, expected, strict=True):
            assert sample.keys() == samples[number].keys()
            for key, value in samples[number].items():
                assert torch.equal(sample[key], value) if isinstance(value, torch.Tensor) else sample[key] == value
    checks = [[reason["check"] for reason in line["dropped"]][:1] for line in lines_of(out)]
    assert checks.count(["corrupt"]) == 2, "a shape, and an actor without a frame"
    assert checks.count(["length"]) == 1 and checks.count(["unsafe"]) == 1
    assert stats_of(out)["not_for_sft"] == {"camera_stability": 1}
    motion = MotionConfig(pictures=str(out / "pretrain" / "pictures"))
    episodes = open_folder(out / "pretrain", Selection(motion=motion)).episodes
    assert len(episodes) == 5, "two actors of one scene"
    seen = {
        episode.instructions.different[0]: int(frames.read([0])[0][0, 0, 0])
        for episode in episodes
        for key, frames in episode.cameras.items()
        if key.endswith("00")
    }
    assert seen == {f"figure {number}": colour(number, 0, 0, 0)[0] for number in (0, 7)}, (
        "they are of their own samples"
    )


def test_episodes_of_robots_are_copied_but_for_those_that_are_damaged(tmp_path: Path) -> None:
    """One jumps, one did not succeed by its data; what is kept has the numbers that it had, and its pictures."""
    root = write_v2(
        tmp_path / "data",
        (12, 12, 12, 12, 12),
        columns={"next.success": lambda length: pa.array([False] * (length - 1) + [True])},
        extra={"next.success": {"dtype": "bool", "shape": [1], "names": None}},
    )
    import pyarrow.parquet as pq

    for episode, change in ((1, "action"), (3, "next.success")):
        (file,) = root.glob(f"data/*/episode_{episode:06}.parquet")
        table = pq.read_table(file).to_pydict()
        if change == "action":
            table["action"][6][0] += 500.0
        else:
            table["next.success"] = [False] * 12
        pq.write_table(pa.table(table, schema=pq.read_table(file).schema), file)
    out = tmp_path / "out"
    assert curate(root, out, "--held-out", "0") == 0
    checks = [[reason["check"] for reason in line["dropped"]] for line in lines_of(out)]
    assert checks == [[], ["jump"], [], ["failed"], []]
    before, after = open_folder(root), open_folder(out / "pretrain")
    for old, new in zip((0, 2, 4), after.episodes, strict=True):
        assert np.array_equal(before.episodes[old].actions.values, new.actions.values)
        assert before.episodes[old].instructions.different == new.instructions.different
        assert new.cameras.keys() == before.episodes[old].cameras.keys()
    assert not (out / "sft").exists() and stats_of(out)["pretrain"]["num_samples"] == 3


@pytest.mark.deep
def test_a_list_of_ten_thousand_and_one_is_really_filtered(tmp_path: Path) -> None:
    """Every hundredth is frozen, every other hundredth too short: none of these is kept, and all others are."""
    frames, samples = torch.arange(26)[:, None] / 25, []
    for number in range(10_001):
        phase = torch.linspace(0, 6, 20) + number
        motion = torch.linspace(-1, 1, 20) + 0.2 * torch.sin(2 * torch.pi * 0.7 * frames + phase)
        motion = motion[:1].repeat(26, 1) if number % 100 == 7 else motion[:20] if number % 100 == 57 else motion
        samples.append({"motion": motion.clone(), "description": "a figure swings"})
    torch.save(samples, tmp_path / "all.pt")
    out = tmp_path / "out"
    # A process of its own does not check the shapes of ten thousand clips.
    words = [str(tmp_path / "all.pt"), str(out), *ALL, "--held-out", "0", "--min-quality-pretrain", "0.4"]
    subprocess.run([sys.executable, "-m", "vla", "curate", *words], check=True, capture_output=True)
    stats = stats_of(out)
    assert (stats["total_input"], stats["dropped_unsafe"], stats["dropped_length"]) == (10_001, 100, 100)
    kept = torch.load(out / "pretrain" / "pretrain_data.pt", weights_only=True)
    wanted = [sample["motion"] for number, sample in enumerate(samples) if number % 100 not in (7, 57)]
    assert len(kept) == len(wanted) == 9_801
    assert all(torch.equal(sample["motion"], motion) for sample, motion in zip(kept, wanted, strict=True))
    shutil.rmtree(out)
