"""Pictures of clips: each of its own clip, when its frame is; and what does not fit is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import pictures
from vla import inspection
from vla.data.dataset import Dataset, open_dataset
from vla.data.doctor import examine
from vla.data.formats.lerobot.reader import open_lerobot
from vla.data.formats.motion.reader import MotionReader, open_motion
from vla.data.selection import Selection
from vla.data.writing.writer import write_lerobot
from vla.errors import CorruptData, MissingFiles
from vla.motion_settings import MotionConfig
from vla.settings import DataConfig

Scenes = tuple[Path, Path]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return pictures.write_scenes(tmp_path / "scenes", (1, 2, 1), shown={0: (0,), 1: (2, 5)})


def asked(folder: Path | None, rate_hz: float = 25.0) -> MotionConfig:
    return MotionConfig(rate_hz=rate_hz, pictures=None if folder is None else str(folder))


def opened(scenes: Scenes, **changed: Any) -> Dataset:
    settings = {"roots": (str(scenes[0]),), "horizon": 4, "validation_share": 0.0, "motion": asked(scenes[1])}
    return open_dataset(DataConfig(**(settings | changed)), 0)


def reader(scenes: Scenes, **selected: Any) -> MotionReader:
    return open_motion(scenes[0], Selection(motion=asked(scenes[1]), **selected))


def colour(image: Any) -> tuple[int, ...]:
    ((red, green, blue),) = np.unique(image.reshape(3, -1), axis=1).T.tolist()
    return red, green, blue


def test_a_frame_is_seen_from_its_time_on_and_a_still_always(scenes: Scenes) -> None:
    data = opened(scenes)
    assert data.contract.cameras == ("observation.images.view_00000", "observation.images.view_00001")
    for index, sample in enumerate(data.everything):
        frame = data.everything.locate(index)[1]
        clip, actor = divmod(int(sample.actions[0, 0]), 10)
        newest = {0: 0, 1: 5 if frame >= 5 else 2 if frame >= 2 else None, 2: None}[clip]
        assert sample.image_valid.tolist() == [newest is not None] * 2
        for view, image in enumerate(sample.images):
            assert colour(image) == ((0, 0, 0) if newest is None else pictures.colour(clip, actor, view, newest))


def test_what_there_is_and_what_is_chosen_is_said(scenes: Scenes, tmp_path: Path) -> None:
    said = " ".join(reader(scenes).layout.remarks)
    for sentence in (
        "3 of 4 clips have pictures, 10 of 2 views in all; where the cameras stand is not read",
        "without pictures, so that their samples see none: 1 of 4 clips",
        "one still of a view stands for its whole clip: 2 of 10 pictures",
    ):
        assert sentence in said
    many = pictures.write_scenes(tmp_path / "many", (1, 1), views=6)
    shutil.rmtree(many[1] / "sample_000001")
    pictures.write_pictures(many[1], 1, 0, (3, 3, 7), views=5)
    found = reader(many)
    assert found.layout.cameras == tuple(f"observation.images.view_0000{view}" for view in range(4))
    said = " ".join(found.layout.remarks)
    assert "of 6 views those up to view_00003 are shown: --data.cameras names others" in said
    assert "with some of the views alone, the others masked: 1 of 2 clips" in said
    assert "left out, of a frame that the same view shows already: 5 of 21 pictures" in said


def test_views_are_chosen_by_name_and_masked_where_a_clip_has_them_not(tmp_path: Path) -> None:
    scenes = pictures.write_scenes(tmp_path / "many", (1, 1), views=6)
    shutil.rmtree(scenes[1] / "sample_000001")
    pictures.write_pictures(scenes[1], 1, 0, (0,), views=2)
    data = opened(scenes, cameras=("view_00005", "view_00001"))
    assert data.contract.cameras == ("observation.images.view_00005", "observation.images.view_00001")
    first, second = data.everything[0], data.everything[8]
    assert first.image_valid.tolist() == [True, True] and second.image_valid.tolist() == [False, True]
    assert [colour(image) for image in first.images] == [pictures.colour(0, 0, view, 0) for view in (5, 1)]
    assert colour(second.images[1]) == pictures.colour(1, 0, 1, 0)
    with pytest.raises(ValueError, match=r"pictures has no view view_00009 for --data\.cameras: did you mean"):
        opened(scenes, cameras=("view_00009",))
    with pytest.raises(ValueError, match=r"no view_00001 without pictures: give --data\.motion\.pictures, or leave"):
        opened(scenes, cameras=("view_00001",), motion=asked(None))


def change(**changes: Any) -> Callable[[Path], object]:
    """Metadata that say something else."""

    def changed(folder: Path) -> None:
        file = folder / "metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return changed


def first_frame(**changes: Any) -> Callable[[Path], object]:
    """Metadata that say something else of the first picture."""

    def changed(folder: Path) -> None:
        frames = json.loads((folder / "metadata.json").read_text())["frames"]
        change(frames=[frames[0] | changes, *frames[1:]])(folder)

    return changed


DAMAGE: dict[str, tuple[Callable[[Path], object], type[ValueError], str]] = {
    "a picture is gone": (
        lambda folder: (folder / "view_00001_f001.png").unlink(),
        MissingFiles,
        r"metadata\.json names 1 pictures that are not there, such as .*actor_1/view_00001_f001\.png: restore them",
    ),
    "metadata are gone": (
        lambda folder: (folder / "metadata.json").unlink(),
        MissingFiles,
        r"sample_000001/actor_1/metadata\.json is not there: restore it",
    ),
    "no JSON": (
        lambda folder: (folder / "metadata.json").write_text('{"frames": ['),
        CorruptData,
        r"metadata\.json is damaged \(.*JSON.*\); restore it from a copy",
    ),
    "no number of frames": (
        change(motion_total_frames="eight"),
        CorruptData,
        r"metadata\.json is damaged \(motion_total_frames: .*integer\)",
    ),
    "another sample": (
        change(sample_id="sample_000000"),
        CorruptData,
        "is of sample sample_000000, its folder of sample 1",
    ),
    "another actor": (change(actor_id=0), CorruptData, "is of actor 0, its folder of actor 1: put it where it belongs"),
    "no id": (change(sample_id="the first"), CorruptData, "is of sample the first, its folder of sample 1"),
    "another motion": (
        change(motion_total_frames=9),
        ValueError,
        "is of a motion of 9 frames at 25 a second, the clip has 8 at 25: give the list that",
    ),
    "another rate": (change(fps=30), ValueError, "of 8 frames at 30 a second, the clip has 8 at 25"),
    "no pictures": (change(frames=[]), CorruptData, "names no picture: render the clip again"),
    "a frame past the end": (first_frame(motion_frame_index=8), CorruptData, "at frame 8, where .* go from 0 to 7"),
    "no view": (first_frame(view_id=None), CorruptData, "of view -1 at frame 2"),
    "a file elsewhere": (first_frame(file="../../../clips.pt"), CorruptData, "which is not in the folder of the data"),
    "a sample too many": (
        lambda folder: folder.parent.rename(folder.parents[1] / "sample_000007"),
        ValueError,
        r"sample_000007/actor_0 is of no clip of clips\.pt, which has 4: give the list that the pictures were made of",
    ),
    "an actor too many": (
        lambda folder: folder.rename(folder.parent / "actor_2"),
        ValueError,
        r"sample_000001/actor_2 is of no clip of clips\.pt",
    ),
    "two of one": (
        lambda folder: shutil.copytree(folder.parent, folder.parents[1] / "sample_1"),
        CorruptData,
        "are of one actor: delete one of them",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_does_not_fit_is_refused(scenes: Scenes, what: str) -> None:
    damage, kind, said = DAMAGE[what]
    damage(scenes[1] / "sample_000001" / "actor_1")
    with pytest.raises(kind, match=said) as refused:
        opened(scenes)
    assert type(refused.value) is kind and "\n" not in str(refused.value)


def test_older_metadata_call_views_otherwise_and_may_leave_ids_to_the_folder(scenes: Scenes) -> None:
    folder = scenes[1] / "sample_000001" / "actor_1"
    frames = json.loads((folder / "metadata.json").read_text())["frames"]
    frames = [{("view_index" if key == "view_id" else key): value for key, value in frame.items()} for frame in frames]
    change(sample_id=None, actor_id=None, frames=frames)(folder)
    assert [len(episode.cameras) for episode in reader(scenes).episodes] == [2, 2, 2, 0]


def test_a_picture_that_cannot_be_decoded_is_named(scenes: Scenes) -> None:
    file = scenes[1] / "sample_000001" / "actor_0" / "view_00001_f001.png"
    file.write_bytes(file.read_bytes()[:-30])
    data = opened(scenes)
    place = next(place for place in range(len(data.everything)) if data.everything.locate(place)[1] == 5 and place > 8)
    with pytest.raises(CorruptData, match=rf"clip_1/actor_0, .*view_00001, frame 2: {file} is not a complete image"):
        data.everything[place]
    void = opened(scenes, quarantine=1).everything[place]
    assert void.weight == 0 and not void.image_valid.any()


def test_folders_that_hold_no_pictures_of_these_clips_are_refused(scenes: Scenes, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for motion, said in (
        (asked(tmp_path / "gone"), r"gone is no folder: give the one that holds sample_000000/actor_0/metadata\.json"),
        (asked(empty), r"empty holds no sample_000000/actor_0: give another folder with --data\.motion\.pictures"),
    ):
        with pytest.raises(ValueError, match=said):
            opened(scenes, motion=motion)
    shutil.copy(scenes[0], scenes[0].with_name("again.pt"))
    with pytest.raises(ValueError, match=r"clips of one list \(\.pt\), and .*scenes holds 2: give one list"):
        opened((scenes[0].parent, scenes[1]))
    with pytest.raises(ValueError, match=r"several --data\.roots were given: give one list"):
        opened(scenes, roots=(str(scenes[0]), str(scenes[0].with_name("again.pt"))))


def test_a_resumed_run_knows_its_pictures_wherever_they_lie(scenes: Scenes, tmp_path: Path) -> None:
    known = opened(scenes).train.fingerprint()
    moved = shutil.copytree(scenes[1], tmp_path / "moved")
    assert opened((scenes[0], moved)).train.fingerprint() == known
    first_frame(motion_frame_index=1)(moved / "sample_000001" / "actor_0")
    assert opened((scenes[0], moved)).train.fingerprint() != known


def test_doctor_and_info_tell_of_pictures(scenes: Scenes) -> None:
    (found,) = examine([scenes[0]], selection=Selection(motion=asked(scenes[1]))).roots
    assert found.problems == () and "3 of 4 clips have pictures" in " ".join(found.remarks)
    (scenes[1] / "sample_000000" / "actor_0" / "view_00000.png").unlink()
    (scenes[1] / "sample_000001" / "actor_0" / "metadata.json").unlink()
    (found,) = examine([scenes[0]], selection=Selection(motion=asked(scenes[1]))).roots
    assert len(found.problems) == 2 and len(found.missing_files) == 2, "all at once"
    tree = inspection.inspect(scenes[0].parent).to_json()
    assert "2 clips have pictures in pictures, which are not read: give --data.motion.pictures" in str(tree)


def test_a_copy_keeps_every_row_and_picture(scenes: Scenes, tmp_path: Path) -> None:
    """As videos; what a clip does not show yet, or never, is marked."""
    source = reader(scenes, carry=True, missing_cameras="mask")
    write_lerobot(source, tmp_path / "copy")
    copied = open_lerobot(tmp_path / "copy", Selection(missing_cameras="mask"))
    assert copied.layout.cameras == source.layout.cameras
    for before, after in zip(source.episodes, copied.episodes, strict=True):
        np.testing.assert_allclose(after.timestamps, before.timestamps, atol=1e-6)
        frames = {key: after.seen.get(key, np.ones(8, np.bool_)) for key in after.cameras}
        own = {key: before.seen.get(key, np.ones(8, np.bool_)) for key in before.cameras}
        assert {key: marks.tolist() for key, marks in frames.items() if marks.any()} == {
            key: marks.tolist() for key, marks in own.items()
        }
