"""Demonstrations of the needle as a LeRobot data set, recorded in parallel.

Noise is added to what the expert does and not to what is stored: the actions of the data set are what the expert would
do where the noise has brought it, so that a policy learns to come back (Laskey et al., "DART: noise injection for
robust imitation learning", 2017). What an attempt does depends on the seed and its number alone, and the first
successful attempts are kept in the order of their numbers: the data do not depend on how many processes record.
"""

import functools
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vla.benchmarks.needle.config import ACTION_NAMES, FPS, NeedleConfig
from vla.benchmarks.needle.environment import Needle
from vla.benchmarks.needle.expert import APPROACH, Expert
from vla.commandline import Progress, progress
from vla.contract import StreamContract
from vla.data.episode import Episode, Layout, Stream
from vla.data.texts import Texts
from vla.data.writing.writer import write_lerobot
from vla.processes import pool
from vla.randomness import derive

BURST_SHARE, BURST_STEPS = 0.06, (2, 5)
"""Chance a step that a burst of noise begins, and its shortest and longest length."""
SINGLE_SHARE = 0.3
"""Chance of noise in a step outside of bursts."""
BURST_SCALE, SINGLE_SCALE = (0.5, 0.12), (0.25, 0.1)
"""Standard deviations of the noise of an action, in free space and in contact."""
PATIENCE = 100
"""Attempts after which at least a tenth must have succeeded."""


def write_demonstrations(
    config: NeedleConfig,
    destination: Path,
    *,
    episodes: int,
    seed: int,
    workers: int = 2,
    bar: Callable[[int, str], AbstractContextManager[Progress]] = progress,
) -> dict[str, int]:
    """Record and write; returns the number of attempts, episodes, frames and tasks.

    `bar(count, what)` shows how far it is: with the recording of the episodes, then with the writing.

    Raises:
        ValueError: the destination exists, a number is out of range, or the expert fails too often.
    """
    for name, value, lowest in (("episodes", episodes, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < lowest:
            raise ValueError(f"{name} of the demonstrations is {value}; give at least {lowest}")
    if not config.cameras:
        raise ValueError("demonstrations without a camera cannot be learned from; give at least one of the cameras")
    if destination.exists():
        raise ValueError(f"{destination} exists; give a folder that does not, or move it away")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as spool:
        kept: list[Path] = []
        with bar(episodes, "episodes") as recorded:
            for attempts, folder in enumerate(record_all(config, seed, Path(spool), workers), 1):
                if folder is not None:
                    kept.append(folder)
                    recorded.update(1)
                if len(kept) == episodes:
                    break
                if attempts >= PATIENCE and len(kept) < attempts / 10:
                    raise ValueError(
                        f"the expert succeeded in {len(kept)} of {attempts} attempts with error_mm {config.error_mm:g} "
                        f"and max_steps {config.max_steps}; give a smaller error or more steps"
                    )
        reader = Recordings(config, destination.name, kept)
        images = len(config.cameras) * sum(len(episode.timestamps) for episode in reader.episodes)
        with bar(images, "images") as written:
            return {"attempts": attempts} | write_lerobot(reader, destination, progress=written.update)


def record_all(config: NeedleConfig, seed: int, spool: Path, workers: int) -> Iterator[Path | None]:
    """The attempts' folders in order, without end; None for an attempt that failed."""
    record = functools.partial(record_attempt, config, seed, spool)
    if workers == 1:
        yield from map(record, itertools.count())
        return
    with pool(workers) as executor:
        waiting = deque(executor.submit(record, number) for number in range(3 * workers))
        for number in itertools.count(len(waiting)):
            yield waiting.popleft().result()
            waiting.append(executor.submit(record, number))


@functools.cache
def open_needle(config: NeedleConfig) -> Needle:
    """One environment a process: building a scene and its renderer takes longer than an episode."""
    return Needle(config)


def record_attempt(config: NeedleConfig, seed: int, spool: Path, number: int) -> Path | None:
    """Try once and return the folder of the recording, None where the expert fails."""
    needle = open_needle(config)
    expert = Expert(needle)
    disturbance = Disturbance(derive(seed, "needle demonstration noise", number))
    observation, _ = needle.reset(seed=int(derive(seed, "needle demonstration", number).integers(2**63)))
    observations, sensed, times, actions, phases = [], [], [], [], []
    success = truncated = False
    while not success and not truncated:
        action, phase = expert.act()
        observations.append(observation)
        sensed.append(needle.sensor.fresh)
        times.append(needle.sensor.fresh_times)
        actions.append(action)
        phases.append(phase)
        executed = action + disturbance(touching=phase != APPROACH)
        observation, _, success, truncated, _ = needle.step(executed)
    if not success:
        return None
    folder = spool / f"{number:06d}"
    folder.mkdir()
    np.savez(
        folder / "numbers.npz",
        allow_pickle=False,
        task=np.array(needle.task),
        state=np.stack([seen["observation.state"] for seen in observations]),
        actions=np.stack(actions),
        phases=np.array(phases, dtype=np.float32),
        sensor_times=np.concatenate(times),
    )
    np.save(folder / "sensor.npy", np.concatenate(sensed), allow_pickle=False)
    for camera in config.cameras:
        frames = np.stack([seen[f"observation.images.{camera}"] for seen in observations])
        np.save(folder / f"{camera}.npy", frames, allow_pickle=False)
    return folder


class Disturbance:
    """Noise for one attempt: bursts that push the same way for some steps, and single pushes between them."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._left = 0
        self._push = np.zeros(3)

    def __call__(self, *, touching: bool) -> Float64[np.ndarray, "3"]:
        """What is added to the action of this step."""
        draw = self._draw
        if self._left == 0 and draw.random() < BURST_SHARE:
            self._left = int(draw.integers(BURST_STEPS[0], BURST_STEPS[1] + 1))
            self._push = draw.standard_normal(3)
        if self._left > 0:
            self._left -= 1
            return self._push * BURST_SCALE[touching]
        if draw.random() < SINGLE_SHARE:
            return draw.standard_normal(3) * SINGLE_SCALE[touching]
        return np.zeros(3)


@dataclass(frozen=True, kw_only=True)
class RecordedFrames:
    """The frames of one camera, in a file."""

    path: Path
    timestamps: Float64[np.ndarray, " N"]

    def read(self, indices: Sequence[int]) -> list[UInt8[np.ndarray, "3 height width"]]:
        """The frames at these indices."""
        frames = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return [np.asarray(frames[index]).transpose(2, 0, 1) for index in indices]


class Recordings:
    """Recorded attempts as a reader, for the writer."""

    def __init__(self, config: NeedleConfig, name: str, folders: Sequence[Path]) -> None:
        self._name, self._folders = name, folders
        self.sources = [folder / name for folder in folders for name in ("numbers.npz", "sensor.npy")]
        self.layout = describe(config, name)
        self.episodes = [self._episode(index, folder) for index, folder in enumerate(folders)]

    def _episode(self, index: int, folder: Path) -> Episode:
        """One attempt; images and sensor stay in their files."""
        with np.load(folder / "numbers.npz", allow_pickle=False) as numbers:
            task, state, actions, phases, sensor_times = (
                numbers[key] for key in ("task", "state", "actions", "phases", "sensor_times")
            )
        timestamps = np.arange(len(actions)) / FPS
        sensor: Float32[np.ndarray, "N C"] = np.load(folder / "sensor.npy", mmap_mode="r", allow_pickle=False)
        return Episode(
            name=f"{self._name}/episode_{index:06d}",
            index=index,
            timestamps=timestamps,
            instructions=Texts.throughout(str(task), len(timestamps)),
            confidence=np.ones(len(timestamps)),
            actions=Stream(timestamps=timestamps, values=actions),
            state=Stream(timestamps=timestamps, values=state),
            streams={key: Stream(timestamps=sensor_times, values=sensor) for key in self.layout.streams},
            cameras={
                key: RecordedFrames(path=folder / f"{key.rpartition('.')[2]}.npy", timestamps=timestamps)
                for key in self.layout.cameras
            },
            columns={"phase": phases[:, None]},
        )


def describe(config: NeedleConfig, name: str) -> Layout:
    """What the data set will offer."""
    streams: dict[str, StreamContract] = {}
    if (key := config.sensor_key) is not None:
        streams[key] = StreamContract(
            key=key,
            channels=config.sensor_channels,
            samples=config.sensor_samples,
            rate_hz=config.sensor_rate_hz,
            names=config.sensor_names,
        )
    return Layout(
        root=name,
        format="needle",
        fps=FPS,
        cameras=tuple(f"observation.images.{camera}" for camera in config.cameras),
        state_dim=len(config.state_names),
        action_dim=len(ACTION_NAMES),
        state_names=config.state_names,
        action_names=ACTION_NAMES,
        action_periods=(0.0,) * len(ACTION_NAMES),
        streams=streams,
    )
