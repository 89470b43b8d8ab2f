"""Stand-ins for evaluation: recordings made of numbers, and a policy whose use of its inputs is known."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from tests.vla.test_policy import statistics
from vla.batch import Observation, Reading, Sample
from vla.contract import DataContract, StreamContract
from vla.normalize import Normalizer
from vla.parts.memory import Memory
from vla.policy import Policy

FRONT = "observation.images.front"
CONTRACT = DataContract(
    cameras=(FRONT, "observation.images.wrist"),
    state_dim=2,
    action_dim=2,
    horizon=3,
    fps=10.0,
    streams={"sensor": StreamContract(key="observation.wrench", channels=2, samples=4, rate_hz=40.0)},
    state_names=(),
    action_names=("x_m", "gripper"),
    action_periods=(0.0, 0.0),
)
FRAMES = 20


class Recordings:
    """Episodes of 20 frames; every number of a sample says where it stands."""

    def __init__(self, episodes: int = 12, instructions: tuple[str, ...] = ("left", "right"), seed: int = 0) -> None:
        self.episodes, self.instructions = episodes, instructions
        draw = np.random.default_rng(seed)
        self.state = draw.standard_normal((episodes, FRAMES, 2)).astype(np.float32)
        self.sensor = draw.standard_normal((episodes, FRAMES, 4, 2)).astype(np.float32)
        self.images = draw.integers(0, 256, (episodes, FRAMES, 2, 3, 2, 2), np.uint8)
        self.noise = 0.3 * draw.standard_normal((episodes, FRAMES, 3, 2)).astype(np.float32)

    def __len__(self) -> int:
        return self.episodes * FRAMES

    def locate(self, index: int, /) -> tuple[str, int]:
        return f"root/episode_{index // FRAMES:06d}", index % FRAMES

    def instruction(self, index: int, /) -> str:
        return self.instructions[index // FRAMES % len(self.instructions)]

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError
        episode, frame = divmod(index, FRAMES)
        instruction = self.instruction(index)
        told = self.state[episode, frame, 0] + front(self.images[episode, frame, 0]) + (instruction == "right")
        actions = told + self.noise[episode, frame]
        actions[:, 1] *= 1000
        return Sample(
            images=tuple(self.images[episode, frame]),
            image_valid=np.ones(2, dtype=bool),
            instruction=instruction,
            state=self.state[episode, frame],
            streams={"sensor": Reading(values=self.sensor[episode, frame], valid=np.ones(4, dtype=bool))},
            actions=actions,
            action_valid=np.arange(3) < FRAMES - frame,
            weight=1.0,
            position=index,
        )


def front(image: np.ndarray) -> np.float32:
    """What the front camera tells."""
    return np.float32(image.mean() / 64)


class Known(Policy):
    """A policy that adds up what some inputs tell, and ignores the others."""

    def __init__(self, uses: tuple[str, ...] = ("instruction", "state", FRONT)) -> None:
        nn.Module.__init__(self)
        self.contract, self.uses = CONTRACT, uses
        fitted = statistics(CONTRACT)
        self.normalizer = nn.ModuleDict({name: Normalizer.of(fitted[name], "z-score") for name in fitted})
        self.seen: list[Observation] = []
        self.memory = Memory()

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        noise: Float[Tensor, "B H A"],
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Float32[Tensor, "B H A"]:
        self.seen.append(observation)
        told = torch.zeros(len(noise))
        if "state" in self.uses:
            told = told + observation.state[:, 0]
        if "sensor" in self.uses:
            told = told + observation.streams["sensor"].values[:, -1, 0]
        if FRONT in self.uses:
            told = told + torch.stack([row[0].float().mean() / 64 for row in observation.images])
        if "instruction" in self.uses:
            told = told + torch.tensor([float(text == "right") for text in observation.instructions])
        return (told[:, None, None] + 0.1 * noise) * torch.tensor([1.0, 1000.0])
