"""A scripted expert that is privileged: it is told where the hole is seen, the arm's exact pose and the clean wrench.

It has no memory, so that its action is a function of the present alone and a policy can imitate it from any state, also
one that noise has brought about. It does not know the hidden error: what it lacks it reads from the wrench.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from vla.benchmarks.needle.environment import ACTION_SCALE_M, Needle
from vla.benchmarks.needle.scene import TIP_BELOW_WRIST_M

APPROACH, SEARCH, INSERT = 0, 1, 2
"""Phases: above the block, pressed onto its surface, in the hole."""
HOVER_M = 0.02
"""Height above the surface far from the hole; nearer it falls to 0 like a funnel."""
SURFACE_M, INSIDE_M = -0.0015, 0.002
"""Depths below the surface at which the search begins and ends."""
PRESS_M = 0.004
"""How deep below the surface the arm is asked to be while it searches: the slides' springs turn it into a force."""
SEARCH_STEP_M = 0.001
LOST_M = 0.007
"""This far from where the hole is seen the search goes back towards it."""
CONTACT_N = 2.0
"""Below this force the centre of pressure is not trusted."""
LEAST_ARM_M = 2e-4
AVERAGED = 25
"""Steps of the simulation, at the end of a control step, over which the wrench is averaged."""


class Expert:
    """The privileged expert.

    `force` is how it searches: "tip" moves against the centre of pressure at the tip, "random" in random directions,
    "none" not at all; the last two are references that show what an episode is worth without force.
    """

    def __init__(
        self, needle: Needle, force: Literal["tip", "none", "random"] = "tip", draw: np.random.Generator | None = None
    ) -> None:
        assert force != "random" or draw is not None, "a random search needs a generator"
        self._needle, self._force, self._draw = needle, force, draw

    def act(self) -> tuple[Float32[np.ndarray, "A"], int]:
        """The action now, and the phase it belongs to."""
        needle = self._needle
        depth = needle.hole(needle.colour, seen=True)[2] - needle.tip[2]
        if depth < SURFACE_M:
            move, phase = self._approach(), APPROACH
        elif depth < INSIDE_M:
            move, phase = self._search(), SEARCH
        else:
            move, phase = self._insert(), INSERT
        return move.astype(np.float32), phase

    def _approach(self) -> Float64[np.ndarray, "A"]:
        """Towards the hole that is seen, the lower the nearer."""
        needle = self._needle
        hole, commanded = needle.hole(needle.colour, seen=True), needle.commanded_tip
        radius = float(np.linalg.norm(hole[:2] - needle.tip[:2]))
        height = HOVER_M * np.clip((radius - 0.0025) / 0.005, 0, 1) if radius > 0.0025 else -PRESS_M
        move = (hole + np.array([0, 0, height]) - commanded) / ACTION_SCALE_M
        move[:2] /= max(1.0, np.abs(move[:2]).max())
        clipped: np.ndarray = np.clip(move, -1, 1)
        return clipped

    def _search(self) -> Float64[np.ndarray, "A"]:
        """Pressed onto the surface, across it towards the hole."""
        needle = self._needle
        hole, commanded, tip = needle.hole(needle.colour, seen=True), needle.commanded_tip, needle.tip
        wrench = needle.wrench[-AVERAGED:].mean(axis=0)
        pressed, back = abs(wrench[2]) > CONTACT_N, hole[:2] - tip[:2]
        across = np.zeros(2)
        if np.linalg.norm(back) > LOST_M:
            across = SEARCH_STEP_M * back / np.linalg.norm(back)
        elif pressed:
            across = SEARCH_STEP_M * self._direction(wrench)
        else:
            across = 0.3 * (tip[:2] - commanded[:2])
        down = hole[2] - PRESS_M - (0 if pressed else 0.002) - commanded[2]
        return np.clip(np.append(across, down) / ACTION_SCALE_M, -0.8, 0.8)

    def _direction(self, wrench: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "2"]:
        """Where to search: against the centre of pressure; zeros where nothing says."""
        if self._force == "none":
            return np.zeros(2)
        if self._force == "random":
            assert self._draw is not None
            pressure = self._draw.normal(size=2)
        else:
            pressure = centre_of_pressure(wrench)
        arm = np.linalg.norm(pressure)
        return -pressure / arm if arm > LEAST_ARM_M else np.zeros(2)

    def _insert(self) -> Float64[np.ndarray, "A"]:
        """Down, giving way to the walls."""
        needle = self._needle
        commanded, tip = needle.commanded_tip, needle.tip
        across = 0.5 * (tip[:2] - commanded[:2])
        down = needle.hole(needle.colour, seen=True)[2] - 0.03 - commanded[2]
        return np.clip(np.append(across, down) / ACTION_SCALE_M, -1, 1)


def centre_of_pressure(wrench: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "2"]:
    """Where the tip is pressed, in metres from the needle's axis.

    The torque at the tip is tau - p x F with p the tip as the wrist's sensor sees it: most of the torque at the wrist
    is friction at the tip times that lever, and says nothing about the hole.
    """
    force, torque = wrench[:3], wrench[3:]
    about_x = torque[0] - TIP_BELOW_WRIST_M * force[1]
    about_y = torque[1] + TIP_BELOW_WRIST_M * force[0]
    return np.array([about_y / abs(force[2]), -about_x / abs(force[2])])
