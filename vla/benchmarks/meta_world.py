"""Meta-World's tasks (Yu et al. 2019) as environments: an example of how a simulator plugs in.

Cameras are Meta-World's own, by the last part of a policy's camera key (`observation.images.corner2`); its data sets on
the hub have the one key `observation.image`, which is corner2. The state is the hand's position and the gripper's
opening, what a real arm knows of itself; where the objects are, only the cameras show.
"""

from typing import Any

try:
    import metaworld
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
except ModuleNotFoundError as missing:
    raise ValueError(
        f"Meta-World needs {missing.name}, which is not installed; give `pip install 'touchstone-vla[metaworld]'`"
    ) from missing
import numpy as np
from jaxtyping import Float32, UInt8

from vla.contract import DataContract
from vla.environment import check_contract
from vla.rendering import Renderer

ONLY_CAMERA, ITS_NAME = "observation.image", "corner2"
NUM_STATE = 4
"""Of an observation of Meta-World, the numbers that are the robot's own."""
NUM_ACTIONS = 4
"""The hand's motion along x, y and z, and the gripper's."""
SETTINGS = ("task", "instruction", "pixels")


class MetaWorld:
    """One of Meta-World's tasks, e.g. peg-insert-side-v3; every seed lays it out anew.

    `instruction` is what the policy is told, and `pixels` the height and width of its images. `settings` come as the
    command line gives them, as strings. `max_steps` is after how many steps the caller ends an episode.

    Raises:
        ValueError: a setting is unknown or does not fit, the policy acts otherwise, or Meta-World ends episodes sooner.
    """

    def __init__(self, contract: DataContract, max_steps: int | None = None, /, **settings: str) -> None:
        if unknown := sorted(settings.keys() - set(SETTINGS)):
            raise ValueError(f"Meta-World has no setting {unknown[0]}; it takes {', '.join(SETTINGS)}")
        check_contract(contract, action_dim=NUM_ACTIONS)
        self.task = settings.get("task", "peg-insert-side-v3")
        self.instruction = settings.get("instruction", self.task.removesuffix("-v3").replace("-", " "))
        pixels = settings.get("pixels", "128")
        if not (pixels.isdecimal() and int(pixels) > 0):
            raise ValueError(f"pixels of Meta-World is {pixels!r}; give the height and width of its images, e.g. 128")
        self.pixels = int(pixels)
        key = f"{self.task}-goal-observable"
        if key not in ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE:
            known = sorted(name.removesuffix("-goal-observable") for name in ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE)
            raise ValueError(f"Meta-World has no task {self.task!r}; it has {', '.join(known)}")
        self._make = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[key]
        self.cameras = {camera: camera.rsplit(".", 1)[-1] for camera in contract.cameras}
        if ONLY_CAMERA in self.cameras:
            self.cameras[ONLY_CAMERA] = ITS_NAME
        self._renderer: Renderer | None = None
        self._open(seed=0)
        known = [self._world.model.camera(place).name for place in range(self._world.model.ncam)]
        if strange := sorted(set(self.cameras.values()) - set(known)):
            raise ValueError(f"Meta-World has no camera {strange[0]}; it has {', '.join(known)}")
        longest = self._world.max_path_length
        if max_steps is not None and max_steps > longest:
            raise ValueError(
                f"Meta-World ends an episode after {longest} steps, so that nothing is known of {max_steps}; "
                f"give --within {longest} at most"
            )

    def _open(self, seed: int) -> None:
        """Build the world of a seed: Meta-World lays a task out once, when it is made."""
        self.close()
        self._world: metaworld.SawyerXYZEnv = self._make(seed=seed)
        self._world.model.vis.quality.offsamples = 0
        self._renderer = Renderer(self._world.model, self.pixels) if self.cameras else None

    @property
    def fps(self) -> float:
        """Actions a second."""
        return round(1 / float(self._world.dt), 6)

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Lay the task out as this seed says."""
        self._open(seed)
        values, _ = self._world.reset()
        return self._observe(values), {"success": False}

    def step(self, action: Float32[np.ndarray, " A"], /) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the hand by up to its reach in each direction, and the gripper; values count up to -1 and 1."""
        values, reward, _, cut_off, info = self._world.step(np.clip(action, -1, 1).astype(np.float32))
        success = bool(info["success"])
        metrics = {"distance_to_goal_m": float(info["obj_to_target"])}
        return self._observe(values), float(reward), success, bool(cut_off), {"success": success, "metrics": metrics}

    def _observe(self, values: np.ndarray) -> dict[str, Any]:
        images = {key: self._draw(name) for key, name in self.cameras.items()}
        return images | {"observation.state": values[:NUM_STATE].astype(np.float32), "task": self.instruction}

    def _draw(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        assert self._renderer is not None
        return self._renderer.draw(self._world.data, camera)

    def render(self) -> UInt8[np.ndarray, "H W 3"] | None:
        """What the first camera sees."""
        names = list(self.cameras.values())
        return self._draw(names[0]) if names else None

    def close(self) -> None:
        """Give the renderer back."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
