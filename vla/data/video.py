"""Frames of video files, decoded on demand: exact, bounded in memory, several files at once.

A decoder is opened lazily in the process that needs it and lent to one thread at a time; a process keeps at most
`MAX_DECODERS` of them. Each has one thread: a random access decodes two or three frames, less than it costs to wake a
pool of threads and to wait for the delay that frame threading adds.
"""

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float64, Int64, Shaped, UInt8

from vla.data.containers import CONTAINERS, WIDE, FrameIndex, video_of
from vla.data.depth import Depth
from vla.data.episode import Frames
from vla.data.reading import unreadable
from vla.errors import CorruptData

MAX_DECODERS = 16
"""Open decoders a process keeps between reads; one of a 640 x 480 AV1 file holds 1 to 2 MB."""

MAX_PIXELS = 64 * 1920 * 1080
"""Sum of the frame areas of the decoders a process keeps; it binds before MAX_DECODERS where frames are large."""

MAX_THREADS = 8
"""Cameras decoded at the same time by one process."""


STRICT = MappingProxyType({"strict": "1"})
"""Codecs hold no checksums, but most damage of an AV1 stream breaks one of its rules: of 40 single flipped bits dav1d
passed over 7 and gave wrong frames, with this over none. The same option of H.264 (err_detect=explode) takes the
leading frames of an open group for damage, so there some damage stays unseen."""

Image = UInt8[np.ndarray, "3 height width"]


class Decoder:
    """One open video file. Not for several threads at once. A strict one raises where others would paint over."""

    def __init__(self, path: str, *, strict: bool = True) -> None:
        self.path, self.strict = path, strict
        try:
            self._container = av.open(path, metadata_errors="replace", options=CONTAINERS)
        except (av.FFmpegError, OSError) as error:
            raise unreadable(error, f"{path} cannot be opened as a video ({error.strerror})") from error
        try:
            self._stream = video_of(self._container, path)
        except CorruptData:
            self._container.close()
            raise
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.thread_type = "NONE"
        if strict:
            self._stream.codec_context.options = dict(STRICT)
        self._time_base = self._stream.time_base or Fraction(1, av.time_base)
        self._reformatter = VideoReformatter()
        self._packed: VideoFrame | None = None
        """The frame converted last, kept so that its memory is used again instead of going back to the system."""
        entries = [(entry.timestamp, entry.is_keyframe) for entry in self._stream.index_entries]
        # The container's own table of samples: nothing is read for it. By decoding time, which is enough to compare.
        self._times = np.array([time for time, _ in entries], dtype=np.int64)
        self._keyframes = np.array([time for time, is_keyframe in entries if is_keyframe], dtype=np.int64)
        self._decoded: Iterator[VideoFrame] = iter(())
        self._last: int | None = None
        """Time stamp of the frame decoded last; None where the next frame is not known."""
        self.pixels = self._stream.height * self._stream.width

    def close(self) -> None:
        """Close the file and free the decoder."""
        self._container.close()

    def read(self, ticks: Sequence[int], depth: Depth | None = None) -> list[Image]:
        """The frames of these time stamps, which must increase. CorruptData where one cannot be decoded."""
        images = []
        try:
            for tick in ticks:
                frame = self._frame_at(tick)
                if frame is None:
                    at_s = float(tick * self._time_base)
                    raise CorruptData(
                        f"{self.path} cannot be decoded at {at_s:.3f} s (no frame comes out); copy or record it again"
                    )
                images.append(self._to_rgb(frame) if depth is None else depth.picture(_stored(frame)))
        except av.FFmpegError as error:
            self._last = None
            near_s = float(tick * self._time_base)
            what = f"{self.path} cannot be decoded near {near_s:.3f} s ({error.strerror})"
            raise unreadable(error, what) from error
        return images

    def _frame_at(self, target: int) -> VideoFrame | None:
        """The frame of this time stamp; None where the decoder does not give it."""
        if not self._can_continue_to(target):
            self._seek(target)
        frame = self._next_from(target)
        back = 1
        # A container seeks by decoding time: where frames are reordered the key frame it finds may be shown after the
        # target. Then go back further, at last to the start.
        while frame is None or (frame.pts or 0) > target:
            # No frame up to the end of the file: then there is none from the start either, which may be far.
            if back > 3 or (frame is None and back == 3):
                return None
            self._seek(target - round(back / self._time_base) if back < 3 else 0)
            frame = self._next_from(target)
            back += 1
        return frame

    def starts(self) -> bool:
        """Whether the first frames can be decoded, enough of them to have seen every kind."""
        try:
            self._seek(0)
            return len(list(islice(self._decoded, 8))) > 0
        except av.FFmpegError:
            return False

    def _can_continue_to(self, target: int) -> bool:
        """Whether decoding on costs at most one frame more than jumping to the last key frame before the target."""
        if self._last is None or self._last >= target or not len(self._keyframes):
            return False
        keyframe = self._keyframes[max(0, int(np.searchsorted(self._keyframes, target, side="right")) - 1)]
        here, jump = np.searchsorted(self._times, (self._last + 1, keyframe))
        return bool(here + 1 >= jump)

    def _seek(self, target: int) -> None:
        self._container.seek(target, stream=self._stream, backward=True, any_frame=False)
        self._decoded = self._container.decode(self._stream)
        self._last = None

    def _next_from(self, first: int) -> VideoFrame | None:
        for frame in self._decoded:
            if frame.is_corrupt:
                raise av.InvalidDataError(0, "the decoder reports a damaged frame", self.path)
            self._last = frame.pts
            if frame.pts is not None and frame.pts >= first:
                return frame
        self._last = None
        return None

    def _to_rgb(self, frame: VideoFrame) -> Image:
        """Red, green and blue side by side in memory, as FFmpeg writes them and as torch resizes them fastest."""
        if WIDE.match(frame.format.name):
            raise CorruptData(
                f"{self.path} has grey pixels of more than 8 bits ({frame.format.name}), which are no colour"
            )
        packed = self._packed = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = packed.planes[0]
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        image = rows[: packed.height, : 3 * packed.width].reshape(packed.height, packed.width, 3)
        return image.transpose(2, 0, 1).copy(order="K")


def _stored(frame: VideoFrame) -> Shaped[np.ndarray, "height width"]:
    """The numbers of a frame's first channel, as decoded."""
    pixels, plane = frame.format, frame.planes[0]
    order = ">" if pixels.name.endswith("be") else "<"
    width = "f4" if pixels.name.startswith("grayf") else "u2" if pixels.components[0].bits > 8 else "u1"
    rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
    values = np.ascontiguousarray(rows[: frame.height]).view(order + width)[:, : frame.width]
    return values.astype(values.dtype.newbyteorder("="))


class DecoderPool:
    """The decoders of one process: lent to one thread at a time, the longest unused closed first."""

    def __init__(self, max_decoders: int = MAX_DECODERS, max_pixels: int = MAX_PIXELS) -> None:
        self._max_decoders = max_decoders
        self._max_pixels = max_pixels
        self._idle: OrderedDict[str, Decoder] = OrderedDict()
        self._lenient: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, path: str) -> Decoder:
        """A decoder of this file, for the caller alone until it is given back."""
        with self._lock:
            decoder = self._idle.pop(path, None)
        return decoder if decoder is not None else self.open(path)

    def open(self, path: str) -> Decoder:
        """A new decoder of this file: strict, unless the file was found to break rules from its start."""
        return Decoder(path, strict=path not in self._lenient)

    def reconsider(self, path: str) -> None:
        """After an error: an encoder that does not keep the rules has made no damage, and breaks them from the start.

        The answer depends on the file alone, so all processes find the same.
        """
        if path not in self._lenient:
            decoder = Decoder(path)
            if not decoder.starts():
                self._lenient.add(path)
            decoder.close()

    def give_back(self, decoder: Decoder) -> None:
        """Keep the decoder for the next read, and close what is then too many."""
        with self._lock:
            surplus = [self._idle.pop(decoder.path)] if decoder.path in self._idle else []
            self._idle[decoder.path] = decoder
            while len(self._idle) > self._max_decoders or (len(self._idle) > 1 and self._pixels() > self._max_pixels):
                surplus.append(self._idle.popitem(last=False)[1])
        for unused in surplus:
            unused.close()

    def _pixels(self) -> int:
        return sum(decoder.pixels for decoder in self._idle.values())


def num_cores() -> int:
    """Processor cores this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Process:
    """What a process owns: its decoders and its threads. A fork starts with none."""

    def __init__(self) -> None:
        self.decoders = DecoderPool()
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                workers = min(MAX_THREADS, num_cores())
                self._threads = ThreadPoolExecutor(workers, thread_name_prefix="video")
            return self._threads


_processes = [_Process()]
"""The last one is this process's own. Those of its parents stay referenced: freeing their decoders here would run
FFmpeg's clean-up on a half-copied state."""

os.register_at_fork(after_in_child=lambda: _processes.append(_Process()))


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """The frames of one camera in one episode, as a stretch of a video file."""

    path: Path
    timestamps: Float64[np.ndarray, " N"]
    """Seconds since the start of the episode, strictly increasing."""
    index: FrameIndex
    """Of the file."""
    frames: Int64[np.ndarray, " N"]
    """Of each time stamp the frame, by its place in the index; several may share one; -1 where there is none."""
    depth: Depth | None = None
    """How its numbers become pictures, of a depth camera."""

    def read(self, indices: Sequence[int]) -> list[Image]:
        """Decode the frames at these indices, RGB. CorruptData names the file that cannot be decoded.

        Whether a frame can be decoded depends on the file alone, not on what was read before.
        """
        if not len(indices):
            return []
        wanted = sorted(set(indices))
        if wanted[0] < 0 or wanted[-1] >= len(self.timestamps):
            raise IndexError(f"frame {wanted[0]} to {wanted[-1]} of {len(self.timestamps)}")
        if lost := [index for index in wanted if self.frames[index] < 0]:
            raise CorruptData(
                f"{self.path} has no frame near row {lost[0]}, {self.timestamps[lost[0]]:.3f} s after the start of the "
                "episode; the table and the video disagree: record it again"
            )
        ticks = {index: int(self.index.ticks[self.frames[index]]) for index in wanted}
        decoders = _processes[-1].decoders
        decoder = decoders.take(str(self.path))
        asked = sorted(set(ticks.values()))
        images: dict[int, Image] | None = None
        try:
            images = dict(zip(asked, decoder.read(asked, self.depth), strict=True))
        except CorruptData:
            decoders.reconsider(str(self.path))
        finally:
            if images is None:
                decoder.close()
            else:
                decoders.give_back(decoder)
        if images is None:
            # A decoder that goes on from an earlier frame passes others on its way, and one of those may be the damage.
            images = {tick: self._read_alone(tick) for tick in asked}
        return [images[ticks[index]] for index in indices]

    def _read_alone(self, tick: int) -> Image:
        """One frame, by a decoder that has read nothing before."""
        decoder = _processes[-1].decoders.open(str(self.path))
        try:
            return decoder.read([tick], self.depth)[0]
        finally:
            decoder.close()


@dataclass(frozen=True, kw_only=True)
class UnreadableFrames:
    """The frames of one camera in one episode, in a video file that cannot be opened."""

    timestamps: Float64[np.ndarray, " N"]
    problem: str
    """Why."""

    def read(self, _: Sequence[int]) -> list[Image]:
        """Always CorruptData."""
        raise CorruptData(self.problem)


def read_frames(requests: Sequence[tuple[Frames, Sequence[int]]]) -> list[list[Image]]:
    """The frames of several cameras, decoded in parallel: one list a request, in the order of the requests."""
    if len(requests) <= 1 or num_cores() == 1:
        return [frames.read(indices) for frames, indices in requests]
    futures = [_processes[-1].threads().submit(frames.read, indices) for frames, indices in requests[1:]]
    first = requests[0][0].read(requests[0][1])
    return [first, *(future.result() for future in futures)]
