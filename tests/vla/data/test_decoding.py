"""Key frames are counted as the decoder finds them, and what doctor says of videos without them comes true."""

from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.vla.data.recordings import CAMERA, write_v2, write_video
from vla.data.containers import read_frame_index
from vla.data.decoding import measure_decoding
from vla.data.diagnosis import Decoding
from vla.data.doctor import examine
from vla.data.formats import open_folder
from vla.data.writing.writer import write_lerobot


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "2"}),
        ("b.mp4", "libx264", {"g": "250", "bf": "3"}),
        ("c.mkv", "libx264", {"g": "7", "sc_threshold": "0"}),
        ("d.mp4", "libx265", {"g": "10", "x265-params": "log-level=0"}),
        ("e.mp4", "libsvtav1", {"g": "2"}),
        ("f.mp4", "libx264", {"g": "5", "movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_key_frames_are_counted_without_decoding(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = tmp_path / name
    write_video(path, range(24), codec=codec, options=options)
    with av.open(str(path)) as file:
        decoded = [frame.key_frame for frame in file.decode(video=0)]
    assert len(decoded) == 24
    assert read_frame_index(path).key_frames == sum(decoded)


def sparse(root: Path) -> Path:
    """A data set in whose videos the first frame alone is a key frame."""
    write_v2(root, lengths=(100, 100))
    for path in root.rglob("*.mp4"):
        write_video(path, range(100), options={"g": "250", "sc_threshold": "0"}, size=(240, 320))
    return root


def test_what_decodes_slowly_is_said_with_the_command_that_helps(tmp_path: Path) -> None:
    root, copy = sparse(tmp_path / "sparse"), tmp_path / "copy"
    reader = open_folder(root)
    write_lerobot(reader, copy)
    (slow,) = measure_decoding(reader.episodes, (CAMERA,), 0.5)
    (fast,) = measure_decoding(open_folder(copy).episodes, (CAMERA,), 0.5)
    assert (slow.frames_a_key_frame, fast.frames_a_key_frame) == (100, 2)
    assert fast.frames_per_s > 2 * slow.frames_per_s
    (report,) = examine([root], decode_s=0.1).roots
    assert [each.camera for each in report.decoding] == [CAMERA]
    assert examine([root]).roots[0].decoding == ()
    lines = replace(report, decoding=(Decoding(camera=CAMERA, frames_per_s=13.0, frames_a_key_frame=100.0),)).lines()
    place = lines.index("    slow, for want of key frames; a copy in which every second frame is one:")
    assert lines[place - 1].split() == [CAMERA, "100", "13"]
    assert lines[place + 1] == f"      vla import lerobot {root} COPY"
    assert "  nothing to report" not in lines


@pytest.mark.parametrize(
    ("apart", "speed", "slow"), [(250.0, 13.0, True), (2.0, 13.0, False), (250.0, 254.0, False), (None, 13.0, False)]
)
def test_slow_is_what_more_key_frames_would_help(apart: float | None, speed: float, slow: bool) -> None:
    assert Decoding(camera=CAMERA, frames_per_s=speed, frames_a_key_frame=apart).slow == slow


def test_damaged_videos_and_images_are_measured_as_far_as_they_go(tmp_path: Path) -> None:
    root = sparse(tmp_path / "sparse")
    path = min(root.rglob("*.mp4"))
    reader = open_folder(root)
    path.write_bytes(b"damaged since")
    (found,) = measure_decoding(reader.episodes, (CAMERA,), 0.2)
    assert found.frames_per_s > 0
    assert measure_decoding(reader.episodes[:1], (CAMERA,), 0.0) == (), "nothing of it can be read"
