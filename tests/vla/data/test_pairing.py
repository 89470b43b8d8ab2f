"""Which frame belongs to which row, against every frame decoded and compared by its time."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.vla.data.recordings import number_of, numbered_frame
from vla.data.containers import read_frame_index
from vla.data.pairing import Paired, pair
from vla.data.video import VideoFrames


def write_shown(
    path: Path,
    times_s: Sequence[float] | np.ndarray,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    *,
    time_base: Fraction = Fraction(1, 90000),
    container: Mapping[str, str] | None = None,
) -> Path:
    """A video whose frame k says k and is shown at times_s[k]."""
    with av.open(str(path), "w", options=dict(container or {})) as file:
        stream = file.add_stream(codec, rate=30, options=dict(options or {}))
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        for number, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = round(time_s / time_base), time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def decoded(path: Path) -> tuple[np.ndarray, list[int]]:
    """When each frame is shown, since the start of the file, and the number that it says: by decoding all of them."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        base, start = float(stream.time_base or 1), stream.start_time or 0
        frames = [(((frame.pts or 0) - start) * base, frame) for frame in file.decode(stream)]
    images = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for _, frame in frames]
    return np.array([time_s for time_s, _ in frames]), [number_of(image) for image in images]


def paired(path: Path, rows: np.ndarray, fps: float, how: str = "auto", offset_s: float = 0.0) -> Paired:
    index = read_frame_index(path)
    return pair(rows, index.seconds, offset_s=offset_s, fps=fps, how=how, what="one, front")  # type: ignore[arg-type]


def clock(seed: int, count: int, rate_hz: float, jitter: float = 0.3) -> np.ndarray:
    """A clock whose ticks are off by up to a share of a period; the first is at 0."""
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, count)
    noise[0] = 0
    return (np.arange(count) + noise) / rate_hz


VIDEOS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "reordered": ("a.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}, {}),
    "one group": ("a.mp4", "libx264", {"g": "250", "bf": "8"}, {}),
    "fragments": ("a.mp4", "libx264", {"g": "12", "bf": "2"}, {"movflags": "frag_keyframe+empty_moov"}),
    "no edit list": ("a.mp4", "libx264", {"g": "12", "bf": "2"}, {"use_editlist": "0"}),
    "av1": ("a.mp4", "libsvtav1", {"g": "4", "preset": "12"}, {}),
    "vp9": ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "mjpeg": ("a.mkv", "mjpeg", {}, {}),
    "stream": ("a.ts", "libx264", {"g": "12", "bf": "2"}, {}),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_each_row_has_the_nearest_frame(tmp_path: Path, kind: str) -> None:
    """Jittering clocks of 30 Hz and a table of 10 Hz, in codecs and containers of all sorts."""
    name, codec, options, container = VIDEOS[kind]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    shown = clock(1, 60, 30.0)
    base = Fraction(1, 1000) if name.endswith(("mkv", "webm")) else Fraction(1, 90000)
    path = write_shown(tmp_path / name, shown, codec, options, time_base=base, container=container)
    times, numbers = decoded(path)
    assert numbers == list(range(60))
    rows = clock(2, 19, 10.0)
    found = paired(path, rows, 10.0)
    frames = VideoFrames(path=path, timestamps=rows, index=read_frame_index(path), frames=found.frames)
    expected = [numbers[int(np.abs(times - row).argmin())] for row in rows]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    assert [number_of(frames.read([row])[0]) for row in order] == [expected[row] for row in order]
    assert [number_of(image) for image in frames.read(range(len(rows)))] == expected


def test_no_frame_of_an_mp4_file_is_read_for_its_index(tmp_path: Path) -> None:
    """The media box is overwritten, and the index is what it was."""
    path = write_shown(tmp_path / "a.mp4", clock(3, 40, 30.0), options={"g": "6", "bf": "2"})
    before, content = read_frame_index(path), bytearray(path.read_bytes())
    start, size = content.index(b"mdat") + 4, int.from_bytes(content[content.index(b"mdat") - 4 :][:4], "big")
    content[start : start + size - 8] = b"\xa5" * (size - 8)
    path.write_bytes(content)
    after = read_frame_index(path)
    assert np.array_equal(before.ticks, after.ticks)
    assert (before.time_base, before.start) == (after.time_base, after.start)


def test_frames_that_an_edit_list_hides_are_none(tmp_path: Path) -> None:
    """The lead-in of a clip that was cut without encoding it anew."""
    whole = write_shown(tmp_path / "whole.mp4", np.arange(60) / 30, options={"g": "30", "bf": "0"})
    content, at = bytearray(whole.read_bytes()), 0
    at = content.index(b"elst")
    assert content[at + 8 : at + 12] == b"\0\0\0\1"
    content[at + 16 : at + 20] = (15 * 3000).to_bytes(4, "big")  # begins with frame 15, in 1/90000 s
    whole.write_bytes(content)
    times, numbers = decoded(whole)
    index = read_frame_index(whole)
    assert numbers[0] == 15
    assert len(index.ticks) == len(numbers) == 45
    np.testing.assert_allclose(index.seconds, times, atol=1e-9)


@pytest.mark.parametrize("rate_hz", [30 / 1.001, 30.03, 29.9])
def test_clocks_that_run_apart_are_refused_until_somebody_says_how_to_pair(rate_hz: float) -> None:
    rows, shown = np.arange(900) / 30, np.arange(900) / rate_hz
    with pytest.raises(
        ValueError, match=r"at 30 Hz, and the frames, at .* run apart by .* `--data\.pairing number`"
    ) as error:
        pair(rows, shown, offset_s=0.0, fps=30.0, how="auto", what="one, front")
    assert f"{rate_hz:.6g} Hz" in str(error.value)
    assert f"{1000 * (899 / rate_hz - 899 / 30):+.0f} ms over 900 rows" in str(error.value)
    numbered = pair(rows, shown, offset_s=0.0, fps=30.0, how="number", what="")
    assert numbered.frames.tolist() == list(range(900))
    timed = pair(rows, shown, offset_s=0.0, fps=30.0, how="time", what="").frames
    expected = np.abs(shown[None] - rows[:, None]).argmin(axis=1)
    assert (timed[timed >= 0] == expected[timed >= 0]).all()
    assert (timed < 0).sum() == (np.abs(shown[expected] - rows) > 0.9 / 30 + 1e-3).sum()


def test_what_is_no_drift_is_paired_by_time() -> None:
    rows = np.arange(300) / 30
    dropped = np.delete(np.arange(310) / 30, 100)
    assert pair(rows, dropped, offset_s=0.0, fps=30.0, how="auto", what="").frames[[99, 101, 299]].tolist() == [
        99,
        100,
        298,
    ]
    true_times = np.arange(300) * 1.001 / 30
    assert pair(true_times, true_times, offset_s=0.0, fps=30.0, how="auto", what="").frames.tolist() == list(range(300))
    short = pair(rows[:60], np.arange(60) * 1.001 / 30, offset_s=0.0, fps=30.0, how="auto", what="")
    assert short.frames.tolist() == list(range(60))


def test_a_slower_camera_has_a_clock_of_its_own() -> None:
    """A table of 100 Hz beside a camera of 30 Hz, in the middle of a file."""
    rows, shown = np.arange(200) / 100, np.arange(120) / 30
    found = pair(rows, shown, offset_s=1.0, fps=100.0, how="auto", what="")
    assert found.frames.tolist() == list(range(30, 91))
    np.testing.assert_allclose(found.timestamps, shown[30:91] - 1.0)
    forced = pair(rows, shown, offset_s=1.0, fps=100.0, how="time", what="")
    distances = np.abs(shown[None] - rows[:, None] - 1.0)
    np.testing.assert_allclose(np.abs(shown[forced.frames] - rows - 1.0), distances.min(axis=1), atol=1e-12)


def test_rows_beyond_the_frames_have_none() -> None:
    rows, shown = np.arange(12) / 20, np.arange(10) / 20
    assert pair(rows, shown, offset_s=0.0, fps=20.0, how="auto", what="").frames.tolist() == [*range(10), -1, -1]
    assert pair(rows, shown, offset_s=0.0, fps=20.0, how="number", what="").frames.tolist() == [*range(10), -1, -1]
    assert (pair(rows, shown, offset_s=3.0, fps=20.0, how="number", what="").frames == -1).all()
