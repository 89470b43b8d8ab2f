"""A world of which everything is known: a point on a line, which must come to where its state says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vla.contract import DataContract, StreamContract

SENSOR = "observation.wrench"


class Line:
    """The state is (place, goal); an action moves the place by its first value; within 0.5 of the goal is success.

    Every sensor sample holds its own time in seconds, and every pixel the number of the step. Worlds with a `diary`
    write there that they were opened and closed; of such a world there are at most `most` at a time.
    """

    fps = 10.0

    def __init__(self, contract: DataContract, **settings: str) -> None:
        self.contract = contract
        self.goal = float(settings.get("goal", "3"))
        self.longest = int(settings.get("longest", "1000"))
        self.taken: list[Float32[np.ndarray, " A"]] = []
        self.place, self.closed = 0.0, False
        self.diary = Path(settings["diary"]) if "diary" in settings else None
        if self.diary is not None:
            lines = self.diary.read_text().splitlines() if self.diary.exists() else []
            if lines.count("opened") - lines.count("closed") >= int(settings.get("most", "1000")):
                raise ValueError("there is no further world")
        self.note("opened")

    def note(self, what: str) -> None:
        if self.diary is not None:
            with self.diary.open("a") as diary:
                diary.write(f"{what}\n")

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        self.place, self.taken = seed % 1000 / 1000, []
        return self.observed(), {"success": False}

    def step(self, action: Float32[np.ndarray, " A"], /) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.taken.append(np.array(action))
        self.place += float(action[0])
        success = abs(self.place - self.goal) < 0.5
        cut_off = len(self.taken) == self.longest
        info: dict[str, Any] = {"success": success, "metrics": {"place": self.place}}
        if cut_off and not success:
            info["failure"] = "went past" if self.place > self.goal else "too slow"
        return self.observed(), 0.0, success, cut_off, info

    def observed(self) -> dict[str, Any]:
        contract = self.contract
        state = np.zeros(contract.state_dim, dtype=np.float32)
        state[:2] = (self.place, self.goal)[: contract.state_dim]
        return {
            **{camera: np.full((32, 32, 3), len(self.taken), dtype=np.uint8) for camera in contract.cameras},
            "observation.state": state,
            **{stream.key: self.window(stream) for stream in contract.streams.values()},
            "task": "come to the goal",
        }

    def window(self, stream: StreamContract) -> np.ndarray:
        newest = math.floor(len(self.taken) * stream.rate_hz / self.fps)
        times = (newest - np.arange(stream.samples - 1, -1, -1)) / stream.rate_hz
        return np.repeat(times[:, None], stream.channels, axis=1).astype(np.float32)

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        return np.full((33, 32, 3), min(255, 10 * len(self.taken)), dtype=np.uint8)

    def close(self) -> None:
        self.closed = True
        self.note("closed")


def slow(contract: DataContract) -> Line:
    """One whose clock is not the policy's."""
    world = Line(contract)
    world.fps = 5.0
    return world


def timed(contract: DataContract, **settings: str) -> Line:
    """One whose clock is the policy's, whatever that is."""
    world = Line(contract, **settings)
    world.fps = contract.fps
    return world


def wrong(contract: DataContract) -> object:
    """None at all."""
    return object()
