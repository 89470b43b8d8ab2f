"""Containers of video files: which may be opened, whether they are whole, when their frames are shown."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float64, Int64

from vla.data.depth import READ_DEPTH, Depth, coloured
from vla.data.reading import unreadable
from vla.errors import CorruptData

CONTAINERS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts", "protocol_whitelist": "file"}
"""What FFmpeg may open: containers that hold their frames. A playlist would send it to other files and addresses."""
WIDE = re.compile(r"gray(9|1|f)")
"""FFmpeg's names of formats of one channel of more than 8 bits."""
AT_ONCE = 2**20
"""Bytes that FFmpeg asks for at once."""


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """When the frames of a video file are shown."""

    ticks: Int64[np.ndarray, " N"]
    """Time stamps, increasing; those that an edit list hides are not among them."""
    time_base: Fraction
    """Seconds of a tick."""
    start: int
    """The tick that counts as the start of the file."""
    key_frames: int
    """How many of the frames can be decoded without others, as the flags of the container say."""

    @property
    def seconds(self) -> Float64[np.ndarray, " N"]:
        """The time stamps since the start of the file."""
        return (self.ticks - self.start) * float(self.time_base)


def read_frame_index(path: Path, *, whole: bool = True) -> FrameIndex:
    """When the frames are shown, by the packets of the file; nothing is decoded, and of an MP4 file no frame is read.

    Raises:
        CorruptData: the container does not open, holds no video or no frame, or is cut off and has to be `whole`.
        StorageFault: the storage does not give it.
    """
    boxes = top_boxes(path, whole=whole)
    try:
        with path.open("rb", buffering=0) as file:
            source = file if boxes is None else _Outline(file, [box[1:] for box in boxes if box[0] == b"mdat"])
            with av.open(source, "r", metadata_errors="replace", options=CONTAINERS, buffer_size=AT_ONCE) as container:
                stream = video_of(container, path)
                if container.format.name == "avi" and stream.codec_context.has_b_frames:
                    raise CorruptData(
                        f"{path} is AVI with frames out of order (B-frames), and AVI stores no times of frames, so "
                        "that which is which is unknown: write it as MP4 from its source, or without B-frames"
                    )
                packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
                stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets]
                found = FrameIndex(
                    ticks=np.unique([stamp for stamp in stamps if stamp is not None]).astype(np.int64),
                    time_base=stream.time_base or Fraction(1, av.time_base),
                    start=stream.start_time or 0,
                    # Of an MP4 file the packets are zeros, which parsers of some codecs take for no key frames.
                    key_frames=sum(entry.is_keyframe for entry in (packets if boxes is None else stream.index_entries)),
                )
    except (av.FFmpegError, OSError) as error:
        raise unreadable(error, f"{path} cannot be opened as a video ({error.strerror})") from error
    if not len(found.ticks):
        raise CorruptData(f"{path} holds no frame; copy or record it again")
    return found


def check_colour(path: Path, *, one_channel: bool) -> None:
    """Refuse a video of one channel of more than 8 bits (ValueError); one that does not open is not told of here.

    `one_channel` is what the data say of the camera: H.264 of grey frames reads as colour.
    """
    pixels = pixels_of(path)
    wide = one_channel and bool(pixels) and bits_of(pixels) > 8
    if WIDE.match(pixels) or wide:
        raise ValueError(f"{path} has pixels of one channel of more than 8 bits ({pixels}), as depth has: {READ_DEPTH}")


def check_depth(path: Path, depth: Depth, *, one_channel: bool) -> None:
    """Refuse a video that is no depth or of which nothing says the distances (ValueError)."""
    pixels = pixels_of(path)
    if not pixels:
        return
    if not pixels.startswith("gray") and not (one_channel and bits_of(pixels) > 8):
        raise ValueError(coloured(str(path), pixels))
    depth.check(bits_of(pixels), str(path), floats=pixels.startswith("grayf"))


def pixels_of(path: Path) -> str:
    """FFmpeg's name of the format of a video's pixels; empty where it does not open, which is not told of here."""
    unreadable_ones = contextlib.suppress(av.FFmpegError, OSError, CorruptData)
    with unreadable_ones, av.open(str(path), metadata_errors="replace", options=CONTAINERS) as container:
        return video_of(container, path).codec_context.pix_fmt or ""
    return ""


def bits_of(pixels: str) -> int:
    """Of the first channel."""
    return av.VideoFormat(pixels).components[0].bits


def video_of(container: InputContainer, path: Path | str) -> VideoStream:
    """The video stream of an open file. CorruptData where it has none, or one of an unknown codec."""
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        what = "video of an unknown codec" if streams else "no video stream"
        raise CorruptData(f"{path} holds {what}; copy or record it again")
    return streams[0]


class _Outline(io.RawIOBase):
    """An MP4 file whose frames, which are most of it, read as zeros: when they are shown stands beside them."""

    def __init__(self, file: BinaryIO | io.FileIO, media: Sequence[tuple[int, int]]) -> None:
        """`media` are the first byte of each media box, and one past its last."""
        self._file, self._media = file, media
        self._place, self._size = 0, file.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._place = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence] + offset
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        stop = self._size if size < 0 else min(self._place + size, self._size)
        for first, last in self._media:
            if first <= self._place < last:
                zeros = bytes(max(0, min(stop, last) - self._place))
                self._place += len(zeros)
                return zeros
            if self._place < first:
                stop = min(stop, first)
        self._file.seek(self._place)
        found = self._file.read(max(0, stop - self._place))
        self._place += len(found)
        return found


def top_boxes(path: Path, *, whole: bool) -> list[tuple[bytes, int, int]] | None:
    """Kind, first byte of the content and end of the outermost boxes of an MP4 file; None of another container.

    Raises:
        CorruptData: the file is empty, has no index, or ends before its last box does and has to be `whole`. The header
            alone does not tell: where it stands in front, a file cut in half still opens at full length.
    """
    size = path.stat().st_size
    if size == 0:
        raise CorruptData(f"{path} is empty; copy or record it again")
    position, boxes = 0, list[tuple[bytes, int, int]]()
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(16)
            kind, content = head[4:8], position + 8
            if position == 0 and kind != b"ftyp":
                return None  # FFmpeg judges it
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length, content = int.from_bytes(head[8:16], "big"), position + 16
            elif length == 0:
                length = size - position
            cut_off = len(head) < 8 or length < 8 or position + length > size
            if cut_off and whole:
                raise CorruptData(f"{path} is cut off after {size:,} bytes; copy or record it again")
            position = size if cut_off else position + length
            boxes.append((kind, content, position))
    if b"moov" not in {kind for kind, _, _ in boxes}:
        raise CorruptData(f"{path} has no index (moov box): its recording was not finished; record it again")
    return boxes
