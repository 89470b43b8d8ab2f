"""A judge is trained once for the same clips, seed and settings: what is kept answers as it did, or is made anew."""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.clips import poses
from tests.vla.evaluation.motion.bodies import BODY
from tests.vla.evaluation.motion.test_judge import motions
from vla import cache
from vla.data.episode import Reader
from vla.data.formats import open_folder
from vla.data.selection import Selection
from vla.evaluation.motion import judge, policies
from vla.evaluation.motion.clips import Windows, prepare, stack
from vla.evaluation.motion.judge import ConvolutionalJudge, JudgeSettings, train_judge
from vla.evaluation.motion.keeping import kept_judge
from vla.evaluation.motion.policies import clips_of, judge_of, landmarks_of, windows_of
from vla.motion_settings import MotionConfig

QUICK = JudgeSettings(width=8, features=6, steps=3, batch=8)
SECONDS = 1.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(judge, "JudgeSettings", lambda: QUICK)


def write(folder: Path, *, turn: float = 0.0, action: str = "run") -> Reader:
    """Two clips, of bodies of two sizes; one number of one of them is another with `turn`."""
    folder.mkdir(parents=True)
    for name, pace_hz, size in (("walk", 0.8, 1.0), ("run", 1.4, 1.2)):
        arrays = poses(30, 20.0, pace_hz)
        arrays["local_translation"] *= np.float32(size)
        arrays["root_translation"] *= np.float32(size)
        arrays["root_translation"][7, 1] += turn if name == "run" else 0.0
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    rows = ["file,text,action", "walk.npz,a person walks,walk", f"run.npz,a person runs,{action}"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return open_folder(folder, Selection(motion=MotionConfig(rate_hz=20.0)))


def asked(reader: Reader, *, seed: int = 0, seconds: float = SECONDS) -> ConvolutionalJudge:
    assert reader.layout.body is not None
    seen, landmarks = landmarks_of(reader.layout.body)
    return judge_of([reader], seen, landmarks, seconds, seed)


def windows(reader: Reader) -> Windows:
    assert reader.layout.body is not None
    seen, _ = landmarks_of(reader.layout.body)
    return stack([prepare(window) for window in windows_of(clips_of([reader], seen), SECONDS)])


def kept() -> list[Path]:
    return sorted((cache.folder() / "judges").glob("*"))


def assert_same(one: ConvolutionalJudge, other: ConvolutionalJudge, shown: Windows) -> None:
    """Every bit of every answer."""
    assert one.labels == other.labels and one.rate_hz == other.rate_hz
    assert one.features(shown).tobytes() == other.features(shown).tobytes()
    assert one.classify(shown) == other.classify(shown)
    assert one.chances(shown, one.labels[0]).tobytes() == other.chances(shown, one.labels[0]).tobytes()


def test_the_second_one_is_the_first_bit_by_bit_and_draws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    reader = write(tmp_path / "clips")
    first = asked(reader)
    assert "is trained on the training clips" in capsys.readouterr().err
    (file,) = kept()
    before = torch.random.get_rng_state()
    second = asked(open_folder(tmp_path / "clips", Selection(motion=MotionConfig(rate_hz=20.0))))
    assert capsys.readouterr().err == f"the judge is the one that was trained on these clips before: {file}\n"
    assert kept() == [file] and not caplog.records
    assert (torch.random.get_rng_state() == before).all()
    assert second is not first and not second.network.training
    assert_same(first, second, windows(reader))


@pytest.fixture(scope="module")
def trained() -> ConvolutionalJudge:
    return train_judge(motions(0, 3), BODY, QUICK, seed=0)


SHOWN = stack(motions(1, 3))


def test_whatever_changes_a_judge_gives_another_key(
    trained: ConvolutionalJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []

    def seen(key: str, *_: object) -> ConvolutionalJudge:
        keys.append(key)
        return trained

    monkeypatch.setattr(policies, "kept_judge", seen)
    reader = write(tmp_path / "before" / "clips")
    asked(reader)
    asked(write(tmp_path / "same" / "clips"))
    assert keys[0] == keys[1], "where the folder lies changes nothing"
    asked(write(tmp_path / "number" / "clips", turn=1e-3))
    asked(write(tmp_path / "action" / "clips", action="jump"))
    asked(write(tmp_path / "other"))
    asked(reader, seed=1)
    asked(reader, seconds=0.8)
    for place, name, value in (
        (judge, "JudgeSettings", lambda: replace(QUICK, noise=0.2)),
        (judge, "VERSION", 0),
        (torch, "__version__", "1.0"),
        (np, "__version__", "1.0"),
        (torch, "get_num_threads", lambda: 3),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            asked(reader)
    assert len(set(keys)) == len(keys) - 1 == 11
    asked(reader)
    assert keys[-1] == keys[0]


def cut_off(file: Path, _: Sequence[Path]) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def one_bit(file: Path, _: Sequence[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def no_such_file(file: Path, _: Sequence[Path]) -> None:
    file.write_bytes(b"something else")


def of_another(file: Path, others: Sequence[Path]) -> None:
    shutil.copy(next(other for other in others if other != file), file)


@pytest.mark.parametrize("damage", [cut_off, one_bit, no_such_file, of_another])
def test_what_is_damaged_is_said_and_trained_anew(
    trained: ConvolutionalJudge,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path, Sequence[Path]], None],
) -> None:
    trainings: list[str] = []

    def made(key: str) -> ConvolutionalJudge:
        def train() -> ConvolutionalJudge:
            trainings.append(key)
            return trained

        return kept_judge(key, BODY, QUICK, train)

    made("a")
    made("b")
    (file, _) = kept()
    damage(file, kept())
    assert made("a") is trained
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{file} cannot be used (")
    assert record.getMessage().endswith("): the judge is trained anew")
    assert_same(made("a"), trained, SHOWN)
    assert trainings == ["a", "b", "a"]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    trained: ConvolutionalJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert kept_judge("a", BODY, QUICK, lambda: trained) is trained
    (record,) = caplog.records
    assert record.getMessage() == (
        f"the cache {tmp_path}/file/touchstone cannot be written (Not a directory): the judge is trained at each "
        "evaluation; set XDG_CACHE_HOME to a folder that can be written"
    )


def test_several_may_be_kept_at_once(trained: ConvolutionalJudge) -> None:
    for number in range(3):
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda key: kept_judge(key, BODY, QUICK, lambda: trained), [str(number)] * 8))
        assert len(kept()) == number + 1, "nothing lies beside them"
        assert_same(found[0], found[-1], SHOWN)


def test_another_judge_of_the_same_clips_is_another_version(tmp_path: Path) -> None:
    """Raise `judge.VERSION` when these numbers change, and write the new ones here."""
    reader = write(tmp_path / "clips")
    found = asked(reader)
    assert judge.VERSION == 1
    assert [found.scale.mean.mean(), found.scale.spread.mean()] == pytest.approx(
        [0.3920329132543, 0.2252769507807], rel=1e-6
    )
    assert found.features(windows(reader))[0, :2] == pytest.approx([0.58271, 0.48144], abs=1e-3)
