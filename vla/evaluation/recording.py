"""What is kept of an episode for people to look at: a video, and the traces behind it."""

import math
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import Float32, Float64, UInt8

from vla.contract import TIMES, DataContract, StreamContract
from vla.environment import STATE, Environment, Observed, picture

FRAME_EVERY = 4
"""Steps between two frames of the traces."""


class Recorder:
    """One episode as it runs.

    The traces (`write`) are arrays by name: `times_s` (T), `actions` (T A), `state` (T P), of each sensor stream by its
    name `sensor_times_s` (M) and `sensor` (M C), `frame_times_s` (K) and `frames.<camera>` (K H W 3). Times are seconds
    since the start; the observation at a time is what the action there answered.
    """

    def __init__(self, contract: DataContract) -> None:
        self.contract = contract
        self.pictures: list[UInt8[np.ndarray, "height width 3"]] = []
        self._observed: list[Observed] = []
        self._actions: list[Float32[np.ndarray, " A"]] = []

    def begin(self, observed: Observed, environment: Environment) -> None:
        """Take the first observation."""
        self._observed.append(observed)
        self._picture(environment)

    def add(self, action: Float32[np.ndarray, " A"], observed: Observed, environment: Environment) -> None:
        """Take an action and what came of it."""
        self._actions.append(np.array(action))
        self._observed.append(observed)
        self._picture(environment)

    def _picture(self, environment: Environment) -> None:
        picture = environment.render()
        if picture is not None:
            self.pictures.append(picture)

    def traces(self) -> dict[str, np.ndarray]:
        """The arrays of `write`."""
        contract, observed = self.contract, self._observed
        times = np.arange(len(observed)) / contract.fps
        shown = slice(None, None, FRAME_EVERY)
        arrays = {"times_s": times[:-1], "actions": np.stack(self._actions), "frame_times_s": times[shown]}
        if contract.state_dim:
            arrays["state"] = np.stack([row[STATE] for row in observed[:-1]])
        for name, stream in contract.streams.items():
            arrays |= self._measured(name, stream, times)
        for camera in contract.cameras:
            arrays[f"frames.{camera}"] = np.stack([picture(row, camera, contract) for row in observed[shown]])
        return arrays

    def _measured(self, name: str, stream: StreamContract, times: Float64[np.ndarray, " T"]) -> dict[str, np.ndarray]:
        """Each measured sample of the overlapping windows once; sample k stands at k / rate."""
        before = -math.inf
        values, stamps = [], []
        for observed, now in zip(self._observed, times, strict=True):
            newest = math.floor(now * stream.rate_hz + 1e-6)
            numbers = newest - np.arange(stream.samples - 1, -1, -1)
            new = (numbers > before) & np.asarray(observed.get(f"{stream.key}_valid", True), dtype=np.bool_)
            values.append(np.asarray(observed[stream.key])[new])
            stamps.append(numbers[new] / stream.rate_hz)
            before = newest
        return {name: np.concatenate(values), f"{name}{TIMES}": np.concatenate(stamps)}

    def write(self, folder: Path, episode: int) -> None:
        """Write rollouts/episode-00000.npz below a folder and, where there are pictures, videos/episode-00000.mp4."""
        name = f"episode-{episode:05d}"
        (folder / "rollouts").mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / "rollouts" / f"{name}.npz", allow_pickle=False, **self.traces())
        if self.pictures:
            (folder / "videos").mkdir(exist_ok=True)
            write_video(folder / "videos" / f"{name}.mp4", self.pictures, self.contract.fps)


def clear(folder: Path) -> None:
    """Remove what `Recorder.write` wrote below a folder, of another evaluation: it may have recorded more episodes."""
    for file in (*(folder / "rollouts").glob("*.npz"), *(folder / "videos").glob("*.mp4")):
        if re.fullmatch(r"episode-\d{5,}", file.stem):
            file.unlink()


def write_video(file: Path, pictures: list[UInt8[np.ndarray, "height width 3"]], fps: float) -> None:
    """An H.264 video, which browsers play; odd sizes lose their last row or column."""
    height, width = (size // 2 * 2 for size in pictures[0].shape[:2])
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "20"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in pictures:
            shown = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
