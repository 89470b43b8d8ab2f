"""Lists of clips in .pt files: exact numbers, actors apart, little memory, nothing of others run."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vla.data.formats.motion.reader import open_motion
from vla.data.selection import Selection
from vla.errors import CorruptData
from vla.motion.body import Body
from vla.motion.representation import decode
from vla.motion_settings import MotionConfig


def sample(
    frames: int = 50, width: int = 48, actors: int | None = None, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """As the tools that make such lists write them."""
    generator = torch.Generator().manual_seed(seed)
    among = () if actors is None else (actors,)
    made = {
        "description": f"a figure waves, number {seed}",
        "motion": torch.randn(frames, *among, width, generator=generator),
        "actions": torch.randint(0, 46, (frames, *among), generator=generator),
        "physics": torch.randn(frames, *among, 6, generator=generator),
        "camera": torch.randn(frames, 3, generator=generator),
        "source": "test",
        "meta": {"clip": seed, "split": "train"},
        "enhanced_meta": {"motion_style": {"tempo": 0.25}, "emotion": None},
        "embedding": torch.randn(1024, generator=generator),
    }
    return made | changes


def saved(file: Path, samples: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(samples, file)
    return file


def opened(root: Path, rate_hz: float = 25.0) -> Any:
    return open_motion(root, Selection(motion=MotionConfig(rate_hz=rate_hz)))


@pytest.mark.parametrize("width", [48, 20])
def test_the_numbers_of_a_figure_come_back_exactly(tmp_path: Path, width: int) -> None:
    samples = [sample(width=width, seed=seed, frames=30 + seed) for seed in range(3)]
    reader = opened(saved(tmp_path / "canonical.pt", samples))
    body = reader.layout.body
    assert body.kind == "plane" and len(body.joints) == width // 2
    assert body.joints[:2] == (("head.start", "head.end") if width == 48 else ("torso.start", "torso.end"))
    assert reader.layout.action_names[2] == f"{body.joints[1]}.x"
    for given, episode in zip(samples, reader.episodes, strict=True):
        assert episode.actions.values.tobytes() == given["motion"].numpy().tobytes()
        assert episode.columns["actions"][:, 0].tolist() == given["actions"].tolist()
        assert episode.columns["physics.mx"][:, 0].tolist() == given["physics"][:, 4].tolist()
        assert episode.columns["camera.zoom"][:, 0].tolist() == given["camera"][:, 2].tolist()
        assert episode.instructions.different == (given["description"],)
        rows = torch.from_numpy(np.array(episode.actions.values))
        drawn = decode(body, rows, None, 25.0).positions[..., :2]
        assert torch.equal(drawn.reshape(len(rows), -1), given["motion"])


def test_each_end_of_a_segment_hangs_on_its_start(tmp_path: Path) -> None:
    body = opened(saved(tmp_path / "a.pt", [sample()])).layout.body
    assert isinstance(body, Body)
    bones = {
        (body.joints[parent], joint) for joint, parent in zip(body.joints, body.parents, strict=True) if parent >= 0
    }
    assert len(bones) == 12 and ("l_thigh.start", "l_thigh.end") in bones


def test_actors_are_clips_of_their_own(tmp_path: Path) -> None:
    """In the order of the list; what they share is given to each, and nothing of one is another's."""
    several, alone = sample(actors=3, seed=1), sample(seed=2)
    reader = opened(saved(tmp_path / "scenes.pt", [several, alone]))
    names = [episode.name.partition("/")[2] for episode in reader.episodes]
    assert names == [f"scenes/clip_0/actor_{actor}" for actor in range(3)] + ["scenes/clip_1"]
    for actor, episode in enumerate(reader.episodes[:3]):
        np.testing.assert_array_equal(episode.actions.values, several["motion"][:, actor].numpy())
        assert episode.columns["actions"][:, 0].tolist() == several["actions"][:, actor].tolist()
        assert episode.columns["physics.vx"][:, 0].tolist() == several["physics"][:, actor, 0].tolist()
        assert episode.columns["camera.x"][:, 0].tolist() == several["camera"][:, 0].tolist()


def test_labels_keep_their_values_at_another_rate(tmp_path: Path) -> None:
    """The nearest frame's label, never one in between; what is measured is filtered."""
    actions = torch.tensor([3] * 25 + [40] * 25)
    (episode,) = opened(saved(tmp_path / "a.pt", [sample(actions=actions)]), rate_hz=10.0).episodes
    frames = np.rint(episode.timestamps * 25).astype(int)
    assert episode.columns["actions"][:, 0].tolist() == actions[frames].tolist()


def test_what_may_be_missing_may_be_none(tmp_path: Path) -> None:
    bare = {"motion": torch.randn(20, 48), "embedding": None, "physics": None, "camera": None, "description": ""}
    reader = opened(saved(tmp_path / "a.pt", [bare, sample()]))
    first, second = reader.episodes
    assert first.columns == {} and set(second.columns) > {"actions"}
    assert "1 of 2 clips have no caption" in "\n".join(reader.layout.remarks)


def test_embeddings_that_come_with_clips_are_told_and_not_used(tmp_path: Path) -> None:
    """Whose they are cannot be checked, and the policy needs its encoder for texts of its own anyhow."""
    named = [sample(seed=seed, embedding_model="BAAI/bge-large-en-v1.5") for seed in range(2)]
    said = opened(saved(tmp_path / "a.pt", [*named, sample(), sample(embedding=None)])).layout.remarks
    told = [remark for remark in said if "embedding" in remark]
    assert len(told) == 2
    assert told[0].startswith("the embedding of its text by BAAI/bge-large-en-v1.5 is not used: --backbone.path embeds")
    assert told[0].endswith("(2 clips: a/clip_0, a/clip_1)") and told[1].endswith("(1 clip: a/clip_2)")


def test_frames_that_are_not_finite_are_masked(tmp_path: Path) -> None:
    broken = sample()
    broken["motion"][7:9, 3] = torch.nan
    (episode,) = opened(saved(tmp_path / "a.pt", [broken])).episodes
    assert len(episode.timestamps) == 48


class Touch:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_class_in_a_file_is_refused_and_not_run(tmp_path: Path) -> None:
    sung = tmp_path / "sung"
    for place, content in enumerate([[Touch(sung)], [sample(meta={"a": Touch(sung)})], Touch(sung)]):
        file = saved(tmp_path / f"{place}/a.pt", content)
        with pytest.raises(ValueError, match="holds what is no data .*mkdir.* which is not loaded") as raised:
            opened(file)
        assert "\n" not in str(raised.value) and str(file) in str(raised.value)
    assert not sung.exists()


def test_the_old_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save([sample()], file, _use_new_zipfile_serialization=False)
    with pytest.raises(
        ValueError, match="no archive of torch.save since PyTorch 1.6, or cut short: save its list again"
    ):
        opened(file)
    saved(file, [sample()])
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match="or cut short"):
        opened(file)


BAD = {
    "a dictionary": ({"motion": torch.zeros(5, 48)}, "holds a dict, a list of clips is expected"),
    "no motion": ([{"description": "a"}], "sample 0, is no dictionary with a tensor `motion`"),
    "width": (
        [sample(), sample(width=50)],
        r"sample 1, has a motion of shape \(50, 50\), expected \(frames, 48 or 20\)",
    ),
    "axes": ([sample(motion=torch.zeros(5, 2, 2, 48))], r"motion of shape \(5, 2, 2, 48\)"),
    "labels": ([sample(actions=torch.zeros(9, dtype=torch.int64))], "has actions that do not number its 50 frames"),
    "text": ([sample(description=5)], "has a description that is no text"),
    "embedding": ([sample(embedding=torch.zeros(2, 1024))], "or an embedding that is no row of numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_list_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    content, words = BAD[kind]
    file = saved(tmp_path / "a.pt", content)
    with pytest.raises(CorruptData, match=words) as raised:
        opened(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


MEASURE = """
    import json, sys, threading
    from pathlib import Path
    import psutil, torch
    from vla.data.formats.motion.clip_list import read_clip_list
    from vla.data.formats.motion.reader import open_motion
    from vla.data.selection import Selection
    from vla.motion_settings import MotionConfig

    def held():
        memory = psutil.Process().memory_info()
        return memory.rss - memory.shared  # pages of files are the system's, which takes them back

    def read(file, keep):
        before, most, total, kept = held(), 0, 0.0, []
        for clip in read_clip_list(Path(file), MotionConfig()):
            total += float(clip.body.values.sum(dtype="f8"))
            if keep:
                kept.append(clip.body.values.copy())
            most = max(most, held() - before)
        return most, total

    def opened(file):
        before, found, done = held(), [0], threading.Event()
        def watch():
            while not done.wait(0.002):
                found.append(held() - before)
        watching = threading.Thread(target=watch)
        watching.start()
        assert len(open_motion(Path(file), Selection(motion=MotionConfig(rate_hz=20.0))).episodes) > 0
        done.set()
        watching.join()
        return max(found)

    small, large = sys.argv[1:]
    read(small, keep=True)
    opened(small)
    print(json.dumps([*read(large, keep=False), opened(large), read(large, keep=True)[0]]))
"""


def test_one_clip_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """Of a list of 200 clips, at most 1.5 times the largest, twice it while they become rows at another rate.

    The measure sees a reader that keeps them.
    """
    largest = 4 * 2**20
    samples = [sample(frames=1000, seed=seed) for seed in range(199)]
    samples.insert(100, sample(frames=largest // (48 * 4), seed=200))
    large = saved(tmp_path / "large.pt", samples)
    assert large.stat().st_size > 40 * 2**20
    small = saved(tmp_path / "small.pt", [sample()])
    words = [sys.executable, "-c", textwrap.dedent(MEASURE), str(small), str(large)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    most, total, most_opened, most_kept = json.loads(done.stdout)
    assert total == pytest.approx(sum(float(own["motion"].double().sum()) for own in samples), abs=1e-3)
    assert most <= 1.5 * largest
    assert 0 < most_opened <= 2 * largest
    assert most_kept > 5 * largest
