"""Needle: insert a needle into the hole that an instruction names, although the cameras are a little wrong about it.

What is seen and what is touched differ by a hidden offset, drawn anew in every episode, of a standard deviation of
`error_mm` along x and along y. A policy that goes where it sees the hole stands on the rim most of the time; the torque
at the wrist then tells on which side of the needle's axis it is pressed, and so the way to the hole.
"""

from typing import Any

try:
    import gymnasium
    import mujoco
except ModuleNotFoundError as missing:
    raise ValueError(
        f"the needle needs {missing.name}, which is not installed; give `pip install 'touchstone-vla[needle]'`"
    ) from missing
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from vla.benchmarks.needle import scene
from vla.benchmarks.needle.config import ACTION_NAMES, FPS, PHYSICS_HZ, NeedleConfig, SensorWindow
from vla.benchmarks.needle.instructions import COLOURS, instruct
from vla.benchmarks.needle.sensing import Sensor
from vla.randomness import derive
from vla.rendering import Renderer

ACTION_SCALE_M = 0.005
PICTURE_PIXELS = 320
"""Height and width of what `render` draws."""
POSITION_NOISE_M = 1e-4
"""Standard deviation of the measured position; an exact one would tell the force by how far the arm lags behind."""
TIP_AT_ZERO_M = np.array([0.0, 0.0, scene.WRIST_HEIGHT_M - scene.TIP_BELOW_WRIST_M])
"""Where the tip is when all joints are zero."""
REACH_M = 0.15
"""The slides go this far from their middles."""
SUBSTEPS = round(PHYSICS_HZ / FPS)
SUCCESS_DEPTH_M = 0.02
CAPTURE_M = 2 * scene.NEEDLE_RADIUS_M
"""A tip below the surface and this near a hole's axis is in that hole."""
LOST_M = 0.005
"""Beyond this distance the centre of pressure no longer points to the hole."""

Observation = dict[str, Any]


USUAL = NeedleConfig()
METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": FPS}
"""What Gymnasium asks of an environment."""


class Needle(gymnasium.Env[Observation, np.ndarray]):
    """The benchmark, through Gymnasium's interface, with observations keyed as the features of a data set.

    `window` is what an observation holds of the sensor; None: the preset's.
    An episode ends with success when the tip is 20 mm deep in the named hole. One that does not succeed failed as

    - "no contact": the needle never touched the block;
    - "wrong hole": it did, and at the end another hole than the named one is the nearest to the tip;
    - "lost in search": the named one is, but the tip is farther from it than 5 mm, where pressing tells nothing;
    - "timed out": the tip is within 5 mm of the named hole, still searching or on its way down.
    """

    metadata = METADATA
    render_mode = "rgb_array"
    fps = FPS
    action_names = ACTION_NAMES

    def __init__(
        self,
        config: NeedleConfig = USUAL,
        window: SensorWindow | None = None,
    ) -> None:
        self.config = config
        self.window = window or SensorWindow(samples=config.sensor_samples, rate_hz=config.sensor_rate_hz)
        self.sensor_rate_hz = config.sensor_rate_hz if config.sensor != "none" else 0.0
        self.sensor_key, self.state_names = config.sensor_key, config.state_names
        self.model = scene.build()
        self.data = mujoco.MjData(self.model)
        self._tip = self.data.site("tip").xpos
        self._block = self.model.body("block").id
        self._cameras = self.model.cam_pos.copy()
        self._renderer = Renderer(self.model, config.pixels) if config.cameras else None
        self._painter: Renderer | None = None
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)
        self.observation_space = self._describe()

    def _describe(self) -> gymnasium.Space[Any]:
        """The space of the observations."""
        box, size = gymnasium.spaces.Box, self.config.pixels
        spaces: dict[str, gymnasium.Space[Any]] = {
            f"observation.images.{camera}": box(0, 255, (size, size, 3), np.uint8) for camera in self.config.cameras
        }
        spaces["observation.state"] = box(-100, 100, (len(self.state_names),), np.float32)
        if self.sensor_key is not None:
            samples = self.window.samples
            spaces[self.sensor_key] = box(-1e4, 1e4, (samples, self.config.sensor_channels), np.float32)
            spaces[f"{self.sensor_key}_valid"] = gymnasium.spaces.MultiBinary(samples)
        printable = frozenset(map(chr, range(32, 127)))
        spaces["task"] = gymnasium.spaces.Text(200, min_length=1, charset=printable)
        return gymnasium.spaces.Dict(spaces)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the episode of this seed; without one, the next after the seed that was given before."""
        super().reset(seed=seed, options=options)
        if seed is None:
            seed = int(self.np_random.integers(2**63))
        self._lay_out(seed, derive(seed, "needle episode"))
        self._move_cameras(derive(seed, "needle cameras"))
        self._state_noise = derive(seed, "needle state noise")
        self.sensor = Sensor(self.config, self._nearest_hole, derive(seed, "needle sensor noise"), self.window)
        self._tare = self.data.sensordata.copy()  # the needle's own weight
        self.wrench = np.zeros((SUBSTEPS, 6))
        self.steps = self.force_violations = 0
        self.peak_force_n, self.touched = 0.0, False
        if self.sensor_key is not None:
            self.sensor.rest(np.zeros(6), self.tip)
        return self._observe(), {"success": False, "metrics": self._metrics()}

    def _lay_out(self, seed: int, draw: np.random.Generator) -> None:
        """Place block, hidden error, named hole, sentence and arm."""
        mujoco.mj_resetData(self.model, self.data)
        seen = np.array([draw.uniform(-0.035, 0.035), draw.uniform(-0.03, 0.04), 0.0])
        self.yaw = draw.uniform(-0.4, 0.4)
        self.data.mocap_pos[:] = seen
        self.data.mocap_pos[0, :2] += draw.normal(size=2) * self.config.error_mm / 1000
        self.data.mocap_quat[:] = np.cos(self.yaw / 2), 0.0, 0.0, np.sin(self.yaw / 2)
        self.colour = COLOURS[int(draw.integers(len(COLOURS)))]
        sentence = int(draw.integers(2**32))
        said = self.colour
        if self.config.instruction == "shuffled":
            said = COLOURS[int(derive(seed, "needle shuffled instruction").integers(len(COLOURS)))]
        self.task = instruct(said, self.config.phrasings, sentence)
        self.commanded = np.array([draw.uniform(-0.04, 0.04), draw.uniform(-0.04, 0.04), draw.uniform(0.0, 0.03)])
        self.data.qpos[:3] = self.data.ctrl[:3] = self.commanded

    def _move_cameras(self, draw: np.random.Generator) -> None:
        """Displace each camera by the length asked for, and work out where everything is."""
        directions = draw.normal(size=self._cameras.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self.model.cam_pos[:] = self._cameras + self.config.camera_shift_mm / 1000 * directions
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: Float[np.ndarray, " A"]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move for one control step of 50 ms; values beyond -1 and 1 count as these."""
        start = self.commanded
        change = ACTION_SCALE_M * np.clip(np.asarray(action, dtype=np.float64), -1, 1)
        self.commanded = np.clip(start + change, -REACH_M, REACH_M)
        wrench, tips = np.empty((SUBSTEPS + 1, 6)), np.empty((SUBSTEPS + 1, 3))
        wrench[0], tips[0] = self.wrench[-1], self._tip
        for substep in range(1, SUBSTEPS + 1):
            self.data.ctrl[:3] = start + (self.commanded - start) * substep / SUBSTEPS
            mujoco.mj_step(self.model, self.data)
            wrench[substep], tips[substep] = self.data.sensordata - self._tare, self._tip
            self.touched = self.touched or self._touches_block()
        if self.sensor_key is not None:
            self.sensor.advance(wrench, tips)
        self.wrench = wrench[1:]
        self.steps += 1
        force_n = float(np.linalg.norm(self.wrench[:, :3], axis=1).max())
        self.peak_force_n = max(self.peak_force_n, force_n)
        self.force_violations += force_n > self.config.force_limit_n
        return self._judge()

    def _touches_block(self) -> bool:
        """Whether the needle touches the block now; it may touch the table beside it."""
        return bool((self.model.geom_bodyid[self.data.contact.geom] == self._block).any())

    def _judge(self) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """What a step returns."""
        hole = self.hole(self.colour, seen=False)
        success = bool(hole[2] - self._tip[2] > SUCCESS_DEPTH_M and self._distance(self.colour) < CAPTURE_M)
        truncated = not success and self.steps >= self.config.max_steps
        info: dict[str, Any] = {"success": success, "metrics": self._metrics()}
        if truncated:
            info["failure"] = self._failure()
        return self._observe(), float(success), success, truncated, info

    def _failure(self) -> str:
        """Of which kind it is that the episode has not succeeded."""
        if not self.touched:
            return "no contact"
        if self.colour != min(COLOURS, key=self._distance):
            return "wrong hole"
        return "lost in search" if self._distance(self.colour) > LOST_M else "timed out"

    def _metrics(self) -> dict[str, float | int]:
        return {"peak_force_n": self.peak_force_n, "force_violations": self.force_violations}

    def _observe(self) -> Observation:
        """What the policy is given."""
        observation: Observation = {}
        if self._renderer is not None:
            for camera in self.config.cameras:
                observation[f"observation.images.{camera}"] = self._renderer.draw(self.data, camera)
        observation["observation.state"] = self._measure_state()
        if self.sensor_key is not None:
            observation[self.sensor_key], observation[f"{self.sensor_key}_valid"] = self.sensor.look()
        observation["task"] = self.task
        return observation

    def _measure_state(self) -> Float32[np.ndarray, " P"]:
        """Where the tip would be were the wrist not bent, or all joints exactly."""
        if self.config.state == "joints":
            return np.concatenate([self.data.qpos[:6], self.data.qvel[:6]]).astype(np.float32)
        measured = self.data.qpos[:3] + POSITION_NOISE_M * self._state_noise.standard_normal(3)
        return np.asarray(measured + TIP_AT_ZERO_M, dtype=np.float32)

    @property
    def tip(self) -> Float64[np.ndarray, "3"]:
        """Where the tip is, in metres; no policy sees it."""
        place: np.ndarray = self._tip.copy()
        return place

    @property
    def commanded_tip(self) -> Float64[np.ndarray, "3"]:
        """Where the tip is asked to be, in metres."""
        place: np.ndarray = self.commanded + TIP_AT_ZERO_M
        return place

    def hole(self, colour: str, *, seen: bool) -> Float64[np.ndarray, "3"]:
        """The middle of a hole's mouth in metres, where it is seen or where it is."""
        place: np.ndarray = self.data.site(f"{'seen' if seen else 'true'}_{colour}").xpos.copy()
        return place

    def _distance(self, colour: str) -> float:
        """From the tip to the axis of a hole, in metres."""
        return float(np.linalg.norm(self._tip[:2] - self.hole(colour, seen=False)[:2]))

    def _nearest_hole(self) -> tuple[Float64[np.ndarray, "3"], float]:
        """The hole nearest to the tip, and how the block is turned."""
        return self.hole(min(COLOURS, key=self._distance), seen=False), self.yaw

    def render(self) -> UInt8[np.ndarray, "H W 3"]:
        """A picture for people, from the front, whatever a policy sees. ValueError where nothing can be drawn."""
        if self._painter is None:
            self._painter = Renderer(self.model, PICTURE_PIXELS)
        return self._painter.draw(self.data, "front")

    def close(self) -> None:
        """Give the renderers back."""
        for renderer in (self._renderer, self._painter):
            if renderer is not None:
                renderer.close()
        self._renderer = self._painter = None
