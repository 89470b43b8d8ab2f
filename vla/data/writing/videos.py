"""Videos of many episodes, one after the other in files of bounded size."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from vla.data.places import check_folder_name

FILE_BYTES = 200_000_000
"""A file that has become this large is followed by another."""
FILES_PER_CHUNK = 1000
CODEC = "libx264"
"""H.264: SVT-AV1 (4.1), by which lerobot writes AV1, may wait for itself for ever when a file ends."""
OPTIONS = {"g": "2", "crf": "18", "preset": "veryfast", "bf": "0", "threads": "1"}
"""Random access decodes at most two frames; one thread gives the same bytes on any number of cores."""


class VideoWriter:
    """The frames of one camera: each one stands at its number divided by the frame rate, in its file."""

    def __init__(self, root: Path, camera: str, fps: int) -> None:
        check_folder_name(camera, "the data to write")
        self._root, self._camera, self._fps = root, camera, fps
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._number = -1
        self._frames = 0
        self._bytes = 0
        self.size = (0, 0)
        """Height and width of the frames."""

    @property
    def chunk(self) -> int:
        """Number of the folder of the current file."""
        return self._number // FILES_PER_CHUNK

    @property
    def file(self) -> int:
        """Number of the current file in its folder."""
        return self._number % FILES_PER_CHUNK

    @property
    def position_s(self) -> float:
        """Where the next frame stands in the current file."""
        return self._frames / self._fps

    def begin_episode(self, height: int, width: int) -> None:
        """Open a file, unless the current one has room. ValueError when the frames change their size."""
        if self.size not in ((0, 0), (height, width)):
            raise ValueError(
                f"{self._camera} changes from {self.size[1]} x {self.size[0]} to {width} x {height} pixels; a LeRobot "
                "dataset has one size a camera: import the episodes apart"
            )
        self.size = (height, width)
        if self._container is not None and self._bytes < FILE_BYTES:
            return
        self.close()
        self._number += 1
        self._frames = self._bytes = 0
        self._path().parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._path()), "w")
        stream = self._container.add_stream(CODEC, rate=self._fps, options=OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = pixel_format(height, width)
        stream.time_base = Fraction(1, self._fps)
        stream.codec_context.open()
        self._stream = stream

    def write(self, image: UInt8[np.ndarray, "3 height width"]) -> None:
        """Append a frame."""
        assert self._container is not None, "begin_episode() comes first"
        assert self._stream is not None
        if image.shape[1:] != self.size:
            raise ValueError(f"{self._camera} has frames of several sizes in one episode; import other cameras")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image.transpose(1, 2, 0)), format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
        packets = self._stream.encode(frame)
        self._bytes += sum(packet.size for packet in packets)
        self._container.mux(packets)
        self._frames += 1

    def close(self) -> None:
        """Write what the encoder still holds."""
        if self._container is not None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _path(self) -> Path:
        return self._root / f"videos/{self._camera}/chunk-{self.chunk:03d}/file-{self.file:03d}.mp4"


def pixel_format(height: int, width: int) -> str:
    """Half the colour resolution, unless the size is odd."""
    return "yuv420p" if height % 2 == width % 2 == 0 else "yuv444p"
