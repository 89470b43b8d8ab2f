"""The numbers of a motion that a policy learns, a row a frame, and the way back to joints in space.

A body is told in the frame of its own heading: where it stands in the world and which way it faces is in none of the
numbers, only how both change. So a walk to the north and one to the east are one motion. Four kinds of rows:

rotations    height of the root, its velocity in the ground plane, rate of turning, the root's orientation less its
             heading, each joint's turn against its parent, contacts of the feet. Bones keep their length.
positions    velocity in the ground plane, rate of turning, the joints seen from the ground below the root.
plane        of figures drawn in a plane: the joints as they are, x and y each.
coordinates  of a model that is not at hand: as they are, but for the velocity of the root in the place of where it
             stands. How its turns follow one another only the model says, so its heading stays among them.

A rotation is its first two columns, 6 numbers (Zhou et al. 2019), undone by Gram-Schmidt. Velocities lead from a frame
to the next one; the last repeats the one before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vla.motion.body import Body
from vla.motion.joints import FEET, PELVIS_MARKERS, SHOULDER_MARKERS, known, words_of
from vla.motion.rotations import about_y, columns, from_columns, heading, wrapped
from vla.motion.skeleton import place

STANCE_SPEED = 0.5
"""m/s; a foot that is slower may stand."""
GROUND = ("pelvis_tx", "pelvis_tz")
"""The coordinates of a model that say where its root stands on the ground."""
STANCE_HEIGHT = 0.05
"""m above the lowest that a foot's joint gets in a clip; a foot that is higher does not stand."""

ACROSS = (
    *("hip", "upleg", "thigh", "femur", "upperleg", *PELVIS_MARKERS),
    *("shoulder", "arm", "upperarm", "humerus", *SHOULDER_MARKERS),
)
"""What has a left and a right one, side by side in a body that looks ahead."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Joints in space, as far as a body's numbers say: from the origin on, facing along z at the first frame."""

    positions: Float[Tensor, "*batch T J 3"]
    """m, y up."""
    seen: Float[Tensor, "*batch T J 3"]
    """The same from the ground below the root, in the frame of each frame's heading, m."""
    contacts: Float[Tensor, "*batch T feet"]
    """1: the foot stands, 0: it does not; of width 0 where the body has none."""
    turns: Float[Tensor, "*batch T J 3 3"] | None
    """Of each joint against its parent, the root against the world; None of places."""

    def repeated(self, times: int) -> "Motion":
        """Each row of a batch several times, one after the other."""

        def more(values: Tensor) -> Tensor:
            return values.repeat_interleave(times, dim=0)

        turns = None if self.turns is None else more(self.turns)
        return Motion(positions=more(self.positions), seen=more(self.seen), contacts=more(self.contacts), turns=turns)


def feet_of(joints: Sequence[str]) -> tuple[str, ...]:
    """The joints of a skeleton that may stand on the ground."""
    return tuple(joint for joint in joints if words_of(joint)[0] and words_of(joint)[1] in FEET)


def encode_rotations(
    root: Float[Tensor, "T 3"],
    turns: Float[Tensor, "T J 3 3"],
    contacts: Bool[Tensor, "T feet"],
    rate_hz: float,
) -> Float[Tensor, "T A"]:
    """The rows of a moving skeleton."""
    facing = heading(turns[:, 0])
    free = torch.cat([(about_y(-facing) @ turns[:, 0])[:, None], turns[:, 1:]], dim=1)
    moving = _moving(root, facing, rate_hz)
    return torch.cat([root[:, 1:2], moving, columns(free).flatten(1), contacts.to(root.dtype)], dim=1)


def encode_positions(
    joints: Sequence[str], positions: Float[Tensor, "T J 3"], rate_hz: float, given: Mapping[str, str] | None = None
) -> Float[Tensor, "T A"]:
    """The rows of joints of which only the places are known; `given` names joints of the common body."""
    root, facing = positions[:, 0], heading_of_points(joints, positions, given or {})
    ground = root * torch.tensor([1.0, 0.0, 1.0], dtype=root.dtype)
    seen = (about_y(-facing)[:, None] @ (positions - ground[:, None])[..., None])[..., 0]
    return torch.cat([_moving(root, facing, rate_hz), seen.flatten(1)], dim=1)


def encode_coordinates(body: Body, values: Float[Tensor, "T C"], rate_hz: float) -> Float[Tensor, "T C"]:
    """The rows of a model's coordinates, in the order of the body; without forces."""
    across = [place for place, joint in enumerate(body.joints) if joint in GROUND]
    rows = values.clone()
    rows[:, across] = _rates(values[:, across], rate_hz, dim=0)
    return rows


def decode_coordinates(body: Body, rows: Float[Tensor, "*batch T A"], rate_hz: float) -> Float[Tensor, "*batch T C"]:
    """A model's coordinates of rows, in the order of the body, from where its root stands at first; without forces."""
    across = [place for place, joint in enumerate(body.joints) if joint in GROUND]
    values = rows[..., : len(body.joints)].clone()
    values[..., across] = _sums(rows[..., across] / rate_hz, dim=-2)
    return values


def decode(
    body: Body, rows: Float[Tensor, "*batch T A"], offsets: Float[Tensor, "*batch J 3"] | None, rate_hz: float
) -> Motion:
    """Joints in space of rows; `offsets` are the skeleton's, of rotations alone. A figure in a plane has z = 0.

    Raises:
        ValueError: the rows are coordinates of a model.
    """
    if body.kind == "coordinates":
        raise ValueError(
            "coordinates do not say where joints are: write a .mot file of them and open it with their model"
        )
    none, turns, contacts = rows[..., :0], None, rows[..., :0]
    if body.kind == "plane":
        flat = torch.nn.functional.pad(rows.unflatten(-1, (len(body.joints), 2)), (0, 1))
        return Motion(positions=flat, seen=flat, contacts=none, turns=None)
    if body.kind == "positions":
        moving, seen = rows[..., :3], rows[..., 3:].unflatten(-1, (len(body.joints), 3))
    else:
        assert offsets is not None, "rotations say nothing of lengths: give the skeleton's offsets"
        count = len(body.joints)
        moving, contacts = rows[..., 1:4], rows[..., 4 + 6 * count :]
        turns = from_columns(rows[..., 4 : 4 + 6 * count].unflatten(-1, (count, 6)))
        root = torch.nn.functional.pad(rows[..., :1], (1, 1))
        seen, _ = place(body.parents, offsets[..., None, :, :], root, turns)
    turn = about_y(_sums(moving[..., 2] / rate_hz, dim=-1))
    steps = torch.stack([moving[..., 0], torch.zeros_like(moving[..., 0]), moving[..., 1]], dim=-1) / rate_hz
    travelled = _sums((turn @ steps[..., None])[..., 0], dim=-2)
    if turns is not None:
        turns = torch.cat([turn[..., None, :, :] @ turns[..., :1, :, :], turns[..., 1:, :, :]], dim=-3)
    positions = (turn[..., None, :, :] @ seen[..., None])[..., 0] + travelled[..., None, :]
    return Motion(positions=positions, seen=seen, contacts=contacts, turns=turns)


def contacts_of(positions: Float[Tensor, "*batch T feet 3"], rate_hz: float) -> Bool[Tensor, "*batch T feet"]:
    """Where feet stand: slow, and about as low as they get."""
    speed = torch.linalg.vector_norm(_rates(positions, rate_hz, dim=-3), dim=-1)
    height = positions[..., 1]
    low = height < height.amin(dim=-2, keepdim=True) + STANCE_HEIGHT
    stands: Tensor = (speed < STANCE_SPEED) & low
    return stands


def heading_of_points(
    joints: Sequence[str], positions: Float[Tensor, "T J 3"], given: Mapping[str, str]
) -> Float[Tensor, " T"]:
    """Which way joints face, rad: across hips and shoulders, those that are `given` or have such names.

    ValueError where there are none.
    """
    called = known(joints, given)
    found = {words_of(joint): place for place, joint in enumerate(joints)}
    found |= {joint.partition("_")[::2]: joints.index(called[joint]) for joint in given}
    words = [word for word in ACROSS if {("left", word), ("right", word)} <= found.keys()]
    pairs = [(found["left", word], found["right", word]) for word in words]
    if not pairs:
        raise ValueError(
            f"none of the joints {' '.join(joints)} is a left and right hip or shoulder: name them, as in "
            f"`--data.motion.joints left_hip={joints[0]} right_hip={joints[-1]}`"
        )
    left = torch.stack([positions[:, left] - positions[:, right] for left, right in pairs]).sum(dim=0)
    return torch.atan2(-left[:, 2], left[:, 0])


def _moving(root: Float[Tensor, "T 3"], facing: Float[Tensor, " T"], rate_hz: float) -> Float[Tensor, "T 3"]:
    """Velocity in the ground plane in the frame of the heading, m/s, and rate of turning, rad/s."""
    turning = torch.nn.functional.pad(wrapped(facing.diff()) * rate_hz, (0, 1))
    if len(turning) > 1:
        turning[-1] = turning[-2]
    own = (about_y(-facing) @ _rates(root, rate_hz, dim=0)[..., None])[..., 0]
    return torch.stack([own[:, 0], own[:, 2], turning], dim=1)


def _rates(values: Float[Tensor, "*shape"], rate_hz: float, dim: int) -> Float[Tensor, "*shape"]:
    """The change to the next frame, by the second; the last repeats the one before it."""
    frames = values.shape[dim]
    if frames < 2:
        return torch.zeros_like(values)
    steps = values.diff(dim=dim) * rate_hz
    return torch.cat([steps, steps.narrow(dim, frames - 2, 1)], dim=dim)


def _sums(steps: Float[Tensor, "*shape"], dim: int) -> Float[Tensor, "*shape"]:
    """What steps have added up to before each of them."""
    return steps.cumsum(dim=dim) - steps
