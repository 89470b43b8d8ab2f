"""What can be set of the data and of a policy's parts; nothing heavy is imported here, so that help answers at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from vla.guidance import Guiding
from vla.motion_settings import LabelName, MotionConfig, StyleName
from vla.role_settings import Roles

Normalization = Literal["quantile", "z-score", "min-max"]
PathName = Literal["cosine", "linear", "straight"]
PredictionName = Literal["noise", "data", "velocity"]
Sampler = Literal["ddim", "ddpm", "euler", "dpm++", "ab2"]
ObjectiveName = Literal["denoise", "min-snr", "erase"]
Pairing = Literal["auto", "time", "number"]
PoolingName = Literal["auto", "mean", "cls"]
Size = int | Literal["auto"]
"""Of a part; auto: what suits the backbone and the data."""
CAMERA_STRIDE = 8
"""Pixels of a cell of the camera encoder's maps, along a side."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Roles):
    """What is trained on."""

    roots: tuple[str, ...] = ()
    """Dataset folders: LeRobot v3.0, v2.1 or v2.0, the insertion recorder's, or clips of motion; at least one."""
    weights: tuple[float, ...] = ()
    """Share of the samples that comes from each root, in any unit, > 0; none: proportional to the roots' sizes."""
    balance: str = ""
    """Whose values are drawn equally often: `instruction`, or a fact such as `action` of labels.csv; empty: nothing."""
    emphasis: str = ""
    """Frames to see more often, e.g. `phase == 1` or `abs(action[2]) > 0.5`: a column, comparison and number."""
    emphasis_share: float = 0.5
    """Share of each root's samples that come from the frames of --data.emphasis, 0 < share < 1."""
    episodes: tuple[int, ...] = ()
    """Episode indices to use, of every root; none: all."""
    without: tuple[int, ...] = ()
    """Episode indices to leave out, of every root that has them."""
    cameras: tuple[str, ...] = ()
    """Camera keys to use, in this order; none: all."""
    depth: tuple[str, ...] = ()
    """Depth cameras to use and the distances they show in metres, `wrist_depth=0.2:1.5`; others are left out."""
    state_key: str = "observation.state"
    """Column of the table that is the state; without one of this default name there is no state."""
    action_key: str = "action"
    """Column of the table that is the action."""
    dims: tuple[str, ...] = ()
    """Dimensions of actions and state, by index or name: `action=0,1,gripper state=joint_1,joint_2`; none: all."""
    horizon: int = 8
    """Action steps of a chunk, on the clock of the frames, >= 1."""
    sensor: tuple[str, ...] = ("auto",)
    """Keys of the sensor streams, or their last parts, in this order; auto: the only one there is; none: no sensor."""
    sensor_samples: tuple[str, ...] = ()
    """Samples of a sensor window, >= 1: `100` for each stream, or `wrench=100 tactile=12`; none: as the data stores."""
    sensor_rate_hz: tuple[str, ...] = ()
    """Samples per second of a sensor window, > 0, written like its samples; none: each stream's own rate."""
    sensor_weight: float = 2.0
    """Weight in the loss of a sample that has data of any sensor, against 1 for one without, > 0."""
    missing_cameras: Literal["refuse", "mask"] = "refuse"
    """An episode without one of the cameras: refuse it, or train on a black frame that the policy does not see; clips
    of motion without pictures are never refused."""
    angles: tuple[str, ...] = ()
    """Dimensions of the action that are angles which wrap, `yaw=rad 5=deg`, beside those whose name and unit say so."""
    pairing: Pairing = "auto"
    """Of rows and video frames. time: the nearest in time; number: row k has frame k; auto: time, unless they drift."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """How clips of human motion become episodes."""
    retarget: float = 0.0
    """Share of the samples of motion shown on another skeleton of the data, 0 to 1; what has no skeleton stays."""
    labels: tuple[LabelName, ...] = ()
    """What clips say of each frame and the policy predicts beside the motion; it never sees it."""
    style: tuple[StyleName, ...] = ()
    """What clips say of their style, `tempo valence`, and the policy hears where it is known."""
    style_dropout: float = 0.1
    """Share of the training samples without it, each number by itself, 0 <= share < 1."""
    normalization: Normalization = "quantile"
    """Of actions, state and sensor streams, fitted on the training episodes."""
    compand: tuple[Literal["actions", "state", "sensor"], ...] = ()
    """Streams scaled by signed square roots, so that small motions count; of changes or forces, not positions."""
    clamp: bool = True
    """Keep actions within the range of the training data and a tenth of it, what is observed within ten such ranges."""
    withhold: tuple[Literal["state", "instruction"], ...] = ()
    """Inputs to withhold from the policy, in training and after; cameras and sensor have settings of their own."""
    validation_share: float = 0.1
    """Share of the episodes held out for validation, 0 <= share < 1."""
    quarantine: int = 0
    """Samples that may be left out because they cannot be read; 0: the first one ends the run."""
    workers: int = 2
    """Loader processes per rank, >= 0; 0: in the training process."""
    verify: bool = False
    """Read and check every number at this start, whatever earlier starts found in the same files."""


def renamed(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of the data, as an older file names them, by today's names: `without` named the inputs to withhold."""
    given = settings.get(f"{prefix}without") or ()
    inputs = [word for word in given if isinstance(word, str)]
    episodes = [index for index in given if not isinstance(index, str)]
    withheld = [*(settings.get(f"{prefix}withhold") or ()), *inputs]
    return {**settings, f"{prefix}without": episodes, f"{prefix}withhold": withheld}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which Qwen2.5-VL or sentence encoder, and what it is shown and gives back."""

    path: str = "tiny"
    """Folder or hub id of a Qwen2.5-VL, or of a sentence encoder; or `tiny` (a small random Qwen2.5-VL), `minilm`
    (all-MiniLM-L6-v2), `hash` (hashed words)."""
    min_pixels: int = 3136
    """Smallest area of a frame in pixels; smaller ones are enlarged."""
    max_pixels: int = 50176
    """Largest area of a frame in pixels; larger ones are shrunk. A token is 784 pixels."""
    output: Literal["tokens", "mean"] = "tokens"
    """Context for the expert: every token, or the mean over the tokens that may be looked at."""
    gradient_checkpointing: bool = False
    """Compute the language model twice instead of keeping its activations; for training LoRA in little memory."""
    recomputed_layers: int | None = None
    """With --backbone.gradient-checkpointing: so many layers of it, the upper ones; None: all."""
    pooling: PoolingName = "auto"
    """What a sentence encoder makes of its tokens: their mean, or the first; auto: as its own files say."""
    embeddings: str | None = None
    """File of `vla embed`: texts that a sentence encoder need not read again."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a part with attention."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class Attending:
    """Settings of a part with attention, whose sizes may be left open."""

    width: Size = "auto"
    depth: Size = "auto"
    heads: Size = "auto"

    @property
    def sizes(self) -> Sizes:
        """The sizes, none of which is open any more."""
        assert isinstance(self.width, int), "auto becomes a number before a part is built"
        assert isinstance(self.depth, int), "auto becomes a number before a part is built"
        assert isinstance(self.heads, int), "auto becomes a number before a part is built"
        return Sizes(width=self.width, depth=self.depth, heads=self.heads)

    def check(self, name: str, shallowest: int) -> None:
        """Refuse sizes that no part can have (ValueError)."""
        if self.depth != "auto" and self.depth < shallowest:
            raise ValueError(f"{name}.depth is {self.depth}; give at least {shallowest}, or auto")
        if self.width != "auto" and self.heads != "auto":
            check_heads(self.width, self.heads)
        elif self.width != "auto" and (self.width < 2 or self.width % 2):
            raise ValueError(f"{name}.width is {self.width}; give an even number, or auto")
        elif self.heads != "auto" and self.heads < 1:
            raise ValueError(f"{name}.heads is {self.heads}; give at least 1, or auto")


Open = TypeVar("Open", bound=Attending)


def suited(settings: Open, width: int, depth: int) -> Open:
    """The same settings with these sizes where they are open, and with heads of about 64 channels."""
    width = width if settings.width == "auto" else settings.width
    heads = next((count for count in range(max(4, width // 64), 0, -1) if width % (2 * count) == 0), 1)
    return replace(
        settings,
        width=width,
        depth=depth if settings.depth == "auto" else settings.depth,
        heads=heads if settings.heads == "auto" else settings.heads,
    )


@dataclass(frozen=True, kw_only=True)
class SensorConfig(Attending):
    """Size of the sensor encoder; auto suits the window's samples and channels."""

    width: Size = "auto"
    """Width of its layers and of the tokens it gives."""
    max_tokens: int = 16
    """The window is halved in time until it is at most this many tokens, at least 1."""
    depth: Size = "auto"
    """Self-attention blocks over the tokens, at least 0."""
    heads: Size = "auto"
    """Attention heads; twice this number divides the width."""
    dropout: float = 0.1
    """Share of activations dropped in training, in [0, 1)."""

    def __post_init__(self) -> None:
        self.check("sensor", 0)
        check_dropout(self.dropout)
        if self.max_tokens < 1:
            raise ValueError(f"sensor.max_tokens is {self.max_tokens}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class StateConfig:
    """The state encoder has no settings: its token is as wide as the expert."""


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Size of the camera encoder."""

    width: int = 0
    """Width of its tokens; 0: the policy has no camera encoder."""
    pixels: int = 64
    """Frames are resized to a square of this side; a multiple of 8."""
    tokens: int = 4
    """Tokens of each camera, at least 1."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.tokens < 1:
            raise ValueError(
                f"camera.width is {self.width} and camera.tokens {self.tokens}; give at least 0 (no encoder) and 1"
            )
        if self.pixels < CAMERA_STRIDE or self.pixels % CAMERA_STRIDE:
            raise ValueError(f"camera.pixels is {self.pixels}; give a multiple of {CAMERA_STRIDE}, e.g. 64")


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(Attending):
    """Size of the action expert; auto suits the backbone: width 1024, depth 6, heads 16 beside one of 3B."""

    width: Size = "auto"
    """Width of its layers."""
    depth: Size = "auto"
    """Transformer blocks, at least 1."""
    heads: Size = "auto"
    """Attention heads; twice this number divides the width."""
    dropout: float = 0.1
    """Share of activations dropped in training, in [0, 1)."""
    positions: Literal["small", "waves"] = "small"
    """What the steps of a chunk are told apart by at first: small numbers, or waves, which suit long chunks."""

    def __post_init__(self) -> None:
        self.check("expert", 1)
        check_dropout(self.dropout)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Guiding):
    """How actions are noised, what the expert predicts, and how chunks are sampled."""

    path: PathName = "cosine"
    """From data to noise: cosine (circle), linear (the DDPM linear-beta schedule) or straight (flow matching)."""
    prediction: PredictionName = "velocity"
    """What the expert's output means: the noise, the clean actions, or the velocity."""
    sampler: Sampler = "ddim"
    """ddim, euler and, of second order, dpm++ and ab2 (for few calls) follow from the first noise; ddpm draws fresh
    noise in each step."""
    sampling_steps: int = 10
    """Network calls for one chunk, at least 1; the first is always at t = 1."""
    clip: float = 5.0
    """Sampled clean actions stay within plus or minus this, in normalised units."""
    given: float = 0.0
    """Of motions with forces, share of the samples that show the motion as it is, so that forces are learned as what
    follows from it; they are then sampled beside a clean motion, too."""

    def __post_init__(self) -> None:
        if not 0 <= self.given <= 1:
            raise ValueError(f"diffusion.given is {self.given}; give a share of the samples, from 0 to 1")
        check_steps(self.sampling_steps)
        if not self.clip > 0:
            raise ValueError(f"diffusion.clip is {self.clip}; give a positive number of normalised units, e.g. 5")
        self.check_guidance()


@dataclass(frozen=True, kw_only=True)
class MotionWeights:
    """Weights of what a motion is trained for beside its numbers, errors in space in SI units; 0 computes nothing."""

    joints: float = 0.0
    """Places of joints around the body, m^2."""
    velocity: float = 0.0
    """Velocities of joints, (m/s)^2."""
    acceleration: float = 0.0
    """Accelerations of joints, (m/s^2)^2."""
    bones: float = 0.0
    """Lengths of bones, m^2; of positions alone, since those of rotations are exact."""
    feet: float = 0.0
    """Speed of feet that should stand, (m/s)^2."""
    action: float = 0.0
    """Of --data.labels action: cross entropy of the action of each frame, nat."""
    physics: float = 0.0
    """Of --data.labels physics: squared error of its values, normalised."""

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"objective.motion.{name} is {weight}; give a number of at least 0")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What a policy is trained for."""

    kind: ObjectiveName = "denoise"
    """denoise: the squared error of the expert's output. min-snr: weighed by min(SNR, gamma) of the time. erase: away
    from what the policy makes of the instruction without its adapter."""
    gamma: float = 5.0
    """Of min-snr: signal-to-noise ratio from which on times count alike, > 0."""
    negative_guidance: float | None = None
    """Of erase: how far beyond the answer to no instruction, or to the anchor, at least 0; 0: exactly that answer.
    None: 1, with an anchor 0."""
    draws: int = 1
    """Times and noises each sample is trained at in one look at its observation, at least 1: cheap beside a look."""
    motion: MotionWeights = field(default_factory=MotionWeights)
    """Of a human motion: what it is trained for besides."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"objective.draws is {self.draws}; give at least 1")
        if self.negative_guidance is not None and not 0 <= self.negative_guidance < math.inf:
            raise ValueError(f"objective.negative_guidance is {self.negative_guidance}; give a number of at least 0")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"objective.gamma is {self.gamma}; give a positive signal-to-noise ratio, e.g. 5")


def check_heads(width: int, heads: int) -> None:
    """Refuse a width that the heads do not share evenly."""
    if heads < 1:
        raise ValueError(f"attention with {heads} heads was asked for; give at least 1")
    if width < 1 or width % (2 * heads):
        raise ValueError(
            f"width {width} does not divide into {heads} heads of even size; give a multiple of {2 * heads}"
        )


def check_dropout(rate: float) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout is {rate}; give a rate in [0, 1), e.g. 0.1")


def check_steps(steps: int) -> None:
    """Refuse a number of sampling steps below 1."""
    if steps < 1:
        raise ValueError(f"{steps} sampling steps were asked for; give at least 1, e.g. 10")
