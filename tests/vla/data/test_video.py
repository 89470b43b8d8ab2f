"""Random access gives exactly the frames of sequential decoding, in bounded memory, from any thread or process."""

import errno
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from tests.vla.data.recordings import number_of, write_video
from vla.data import video
from vla.data.containers import read_frame_index
from vla.data.pairing import pair
from vla.data.video import DecoderPool, VideoFrames, read_frames
from vla.errors import CorruptData, StorageFault

ENCODINGS: dict[str, tuple[str, Mapping[str, str]]] = {
    "h264, two frames a group": ("libx264", {"g": "2"}),
    "h264, reordered frames": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-adapt=0"}),
    "h264, one group": ("libx264", {"g": "250"}),
    "av1": ("libsvtav1", {"g": "2", "preset": "12"}),
}


def frames_of(
    path: Path, count: int, fps: float = 20, offset: float = 0.0, noise: np.ndarray | float = 0.0
) -> VideoFrames:
    """The frames of `count` rows, the first of which stands `offset` periods after the start of the file."""
    index = read_frame_index(path)
    paired = pair(
        np.arange(count) / fps + noise, index.seconds, offset_s=offset / fps, fps=float(fps), how="auto", what=str(path)
    )
    return VideoFrames(path=path, timestamps=paired.timestamps, index=index, frames=paired.frames)


def decode_all(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in container.decode(video=0)]


@pytest.fixture(params=list(ENCODINGS))
def encoded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    codec, options = ENCODINGS[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    write_video(tmp_path / "file.mp4", range(40), codec=codec, options=options)
    return tmp_path / "file.mp4"


def test_random_access_equals_sequential_decoding(encoded: Path) -> None:
    expected = decode_all(encoded)
    frames = frames_of(encoded, 40)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 3))
    for index in order.tolist():
        (image,) = frames.read([index])
        assert number_of(image) == index
        assert np.array_equal(image, expected[index])
    assert all(np.array_equal(a, b) for a, b in zip(frames.read(range(40)), expected, strict=True))


@pytest.mark.parametrize("width", [24, 50, 96, 100, 160, 162])
def test_every_column_is_decoded_whatever_the_width(tmp_path: Path, width: int) -> None:
    path = tmp_path / "file.mp4"
    write_video(path, [255, 0, 255, 170], size=(48, width))
    read = frames_of(path, 4).read(range(4))
    for image, expected in zip(read, decode_all(path), strict=True):
        assert np.array_equal(image, expected)
    assert read[0].min() > 240
    assert read[1].max() < 15


def test_an_episode_in_the_middle_of_a_file_reads_its_own_frames(encoded: Path) -> None:
    frames = frames_of(encoded, 15, offset=17)
    assert [number_of(image) for image in frames.read([14, 0, 7, 7])] == [31, 17, 24, 24]


def test_real_frames_equal_sequential_decoding(shared: Path) -> None:
    path = next((shared / "data/needle_lerobot_v30/videos/observation.images.front").rglob("*.mp4"))
    expected = decode_all(path)
    frames = frames_of(path, len(expected))
    for index in np.random.default_rng(1).permutation(len(expected))[:60].tolist():
        assert np.array_equal(frames.read([index])[0], expected[index])


def test_time_stamps_with_noise_below_half_a_period_find_their_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "file.mp4", range(30))
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, 30)
    frames = frames_of(tmp_path / "file.mp4", 30, noise=noise)
    assert [number_of(image) for image in frames.read(range(30))] == list(range(30))


def test_a_time_past_the_end_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "file.mp4", range(10))
    with pytest.raises(CorruptData, match=r"file\.mp4 has no frame near row 11, 0\.550 s after"):
        frames_of(tmp_path / "file.mp4", 20).read([11])


@pytest.mark.parametrize("front", [False, True], ids=["index at the end", "index in front"])
def test_a_truncated_file_is_refused_at_open(tmp_path: Path, front: bool) -> None:
    path = tmp_path / "file.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"} if front else {}) as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert len(read_frame_index(path).ticks) == 30
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptData, match=r"file\.mp4"):
            read_frame_index(path)


def test_garbage_in_the_middle_is_corrupt_data(tmp_path: Path) -> None:
    path = tmp_path / "file.mp4"
    write_video(path, range(60))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + (len(content) - start) // 2] = b"\x17" * ((len(content) - start) // 2)
    path.write_bytes(content)
    with pytest.raises(CorruptData, match=r"file\.mp4 cannot be decoded"):
        frames_of(path, 60).read(range(60))


def packets_of(path: Path) -> list[tuple[int, int, bool]]:
    """Place, size and key flag of the packets of a video, in the order of the file."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


def damaged_at(path: Path, frame: int) -> None:
    """Overwrite one packet."""
    place, size, _ = packets_of(path)[frame]
    content = bytearray(path.read_bytes())
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)


def readable(frames: VideoFrames, index: int) -> bool:
    try:
        frames.read([index])
    except CorruptData:
        return False
    return True


def test_damage_does_not_reach_a_frame_that_can_be_decoded_without_it(tmp_path: Path) -> None:
    """From 6 on to 8 the decoder would pass 7; a decoder that comes from elsewhere would not."""
    path = tmp_path / "file.mp4"
    write_video(path, range(40), options={"g": "4", "bf": "0", "sc_threshold": "0"})
    assert [place for place, packet in enumerate(packets_of(path)) if packet[2]] == list(range(0, 40, 4))
    damaged_at(path, 7)
    for order in (range(40), reversed(range(40)), np.random.default_rng(0).permutation(40).tolist()):
        frames = frames_of(path, 40)
        found = {index: readable(frames, index) for index in order}
        assert [index for index in range(40) if not found[index]] == [7]
        assert number_of(frames.read([6, 8])[1]) == 8


@pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this build of PyAV has no libsvtav1")
def test_flipped_bits_of_av1_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "file.mp4"
    write_video(path, range(40), codec="libsvtav1", options={"g": "2", "preset": "12"})
    whole, expected = path.read_bytes(), decode_all(path)
    places = [(place, size) for place, size, _ in packets_of(path)[8:]]
    seen = 0
    for place, size in places:
        content = bytearray(whole)
        content[place + size * 2 // 3] ^= 16
        path.write_bytes(content)
        frames = frames_of(path, 40)
        for index in range(6, 40):
            if readable(frames, index):
                assert np.array_equal(frames.read([index])[0], expected[index])
            else:
                seen += 1
        video._processes[-1].decoders.take(str(path)).close()  # the next file has the same name
    assert seen >= len(places)


def test_an_encoder_that_breaks_rules_has_made_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first frames fail strictly too, the file is read as FFmpeg reads it by default."""
    write_video(tmp_path / "file.mp4", range(20))
    opened = []

    class Picky(video.Decoder):
        def __init__(self, path: str, *, strict: bool = True) -> None:
            super().__init__(path, strict=strict)
            opened.append(strict)

        def _next_from(self, first: int) -> av.VideoFrame | None:
            if self.strict:
                raise av.InvalidDataError(0, "a rule is broken", self.path)
            return super()._next_from(first)

        def starts(self) -> bool:
            return not self.strict

    monkeypatch.setattr(video, "Decoder", Picky)
    monkeypatch.setattr(video, "_processes", [video._Process()])
    frames = frames_of(tmp_path / "file.mp4", 20)
    assert [number_of(frames.read([index])[0]) for index in (3, 17, 4)] == [3, 17, 4]
    assert opened.count(True) == 2, "strictly once, and once more to see whether it starts"


def test_storage_that_refuses_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "file.mp4", range(4))

    def refuse(*_: object, **__: object) -> None:
        av.error.err_check(-errno.EIO)

    frames = frames_of(tmp_path / "file.mp4", 4)
    monkeypatch.setattr(av, "open", refuse)
    for read in (
        partial(frames.read, [1]),
        partial(read_frame_index, tmp_path / "file.mp4"),
    ):
        with pytest.raises(StorageFault, match=r"file\.mp4 cannot be opened as a video \(Input/output error\)"):
            read()


def test_the_pool_closes_what_was_unused_longest(tmp_path: Path) -> None:
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", [number])
    pool = DecoderPool(max_decoders=3)
    for number in range(5):
        decoder = pool.take(str(tmp_path / f"{number}.mp4"))
        pool.give_back(decoder)
    assert len(pool) == 3
    kept = pool.take(str(tmp_path / "4.mp4"))
    assert kept is decoder
    small = DecoderPool(max_pixels=2 * 96 * 64)
    for number in range(5):
        small.give_back(small.take(str(tmp_path / f"{number}.mp4")))
    assert len(small) == 2


def test_several_cameras_keep_their_order_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "num_cores", lambda: 4)
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", range(10 * number, 10 * number + 8))
    cameras = [frames_of(tmp_path / f"{number}.mp4", 8) for number in range(6)]
    read = read_frames([(camera, [7 - place, place]) for place, camera in enumerate(cameras)])
    assert [[number_of(image) for image in images] for images in read] == [
        [10 * place + 7 - place, 10 * place + place] for place in range(6)
    ]
    (tmp_path / "3.mp4").unlink()
    broken = [cameras[1], replace(cameras[2], path=tmp_path / "missing.mp4")]
    with pytest.raises(CorruptData, match="missing"):
        read_frames([(camera, [0]) for camera in broken])


def test_one_file_from_many_threads(tmp_path: Path) -> None:
    write_video(tmp_path / "file.mp4", range(40))
    frames = frames_of(tmp_path / "file.mp4", 40)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 4)).tolist()
    with ThreadPoolExecutor(4) as threads:
        assert [number_of(image) for image in threads.map(lambda index: frames.read([index])[0], order)] == order


def read_number(frames: VideoFrames) -> int:
    return number_of(frames.read([11])[0])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.deep)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # 3.12 and newer warn of any fork beside threads
def test_frames_read_in_started_processes(tmp_path: Path, start: str) -> None:
    write_video(tmp_path / "file.mp4", range(20))
    frames = frames_of(tmp_path / "file.mp4", 20)
    assert read_number(frames) == 11  # the parent's decoder is open when the child starts
    with multiprocessing.get_context(start).Pool(2) as workers:
        assert workers.map(read_number, [frames] * 6) == [11] * 6
    assert read_number(frames) == 11
