"""Containers of video files: which may be opened, whether they are whole, what their headers promise."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vla.data.reading import unreadable
from vla.errors import CorruptData

CONTAINERS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts", "protocol_whitelist": "file"}
"""What FFmpeg may open: containers that hold their frames. A playlist would send it to other files and addresses."""


@dataclass(frozen=True, kw_only=True)
class VideoSummary:
    """What the header of a video file promises."""

    duration_s: float
    num_frames: int
    height: int
    width: int


def summarize_video(path: Path) -> VideoSummary:
    """Read the header of a video file; nothing is decoded.

    Raises CorruptData where the container does not open, holds no video, or is cut off.
    """
    check_complete(path)
    try:
        with av.open(str(path), metadata_errors="replace", options=CONTAINERS) as container:
            stream = video_of(container, path)
            time_base = stream.time_base or Fraction(1, av.time_base)
            if stream.duration is not None:
                duration_s = float(stream.duration * time_base)
            else:
                duration_s = (container.duration or 0) / av.time_base
            return VideoSummary(
                duration_s=duration_s, num_frames=stream.frames, height=stream.height, width=stream.width
            )
    except av.FFmpegError as error:
        raise unreadable(error, f"{path} cannot be opened as a video ({error.strerror})") from error


def video_of(container: InputContainer, path: Path | str) -> VideoStream:
    """The video stream of an open file. CorruptData where it has none, or one of an unknown codec."""
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        what = "video of an unknown codec" if streams else "no video stream"
        raise CorruptData(f"{path} holds {what}; copy or record it again")
    return streams[0]


def check_complete(path: Path) -> None:
    """Refuse an MP4 file that ends before its last top-level box does (CorruptData).

    The header alone does not tell: where it stands in front, a file cut in half still opens at full length.
    """
    size = path.stat().st_size
    if size == 0:
        raise CorruptData(f"{path} is empty; copy or record it again")
    position = 0
    found = set()
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(16)
            kind = head[4:8]
            if position == 0 and kind != b"ftyp":
                return  # another container: FFmpeg judges it
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - position
            if len(head) < 8 or length < 8 or position + length > size:
                raise CorruptData(f"{path} is cut off after {size:,} bytes; copy or record it again")
            found.add(kind)
            position += length
    if b"moov" not in found:
        raise CorruptData(f"{path} has no index (moov box): its recording was not finished; record it again")
